"""What the metric keeps of one predicted clip, and the timeline that the clips of one video make."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from typing_extensions import NotRequired

from hocp_mm.errors import DataError
from hocp_mm.structures import AffectTimeline, WindowAverager


class Window(TypedDict):
    """What is kept of one predicted clip; arrays have one row per frame."""

    video: str
    frame_inds: NDArray[np.int64]
    pred: NDArray[np.float32]
    target: NDArray[np.float32]
    valid: NDArray[np.bool_]
    face_found: NDArray[np.bool_] | None  # None where the record does not say
    num_frames: int
    fps: float
    times: NotRequired[NDArray[np.float64] | None]  # [T] seconds, where frames do not come evenly
    scores: NDArray[np.float32] | None  # [T, K]; None without an expression head or without such labels
    expression: NDArray[np.int64] | None  # [T], -1 = none
    source: NotRequired[str | None]  # data set
    names: NotRequired[tuple[str, ...] | None]  # of the classes
    subject: NotRequired[str]
    groups: NotRequired[dict[str, str]]


def by_video(windows: Sequence[Window]) -> dict[str, list[Window]]:
    """Return the different windows of each video, sorted by its name; exact repetitions count once.

    Raises:
        DataError: If two data sets have videos of one name.
    """
    videos: dict[str, dict[bytes, Window]] = {}
    sources: dict[str, str | None] = {}
    for window in windows:
        video, source = window["video"], window.get("source")
        if (other := sources.setdefault(video, source)) != source:
            raise DataError(
                f"AffectMetric: videos of two data sets must have two names, got {video} in {other} and {source}."
            )
        videos.setdefault(video, {}).setdefault(window["frame_inds"].tobytes(), window)
    return {video: list(videos[video].values()) for video in sorted(videos)}


def sources_of(windows: Sequence[Window]) -> list[str]:
    """Return the names of the data sets that windows are of, sorted."""
    return sorted({source for window in windows if (source := window.get("source"))})


def merge_windows(windows: Sequence[Window]) -> list[AffectTimeline]:
    """Average overlapping windows into one timeline per video.

    Args:
        windows: Windows in any order; exact repetitions count once.

    Returns:
        One timeline per video, sorted by name, with every frame that a window covers; predictions clipped to
        [-1, 1]. It says where a face was found if all windows of the video do.

    Raises:
        DataError: If two windows give one frame different labels or differ about a face in it, or as in `by_video`.
    """
    return [_merge_video(video, own) for video, own in by_video(windows).items()]


def _merge_video(video: str, windows: list[Window]) -> AffectTimeline:
    averager = WindowAverager()
    target = np.full((windows[0]["num_frames"], 2), np.nan, dtype=np.float32)
    valid = np.zeros(len(target), dtype=np.bool_)
    times = None if windows[0].get("times") is None else np.zeros(len(target))
    for window in windows:
        inds = window["frame_inds"]
        if times is not None:
            times[inds[inds >= 0]] = np.asarray(window.get("times"))[inds >= 0]
        averager.add(inds, window["pred"])
        counts = (inds >= 0) & window["valid"]
        known = counts & valid[inds]
        if not np.array_equal(target[inds[known]], window["target"][known]):
            raise DataError(f"AffectMetric: video {video}: two windows give one frame different labels.")
        target[inds[counts]], valid[inds[counts]] = window["target"][counts], True
    frames, pred = averager.result()
    # A picture has no frame rate, and a timeline needs one; its only frame is at 0 s in any case.
    fps, found = windows[0]["fps"] or 1.0, _merge_found(video, windows)
    return AffectTimeline(
        video=video,
        fps=fps,
        frames=frames,
        pred=np.clip(pred, -1, 1),
        target=target[frames],
        valid=valid[frames],
        face_found=None if found is None else found[frames],
        times=None if times is None else times[frames],
    )


def _merge_found(video: str, windows: list[Window]) -> NDArray[np.bool_] | None:
    """Return for every frame of the video whether a face was found, or None if a window does not know."""
    found = np.zeros(windows[0]["num_frames"], dtype=np.bool_)
    known = np.zeros(len(found), dtype=np.bool_)
    for window in windows:
        if window["face_found"] is None:
            return None
        real = window["frame_inds"] >= 0
        inds, own = window["frame_inds"][real], window["face_found"][real]
        if (own != found[inds])[known[inds]].any():
            raise DataError(f"AffectMetric: video {video}: two windows differ about whether a frame shows a face.")
        found[inds], known[inds] = own, True
    return found
