"""Take the cancellation out of a CP fit.

CP fits can reach their error by rank-one terms that nearly cancel, which makes the network built from them unstable
in fine-tuning. Phan et al. ("Stable Low-rank Tensor Decomposition for Compression of Convolutional Neural Network",
ECCV 2020, arXiv 2008.05441) minimise ``sum_r |component r|^2`` under a bound on the error. Here the two change places,

    minimise  |W - W_cp|^2   subject to  sum_r |component r|^2 <= limit,

because a limit on the energy is what a caller can state, and because it converges: with the error held exactly, one
mode at a time can hardly move (from an energy of 746 to 703 in 300 sweeps on a matrix multiplication tensor, where
the bound of 10 costs 0.1 % in error). With unit-norm columns in the other modes each step is a ridge regression whose
ridge is the root of a scalar equation on the eigenvalues of the Gram matrix.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hocp_mm.functional.als import Solver, Target, sweep, unit_diagonal

_RIDGES = 1e-14, 1e8
_BISECTIONS = 60
_STALLED = 1e-4  # relative fall of the squared error per sweep


def bound_energy(target: Target, factors: Sequence[Tensor], limit: float, max_iter: int = 100) -> list[Tensor]:
    """Lower the energy of the components to a limit, and the error as far as that allows.

    Args:
        target: The kernel, of norm 1.
        factors: The fit to correct.
        limit: Largest energy, in units of the kernel's.
        max_iter: Sweeps at most.

    Returns:
        Factors whose energy is at most ``limit``.
    """
    solve = _bounded_solver(limit)
    best, error = sweep(target, factors, solve)
    for _ in range(max_iter - 1):
        point, new_error = sweep(target, best, solve)
        if new_error > error * (1 - _STALLED):
            break
        best, error = point, new_error
    return best


def _bounded_solver(limit: float) -> Solver:
    def solve(projected: Tensor, gram: Tensor) -> Tensor:
        scale = unit_diagonal(gram)
        spectrum, vectors = torch.linalg.eigh(gram * scale * scale.unsqueeze(1))
        spectrum = spectrum.clamp_min(0.0)
        rotated = (projected * scale) @ vectors
        ridge = _smallest_ridge(spectrum.cpu(), rotated.square().sum(0).cpu(), limit)
        return (rotated / (spectrum + ridge)) @ vectors.T * scale

    return solve


def _smallest_ridge(spectrum: Tensor, content: Tensor, limit: float) -> float:
    """Find the smallest ridge at which the solution's energy, ``sum content / (spectrum + ridge)^2``, obeys a limit."""

    def obeys(ridge: float) -> bool:
        return float((content / (spectrum + ridge).square()).sum()) <= limit

    low, high = _RIDGES
    if obeys(low):
        return low
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if obeys(middle) else (middle, high)
    return high
