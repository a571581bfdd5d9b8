"""From what a user writes as ``rank`` to a number of components, and from one budget to many ranks.

The expansion rule ``R = n * C_in`` is the paper's HO-CP-n (arXiv 1906.06196, FLOP figure); ``same`` is parameter
parity with the dense kernel of the same order. ``auto`` and ``error<e>`` look at the weights of a trained layer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isfinite, prod

from torch import Tensor

from hocp_mm.functional.decompose import decompose_to_error
from hocp_mm.functional.rank_estimate import sufficient_rank

RankLike = int | float | str

_EXPANSION = re.compile(r"x(\d+(?:\.\d+)?)")
_ERROR = re.compile(r"error(\d+(?:\.\d+)?(?:e-?\d+)?)")
_FRESH_FORMS = "an int, 'x<expansion>' or a float with a positive expansion, or 'same'"


def resolve_rank(
    rank: RankLike,
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, ...],
    groups: int = 1,
    dense: Tensor | None = None,
    *,
    seed: int = 0,
) -> int:
    """Turn a rank specification into a number of components for one layer.

    Args:
        rank: A number of components (an int, over all groups); an expansion over the input channels (``'x1'``,
            ``'x1.5'``, or a float: 1.5, and 1.0 is not 1); ``'same'``, as many as keep the parameter count of the
            dense kernel; ``'auto'``, as many as keep most of ``dense``
            (:func:`hocp_mm.functional.sufficient_rank`); or ``'error0.1'``, as many as fit ``dense`` with a relative
            error of at most 0.1.
        in_channels: Input channels of the layer.
        out_channels: Output channels of the layer.
        kernel_size: Taps of each convolved mode.
        groups: Groups of the layer; ratios are rounded up to a multiple of it.
        dense: The kernel that will be decomposed, ``[out, in / groups, *kernel_size]``; None for a fresh layer.
        seed: Of the fits behind ``'auto'`` and ``'error<e>'``.

    Returns:
        Components, at least ``groups`` and a multiple of it.

    Raises:
        ValueError: If ``rank`` has another form, is not positive, is an int that is no multiple of ``groups``, or
            needs ``dense`` and there is none; or if ``dense`` has another shape.

    Example:
        >>> [resolve_rank(rank, 64, 64, (3, 3)) for rank in ("x3", 1.5, "same")]
        [192, 96, 275]
    """
    if isinstance(rank, bool) or not isinstance(rank, (int, float, str)):
        raise ValueError(f"rank: must be {_FRESH_FORMS}, 'auto' or 'error<e>', got {rank!r}.")
    if isinstance(rank, int):
        if rank < 1 or rank % groups:
            raise ValueError(f"rank: must be a positive multiple of groups={groups}, got {rank}.")
        return rank
    shape = (out_channels // groups, in_channels // groups, *kernel_size)
    if dense is not None and tuple(dense.shape) != (out_channels, *shape[1:]):
        raise ValueError(f"rank: dense must have shape {(out_channels, *shape[1:])}, got {tuple(dense.shape)}.")
    if rank == "same":
        return groups * max(1, prod(shape) // (sum(shape)))
    target = error_target(rank)
    if rank == "auto" or target is not None:
        if dense is None:
            raise ValueError(f"rank: must be {_FRESH_FORMS} where there are no weights to look at, got {rank!r}.")
        if target is None:
            return sufficient_rank(dense, groups, seed=seed)
        return decompose_to_error(dense, target, groups=groups, seed=seed).kernel.rank
    expansion = _expansion(rank)
    if expansion is None:
        raise ValueError(f"rank: must be {_FRESH_FORMS}, 'auto' or 'error<e>', got {rank!r}.")
    return groups * max(1, ceil(expansion * in_channels / groups))


def error_target(rank: RankLike) -> float | None:
    """Read the relative error off ``'error<e>'``.

    Returns:
        The error, or None for every other form.

    Raises:
        ValueError: If the error is not between 0 and 1.

    Example:
        >>> error_target("error0.1"), error_target("x2")
        (0.1, None)
    """
    found = _ERROR.fullmatch(rank) if isinstance(rank, str) else None
    if found is None:
        return None
    target = float(found[1])
    if not 0 < target < 1:
        raise ValueError(f"rank: must be 'error<e>' with e between 0 and 1, got {rank!r}.")
    return target


def _expansion(rank: float | str) -> float | None:
    if isinstance(rank, str):
        found = _EXPANSION.fullmatch(rank)
        rank = 0.0 if found is None else float(found[1])
    return rank if isfinite(rank) and rank > 0 else None


@dataclass(frozen=True)
class Spending:
    """How a budget was spent.

    Attributes:
        choices: Index of the option taken, for each item.
        cost: Sum of the costs, at most the budget.
        loss: Sum of the losses.
        bound: No way to spend the budget has a smaller loss; ``loss - bound`` is the optimality gap at most.
    """

    choices: tuple[int, ...]
    cost: float
    loss: float
    bound: float


def spend_budget(costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float) -> Spending:
    """Take one option of every item so that the summed loss is small and the summed cost within a budget.

    This is the multiple-choice knapsack. From the cheapest options the steps along each item's lower convex hull
    are bought in the order of loss saved per cost, which is optimal at every budget that a step meets exactly;
    what is left over then goes to single upgrades that still fit. The loss is within one step's saving of the optimum.

    Args:
        costs: Of each option of each item.
        losses: Of the same options.
        budget: What the costs may add up to.

    Returns:
        The choice with its cost, its loss and a lower bound of any loss.

    Raises:
        ValueError: If an item has no option, the shapes differ, or the cheapest options exceed the budget.

    Example:
        >>> spend_budget([[1, 2], [1, 3]], [[5, 1], [5, 4]], 4).choices
        (1, 0)
    """
    shapes = [len(options) for options in costs]
    if not all(shapes) or shapes != [len(options) for options in losses]:
        raise ValueError(f"spend_budget: every item needs options with cost and loss, got {shapes} costs.")
    hulls = [_lower_hull(cost, loss) for cost, loss in zip(costs, losses, strict=True)]
    at = [hull[0] for hull in hulls]
    spent = _total(costs, at)
    if spent > budget:
        raise ValueError(f"spend_budget: the budget must allow for the cheapest options, {spent}, got {budget}.")
    steps = [
        ((losses[item][a] - losses[item][b]) / (costs[item][b] - costs[item][a]), item, a, b)
        for item, hull in enumerate(hulls)
        for a, b in pairwise(hull)
    ]
    bound: float | None = None
    for saving, item, a, b in sorted(steps, key=lambda step: -step[0]):
        if at[item] == a and _total(costs, [*at[:item], b, *at[item + 1 :]]) <= budget:
            at[item] = b
        elif bound is None:  # the first step that is too dear, bought in part: the optimum if options could be mixed
            bound = _total(losses, at) - saving * (budget - _total(costs, at))
    bound = _total(losses, at) if bound is None else bound
    while True:
        upgrades = [
            (losses[item][at[item]] - losses[item][option], item, option)
            for item, options in enumerate(costs)
            for option in range(len(options))
            if losses[item][option] < losses[item][at[item]]
            and _total(costs, [*at[:item], option, *at[item + 1 :]]) <= budget
        ]
        if not upgrades:
            return Spending(tuple(at), _total(costs, at), _total(losses, at), bound)
        _, item, option = max(upgrades)
        at[item] = option


def _total(values: Sequence[Sequence[float]], at: Sequence[int]) -> float:
    # Summed afresh, so that a running sum's rounding never passes for room in the budget.
    return sum(options[option] for options, option in zip(values, at, strict=True))


def _lower_hull(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Options on the lower convex hull of loss over cost, from the cheapest to the one of least loss."""
    hull: list[int] = []
    for option in sorted(range(len(costs)), key=lambda o: (costs[o], losses[o])):
        if hull and losses[option] >= losses[hull[-1]]:
            continue  # dearer and no better
        while len(hull) > 1:
            a, b = hull[-2:]
            drop = (losses[a] - losses[b]) * (costs[option] - costs[a])
            if drop > (losses[a] - losses[option]) * (costs[b] - costs[a]):
                break
            hull.pop()
        hull.append(option)
    return hull
