from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar

from hocp_mm.functional import decompose, dense_kernel
from hocp_mm.functional.rank_estimate import error_curve, estimate_rank, evbmf, sufficient_rank
from tests.laws import random_kernel


def noisy(clean, noise):
    """Add Gaussian noise of a given share of the norm; returns the kernel and the variance of the noise."""
    scale = float(noise * clean.norm()) / clean.numel() ** 0.5
    return clean + scale * torch.randn_like(clean), scale**2


def reference_evbmf(matrix):
    """Nakajima et al. 2013, theorem 2 and corollary 1, with SciPy's searches: rank, variance, shrunk values."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows, columns = matrix.shape
    aspect = rows / columns
    s = np.linalg.svd(matrix, compute_uv=False)

    def phi(z):
        return np.log(z + 1) / z - 0.5

    t_low = brentq(lambda t: phi(t) + phi(t / aspect), 1e-6, 10)
    x_low = (1 + t_low) * (1 + aspect / t_low)

    def free_energy(variance):
        total = 0.0
        for value in s:
            x = value**2 / (columns * variance)
            total += x - np.log(x)
            if x > x_low:
                t = 0.5 * (x - (1 + aspect) + np.sqrt((x - (1 + aspect)) ** 2 - 4 * aspect))
                total += np.log(t + 1) + aspect * np.log(t / aspect + 1) - t
        return total

    most = int(np.ceil(rows / (1 + aspect))) - 1
    low = max(s[most] ** 2 / (columns * x_low), np.mean(s[most:] ** 2) / columns)
    ends = np.geomspace(low, np.sum(s**2) / (rows * columns), 60)
    found = [minimize_scalar(free_energy, bounds=pair, method="bounded") for pair in pairwise(ends)]
    variance = min(found, key=lambda result: result.fun).x
    kept = s[s**2 > columns * variance * x_low]
    inner = 1 - (rows + columns) * variance / kept**2
    shrunk = kept / 2 * (inner + np.sqrt(inner**2 - 4 * rows * columns * variance**2 / kept**4))
    return len(kept), variance, shrunk


MATRICES = {
    "square": (40, 40, 6, 0.3),
    "wide": (30, 200, 10, 0.3),
    "tall": (200, 30, 10, 0.3),
    "weak signal": (40, 120, 8, 2.0),
    "rank at the limit": (24, 60, 16, 0.3),
    "noise alone": (40, 120, 1, 1e6),
}


@pytest.mark.parametrize("case", MATRICES)
def test_evbmf_is_the_published_solution(case):
    rows, columns, rank, noise = MATRICES[case]
    matrix, _ = noisy(torch.randn(rows, rank).double() @ torch.randn(rank, columns).double(), noise)
    found = evbmf(matrix)
    expected_rank, expected_variance, expected_values = reference_evbmf(matrix.numpy())
    assert found.rank == expected_rank
    assert found.noise_variance == pytest.approx(expected_variance, rel=1e-4)
    np.testing.assert_allclose(found.singular_values.numpy(), expected_values, rtol=1e-4)


@pytest.mark.parametrize("noise", [1e-6, 0.1, 0.5])
@pytest.mark.parametrize("rank", [1, 5, 20])
def test_evbmf_finds_rank_and_noise_of_a_low_rank_matrix(rank, noise):
    matrix, variance = noisy(torch.randn(60, rank).double() @ torch.randn(rank, 200).double(), noise)
    found = evbmf(matrix)
    assert found.rank == rank
    assert found.noise_variance == pytest.approx(variance, rel=0.15)


def test_evbmf_of_exact_noise_free_and_of_pure_noise_matrices():
    assert evbmf(torch.randn(30, 7) @ torch.randn(7, 50)).rank == 7
    assert evbmf(torch.randn(30, 50)).rank == 0
    assert evbmf(torch.zeros(30, 50)).rank == 0


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize(
    ("taps", "rank"), [((3, 3), 4), ((3, 3), 16), ((3, 3), 32), ((3, 3, 3), 8), ((3,), 8)], ids=str
)
def test_the_estimate_is_near_the_true_cp_rank(taps, rank, noise):
    kernel = random_kernel(out=48, in_=32, taps=taps, rank=rank)
    kernel.weights.fill_(1)  # a component of a small weight would drown in the noise, and rightly so
    assert estimate_rank(noisy(dense_kernel(kernel), noise)[0]) == pytest.approx(rank, rel=0.1)


def test_the_estimate_has_room_for_a_tucker_core():
    core, out, in_ = torch.randn(6, 8, 3, 3), torch.randn(32, 6), torch.randn(32, 8)
    dense, _ = noisy(torch.einsum("abhw,oa,ib->oihw", core, out, in_), 0.05)
    rank = estimate_rank(dense)
    assert rank > 2 * 8  # the Tucker ranks are 6 and 8
    assert decompose(dense, rank, max_iter=200).relative_error < 0.1
    assert decompose(dense, 8, max_iter=200).relative_error > 0.5


def test_the_group_that_needs_most_counts_for_all():
    small, large = (dense_kernel(random_kernel(out=24, in_=20, rank=rank)) for rank in (2, 5))
    assert estimate_rank(torch.cat([small, large]), groups=2) == 10


def test_a_kernel_of_noise_gets_the_smallest_rank():
    assert estimate_rank(torch.randn(32, 16, 3, 3), groups=2) == 2


def test_pointwise_kernels_take_the_rank_of_the_matrix():
    dense, _ = noisy(torch.randn(40, 5) @ torch.randn(5, 60), 0.1)
    assert estimate_rank(dense[:, :, None, None]) == 5


def test_the_error_curve_of_pointwise_kernels_is_exact():
    dense = torch.randn(12, 16, 1, 1)
    curve = error_curve(dense, [2, 6, 10, 12, 20])
    fits = [decompose(dense, rank).relative_error ** 2 for rank in (2, 6, 10, 12, 20)]
    np.testing.assert_allclose(curve, fits, atol=1e-6)


def kernels():
    """Kernels of one size, from the easiest to the hardest to compress."""
    low = dense_kernel(random_kernel(out=32, in_=32, rank=6))
    slow, fast = (random_kernel(out=32, in_=32, rank=96) for _ in range(2))
    slow.weights.copy_(torch.arange(1, 97) ** -0.5)
    fast.weights.copy_(torch.arange(1, 97) ** -1.5)
    return [noisy(low, 0.02)[0], dense_kernel(fast), dense_kernel(slow), torch.randn(32, 32, 3, 3)]


def test_the_error_curve_orders_kernels_as_real_fits_do():
    ranks = [8, 16, 32, 64]
    some = kernels()
    curves = torch.tensor([error_curve(dense, ranks) for dense in some])
    fits = torch.tensor([[decompose(dense, rank).relative_error ** 2 for rank in ranks] for dense in some])
    clear = fits.unsqueeze(1) > 1.2 * fits + 0.01  # [worse kernel, better kernel, rank]
    assert clear.sum() >= 12
    assert (curves.unsqueeze(1) > curves)[clear].all()
    assert (curves.diff(dim=1) <= 0).all()


def test_the_error_curve_is_near_real_fits_of_a_kernel_without_structure():
    dense, ranks = torch.randn(32, 32, 3, 3), [8, 16, 32, 64]
    for rank, error in zip(ranks, error_curve(dense, ranks), strict=True):
        fit = decompose(dense, rank).relative_error ** 2
        assert fit <= error <= 1.5 * fit


def test_the_error_curve_goes_on_beyond_the_largest_fit(monkeypatch):
    monkeypatch.setattr("hocp_mm.functional.rank_estimate._LARGEST_FIT", 16)
    dense = torch.randn(16, 16, 3, 3)
    curve = error_curve(dense, [4, 8, 16, 32, 64])
    assert all(0 < right < left <= 1 for left, right in pairwise(curve))


def test_the_error_curve_of_groups_weighs_them_with_their_energy():
    easy, hard = dense_kernel(random_kernel(out=8, in_=8, rank=1)).float(), torch.randn(8, 8, 3, 3)
    joint = error_curve(torch.cat([easy, hard]), [4, 8], groups=2)
    alone = torch.tensor(error_curve(hard, [2, 4]))
    share = float(hard.square().sum() / (hard.square().sum() + easy.square().sum()))
    np.testing.assert_allclose(joint, alone * share, atol=0.02)


def test_the_error_curve_of_zeros_is_zero():
    assert error_curve(torch.zeros(8, 8, 3, 3), [2, 4]) == [0, 0]


def falling(speed: float, out: int = 48, in_: int = 32) -> torch.Tensor:
    """A kernel whose unfoldings have falling spectra, as trained ones do: no few components, and no clear noise."""
    dense = torch.randn(out, in_, 3, 3)
    for mode in range(4):
        flat = dense.movedim(mode, 0).flatten(1)
        u, s, v = torch.linalg.svd(flat, full_matrices=False)
        weights = torch.exp(-speed * torch.arange(len(s)) / len(s))
        dense = (u * s * weights @ v).unflatten(1, dense.movedim(mode, 0).shape[1:]).movedim(0, mode)
    return dense


@pytest.mark.parametrize("speed", [0.5, 1.0])
def test_a_sufficient_rank_keeps_most_of_a_kernel_and_is_little_larger_than_that_takes(speed):
    dense = falling(speed)
    rank = sufficient_rank(dense)
    assert rank > 2 * estimate_rank(dense)  # EVBMF takes most of it for noise
    assert 0.15 < decompose(dense, rank).relative_error <= 0.31
    assert decompose(dense, rank // 2).relative_error > 0.31


def test_a_sufficient_rank_goes_from_the_estimate_to_parity():
    exact = dense_kernel(random_kernel(out=24, in_=20, rank=6))
    assert sufficient_rank(exact) == 6  # four of them would do for the error
    assert sufficient_rank(torch.randn(48, 32, 3, 3), error=1e-3) == 48 * 32 * 9 // (48 + 32 + 6)
    assert sufficient_rank(torch.cat([exact, exact]), groups=2) == 12
    assert sufficient_rank(torch.zeros(8, 8, 3, 3)) == 1


REFUSED = {
    "an error of 1": (lambda: sufficient_rank(torch.ones(4, 4, 3), error=1.0), "error must be between 0 and 1, got 1"),
    "a vector": (lambda: evbmf(torch.ones(4)), r"got shape \(4,\)"),
    "an empty matrix": (lambda: evbmf(torch.ones(4, 0)), r"got shape \(4, 0\)"),
    "nan": (lambda: evbmf(torch.full((4, 4), float("nan"))), "matrix must be finite"),
    "a matrix as a kernel": (lambda: estimate_rank(torch.ones(4, 4)), r"got shape \(4, 4\)"),
    "groups that do not divide": (lambda: estimate_rank(torch.ones(4, 4, 3), 3), "multiple of groups=3"),
    "ranks that fall": (lambda: error_curve(torch.ones(4, 4, 3), [4, 2]), r"must be rising .* got \[4, 2\]"),
    "no rank": (lambda: error_curve(torch.ones(4, 4, 3), []), "must be rising"),
    "ranks beside the groups": (lambda: error_curve(torch.ones(4, 2, 3), [2, 3], groups=2), "multiples of groups=2"),
    "a kernel with nan": (lambda: error_curve(torch.full((4, 4, 3), float("nan")), [2]), "kernel must be finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_estimates_refuse(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()
