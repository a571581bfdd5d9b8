"""Scores of predicted expressions: accuracy and F1 over all labelled frames together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.evaluation.windows import Window, by_video
from hocp_mm.structures import WindowAverager
from hocp_mm.system.files import write_rows


class Expressions(TypedDict):
    """Classes of one video, one row per frame that has a label."""

    pred: NDArray[np.int64]
    target: NDArray[np.int64]
    num_classes: int


def merge_expressions(windows: Sequence[Window]) -> dict[str, Expressions]:
    """Average the scores of overlapping windows and take the highest.

    Args:
        windows: Windows in any order; exact repetitions count once.

    Returns:
        The classes of each video that has a labelled frame, sorted by name.

    Raises:
        DataError: If two windows give one frame different labels, or a label is no class of the scores.
    """
    expressions: dict[str, Expressions] = {}
    for video, own in by_video(windows).items():
        averager, target = WindowAverager(), np.full(own[0]["num_frames"], -1, dtype=np.int64)
        for window in own:
            inds, classes, scores = window["frame_inds"], window["expression"], window["scores"]
            if classes is None or scores is None:
                continue
            if classes.max(initial=-1) >= scores.shape[1]:
                raise DataError(
                    f"AffectMetric: video {video}: expressions must be below the {scores.shape[1]} classes of the "
                    f"scores, got {classes.max()}."
                )
            averager.add(inds, scores)
            labelled = (inds >= 0) & (classes >= 0)
            known = labelled & (target[inds] >= 0)
            if not np.array_equal(target[inds[known]], classes[known]):
                raise DataError(f"AffectMetric: video {video}: two windows give one frame different expressions.")
            target[inds[labelled]] = classes[labelled]
        if (target >= 0).any():
            frames, scores = averager.result()
            counts = target[frames] >= 0
            expressions[video] = Expressions(
                pred=scores[counts].argmax(axis=1), target=target[frames][counts], num_classes=scores.shape[1]
            )
    return expressions


def confusion_matrix(pred: NDArray[np.integer], target: NDArray[np.integer], num_classes: int) -> NDArray[np.int64]:
    """Count what was taken for what.

    Args:
        pred: Predicted classes, ``[F]``.
        target: True classes, ``[F]``, none of them -1.
        num_classes: Classes K.

    Returns:
        ``[K, K]``; row: true class, column: predicted class.

    Example:
        >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    cells = num_classes * target.astype(np.int64) + pred
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(confusion: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return precision, recall and F1 of every class; NaN where there is nothing to divide by.

    Args:
        confusion: What `confusion_matrix` returned.

    Returns:
        ``precision``, ``recall`` and ``f1``, each ``[K]``.
    """
    right = np.diag(confusion).astype(float)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return {"precision": right / predicted, "recall": right / true, "f1": 2 * right / (true + predicted)}


def expression_scores(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Return ``expression_accuracy`` and the mean F1 ``expression_f1``.

    Like scikit-learn's macro F1, the mean runs over the classes that occur as truth or as prediction: a class that is
    in neither says nothing.

    Args:
        confusion: What `confusion_matrix` returned, with at least one count.

    Returns:
        Both scores.
    """
    return {
        "expression_accuracy": float(np.trace(confusion) / confusion.sum()),
        "expression_f1": float(np.nanmean(class_scores(confusion)["f1"])),
    }


def write_expressions(path: Path, confusion: NDArray[np.int64], names: Sequence[str]) -> None:
    """Write one row per class: frames, precision, recall, F1 and what the class was taken for.

    Args:
        path: CSV file.
        confusion: What `confusion_matrix` returned.
        names: Name of each class.
    """
    scores = class_scores(confusion)
    rows = [["expression", "frames", *scores, *(f"as_{name}" for name in names)]]
    for index, name in enumerate(names):
        values = [scores[score][index] for score in scores]
        cells = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
        rows.append([name, str(confusion[index].sum()), *cells, *map(str, confusion[index])])
    write_rows(path, rows, follow=False)


def expression_names(windows: Sequence[Window], meta: Mapping[str, Any] | None, num_classes: int) -> list[str]:
    """Return the names that samples, or else the metainfo, give to classes, or the numbers of the classes.

    Raises:
        DataError: If two data sets call them differently.
    """
    vocabularies = sorted({names for window in windows if (names := window.get("names"))})
    if len(vocabularies) > 1:
        told = " and ".join(", ".join(names) for names in vocabularies[:2])
        raise DataError(f"AffectMetric: classes must have the same names in all data sets, got {told}.")
    names = vocabularies[0] if vocabularies else tuple((meta or {}).get("expressions", ()))
    return [str(name) for name in (names if len(names) == num_classes else range(num_classes))]
