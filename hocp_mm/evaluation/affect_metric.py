"""`AffectMetric`: CCC, PCC, RMSE and SAGR over all frames of all videos, and expressions where there are labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.evaluation.expression_scores import (
    Expressions,
    class_scores,
    confusion_matrix,
    expression_names,
    expression_scores,
    merge_expressions,
    write_expressions,
)
from hocp_mm.evaluation.score_report import GROUPS, Owner, ScoreReport, cells, more_names, report
from hocp_mm.evaluation.windows import Window, merge_windows, sources_of
from hocp_mm.functional.agreement import ccc, pcc, rmse, sagr
from hocp_mm.registry import METRICS
from hocp_mm.structures import AffectTimeline
from hocp_mm.system.files import refuse_links, write_rows

_LONGEST_HEADER = 1 << 16
_LEAST_RESAMPLES = 200
# First columns of what is written here, and what may follow them; None: anything.
_TABLES: tuple[tuple[tuple[str, ...], frozenset[str] | None], ...] = (
    (("frame", "time_s", "valence", "arousal"), frozenset(("valence_true", "arousal_true", "valid", "face_found"))),
    (("video", "frames", "valid_frames", "ccc_valence"), None),
    (
        ("image", "valence", "arousal", "valence_true", "arousal_true", "valid"),
        frozenset(("expression", "expression_true")),
    ),
    (("expression", "frames"), None),
    (("group", "videos", "valid_frames", "units"), None),
)
_FUNCTIONS = {"ccc": ccc, "pcc": pcc, "rmse": rmse, "sagr": sagr}


@METRICS.register_module()
class AffectMetric(BaseMetric):
    """Score valence and arousal per frame, pooled over the whole set.

    Conventions: windows that overlap are averaged per (video, frame), so every frame counts once; a window that
    comes twice (padding of a distributed sampler) counts once, too. Padding (frame -1) is ignored. The average is
    clipped to [-1, 1], as in EmoNet's evaluation. Headline values run over all valid frames of all videos
    together, not per video and then averaged; per-video values go to ``per_video.csv``.

    Keys: ``{prefix}/{ccc,pcc,rmse,sagr}_{valence,arousal,mean}``. Where samples have both labels and scores of
    expressions also ``{prefix}/expression_accuracy`` and ``{prefix}/expression_f1`` (mean over the classes, see
    `expression_scores`): scores of overlapping windows are averaged, the highest is the class, and all frames with a
    label count, whether their valence and arousal are valid or not. Where windows are of several data sets
    (`ConcatDataset`), the values of each besides: ``{prefix}/{source}/...``.

    With ``resamples`` each score besides says what it is worth (`ScoreReport`; `hocp_mm.evaluation.intervals` and
    ``baselines`` say how): ``{key}_low`` and ``{key}_high``, ends of the 95 % interval over subjects, or over videos
    where nobody is named; ``{key}_constant`` of the best constant; ``{key}_moving_average`` of the own predictions
    averaged over a second; ``{key}_change_low`` and ``{key}_change_high``, the interval of moving average minus
    network. What does not exist has no key; `report` says why.

    Args:
        prefix: First part of every key.
        out_dir: Folder for one CSV per video (`AffectTimeline`) and ``per_video.csv``, for one ``images.csv`` if the
            set has pictures (fps 0), and for ``expressions.csv`` with the scores of every class and what it was taken
            for; None writes nothing. With ``resamples`` ``per_video.csv`` has further columns, and
            ``groups/{subject,…}.csv`` a row for each subject, and each group that samples name (`AffectDataSample`).
        resamples: Sets that are drawn for an interval, 0 for none of all this: 2000 in ``tools/test.py``, 0 in a
            validation, whose log would be five times as long.
        collect_device: Where windows of several processes meet, ``"cpu"`` or ``"gpu"``.
        collect_dir: Folder for that exchange, shared by all processes; only with ``"cpu"``.

    Raises:
        DataError: If ``out_dir`` holds CSV files that no test has written: labels have the names of their videos, too.
        ValueError: If ``resamples`` is negative, or so few that an interval would be noise.

    Attributes:
        report: What the last evaluation with ``resamples`` found, on the first process; else None.
    """

    default_prefix = "affect"

    def __init__(
        self,
        prefix: str = "affect",
        out_dir: str | Path | None = None,
        resamples: int = 0,
        collect_device: str = "cpu",
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if resamples != 0 and resamples < _LEAST_RESAMPLES:
            raise ValueError(f"AffectMetric: resamples must be 0, or {_LEAST_RESAMPLES} or more, got {resamples}.")
        self.resamples = resamples
        self.report: ScoreReport | None = None
        self.out_dir = None if out_dir is None else Path(out_dir)
        if self.out_dir is not None:
            _refuse_tables_of_others(self.out_dir)  # now, not after hours of testing
            if resamples:
                refuse_links(self.out_dir / GROUPS)
                _refuse_tables_of_others(self.out_dir / GROUPS)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep one window per sample.

        Args:
            data_batch: Not used.
            data_samples: Samples with ``pred_affect``, ``gt_affect``, ``gt_valid``, perhaps ``face_found``, and the
                metainfo of `AffectDataSample`, as dicts (what mmengine's evaluator hands over).

        Raises:
            DataError: If a sample has no labels.
        """
        for sample in data_samples:
            if "gt_affect" not in sample or "gt_valid" not in sample:
                raise DataError(f"AffectMetric: video {sample['video']} has no labels, so it cannot be scored.")
            both = "pred_scores" in sample and "gt_expression" in sample
            window = Window(
                video=sample["video"],
                frame_inds=np.asarray(sample["frame_inds"], dtype=np.int64),
                pred=_to_array(sample["pred_affect"]),
                target=_to_array(sample["gt_affect"]),
                valid=_to_array(sample["gt_valid"]),
                face_found=_to_array(sample["face_found"]) if "face_found" in sample else None,
                num_frames=sample["num_frames"],
                fps=sample["fps"],
                times=None if sample.get("times") is None else np.asarray(sample["times"]),
                scores=_to_array(sample["pred_scores"]) if both else None,
                expression=_to_array(sample["gt_expression"]) if both else None,
                source=sample.get("source"),
                names=sample.get("expressions"),
                subject=sample.get("subject", ""),
                groups=_checked_groups(sample),
            )
            self.results.append(window)

    def compute_metrics(self, results: list[Window]) -> dict[str, float]:
        """Merge the windows, pool the frames and compute every value.

        Args:
            results: Windows of all processes.

        Returns:
            Values by key, without the prefix. ``ccc`` and ``pcc`` of a constant series are 0.

        Raises:
            DataError: If no frame is valid, two windows disagree on a label or on whether a face was found, two
                videos need one file name, or data sets have one name for two videos or two for one class.
        """
        timelines = merge_windows(results)
        scores = score(timelines) | _score_each_source(results, timelines)
        self.report = None
        if self.resamples:
            self.report = report(timelines, _owners(results), self.resamples)
            scores |= self.report.whole.more()
        told = [window for window in results if window["scores"] is not None]
        expressions = merge_expressions(told) if told else {}
        confusion = _pool(expressions)
        if confusion is not None:
            scores |= expression_scores(confusion)
            self._report_expressions(confusion, expression_names(results, self.dataset_meta, len(confusion)))
        if self.out_dir is not None:
            pictures = {window["video"] for window in results if window["fps"] == 0}
            _write_pictures(self.out_dir, [t for t in timelines if t.video in pictures], expressions)
            _write(self.out_dir, [t for t in timelines if t.video not in pictures], self.report)
            if self.report is not None:
                self.report.write_groups(self.out_dir)
        return scores

    def _report_expressions(self, confusion: NDArray[np.int64], names: Sequence[str]) -> None:
        """Log how often each class was recognised, and write its scores."""
        recalls = zip(names, class_scores(confusion)["recall"], strict=True)
        text = ", ".join(f"{name} {recall:.3f}" for name, recall in recalls if not np.isnan(recall))
        print_log(f"AffectMetric: share of each expression that was recognised: {text}", logger="current")
        if self.out_dir is not None:
            write_expressions(self.out_dir / "expressions.csv", confusion, names)


def _pool(expressions: dict[str, Expressions]) -> NDArray[np.int64] | None:
    """Return the confusion matrix of all videos together, or None without labels."""
    if not expressions:
        return None
    pred, target = (np.concatenate([own[key] for own in expressions.values()]) for key in ("pred", "target"))
    return confusion_matrix(pred, target, max(own["num_classes"] for own in expressions.values()))


def _score_each_source(windows: Sequence[Window], timelines: Sequence[AffectTimeline]) -> dict[str, float]:
    """Return the values of each data set, where there are several; one without a valid frame has none."""
    sources = sources_of(windows)
    if len(sources) < 2:
        return {}
    source_of = {window["video"]: window.get("source") for window in windows}
    scores: dict[str, float] = {}
    for source in sources:
        own = [timeline for timeline in timelines if source_of[timeline.video] == source]
        if any(timeline.valid is not None and timeline.valid.any() for timeline in own):
            scores |= {f"{source}/{key}": value for key, value in score(own).items()}
    return scores


def score(timelines: Sequence[AffectTimeline]) -> dict[str, float]:
    """Compute all values over the valid frames of all timelines together.

    Args:
        timelines: Timelines with targets.

    Returns:
        ``{ccc,pcc,rmse,sagr}_{valence,arousal,mean}``; NaN for ``ccc`` and ``pcc`` of a single frame.

    Raises:
        DataError: If no frame is valid.
    """
    labelled = [(t.pred, t.target, t.valid) for t in timelines if t.target is not None and t.valid is not None]
    if not any(valid.any() for _, _, valid in labelled):
        raise DataError(f"AffectMetric: no valid frame in {len(timelines)} videos, so there is nothing to score.")
    pred, target, valid = (torch.from_numpy(np.concatenate(column)) for column in zip(*labelled, strict=True))
    scores: dict[str, float] = {}
    for name, function in _FUNCTIONS.items():
        valence, arousal = function(pred.double(), target.double(), valid).tolist()
        scores |= {f"{name}_valence": valence, f"{name}_arousal": arousal, f"{name}_mean": (valence + arousal) / 2}
    return scores


def _refuse_tables_of_others(folder: Path) -> None:
    for file in sorted(folder.glob("*.csv")):
        if file.is_symlink() or not file.is_file():  # replaced itself, or refused
            continue
        with file.open("rb") as stream:
            columns = stream.readline(_LONGEST_HEADER).decode("utf-8", "replace").strip().split(",")
        if columns != [""] and not any(
            columns[: len(first)] == list(first) and (more is None or more.issuperset(columns[len(first) :]))
            for first, more in _TABLES
        ):
            raise DataError(
                f"AffectMetric: out_dir must hold no tables but those of a test, got {file} (name another folder)."
            )


def _write(out_dir: Path, timelines: list[AffectTimeline], more: ScoreReport | None) -> None:
    """Write one CSV per video, and one row per video in ``per_video.csv`` (empty cells: no valid frame)."""
    if not timelines:
        return
    keys = [f"{name}_{value}" for name in _FUNCTIONS for value in ("valence", "arousal", "mean")]
    kinds = sorted({kind for owner in more.owners.values() for kind in owner.groups}) if more else []
    names = more_names(average=bool(more.whole.average), intervals=False) if more else []
    rows: list[list[str]] = [["video", "frames", "valid_frames", *keys, *(["subject", *kinds] if more else []), *names]]
    written: dict[str, str] = {}
    for timeline in timelines:
        name = timeline.video.replace("/", "_").replace("\\", "_")
        if name in written or name in ("per_video", "images", "expressions"):
            other = written.get(name, "the summary")
            raise DataError(f"AffectMetric: videos {timeline.video} and {other} need the same file {name}.csv.")
        written[name] = timeline.video
        timeline.to_csv(out_dir / f"{name}.csv", follow=False)
        valid = 0 if timeline.valid is None else int(timeline.valid.sum())
        values = score([timeline]) if valid else {}
        row = [timeline.video, str(len(timeline)), str(valid), *cells(values, keys)]
        if more is not None:
            owner = more.owners[timeline.video]
            others = more.by_video[timeline.video].more() if valid else {}
            row += [owner.subject, *(owner.groups.get(kind, "") for kind in kinds), *cells(others, names)]
        rows.append(row)
    write_rows(out_dir / "per_video.csv", rows, follow=False)


def _write_pictures(out_dir: Path, timelines: list[AffectTimeline], expressions: dict[str, Expressions]) -> None:
    """Write ``images.csv`` with one row per picture; a file for each would make thousands."""
    if not timelines:
        return
    header = ["image", "valence", "arousal", "valence_true", "arousal_true", "valid", "expression", "expression_true"]
    rows = [header if expressions else header[:6]]
    for timeline in timelines:
        assert timeline.target is not None  # merge_windows gives every timeline its labels
        assert timeline.valid is not None
        row = [timeline.video, *map(str, timeline.pred[0]), *map(str, timeline.target[0]), str(int(timeline.valid[0]))]
        if expressions:
            own = expressions.get(timeline.video)
            row += ["", ""] if own is None else [str(own["pred"][0]), str(own["target"][0])]
        rows.append(row)
    write_rows(out_dir / "images.csv", rows, follow=False)


def _checked_groups(sample: dict[str, Any]) -> dict[str, str]:
    """Return the groups of a sample; their kinds become names of files."""
    groups = sample.get("groups") or {}
    for kind in groups:
        if not kind.isidentifier() or kind in ("subject", "source"):
            raise DataError(
                f"AffectMetric: a kind of groups must be a word other than subject and source, got {kind!r:.100} "
                f"(video {sample['video']})."
            )
    return dict(groups)


def _owners(windows: Sequence[Window]) -> dict[str, Owner]:
    return {w["video"]: Owner(w.get("source"), w.get("subject", ""), w.get("groups", {})) for w in windows}


def _to_array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
