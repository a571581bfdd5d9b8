"""What the metric keeps of one predicted clip."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class Window(TypedDict):
    """What is kept of one predicted clip; arrays have one row per frame."""

    video: str
    frame_inds: NDArray[np.int64]
    pred: NDArray[np.float32]
    target: NDArray[np.float32]
    valid: NDArray[np.bool_]
    num_frames: int
    fps: float
    scores: NDArray[np.float32] | None  # [T, K]; None without an expression head or without such labels
    expression: NDArray[np.int64] | None  # [T], -1 = none


def by_video(windows: Sequence[Window]) -> dict[str, list[Window]]:
    """Return the different windows of each video, sorted by its name; exact repetitions count once."""
    videos: dict[str, dict[bytes, Window]] = {}
    for window in windows:
        videos.setdefault(window["video"], {}).setdefault(window["frame_inds"].tobytes(), window)
    return {video: list(videos[video].values()) for video in sorted(videos)}
