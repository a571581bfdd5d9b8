"""Which frames of a video make a clip."""

import random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hocp_mm.registry import TRANSFORMS


def clip_frames(num_frames: int, start: int, clip_len: int, frame_interval: int = 1) -> NDArray[np.int64]:
    """Return the frame numbers of a clip, -1 beyond the end of the video.

    Example:
        >>> clip_frames(num_frames=6, start=2, clip_len=3, frame_interval=2).tolist()
        [2, 4, -1]
    """
    frames = start + frame_interval * np.arange(clip_len, dtype=np.int64)
    return np.where(frames < num_frames, frames, -1)


def window_starts(num_frames: int, clip_len: int, stride: int, frame_interval: int = 1) -> list[int]:
    """Return the first frames of sliding windows that together cover every frame.

    Windows lie ``stride`` apart; the last one is moved back to end with the video, and only a video shorter
    than a window gets a padded one. With ``frame_interval`` k the windows are laid over each of the k
    interleaved sequences, so that no frame is left out there either.

    Args:
        num_frames: Frames of the video, 1 or more.
        clip_len: Frames of a window.
        stride: Sampled frames from one window to the next, 1 to ``clip_len``.
        frame_interval: Distance of neighbouring frames in a window.

    Returns:
        Start frames; in increasing order where ``frame_interval`` is 1.

    Raises:
        ValueError: If a number is below 1, or ``stride`` exceeds ``clip_len`` and would leave frames out.

    Example:
        >>> window_starts(num_frames=10, clip_len=4, stride=4)
        [0, 4, 6]
    """
    if min(num_frames, clip_len, stride, frame_interval) < 1:
        raise ValueError(
            "window_starts: num_frames, clip_len, stride and frame_interval must be 1 or more, "
            f"got {num_frames}, {clip_len}, {stride}, {frame_interval}."
        )
    if stride > clip_len:
        raise ValueError(f"window_starts: stride must not exceed clip_len, got {stride} > {clip_len}.")
    starts = []
    for phase in range(min(frame_interval, num_frames)):
        length = (num_frames - phase + frame_interval - 1) // frame_interval
        last = max(0, length - clip_len)
        starts += [phase + frame_interval * first for first in (*range(0, last, stride), last)]
    return starts


@TRANSFORMS.register_module()
class SampleClip:
    """Choose the frames of a clip: adds ``frame_inds``, int64 ``[clip_len]``, -1 beyond the end of the video.

    Time never wraps: a video shorter than the clip is padded at its end, and padding carries no label.
    All transforms of this package draw from Python's ``random``, which our tools seed for every sample that is drawn
    (:mod:`hocp_mm.engine.sampling`): clips and changes of them do not depend on the number of workers. With other tools
    keep ``persistent_workers=True``: mmengine gives workers that are started anew for every epoch the same seeds again.

    Args:
        clip_len: Frames of a clip.
        frame_interval: Distance of neighbouring frames.
        mode: ``"random"`` starts anywhere in the video where the clip holds a frame with a label (training);
            ``"window"`` starts where the data set says, at ``start`` (test).

    Raises:
        ValueError: If a number is below 1 or ``mode`` is unknown.
    """

    def __init__(self, clip_len: int, frame_interval: int = 1, mode: Literal["random", "window"] = "random") -> None:
        if min(clip_len, frame_interval) < 1:
            raise ValueError(
                f"SampleClip: clip_len and frame_interval must be 1 or more, got {clip_len} and {frame_interval}."
            )
        if mode not in ("random", "window"):
            raise ValueError(f"SampleClip: mode must be 'random' or 'window', got {mode!r}.")
        self.clip_len = clip_len
        self.frame_interval = frame_interval
        self.mode = mode

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the record with ``frame_inds``.

        Raises:
            ValueError: If the record has no ``start`` in mode ``"window"``.
        """
        num_frames = results["num_frames"]
        if self.mode == "random":
            span = (self.clip_len - 1) * self.frame_interval + 1
            start = self._draw(results.get("valid"), num_frames, max(0, num_frames - span))
        elif "start" in results:
            start = results["start"]
        else:
            raise ValueError("SampleClip: mode 'window' needs a data set with test_mode=True, which gives `start`.")
        results["frame_inds"] = clip_frames(num_frames, start, self.clip_len, self.frame_interval)
        return results

    def _draw(self, valid: NDArray[np.bool_] | None, num_frames: int, last: int) -> int:
        """Draw a start up to ``last``, evenly from those whose clip has a label, or from all if none has."""
        start = random.randint(0, last)
        if valid is None or valid[_inside(num_frames, start, self)].any():
            return start
        # Rare: most sets label nearly every frame, so the search over all starts waits for a clip without any.
        good = [first for first in range(last + 1) if valid[_inside(num_frames, first, self)].any()]
        return random.choice(good) if good else start

    def __repr__(self) -> str:
        """Show the settings."""
        return f"SampleClip(clip_len={self.clip_len}, frame_interval={self.frame_interval}, mode={self.mode!r})"


def _inside(num_frames: int, start: int, clip: SampleClip) -> slice:
    """Return the frames of a clip that lie in the video."""
    return slice(start, min(num_frames, start + (clip.clip_len - 1) * clip.frame_interval + 1), clip.frame_interval)
