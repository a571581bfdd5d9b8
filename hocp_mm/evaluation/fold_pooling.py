"""Scores of a cross-validation: each fold, their mean, and all frames of all folds pooled.

The two summaries differ for CCC and PCC, which compare with the spread of the labels: a fold whose people feel much
alike scores low on its own and counts as much as any other in the mean, but not in the pool.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.evaluation.affect_metric import score
from hocp_mm.structures import AffectTimeline
from hocp_mm.system.reading import read_bytes

Scores = dict[str, float]

# A CSV file of one frame does not tell its frame rate; scores do not ask for it.
_ANY_RATE = 25.0
_MOST_BYTES = 1 << 20  # of scores


@dataclass(frozen=True)
class FoldScores:
    """Scores of a cross-validation; keys ``{ccc,pcc,rmse,sagr}_{valence,arousal,mean}``.

    Attributes:
        folds: Scores by number of the fold.
        mean: Mean over the folds.
        std: Standard deviation over the folds (population).
        pooled: Scores over all valid frames of all folds together.
        videos: Number of videos.
        frames: Number of valid frames.
    """

    folds: dict[int, Scores]
    mean: Scores
    std: Scores
    pooled: Scores
    videos: int
    frames: int


def read_results(folder: str | Path) -> list[AffectTimeline]:
    """Read the CSV files that a test wrote, and refuse them if they do not give the scores that it printed.

    Args:
        folder: ``--out-dir`` of ``tools/test.py``.

    Returns:
        One timeline per video, sorted by name.

    Raises:
        MissingDataError: If there are no results.
        DataError: If a file is broken, or the files are not those that ``metrics.json`` was computed from.
    """
    folder = Path(folder)
    summary = folder / "metrics.json"
    if not summary.is_file():
        raise MissingDataError(f"{summary}: no such file; the fold was not tested.")
    raw = read_bytes(summary, "file of scores", _MOST_BYTES)
    files = [file for file in sorted(folder.glob("*.csv")) if file.name != "per_video.csv"]
    if not files:
        raise MissingDataError(f"{folder}: holds no predictions.")
    timelines = [AffectTimeline.from_csv(file, fps=_ANY_RATE) for file in files]
    try:
        printed = {key.rpartition("/")[2]: float(value) for key, value in json.loads(raw).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{summary}: not readable as scores ({error}).") from error
    for key, value in score(timelines).items():
        same = key in printed and (math.isclose(value, printed[key], abs_tol=1e-6) or value != value != printed[key])
        if not same:
            raise DataError(
                f"{summary}: the scores must be those of the CSV files beside it, got {key} {printed.get(key)} for "
                f"{value:.6g}; test the fold again."
            )
    return timelines


def pool_folds(folds: Mapping[int, Sequence[AffectTimeline]]) -> FoldScores:
    """Score each fold, and all of them together.

    Args:
        folds: Timelines of the test videos, by number of the fold.

    Returns:
        The scores.

    Raises:
        DataError: If a video is in two folds, so that its frames would count twice.
    """
    seen: dict[str, int] = {}
    for fold, timelines in folds.items():
        for timeline in timelines:
            if timeline.video in seen:
                raise DataError(
                    f"folds: a video is tested once, but {timeline.video!r} is in {seen[timeline.video]} and {fold}."
                )
            seen[timeline.video] = fold
    scores = {fold: score(timelines) for fold, timelines in folds.items()}
    columns = {key: np.array([values[key] for values in scores.values()]) for key in next(iter(scores.values()))}
    everything = [timeline for timelines in folds.values() for timeline in timelines]
    return FoldScores(
        folds=scores,
        mean={key: float(column.mean()) for key, column in columns.items()},
        std={key: float(column.std()) for key, column in columns.items()},
        pooled=score(everything),
        videos=len(everything),
        frames=sum(int(timeline.valid.sum()) for timeline in everything if timeline.valid is not None),
    )
