import subprocess
import sys

import pytest
import tensorly as tl
import torch
from tensorly.decomposition import parafac
from torch.overrides import TorchFunctionMode

from hocp_mm.functional import decompose, dense_kernel
from hocp_mm.functional.als import Target, random_start, ridge_solver, sweep
from hocp_mm.functional.compression import compress
from hocp_mm.functional.cp import CPKernel, component_norms, mode_names
from hocp_mm.functional.group_fit import GroupFit
from tests.laws import random_kernel, relative_error


def structured_kernel(*shape, decay=0.5, noise=0.1, seed=0):
    """Spectra that fall as a power of the index in every mode, plus white noise: what trained kernels look like."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    dense = normal(*shape)
    for mode, size in enumerate(shape):
        basis, _ = torch.linalg.qr(normal(size, size))
        spectrum = torch.arange(1, size + 1, dtype=torch.float64) ** -(decay if mode < 2 else 1.0)
        dense = torch.movedim(torch.tensordot(basis * spectrum, dense, ([1], [mode])), 0, mode)
    white = normal(*shape)
    return dense / dense.norm() + noise * white / white.norm()


def best_of_four(dense, rank, **options):
    """Take the best start: on tiny kernels one in ten ends in a local minimum."""
    fits = (decompose(dense, rank, seed=seed, max_iter=400, tol=1e-9, **options) for seed in range(4))
    return min(fits, key=lambda fit: fit.relative_error)


@pytest.mark.parametrize("taps", [(3,), (3, 3), (3, 3, 3)], ids=str)
def test_a_kernel_of_known_rank_is_recovered(taps):
    dense = dense_kernel(random_kernel(out=12, in_=10, taps=taps, rank=3))
    fit = best_of_four(dense, 3)
    assert fit.relative_error < 1e-4
    assert fit.relative_error == pytest.approx(relative_error(dense_kernel(fit.kernel), dense), rel=1e-6, abs=1e-12)
    assert fit.weighted_error == fit.relative_error


def test_grouped_kernels_are_fitted_group_by_group():
    dense = dense_kernel(random_kernel(out=12, in_=12, rank=4, groups=2))
    fit = best_of_four(dense, 4, groups=2)
    assert fit.kernel.groups == 2
    assert relative_error(dense_kernel(fit.kernel), dense) < 1e-3


@pytest.mark.parametrize("rank", [5, 12, 20])
@pytest.mark.parametrize("shape", [(12, 16, 1, 1), (12, 1, 16, 1), (1, 1, 12, 16), (1, 12, 1, 1, 16)], ids=str)
def test_kernels_that_are_matrices_take_the_best_matrix(shape, rank):
    dense = torch.randn(*shape, dtype=torch.float64)
    singular = torch.linalg.svdvals(dense.squeeze())
    best = float(singular[rank:].square().sum().sqrt() / singular.norm())
    assert decompose(dense, rank).relative_error == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 5, 1), (1, 1, 1), (4, 1, 1, 1)], ids=str)
def test_kernels_that_are_vectors_are_exact(shape):
    assert decompose(torch.randn(*shape, dtype=torch.float64), 2).relative_error < 1e-12


@pytest.mark.parametrize("init", ["random", "svd"])
@pytest.mark.parametrize(
    "dense",
    [
        structured_kernel(32, 24, 3, 3, decay=0.0, noise=1.0),
        structured_kernel(32, 24, 3, 3),
        structured_kernel(24, 32, 3, 3, decay=1.0, noise=0.05),
        structured_kernel(16, 12, 3, 3, 3),
    ],
    ids=["random", "structured", "steep spectrum", "video"],
)
@pytest.mark.filterwarnings("ignore:Trying to compute SVD")
def test_no_worse_than_tensorly_at_the_same_rank(dense, init):
    rank = dense.shape[1]
    fit = decompose(dense, rank)
    with tl.backend_context("pytorch"):
        reference = parafac(dense, rank, n_iter_max=100, init=init, random_state=0)
        theirs = relative_error(tl.cp_to_tensor(reference), dense)
    assert fit.relative_error <= theirs * 1.002
    assert fit.degeneracy <= 10


def test_momentum_halves_the_sweeps():
    dense = structured_kernel(32, 32, 3, 3)
    target = Target(dense / dense.norm())
    factors = random_start(dense.shape, 32, torch.Generator().manual_seed(0), dense.device)
    error = 1.0
    for _ in range(60):
        factors, error = sweep(target, factors, ridge_solver(5e-3 * error))
    assert decompose(dense, 32, max_iter=30).relative_error < error**0.5


def test_a_sweep_reports_the_error_of_what_it_returns():
    dense = torch.randn(6, 5, 3, 2, dtype=torch.float64)
    dense /= dense.norm()
    factors = random_start(dense.shape, 4, torch.Generator().manual_seed(0), dense.device)
    factors, error = sweep(Target(dense), factors, ridge_solver(1e-6))
    rebuilt = dense_kernel(CPKernel(torch.ones(4, dtype=torch.float64), dict(zip(mode_names(2), factors, strict=True))))
    assert error == pytest.approx(float((dense - rebuilt).square().sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("dense", "core_shape"),
    [
        (torch.randn(64, 4, 3, 3, dtype=torch.float64), (36, 4, 3, 3)),
        (torch.randn(4, 64, 3, dtype=torch.float64), (4, 12, 3)),
        (dense_kernel(random_kernel(out=20, in_=30, rank=5)), (5, 5, 3, 3)),
        (torch.randn(8, 8, 3, 3, dtype=torch.float64), (8, 8, 3, 3)),
    ],
    ids=["more outputs than inputs and taps", "more inputs", "low rank", "nothing to gain"],
)
def test_compression_loses_nothing(dense, core_shape):
    compressed = compress(dense)
    assert compressed.core.shape == core_shape
    for basis in compressed.bases.values():
        assert relative_error(basis.T @ basis, torch.eye(basis.shape[1])) < 1e-10
    rebuilt = compressed.core
    for mode, basis in compressed.bases.items():
        rebuilt = torch.movedim(torch.tensordot(basis, rebuilt, ([1], [mode])), 0, mode)
    assert relative_error(rebuilt, dense) < 1e-5


@pytest.mark.parametrize("rank", [1, 5, 30])
def test_the_least_residual_comes_from_the_singular_values_of_the_unfoldings(rank):
    dense = structured_kernel(40, 12, 3, 3)
    tails = []
    for mode in range(dense.ndim):
        singular = torch.linalg.svdvals(dense.movedim(mode, 0).flatten(1))
        tails.append(float(singular[rank:].square().sum()))
    assert GroupFit(dense, (None, None), 10.0).least_residual(rank) == pytest.approx(max(tails), rel=1e-6)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    dense = torch.randn(8, 8, 3, 3)
    state = torch.get_rng_state()
    first, again, other = decompose(dense, 6, seed=1), decompose(dense, 6, seed=1), decompose(dense, 6, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first.kernel.factors[n], again.kernel.factors[n]) for n in first.kernel.factors)
    assert not torch.equal(first.kernel.factors["out"], other.kernel.factors["out"])


@pytest.mark.parametrize("scale", [1e-18, 1e15])
def test_the_scale_of_the_kernel_does_not_matter(scale):
    dense = torch.randn(8, 6, 3, 3)
    assert decompose(dense * scale, 6).relative_error == pytest.approx(decompose(dense, 6).relative_error, rel=1e-3)


def test_dtype_is_kept_and_half_precision_works():
    fit = decompose(torch.randn(6, 6, 3, 3).bfloat16(), 6)
    assert fit.kernel.weights.dtype == torch.bfloat16


def test_factors_come_back_balanced():
    kernel = decompose(torch.randn(6, 6, 3, 3), 6).kernel
    shared = component_norms(kernel) ** 0.25
    for factor in kernel.factors.values():
        assert torch.allclose(factor.norm(dim=0), shared, rtol=1e-4)


def test_more_components_than_the_kernel_can_use_are_exact():
    fit = decompose(torch.randn(3, 2, 3, 3, dtype=torch.float64), 40, max_iter=200)
    assert fit.relative_error < 1e-3
    assert fit.degeneracy <= 10


def test_a_zero_kernel_gives_a_zero_kernel():
    fit = decompose(torch.zeros(4, 4, 3, 3), 3)
    assert fit.relative_error == 0
    assert not dense_kernel(fit.kernel).any()


class LargestTensor(TorchFunctionMode):
    """Record the largest tensor that any function returns."""

    elements = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_intermediate_is_larger_than_the_kernel_or_one_projection_of_it():
    dense, rank = torch.randn(16, 12, 3, 3, 3), 20
    with LargestTensor() as largest:
        decompose(dense, rank, max_iter=5)
    assert largest.elements == 16 * 27 * rank  # larger than the kernel; a Khatri-Rao product has 16 * 12 * 9 * rank


_PEAK = """
import resource, torch
from hocp_mm.functional import decompose
dense = torch.randn(1024, 512, 3, 3, 3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decompose(dense, 512, max_iter=3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_a_large_video_kernel_stays_under_two_gigabytes():
    done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2e9


@pytest.mark.parametrize(
    ("dense", "options", "message"),
    [
        (torch.full((4, 4, 3, 3), float("nan")), {"rank": 2}, "must be finite"),
        (torch.randn(4, 4, 3, 3), {"rank": 0}, "rank must be a positive multiple of groups=1, got 0"),
        (torch.randn(4, 4, 3, 3), {"rank": 3, "groups": 2}, "rank must be a positive multiple of groups=2, got 3"),
        (torch.randn(3, 4, 3, 3), {"rank": 2, "groups": 2}, "out channels must be a multiple of groups=2, got 3"),
        (torch.randn(4, 4), {"rank": 2}, "kernel_order must lie in 1..4, got 0"),
    ],
    ids=["nan", "rank 0", "rank and groups", "channels and groups", "a matrix"],
)
def test_decompose_refuses(dense, options, message):
    with pytest.raises(ValueError, match=message):
        decompose(dense, **options)
