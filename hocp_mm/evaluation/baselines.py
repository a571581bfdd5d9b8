"""Two predictors that every score is set beside: a constant, and the network's own predictions averaged over time.

The *constant* is the best one for the set that is tested: the mean of its valid labels for RMSE, the most frequent sign
for SAGR; CCC and PCC of any constant are 0. It is chosen on the very frames it is scored on, since a test does not know
the labels of the training, and what their mean reaches is never better. So a network that beats it has beaten every
constant, and one that does not may have learnt nothing. It is one for the whole set, in each group, too.

The *moving average* gives each frame the mean of the predictions within half of `WIDTH_S` before and after it, frames
without a label included; at the ends of a video of those that are there. Its width is fixed, not fitted, in seconds: a
width chosen on the test set would flatter it. What it adds to an image network is what time gives without learning; a
video network that it still improves has not used even that.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hocp_mm.structures import AffectTimeline

WIDTH_S = 1.0
"""Width of the moving average in seconds: 25 frames at 25 frames per second."""
_ROUNDING_S = 1e-6  # of times: half a second before and after, whichever way it rounds


def moving_average(timeline: AffectTimeline, width_s: float = WIDTH_S) -> NDArray[np.float64]:
    """Average the predictions of a video over time.

    Args:
        timeline: Predictions of its frames.
        width_s: Width in seconds.

    Returns:
        ``[F, 2]``, NaN where the prediction is.
    """
    times, seen = timeline.time_s, timeline.seen
    reach = width_s / 2 + _ROUNDING_S
    first, last = np.searchsorted(times, times - reach), np.searchsorted(times, times + reach, side="right")
    values = np.where(seen[:, None], timeline.pred.astype(np.float64), 0)
    sums = np.concatenate([np.zeros((1, 2)), values.cumsum(axis=0)])
    counts = np.concatenate([[0], seen.cumsum()])
    with np.errstate(invalid="ignore"):
        means = (sums[last] - sums[first]) / (counts[last] - counts[first])[:, None]
    return np.where(seen[:, None], means, np.nan)


def can_average(timelines: Sequence[AffectTimeline], width_s: float = WIDTH_S) -> bool:
    """Tell whether any two frames of a video lie near enough; pictures, or a frame in a second, leave nothing to do."""
    return any(len(t) > 1 and np.diff(t.time_s).min() <= width_s / 2 + _ROUNDING_S for t in timelines)


def best_constants(targets: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the constants that no other beats in RMSE and in SAGR.

    Args:
        targets: Labels of all valid frames, ``[F, 2]``, F > 0.

    Returns:
        Their mean, and their most frequent sign (-1, 0 or 1), ``[2]`` each.
    """
    signs = np.array([-1.0, 0.0, 1.0])
    counts = np.stack([(np.sign(targets) == sign).sum(axis=0) for sign in signs])
    return targets.mean(axis=0), signs[counts.argmax(axis=0)]
