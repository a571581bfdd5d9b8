import pytest
import torch

from hocp_mm.functional import CPKernel, dense_kernel
from hocp_mm.functional.decompose import decompose, decompose_to_error
from tests.functional.test_decompose import structured_kernel
from tests.laws import random_kernel, relative_error


@pytest.mark.parametrize("target", [0.2, 0.4, 0.6])
def test_the_error_is_reached_and_a_smaller_rank_does_not_reach_it(target):
    dense = structured_kernel(16, 16, 3, 3)
    fit = decompose_to_error(dense, target, granularity=0.0)
    assert relative_error(dense_kernel(fit.kernel), dense) <= target
    assert fit.degeneracy <= 10
    assert decompose(dense, fit.kernel.rank - 1).relative_error > target * 0.998


def test_a_matrix_gets_the_rank_of_its_singular_values():
    dense = structured_kernel(24, 16, 1, 1)
    singular = torch.linalg.svdvals(dense.flatten(1))
    tails = [float(singular[rank:].norm() / singular.norm()) for rank in range(17)]
    expected = next(rank for rank, tail in enumerate(tails) if tail <= 0.3)
    assert decompose_to_error(dense, 0.3, max_rank=16).kernel.rank == expected


def test_a_kernel_of_known_rank_gets_that_rank():
    factors = random_kernel(out=20, in_=20, rank=4).factors
    dense = dense_kernel(CPKernel(torch.ones(4, dtype=torch.float64), factors))
    assert decompose_to_error(dense, 0.01, max_iter=300).kernel.rank == 4


def test_coarse_granularity_stays_within_its_fraction():
    dense = structured_kernel(16, 16, 3, 3)
    coarse, fine = (decompose_to_error(dense, 0.3, granularity=g).kernel.rank for g in (0.3, 0.0))
    assert fine <= coarse <= fine / 0.7 + 1


def test_groups_share_the_rank_equally():
    dense = structured_kernel(16, 8, 3, 3)
    fit = decompose_to_error(dense, 0.3, groups=2)
    assert fit.kernel.groups == 2
    assert fit.kernel.rank % 2 == 0
    assert fit.relative_error <= 0.3


def rank_one(out=16, in_=16):
    return dense_kernel(CPKernel(torch.ones(1, dtype=torch.float64), random_kernel(out, in_, rank=1).factors))


def test_the_error_holds_for_all_groups_together():
    large = rank_one()
    noise = torch.randn(16, 16, 3, 3, dtype=torch.float64)
    dense = torch.cat([large / large.norm(), 1e-6 * noise / noise.norm()])
    fit = decompose_to_error(dense, 0.1, groups=2)
    assert (fit.kernel.rank, fit.relative_error <= 0.1) == (2, True)
    assert decompose(dense, 2, groups=2).relative_error < 1.2e-6
    assert decompose_to_error(dense.flip(0), 0.1, groups=2).kernel.rank == 2


@pytest.mark.parametrize("target", [0.3, 0.5])
def test_unequal_groups_get_the_smallest_common_rank(target):
    first, second = structured_kernel(16, 8, 1, 1), structured_kernel(16, 8, 1, 1, seed=1)
    dense = torch.cat([first, 0.3 * second])
    spectra = [torch.linalg.svdvals(block.flatten(1)).square() for block in (first, 0.3 * second)]
    tails = [sum(float(s[rank:].sum()) for s in spectra) for rank in range(9)]
    expected = next(rank for rank, tail in enumerate(tails) if tail <= target**2 * tails[0])
    assert decompose_to_error(dense, target, groups=2, max_rank=16, granularity=0).kernel.rank == 2 * expected


def test_a_shrunk_moment_proves_nothing():
    # Calibration saw one channel alone. The others weigh so little that the fit serves that one first, but they would
    # count in the error if it were that of the shrunk moment.
    seen = rank_one(in_=1)
    unseen = torch.randn(16, 15, 3, 3, dtype=torch.float64)
    dense = torch.cat([seen / seen.norm(), 9 * unseen / unseen.norm()], dim=1)
    moment = torch.zeros(16, 16, dtype=torch.float64)
    moment[0, 0] = 1
    fit = decompose_to_error(dense, 0.1, input_moment=moment)
    assert fit.weighted_error <= 0.1
    assert fit.kernel.rank == 1


def test_with_a_moment_the_weighted_error_counts():
    dense = structured_kernel(16, 16, 3, 3)
    moment = torch.diag(torch.arange(1, 17) ** -2.0)
    fit = decompose_to_error(dense, 0.2, input_moment=moment)
    assert fit.weighted_error <= 0.2
    assert fit.kernel.rank < decompose_to_error(dense, 0.2).kernel.rank


def test_a_zero_kernel_needs_one_component():
    assert decompose_to_error(torch.zeros(4, 4, 3, 3), 0.1).kernel.rank == 1


def test_a_rank_that_does_not_do_is_told_with_the_best_error():
    dense = structured_kernel(16, 16, 3, 3)
    best = decompose(dense, 4).relative_error
    with pytest.raises(ValueError, match=rf"0.05 must be reached by rank 4, got {best:.4g} \(kernel of shape \(16"):
        decompose_to_error(dense, 0.05, max_rank=4)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (0.0, {}, r"target_error must lie in \(0, 1\), got 0.0"),
        (1.0, {}, r"target_error must lie in \(0, 1\), got 1.0"),
        (0.1, {"granularity": 1.0}, r"granularity must lie in \[0, 1\), got 1.0"),
        (0.1, {"groups": 2, "max_rank": 3}, "max_rank must be a positive multiple of groups=2, got 3"),
        (0.1, {"max_rank": 0}, "max_rank must be a positive multiple of groups=1, got 0"),
        (0.1, {"groups": 3}, "decompose_to_error: out channels must be a multiple of groups=3, got 4"),
    ],
)
def test_decompose_to_error_refuses(target, options, message):
    with pytest.raises(ValueError, match=message):
        decompose_to_error(torch.randn(4, 4, 3, 3), target, **options)
