r"""Scores from sums, and their bootstrap intervals over people or videos.

Frames of one video, and videos of one person, resemble each other, so whole *units* are drawn with replacement, never
frames. All four measures come from sums over the valid frames of each unit, so a resample is a row of counts times the
matrix of sums, and the frames are read once.

The interval is the studentised bootstrap (bootstrap-t; Efron and Tibshirani 1993, chapter 12) on a scale with steady
spread, f = atanh for CCC and PCC, log for RMSE, logit for SAGR, the identity for differences::

    t_b = (f(score_b) - f(score)) / se_b,        se^2 = U / (U - 1) sum_u w_u (df/dsums . sums_u)^2
    interval = f^-1( f(score) - q_97.5 % se ),   f^-1( f(score) - q_2.5 % se ),      q: quantiles of t_b

with w_u = how often unit u was drawn (1 for the score itself). Test sets have few people, and there the usual intervals
promise too much. How often nominal 95 % intervals of CCC (mean of valence, arousal and their mean) held the truth in
400 simulated sets of people whose agreement is known (0.95; videos of uneven length, people with levels and offsets of
their own; ``pytest -m slow -s tests/evaluation/test_intervals.py`` counts again):

======================  ======  ======  ======  ======
people                       8      10      16      30
======================  ======  ======  ======  ======
percentile                0.58    0.66    0.74    0.83
BCa                       0.69    0.77    0.81    0.87
studentised, as here      0.92    0.91    0.92    0.92
======================  ======  ======  ======  ======

The price is width where people are few, and that is honest, too. No interval of theirs knows that a test set is not the
world: it speaks of other people drawn as these were.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hocp_mm.functional.agreement import Moments, ccc_of_moments, pcc_of_moments

KEYS = tuple(f"{name}_{value}" for name in ("ccc", "pcc", "rmse", "sagr") for value in ("valence", "arousal", "mean"))
"""Names of the twelve scores, in the order of the last dimension of `scores_of`."""
LEAST_UNITS = 8
"""With fewer, quantiles of a resample say little: no interval."""
CONFIDENCE = 0.95
_OF_TARGET, _OF_PRED = 3, 5  # columns
_MOST_COUNTS = 1 << 24  # in memory at once
_ROUNDING = 1e-7  # of a standard error
_MOST_UNUSABLE = 0.01  # of the resamples, far less than what lies beyond a quantile


class Interval(NamedTuple):
    """Ends of an interval, or why there is none.

    Attributes:
        low: Lower end, NaN without an interval.
        high: Upper end.
        why_none: Reason, empty where there is one.
    """

    low: float
    high: float
    why_none: str = ""


def sum_frames(preds: list[Tensor], target: Tensor, centre: Tensor) -> Tensor:
    """Sum what the measures are made of over the frames of one video.

    Args:
        preds: S series of predictions, float64 ``[F, 2]`` each.
        target: Ground truth, float64 ``[F, 2]``; every frame counts.
        centre: Subtracted from all before squares are summed, ``[2]``: near the mean, so that variances keep digits.

    Returns:
        ``[2, 3 + 5 S]``: frames, sum and squares of the truth; then for all series sum, squares, products, squared
        errors and frames of equal sign.
    """
    x, y = torch.stack(preds, dim=-1) - centre[:, None], target - centre  # [F, 2, S], [F, 2]
    y_ = y.unsqueeze(-1)
    signs = torch.stack(preds, dim=-1).sign() == target.sign().unsqueeze(-1)
    of_target = torch.stack([torch.ones_like(y), y, y * y], dim=-1)
    return torch.cat([of_target, x, x * x, x * y_, (x - y_) ** 2, signs.to(x.dtype)], dim=-1).sum(0)


def scores_of(sums: Tensor) -> Tensor:
    """Compute the scores of each series.

    Args:
        sums: What `sum_frames` returned, added over any videos, ``[..., 2, 3 + 5 S]``.

    Returns:
        ``[..., S, 12]`` in the order of `KEYS`; NaN where there are too few frames.
    """
    count, y, yy = (sums[..., k, None] for k in range(_OF_TARGET))  # [..., 2, 1]
    x, xx, xy, error, same = sums[..., _OF_TARGET:].unflatten(-1, (_OF_PRED, -1)).unbind(-2)  # [..., 2, S]
    x, y = x / count, y / count
    moments = Moments(count, x, y, xx / count - x * x, yy / count - y * y, xy / count - x * y)
    equal = error == 0  # where a root has an infinite slope
    root = torch.where(equal, 0, (torch.where(equal, 1, error) / count).sqrt())
    each = [ccc_of_moments(moments), pcc_of_moments(moments), root, same / count]
    values = torch.stack(each, dim=-1).movedim(-3, -1)  # [..., S, 4, 2]
    return torch.cat([values, values.mean(-1, keepdim=True)], dim=-1).flatten(-2)


def bootstrap(sums: Tensor, resamples: int, seed: int = 0) -> tuple[list[Interval], list[Interval]]:
    """Return intervals of the scores of the first series, and of what the second one adds to them.

    Args:
        sums: What `sum_frames` returned, added over the videos of each unit, ``[U, 2, 3 + 5 S]``, S 1 or 2; a unit
            without a frame is passed over.
        resamples: How many sets are drawn.
        seed: Of the draws; the same results have the same intervals.

    Returns:
        Intervals of the twelve scores; and of the differences, second series minus first, none for one series.
    """
    sums = sums[sums[:, 0, 0] > 0].double()
    units, series = len(sums), (sums.shape[-1] - _OF_TARGET) // _OF_PRED
    if units < LEAST_UNITS:
        none = Interval(np.nan, np.nan, f"{units} are too few, {LEAST_UNITS} are needed")
        return [none] * len(KEYS), [none] * len(KEYS) * (series - 1)
    value, spread = _linked(torch.ones(1, units, dtype=torch.double), sums)
    pieces = [_linked(counts, sums) for counts in _draw(units, resamples, seed)]
    values, spreads = (torch.cat(column) for column in zip(*pieces, strict=True))
    t = torch.where(_varies(values, spreads), (values - value) / spreads, torch.nan).numpy()
    ends = [_interval(t[:, k], float(value[0, k]), float(spread[0, k])) for k in range(t.shape[1])]
    plain = scores_of(sums.sum(0))[0].tolist()
    scores = [_unlinked(k, end, plain[k]) for k, end in enumerate(ends[: len(KEYS)])]
    return scores, ends[len(KEYS) :]


def _draw(units: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """Yield how often each unit is drawn, ``[rows, units]``, all rows of all pieces together ``resamples``."""
    generator, most = np.random.default_rng(seed), max(1, _MOST_COUNTS // units)
    for first in range(0, resamples, most):
        rows = min(most, resamples - first)
        drawn = generator.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        yield torch.from_numpy(np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)).double()


def _linked(counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and differences on their scales, and their standard errors by linearisation, ``[rows, K]``."""
    flat, units = sums.flatten(1), len(sums)
    total = (counts @ flat).requires_grad_()
    scores = scores_of(total.unflatten(1, sums.shape[1:]))  # [rows, S, 12]
    plain = torch.cat([scores[:, 0], *(scores[:, 1:] - scores[:, :1]).unbind(1)], dim=1)
    variances = []
    for column in plain.unbind(1):
        (slope,) = torch.autograd.grad(column.sum(), total, retain_graph=True)
        # Not through the matrix of second moments, which would lose half of the digits where a score hardly varies.
        variances.append((counts * (slope @ flat.T) ** 2).sum(1) * units / (units - 1))
    # The scales come after the slopes: that of one score is infinite at the end of its range, and 0 * inf in another's.
    plain, spread = plain.detach(), torch.stack(variances, dim=1).sqrt()
    ccc_pcc, rmse, sagr, change = plain.split([6, 3, 3, plain.shape[1] - len(KEYS)], dim=1)
    values = torch.cat([ccc_pcc.atanh(), rmse.log(), sagr.logit(), change], dim=1)
    steepness = [1 / (1 - ccc_pcc**2), 1 / rmse, 1 / (sagr * (1 - sagr)), torch.ones_like(change)]
    return values, spread * torch.cat(steepness, dim=1)


def _varies(values: Tensor, spreads: Tensor) -> Tensor:
    """Tell finite values whose spread is more than rounding."""
    return values.isfinite() & spreads.isfinite() & (spreads > _ROUNDING)


def _interval(t: np.ndarray, value: float, spread: float) -> Interval:
    def none(why: str) -> Interval:
        return Interval(np.nan, np.nan, why)

    if not np.isfinite(value):
        return none("the score is at the end of its range, or no number")
    if not np.isfinite(spread) or spread <= _ROUNDING:
        return none("the score does not vary")
    unusable = int(np.isnan(t).sum())
    if unusable > _MOST_UNUSABLE * len(t):
        return none(f"{unusable} of {len(t)} resamples do not vary")
    tail = (1 - CONFIDENCE) / 2
    below, above = np.nanquantile(t, [tail, 1 - tail])
    low, high = float(value - above * spread), float(value - below * spread)
    return Interval(low, high) if low <= value <= high else none("the resamples lie all on one side of the score")


def _unlinked(key: int, interval: Interval, score: float) -> Interval:
    """Return an interval in units of the score."""
    if interval.why_none:
        return interval
    back = np.tanh if key < 6 else np.exp if key < 9 else lambda value: 1 / (1 + np.exp(-value))
    low, high = (float(back(end)) for end in interval[:2])
    return Interval(min(low, score), max(high, score))  # the way there and back rounds
