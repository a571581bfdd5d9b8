import itertools

import pytest
import torch

from hocp_mm.functional import decompose, dense_kernel, resolve_rank
from hocp_mm.functional.rank import error_target, spend_budget
from tests.laws import random_kernel

RANKS = {
    "an int is components": (1, 1),
    "a float is an expansion": (1.0, 64),
    "a fractional float, rounded up": (0.51, 33),
    "expansion by word": ("x1.5", 96),
    "parameter parity": ("same", 64 * 128 * 9 // (64 + 128 + 6)),
}


@pytest.mark.parametrize("case", RANKS)
def test_a_rank_is_resolved_from_the_sizes(case):
    rank, expected = RANKS[case]
    assert resolve_rank(rank, 64, 128, (3, 3)) == expected


def test_float_expansions_are_multiples_of_the_groups():
    assert resolve_rank(0.1, 30, 30, (3, 3), groups=15) == 15


def test_auto_finds_the_components_of_a_kernel():
    kernel = dense_kernel(random_kernel(out=24, in_=20, rank=6))
    assert resolve_rank("auto", 20, 24, (3, 3), dense=kernel) == 6


@pytest.mark.parametrize("groups", [1, 2])
def test_an_error_target_is_met_by_a_fit_of_the_rank_and_by_no_much_smaller_one(groups):
    dense = torch.randn(16, 16 // groups, 3, 3)
    rank = resolve_rank("error0.5", 16, 16, (3, 3), groups, dense)
    assert rank % groups == 0
    assert decompose(dense, rank, groups=groups).relative_error <= 0.5
    smaller = rank * 4 // 5 // groups * groups
    assert decompose(dense, smaller, groups=groups).relative_error > 0.5


def test_error_targets_are_read_off_their_word():
    assert [error_target(rank) for rank in ("error0.1", "error1e-3", "x1", 4)] == [0.1, 1e-3, None, None]


REFUSED_RANKS = {
    "zero": 0,
    "a negative int": -1,
    "a bool": True,
    "a negative float": -0.5,
    "no expansion": 0.0,
    "nan": float("nan"),
    "infinity": float("inf"),
    "expansion zero": "x0",
    "another word": "3x",
    "none": None,
    "an error without a number": "error",
    "an error of one": "error1.0",
    "an error of zero": "error0",
}


@pytest.mark.parametrize("case", REFUSED_RANKS)
def test_bad_ranks_are_refused(case):
    with pytest.raises(ValueError, match="rank: must be"):
        resolve_rank(REFUSED_RANKS[case], 8, 8, (3, 3), dense=torch.randn(8, 8, 3, 3))


@pytest.mark.parametrize("rank", ["auto", "error0.1"])
def test_rules_that_look_at_weights_say_what_works_without(rank):
    with pytest.raises(ValueError, match=rf"an int, 'x<expansion>' or a float .* or 'same' where .* got '{rank}'"):
        resolve_rank(rank, 8, 8, (3, 3))


def test_a_kernel_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"dense must have shape \(8, 4, 3, 3\), got \(8, 8, 3, 3\)"):
        resolve_rank("auto", 8, 8, (3, 3), groups=2, dense=torch.randn(8, 8, 3, 3))


def brute_force(costs, losses, budget):
    """Smallest loss over all choices within the budget."""
    options = itertools.product(*(range(len(item)) for item in costs))
    return min(
        sum(item[o] for item, o in zip(losses, choice, strict=True))
        for choice in options
        if sum(item[o] for item, o in zip(costs, choice, strict=True)) <= budget
    )


@pytest.mark.parametrize("seed", range(20))
def test_spending_lies_between_its_bound_and_one_step_above_the_optimum(seed):
    generator = torch.Generator().manual_seed(seed)
    costs = [torch.randint(1, 30, (5,), generator=generator).tolist() for _ in range(5)]
    losses = [torch.rand(5, generator=generator).tolist() for _ in range(5)]
    least = sum(map(min, costs))
    for budget in (least, least + 7, least + 25, least + 60, 10_000):
        spending = spend_budget(costs, losses, budget)
        taken = list(zip(spending.choices, costs, losses, strict=True))
        assert spending.cost == sum(item[o] for o, item, _ in taken) <= budget
        assert spending.loss == pytest.approx(sum(item[o] for o, _, item in taken))
        best = brute_force(costs, losses, budget)
        largest_step = max(max(item) - min(item) for item in losses)
        assert spending.bound - 1e-9 <= best <= spending.loss + 1e-9
        assert spending.loss <= spending.bound + largest_step
    assert spending.loss == pytest.approx(sum(map(min, losses)))  # everything is affordable in the end


def test_spending_on_convex_curves_is_optimal_where_steps_meet_the_budget():
    costs = [[10 * i for i in range(1, 6)], [10 * i for i in range(1, 6)]]
    losses = [[1 / i for i in range(1, 6)], [5 / i for i in range(1, 6)]]
    for budget in range(20, 101, 10):
        spending = spend_budget(costs, losses, budget)
        assert spending.loss == pytest.approx(brute_force(costs, losses, budget))
        assert spending.bound == pytest.approx(spending.loss)


def test_leftovers_buy_upgrades_off_the_hull():
    assert spend_budget([[0, 5, 10]], [[10.0, 9.0, 0.0]], 7).choices == (1,)


SPENDING_REFUSED = {
    "too small a budget": ([[3, 4], [2, 9]], [[1, 0], [1, 0]], 4, "cheapest options, 5, got 4"),
    "no option": ([[]], [[]], 4, "every item needs options"),
    "lengths that differ": ([[1]], [[1, 2]], 4, "every item needs options"),
}


@pytest.mark.parametrize("case", SPENDING_REFUSED)
def test_spending_refuses(case):
    costs, losses, budget, message = SPENDING_REFUSED[case]
    with pytest.raises(ValueError, match=message):
        spend_budget(costs, losses, budget)
