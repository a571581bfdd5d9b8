"""Which frames of a video make a clip.

A network knows the rate at which it was trained and no other: shown the same face with half of the frames, it sees
another motion. So clips are sampled by time where a rate is given: the wanted moments lie ``1 / fps`` apart, and each
takes the frame that is nearest. No picture is made up between two frames; where a video is slower than the clip,
frames are held.
"""

import math
import random
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hocp_mm.registry import TRANSFORMS

_HELD = 0.25  # share of the clips
_DRAWS = 20  # at random, before all starts are looked at
_LONGEST = 2**24  # moments of a clip's rate in one video: a week at 25 a second
_TIE = 1e-6  # of a frame: half a frame is half a frame, whatever the rounding of a rate says


def clip_frames(
    num_frames: int, start: int, clip_len: int, frame_interval: float = 1, ticks: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Return the frame numbers of a clip, -1 beyond the end of the video.

    Args:
        num_frames: Frames of the video.
        start: First frame.
        clip_len: Frames of the clip.
        frame_interval: Distance of neighbouring frames, whole or not; the frame that is nearest is taken.
        ticks: Where frames do not come evenly: when each is shown, in steps of the clip, float64 ``[F]`` (see
            `clip_ticks`); ``frame_interval`` then says nothing.

    Returns:
        Frame numbers, int64 ``[clip_len]``.

    Example:
        >>> clip_frames(num_frames=6, start=2, clip_len=3, frame_interval=2).tolist()
        [2, 4, -1]
        >>> clip_frames(num_frames=9, start=1, clip_len=4, frame_interval=0.5).tolist()
        [1, 2, 2, 3]
    """
    steps = np.arange(clip_len, dtype=np.int64)
    if ticks is None:
        frames = start + np.floor(steps * frame_interval + (0.5 + _TIE)).astype(np.int64)
        return np.where(frames < num_frames, frames, -1)
    frames = np.searchsorted((ticks[:-1] + ticks[1:]) / 2, ticks[start] + steps + _TIE, side="right")
    frames = np.where(ticks[start] + steps < _end(ticks), frames, -1)
    frames[:1] = start  # however near the next frame is
    return frames


def _end(ticks: NDArray[np.float64]) -> float:
    """Return the moment from which on the last frame is no longer the nearest picture of the video."""
    return float(ticks[-1] + ((ticks[-1] - ticks[-2]) / 2 if len(ticks) > 1 else 0.5))


def clip_ticks(
    fps: float, clip_fps: float | None, times: NDArray[np.float64] | None = None, where: str = "the record"
) -> tuple[float, NDArray[np.float64] | None]:
    """Return how far frames of a clip lie apart in a video.

    Args:
        fps: Frames per second of the video; 0 for pictures that are no video.
        clip_fps: Frames per second of the clip; None takes frame after frame.
        times: When each frame is shown, in seconds, ``[F]``; None if they come evenly.
        where: Name of the video, for the message.

    Returns:
        The interval in frames, and the ticks where they do not come evenly (see `clip_frames`).

    Raises:
        ValueError: If the clip has a rate and the video has none, or lasts for weeks.

    Example:
        >>> clip_ticks(50.0, 25.0), clip_ticks(20.0, 25.0)
        ((2.0, None), (0.8, None))
    """
    if clip_fps is None:
        return 1.0, None
    if not fps > 0:
        raise ValueError(f"clips of {clip_fps:g} frames per second need a video with a rate, got {fps:g} ({where}).")
    ticks = None if times is None else times * clip_fps
    if ticks is not None and not ticks[-1] - ticks[0] < _LONGEST:
        longest = f"{_LONGEST / clip_fps:.3g} s"
        raise ValueError(
            f"clips of {clip_fps:g} frames per second need a video of less than {longest}, got one of "
            f"{(ticks[-1] - ticks[0]) / clip_fps:.3g} s ({where})."
        )
    return fps / clip_fps, ticks


def window_starts(
    num_frames: int,
    clip_len: int,
    stride: int,
    frame_interval: float = 1,
    ticks: NDArray[np.float64] | None = None,
) -> list[int]:
    """Return the first frames of sliding windows that together cover every frame.

    Windows lie ``stride`` steps apart; the last one is moved back to end with the video, and only a video shorter
    than a window gets a padded one. Where windows leave out frames (``frame_interval`` above 1), the same goes on from
    the first frame that is left out, with those windows that hold one, until none is.

    Args:
        num_frames: Frames of the video, 1 or more.
        clip_len: Frames of a window.
        stride: Sampled frames from one window to the next, 1 to ``clip_len``.
        frame_interval: Distance of neighbouring frames in a window, whole or not.
        ticks: See `clip_frames`.

    Returns:
        Start frames, each once; in increasing order where ``frame_interval`` is 1.

    Raises:
        ValueError: If a number is below 1, ``frame_interval`` is not positive, or ``stride`` exceeds ``clip_len`` and
            would leave frames out.

    Example:
        >>> window_starts(num_frames=10, clip_len=4, stride=4)
        [0, 4, 6]
    """
    if min(num_frames, clip_len, stride) < 1 or not 0 < frame_interval < math.inf:
        raise ValueError(
            "window_starts: num_frames, clip_len and stride must be 1 or more, and frame_interval positive, "
            f"got {num_frames}, {clip_len}, {stride}, {frame_interval}."
        )
    if stride > clip_len:
        raise ValueError(f"window_starts: stride must not exceed clip_len, got {stride} > {clip_len}.")
    starts: dict[int, None] = {}
    bare = np.ones(num_frames, dtype=np.bool_)
    while bare.any():
        left, untouched = np.flatnonzero(bare), bool(bare.all())
        for start in _phase(int(left[0]), int(left[-1]) + 1, clip_len, stride, frame_interval, ticks):
            frames = clip_frames(num_frames, start, clip_len, frame_interval, ticks)
            frames = frames[frames >= 0]
            if untouched or bare[frames].any():
                starts[start] = None
                bare[frames] = False
    return list(starts)


def _phase(
    begin: int, end: int, clip_len: int, stride: int, interval: float, ticks: NDArray[np.float64] | None
) -> Sequence[int]:
    """Return the starts of windows over the sequence of steps that begins with a frame and stays below ``end``."""
    if ticks is None:
        # Step j shows frame begin + floor(j * interval + 1/2).
        length = max(1, math.ceil((end - begin - 0.5 - _TIE) / interval))
        steps = begin + np.floor(np.arange(length) * interval + (0.5 + _TIE)).astype(np.int64)
    else:
        count = 1 + int(max(0.0, ticks[end - 1] - ticks[begin]))
        steps = clip_frames(len(ticks), begin, count, ticks=ticks)
    last = max(0, len(steps) - clip_len)
    return [int(steps[first]) for first in (*range(0, last, stride), last)]


def hold_frames(frames: NDArray[np.int64], factor: int, phase: int) -> NDArray[np.int64]:
    """Return a clip of which a slower camera took every ``factor``-th frame: each frame shows the nearest of these.

    Args:
        frames: Frame numbers of the clip, ``[T]``.
        factor: How many frames become one.
        phase: First frame that the slower camera took.

    Example:
        >>> hold_frames(np.arange(7), factor=3, phase=1).tolist()
        [1, 1, 1, 4, 4, 4, 4]
    """
    taken = np.arange(min(phase, len(frames) - 1), len(frames), factor)
    nearest = np.searchsorted((taken[:-1] + taken[1:]) / 2, np.arange(len(frames)), side="right")
    return frames[taken[nearest]]


def require_rate(where: str, fps: object) -> None:
    """Refuse what is no rate of a clip.

    Raises:
        ValueError: If it is no positive number.
    """
    if not (isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < math.inf):
        raise ValueError(f"{where}: fps must be positive, or None, got {fps!r}.")


@TRANSFORMS.register_module()
class SampleClip:
    """Choose the frames of a clip: adds ``frame_inds``, int64 ``[clip_len]``, -1 beyond the end of the video.

    Time never wraps: a video shorter than the clip is padded at its end, and padding carries no label.
    All transforms of this package draw from Python's ``random``, which our tools seed for every sample that is drawn
    (:mod:`hocp_mm.engine.sampling`): clips and changes of them do not depend on the number of workers. With other tools
    keep ``persistent_workers=True``: mmengine gives workers that are started anew for every epoch the same seeds again.

    Args:
        clip_len: Frames of a clip.
        frame_interval: Distance of neighbouring frames, whatever the rate of the video.
        mode: ``"random"`` starts anywhere in the video where the clip holds a frame with a label (training);
            ``"window"`` starts where the data set says, at ``start`` (test).
        fps: Frames per second of the clip, in the place of ``frame_interval``: each of its moments takes the nearest
            frame of the video, so that videos of all rates are shown alike. It is the rate that the network knows.
        hold: Training: a quarter of the clips show every second, third … frame only, held for its neighbours, by one of
            these factors: what a slower camera would show. A network that never saw it takes held frames for a face
            that jerks, and calls it excited. The label of a held frame is its own.

    Raises:
        ValueError: If a number is below 1, ``mode`` is unknown, both distances are given, a factor of ``hold`` is
            below 2, or frames are to be held in a test.
    """

    def __init__(
        self,
        clip_len: int,
        frame_interval: int = 1,
        mode: Literal["random", "window"] = "random",
        fps: float | None = None,
        hold: Sequence[int] = (),
    ) -> None:
        if min(clip_len, frame_interval) < 1:
            raise ValueError(
                f"SampleClip: clip_len and frame_interval must be 1 or more, got {clip_len} and {frame_interval}."
            )
        if mode not in ("random", "window"):
            raise ValueError(f"SampleClip: mode must be 'random' or 'window', got {mode!r}.")
        if fps is not None:
            require_rate("SampleClip", fps)
            if frame_interval != 1:
                raise ValueError(f"SampleClip: fps takes the place of frame_interval, got {fps} and {frame_interval}.")
        if not isinstance(hold, list | tuple) or any(type(factor) is not int or factor < 2 for factor in hold):
            raise ValueError(f"SampleClip: hold must be whole numbers of 2 or more, got {hold!r:.100}.")
        if hold and mode != "random":
            raise ValueError(f"SampleClip: frames are held in mode 'random', got hold={hold!r} in mode {mode!r}.")
        self.clip_len = clip_len
        self.frame_interval = frame_interval
        self.mode = mode
        self.fps = fps
        self.hold = tuple(hold)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the record with ``frame_inds``.

        Raises:
            ValueError: If the record has no ``start`` in mode ``"window"``, or no rate where one is asked for.
        """
        num_frames = results["num_frames"]
        interval, ticks = float(self.frame_interval), None
        if self.fps is not None:
            interval, ticks = clip_ticks(results["fps"], self.fps, results.get("times"), results["video"])
        if self.mode == "random":
            start = self._draw(results.get("valid"), num_frames, interval, ticks)
        elif "start" in results:
            start = results["start"]
        else:
            raise ValueError("SampleClip: mode 'window' needs a data set with test_mode=True, which gives `start`.")
        frames = clip_frames(num_frames, start, self.clip_len, interval, ticks)
        if self.hold and random.random() < _HELD:
            frames = hold_frames(frames, factor := random.choice(self.hold), random.randrange(factor))
        results["frame_inds"] = frames
        return results

    def _draw(
        self,
        valid: NDArray[np.bool_] | None,
        num_frames: int,
        interval: float,
        ticks: NDArray[np.float64] | None,
    ) -> int:
        """Draw a start, evenly from those whose clip has a label and, if any is long enough, no padding."""
        if ticks is None:
            last = max(0, num_frames - 1 - math.floor((self.clip_len - 1) * interval + 0.5 + _TIE))
        else:
            last = max(0, int(np.searchsorted(ticks + (self.clip_len - 1), _end(ticks))) - 1)
        start = random.randint(0, last)

        def counts(first: int) -> bool:
            frames = clip_frames(num_frames, first, self.clip_len, interval, ticks)
            return valid is None or bool(valid[frames[frames >= 0]].any())

        for _ in range(_DRAWS):
            if counts(start):
                return start
            start = random.randint(0, last)
        # Rare: most sets label nearly every frame. Only what begins not long before a label can hold one.
        assert valid is not None
        labels = np.flatnonzero(valid)
        if ticks is None:
            early = labels - math.ceil(self.clip_len * interval)
        else:
            # A moment to which the labelled frame is nearest comes after the frame before it.
            early = np.searchsorted(ticks, ticks[np.maximum(labels - 1, 0)] - self.clip_len)
        near = np.zeros(last + 2, dtype=np.int64)
        np.add.at(near, np.clip(early, 0, last + 1), 1)
        np.add.at(near, np.clip(labels + 1, 0, last + 1), -1)
        good = [first for first in np.flatnonzero(np.cumsum(near)[: last + 1]).tolist() if counts(first)]
        return random.choice(good) if good else start

    def __repr__(self) -> str:
        """Show the settings."""
        distance = f"frame_interval={self.frame_interval}" if self.fps is None else f"fps={self.fps:g}"
        held = f", hold={self.hold}" if self.hold else ""
        return f"SampleClip(clip_len={self.clip_len}, {distance}, mode={self.mode!r}{held})"
