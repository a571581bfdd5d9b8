"""The annotators' delay: who rates a running video moves the joystick after seeing, so labels lag behind pictures.

With a delay of d seconds the label of what frame t shows stands at t + d. Labels are shifted to the front by d; the
last d seconds of a video then have no label. Continuous traces (SEWA, AVEC, Aff-Wild2) may lag; frame-by-frame
ratings (AFEW-VA) and images (AffectNet) do not. The delay is a number to choose on validation data; 0 is the default
everywhere.

How to score: put the same transform into the test pipeline and prediction t meets the label that belongs to it. That
is the same set of pairs as shifting the predictions back by d and scoring the untouched labels, except that the
first d seconds of labels, for which there is no earlier picture, do not count. For files in the annotators' own
time (a challenge's submission), shift the predictions back with `delay_predictions`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.registry import TRANSFORMS


def delay_in_frames(seconds: float, fps: float) -> int:
    """Return a delay in whole frames, to the nearest.

    Raises:
        ValueError: If the delay is negative, or there is one and no frame rate.

    Example:
        >>> delay_in_frames(2.0, 25.0), delay_in_frames(0.5, 29.97)
        (50, 15)
    """
    if not seconds >= 0 or not np.isfinite(seconds):
        raise ValueError(f"label_delay: seconds must be 0 or more, got {seconds!r}.")
    if seconds and not fps > 0:
        raise ValueError(f"label_delay: a delay needs a frame rate, got {fps!r} frames per second (single images?).")
    return round(seconds * fps)


def advance_labels(
    affect: NDArray[np.float32], valid: NDArray[np.bool_], frames: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Shift labels to the front: frame t gets the label of frame t + ``frames``.

    Args:
        affect: Labels ``[F, 2]``.
        valid: Where they count, ``[F]``.
        frames: Delay of the labels, 0 or more.

    Returns:
        Labels and mask of the same lengths; the tail is 0 and does not count.

    Example:
        >>> labels, counts = advance_labels(np.array([[1, 1], [2, 2], [3, 3]], np.float32), np.ones(3, np.bool_), 1)
        >>> labels[:, 0].tolist(), counts.tolist()
        ([2.0, 3.0, 0.0], [True, True, False])
    """
    moved, counts = np.zeros_like(affect), np.zeros_like(valid)
    left = max(0, len(affect) - frames)
    moved[:left], counts[:left] = affect[frames:], valid[frames:]
    return moved, counts


def frames_later(times: NDArray[np.float64], seconds: float) -> NDArray[np.int64]:
    """Return for each frame the one that is shown ``seconds`` later, to the nearest, and -1 beyond the last.

    Args:
        times: When each frame is shown, in seconds, increasing, ``[F]``.
        seconds: Delay.

    Example:
        >>> frames_later(np.array([0.0, 0.1, 0.5, 0.6]), 0.4).tolist()
        [2, 2, -1, -1]
    """
    wanted = times + seconds
    nearest = np.searchsorted((times[:-1] + times[1:]) / 2, wanted, side="right")
    return np.where(wanted > times[-1] + 1e-9, -1, nearest)


def delay_predictions(pred: NDArray[np.floating], seconds: float, fps: float) -> NDArray[np.floating]:
    """Shift predictions back to the annotators' time: row t + d holds what was predicted for frame t.

    Args:
        pred: Predictions of every frame of a video, ``[F, 2]``.
        seconds: Delay d that training compensated.
        fps: Frames per second.

    Returns:
        Predictions ``[F, 2]``; the first d seconds repeat the first prediction.

    Example:
        >>> delay_predictions(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), 0.04, 25.0)[:, 0].tolist()
        [1.0, 1.0, 2.0]
    """
    return pred[np.maximum(np.arange(len(pred)) - delay_in_frames(seconds, fps), 0)]


@TRANSFORMS.register_module()
class CompensateLabelDelay:
    """Replace ``affect``, ``valid`` and ``weight`` of a record by those ``seconds`` later; the tail does not count.

    Put it first in the pipeline, before ``SampleClip``, so that clips are drawn where labels are left.

    Args:
        seconds: Delay of the labels; 0 changes nothing.

    Raises:
        ValueError: If it is negative.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        delay_in_frames(seconds, 1.0)  # complains about its number
        self.seconds = seconds

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace ``affect``, ``valid`` and, where it has one, ``weight``."""
        frames, times = delay_in_frames(self.seconds, results["fps"]), results.get("times")
        weight = results.get("weight")
        if frames and times is not None:
            later = frames_later(times, self.seconds)
            results["affect"] = np.where(later[:, None] < 0, np.float32(0), results["affect"][later])
            results["valid"] = results["valid"][later] & (later >= 0)
            if weight is not None:
                results["weight"] = weight[later]
        elif frames:
            results["affect"], results["valid"] = advance_labels(results["affect"], results["valid"], frames)
            if weight is not None:  # the tail, which does not count, may keep any
                results["weight"] = weight[np.minimum(np.arange(len(weight)) + frames, len(weight) - 1)]
        return results

    def __repr__(self) -> str:
        """Show the settings."""
        return f"CompensateLabelDelay(seconds={self.seconds:g})"
