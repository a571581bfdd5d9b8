import pytest
import tensorly as tl
import torch
from tensorly.decomposition import parafac

from hocp_mm.functional import decompose, dense_kernel
from hocp_mm.functional.cp import component_norms
from tests.laws import random_kernel, relative_error


@pytest.mark.parametrize("taps", [(3,), (3, 3), (3, 3, 3)], ids=str)
def test_a_kernel_of_known_rank_is_recovered(taps):
    dense = dense_kernel(random_kernel(out=12, in_=10, taps=taps, rank=3))
    fit = decompose(dense, 3, max_iter=2000, tol=1e-9)
    assert fit.relative_error < 1e-4
    assert fit.relative_error == pytest.approx(relative_error(dense_kernel(fit.kernel), dense), rel=1e-6, abs=1e-12)


def test_grouped_kernels_are_fitted_group_by_group():
    dense = dense_kernel(random_kernel(out=12, in_=12, rank=4, groups=2))
    fit = decompose(dense, 4, groups=2, max_iter=2000, tol=1e-9)
    assert fit.kernel.groups == 2
    assert relative_error(dense_kernel(fit.kernel), dense) < 1e-3


@pytest.mark.parametrize("rank", [5, 12, 20])
def test_pointwise_kernels_take_the_best_matrix(rank):
    dense = torch.randn(12, 16, 1, 1, dtype=torch.float64)
    singular = torch.linalg.svdvals(dense[:, :, 0, 0])
    best = float(singular[rank:].square().sum().sqrt() / singular.norm())
    assert decompose(dense, rank).relative_error == pytest.approx(best, abs=1e-12)


def test_no_worse_than_tensorly_at_the_same_rank():
    dense = torch.nn.Conv2d(24, 32, 3).weight.detach().double()
    fit = decompose(dense, 24, max_iter=100)
    with tl.backend_context("pytorch"):
        reference = parafac(dense, 24, n_iter_max=100, init="random", random_state=0)
        theirs = relative_error(tl.cp_to_tensor(reference), dense)
    assert fit.relative_error <= theirs * 1.01


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    dense = torch.randn(8, 8, 3, 3)
    state = torch.get_rng_state()
    first, again, other = decompose(dense, 6, seed=1), decompose(dense, 6, seed=1), decompose(dense, 6, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first.kernel.factors[n], again.kernel.factors[n]) for n in first.kernel.factors)
    assert not torch.equal(first.kernel.factors["out"], other.kernel.factors["out"])


def test_components_do_not_cancel_on_the_classical_border_rank_tensor():
    a, b = torch.eye(2, dtype=torch.float64)
    dense = (
        torch.einsum("i,j,k->ijk", a, a, b) + torch.einsum("i,j,k->ijk", a, b, a) + torch.einsum("i,j,k->ijk", b, a, a)
    )  # rank 3, but rank-2 terms of growing opposite norms come arbitrarily near
    fit = decompose(dense, 2, max_iter=500, tol=0.0)
    assert fit.degeneracy <= 10
    assert fit.degeneracy == pytest.approx(float(component_norms(fit.kernel).square().sum() / 3), rel=1e-6)


def test_dtype_is_kept_and_half_precision_works():
    fit = decompose(torch.randn(6, 6, 3, 3).bfloat16(), 6)
    assert fit.kernel.weights.dtype == torch.bfloat16


def test_a_zero_kernel_gives_a_zero_kernel():
    fit = decompose(torch.zeros(4, 4, 3, 3), 3)
    assert fit.relative_error == 0
    assert not dense_kernel(fit.kernel).any()


@pytest.mark.parametrize(
    ("dense", "options", "message"),
    [
        (torch.full((4, 4, 3, 3), float("nan")), {"rank": 2}, "must be finite"),
        (torch.randn(4, 4, 3, 3), {"rank": 0}, "positive multiples"),
        (torch.randn(4, 4, 3, 3), {"rank": 3, "groups": 2}, "positive multiples of groups=2, got 3"),
    ],
    ids=["nan", "rank 0", "rank and groups"],
)
def test_decompose_refuses(dense, options, message):
    with pytest.raises(ValueError, match=message):
        decompose(dense, **options)
