"""`AffectMetric`: CCC, PCC, RMSE and SAGR over all frames of all videos."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.functional.agreement import ccc, pcc, rmse, sagr
from hocp_mm.registry import METRICS
from hocp_mm.structures import AffectTimeline, WindowAverager

_FUNCTIONS = {"ccc": ccc, "pcc": pcc, "rmse": rmse, "sagr": sagr}


class Window(TypedDict):
    """What is kept of one predicted clip; arrays have one row per frame."""

    video: str
    frame_inds: NDArray[np.int64]
    pred: NDArray[np.float32]
    target: NDArray[np.float32]
    valid: NDArray[np.bool_]
    num_frames: int
    fps: float


@METRICS.register_module()
class AffectMetric(BaseMetric):
    """Score valence and arousal per frame, pooled over the whole set.

    Conventions: windows that overlap are averaged per (video, frame), so every frame counts once; a window that
    comes twice (padding of a distributed sampler) counts once, too. Padding (frame -1) is ignored. The average is
    clipped to [-1, 1], as in EmoNet's evaluation. Headline values run over all valid frames of all videos
    together, not per video and then averaged; per-video values go to ``per_video.csv``.

    Keys: ``{prefix}/{ccc,pcc,rmse,sagr}_{valence,arousal,mean}``.

    Args:
        prefix: First part of every key.
        out_dir: Folder for one CSV per video (`AffectTimeline`) and ``per_video.csv``; None writes nothing.
        collect_device: Where windows of several processes meet, ``"cpu"`` or ``"gpu"``.
        collect_dir: Folder for that exchange, shared by all processes; only with ``"cpu"``.
    """

    default_prefix = "affect"

    def __init__(
        self,
        prefix: str = "affect",
        out_dir: str | Path | None = None,
        collect_device: str = "cpu",
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        self.out_dir = None if out_dir is None else Path(out_dir)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep one window per sample.

        Args:
            data_batch: Not used.
            data_samples: Samples with ``pred_affect``, ``gt_affect``, ``gt_valid`` and the metainfo of
                `AffectDataSample`, as dicts (what mmengine's evaluator hands over).

        Raises:
            DataError: If a sample has no labels.
        """
        for sample in data_samples:
            if "gt_affect" not in sample or "gt_valid" not in sample:
                raise DataError(f"AffectMetric: video {sample['video']} has no labels, so it cannot be scored.")
            window = Window(
                video=sample["video"],
                frame_inds=np.asarray(sample["frame_inds"], dtype=np.int64),
                pred=_to_array(sample["pred_affect"]),
                target=_to_array(sample["gt_affect"]),
                valid=_to_array(sample["gt_valid"]),
                num_frames=sample["num_frames"],
                fps=sample["fps"],
            )
            self.results.append(window)

    def compute_metrics(self, results: list[Window]) -> dict[str, float]:
        """Merge the windows, pool the frames and compute every value.

        Args:
            results: Windows of all processes.

        Returns:
            Values by key, without the prefix. ``ccc`` and ``pcc`` of a constant series are 0.

        Raises:
            DataError: If no frame is valid, two windows disagree on a label, or two videos need one file name.
        """
        timelines = merge_windows(results)
        scores = score(timelines)
        if self.out_dir is not None:
            _write(self.out_dir, timelines)
        return scores


def merge_windows(windows: Sequence[Window]) -> list[AffectTimeline]:
    """Average overlapping windows into one timeline per video.

    Args:
        windows: Windows in any order; exact repetitions count once.

    Returns:
        One timeline per video, sorted by name, with every frame that a window covers; predictions clipped to
        [-1, 1].

    Raises:
        DataError: If two windows give one frame different labels.
    """
    by_video: dict[str, dict[bytes, Window]] = {}
    for window in windows:
        by_video.setdefault(window["video"], {}).setdefault(window["frame_inds"].tobytes(), window)
    return [_merge_video(video, list(by_video[video].values())) for video in sorted(by_video)]


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


def _merge_video(video: str, windows: list[Window]) -> AffectTimeline:
    averager = WindowAverager()
    target = np.full((windows[0]["num_frames"], 2), np.nan, dtype=np.float32)
    valid = np.zeros(len(target), dtype=np.bool_)
    for window in windows:
        inds = window["frame_inds"]
        averager.add(inds, window["pred"])
        counts = (inds >= 0) & window["valid"]
        known = counts & valid[inds]
        if not np.array_equal(target[inds[known]], window["target"][known]):
            raise DataError(f"AffectMetric: video {video}: two windows give one frame different labels.")
        target[inds[counts]], valid[inds[counts]] = window["target"][counts], True
    frames, pred = averager.result()
    return AffectTimeline(
        video, windows[0]["fps"], frames, np.clip(pred, -1, 1), target=target[frames], valid=valid[frames]
    )


def _write(out_dir: Path, timelines: list[AffectTimeline]) -> None:
    """Write one CSV per video, and one row per video in ``per_video.csv`` (empty cells: no valid frame)."""
    keys = [f"{name}_{value}" for name in _FUNCTIONS for value in ("valence", "arousal", "mean")]
    rows: list[list[str]] = [["video", "frames", "valid_frames", *keys]]
    written: dict[str, str] = {}
    for timeline in timelines:
        name = timeline.video.replace("/", "_").replace("\\", "_")
        if name in written or name == "per_video":
            other = written.get(name, "the summary")
            raise DataError(f"AffectMetric: videos {timeline.video} and {other} need the same file {name}.csv.")
        written[name] = timeline.video
        timeline.to_csv(out_dir / f"{name}.csv")
        valid = 0 if timeline.valid is None else int(timeline.valid.sum())
        values = score([timeline]) if valid else {}
        cells = [f"{values[key]:.6g}" if key in values else "" for key in keys]
        rows.append([timeline.video, str(len(timeline)), str(valid), *cells])
    with (out_dir / "per_video.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _to_array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
