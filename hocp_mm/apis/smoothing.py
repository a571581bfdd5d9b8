"""Series smoothed over time, never across a cut, a gap or from one person to another."""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_REACH = 4.0  # standard deviations of the filter: what lies beyond has no say
_TIE = 1e-9  # seconds; neighbours as far before as after have a say together


def smooth_over_time(
    values: NDArray[np.floating],
    times: NDArray[np.float64],
    seconds: float,
    scenes: NDArray[np.int64],
    weights: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Smooth series: the value at each frame of a straight line through its neighbours, weighted by a Gaussian.

    Unlike a plain average it keeps a steady rise as it is, also at the ends, where neighbours are on one side only.

    Args:
        values: Series ``[F, C]``; rows with a NaN are gaps.
        times: When each frame is shown, in seconds, ``[F]``.
        seconds: Standard deviation of the Gaussian; 0 changes nothing.
        scenes: Number of the scene of each frame, ``[F]``; no frame has a say in another scene.
        weights: How much of a say each frame has besides, above 0, ``[F]``; None for all alike.

    Returns:
        Series ``[F, C]``. Gaps stay gaps, and frames on both sides of one do not see each other.

    Example:
        >>> series = np.array([[0.0], [0.1], [np.nan], [0.8], [0.9]])
        >>> smooth_over_time(series, np.arange(5) / 25, 1.0, np.zeros(5, np.int64))[:, 0].round(3).tolist()
        [0.0, 0.1, nan, 0.8, 0.9]
    """
    smooth = np.array(values, dtype=np.float64)
    if seconds == 0:
        return smooth
    known: NDArray[np.bool_] = np.asarray(np.isfinite(smooth).all(axis=1))
    say = np.ones(len(smooth)) if weights is None else weights
    for start, stop in _runs(known, scenes):
        given, when = smooth[start:stop].copy(), times[start:stop]
        reach = _REACH * seconds + _TIE
        first, last = np.searchsorted(when, when - reach), np.searchsorted(when, when + reach)
        for frame in range(stop - start):
            near = slice(first[frame], last[frame])
            away = when[near] - when[frame]
            smooth[start + frame] = _line_at(away, given[near], say[start:stop][near] * _bell(away, seconds))
    return smooth


def _runs(known: NDArray[np.bool_], scenes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each row of frames that are known and of one scene."""
    marks = np.where(known, scenes, -1)
    edges = [0, *(np.flatnonzero(np.diff(marks)) + 1).tolist(), len(marks)]
    yield from ((start, stop) for start, stop in itertools.pairwise(edges) if start < stop and known[start])


def _bell(away: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    return np.exp(-0.5 * (away / seconds) ** 2)


def _line_at(
    away: NDArray[np.float64], values: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the value at 0 of a line fitted to ``values`` ``[n, C]`` at the times ``away``."""
    weight = weight / weight.sum()
    mean = weight @ away
    spread = weight @ (away - mean) ** 2
    slope = (weight * (away - mean)) @ values / spread if spread > 1e-12 else 0.0
    return weight @ values - mean * slope
