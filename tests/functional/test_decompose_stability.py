"""Components must not cancel, and keeping them from it must not cost more than it has to."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hocp_mm.functional import decompose
from hocp_mm.functional.als import Target, energy, random_start, ridge_solver, sweep
from hocp_mm.functional.bounded_norm import bound_energy
from hocp_mm.functional.cp import component_norms


def border_rank_tensor():
    """Rank 3, but two terms of growing opposite norms come arbitrarily near."""
    a, b = torch.eye(2, dtype=torch.float64)
    return sum(torch.einsum("i,j,k->ijk", *vectors) for vectors in ((a, a, b), (a, b, a), (b, a, a)))


def matrix_multiplication_tensor(size):
    """``C = A B`` as a bilinear map; fits below its rank are notoriously degenerate."""
    dense = torch.zeros(size**2, size**2, size**2, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            for k in range(size):
                dense[i * size + j, j * size + k, k * size + i] = 1
    return dense


def error_of(dense, factors):
    rebuilt = torch.einsum("ir,jr,kr->ijk", *factors)
    return float((dense - rebuilt).norm() / dense.norm())


def cancelling_fit(dense, rank, seed):
    """Plain alternating least squares: what happens without a guard."""
    target = Target(dense / dense.norm())
    factors = random_start(dense.shape, rank, torch.Generator().manual_seed(seed), dense.device)
    for number in range(400):
        factors, _ = sweep(target, factors, ridge_solver(max(1e-12, 0.1 * 0.5**number)))
    return target, factors


def test_the_border_rank_tensor_gets_the_best_fit_without_cancellation():
    dense = border_rank_tensor()
    fit = decompose(dense, 2, max_iter=300, tol=0.0)
    assert fit.degeneracy <= 10
    assert fit.degeneracy == pytest.approx(float(component_norms(fit.kernel).square().sum() / 3), rel=1e-6)

    unit = (dense / dense.norm()).numpy()

    def squared_error(flat):
        return np.square(unit - np.einsum("ir,jr,kr->ijk", *flat.reshape(3, 2, 2))).sum()

    def room(flat):
        return 10 - np.square(flat.reshape(3, 2, 2)).sum(1).prod(0).sum()

    starts = np.random.default_rng(0).normal(size=(4, 12))
    options = {"maxiter": 300, "ftol": 1e-14}
    found = [minimize(squared_error, x, constraints={"type": "ineq", "fun": room}, options=options) for x in starts]
    best = min(result.fun for result in found if room(result.x) > -1e-6) ** 0.5
    assert fit.relative_error <= best * 1.02


@pytest.mark.parametrize(("size", "rank", "seed"), [(2, 6, 2), (3, 20, 1)])
def test_matrix_multiplication_loses_its_cancellation_for_one_percent_of_error(size, rank, seed):
    dense = matrix_multiplication_tensor(size)
    target, cancelling = cancelling_fit(dense, rank, seed)
    assert energy(cancelling) > 100
    dense = dense / dense.norm()
    corrected = bound_energy(target, cancelling, 10.0)
    assert energy(corrected) <= 10 * (1 + 1e-9)
    assert error_of(dense, corrected) <= error_of(dense, cancelling) * 1.01


@pytest.mark.parametrize("seed", range(3))
def test_no_start_leaves_cancelling_components(seed):
    fit = decompose(matrix_multiplication_tensor(3), 20, seed=seed, max_iter=100, tol=0.0)
    assert fit.degeneracy <= 10
    assert fit.relative_error < 0.42  # sqrt(5 / 27): five of the 27 products left out, by 22 terms


def test_a_fit_within_the_limit_keeps_its_error():
    dense = border_rank_tensor()
    target, factors = cancelling_fit(dense, 3, 0)
    assert energy(factors) < 10
    corrected = bound_energy(target, factors, 10.0)
    assert error_of(dense / dense.norm(), corrected) <= error_of(dense / dense.norm(), factors) + 1e-9
