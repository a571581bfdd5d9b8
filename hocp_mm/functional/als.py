"""Alternating least squares for one CP kernel, with momentum and a ridge on the energy of the components.

A sweep solves one factor after the other; between sweeps the factors are extrapolated along their last step
(Nesterov's weights, restarted whenever the objective rises; Mitchell, Ye and De Sterck, "Nesterov acceleration of
alternating least squares for canonical tensor decomposition", arXiv 1810.05846). The objective is

    |W - W_cp|^2 / |W|^2 + ridge * sum_r |component r|^2 / |W|^2,

the Lagrangian of the stable decomposition of :mod:`hocp_mm.functional.bounded_norm`. With the ridge tied to the
squared error it vanishes on kernels of exact rank; elsewhere it stops momentum from running into components that
cancel, which without it raises their energy a thousandfold for no gain in error.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_RIDGE_PER_ERROR = 5e-3  # of the squared error; 5e-4 to 5e-3 reach the same error, the latter with less energy
_SMALLEST_RIDGE = 1e-10  # keeps the normal equations solvable when the rank exceeds what the kernel can use
_FIRST_RIDGE, _RIDGE_DECAY = 0.1, 0.5
_PLAIN_SWEEPS = 3  # before momentum sets in
_STOP_WINDOW = 5
_SINGLE_PRECISION_ERROR = 1e-4  # squared; below it float32 projections would blur the error
_TINY = 1e-300

Solver = Callable[[Tensor, Tensor], Tensor]


class Target:
    """A kernel of unit norm, laid out for the two large projections of a sweep.

    Contracting ``in`` serves the ``out`` mode and all taps, contracting ``out`` serves ``in``: two matrix products
    per sweep, whatever the number of modes, and no Khatri-Rao product of more than the taps.

    Args:
        dense: ``[out, in, *taps]`` in float64, of norm 1.
        dtype: Of the projections; sums over channels of float32 products are accumulated by the matrix product.
    """

    def __init__(self, dense: Tensor, dtype: torch.dtype = torch.float64) -> None:
        self.sizes = tuple(dense.shape)
        self._dense, self._dtype = dense, dtype
        merged = dense.flatten(2)  # [out, in, taps]
        self._by_out = merged.transpose(1, 2).to(dtype).contiguous()  # [out, taps, in]
        self._by_in = merged.permute(1, 2, 0).to(dtype).contiguous()  # [in, taps, out]

    def in_double(self) -> "Target":
        """Return this target with float64 projections."""
        return self if self._dtype == torch.float64 else Target(self._dense)

    def contract_in(self, factor: Tensor) -> Tensor:
        """Project the input channels: ``[out, taps, rank]``."""
        return self._by_out @ factor.to(self._dtype)

    def contract_out(self, factor: Tensor) -> Tensor:
        """Project the output channels: ``[in, taps, rank]``."""
        return self._by_in @ factor.to(self._dtype)


def random_start(sizes: Sequence[int], rank: int, generator: torch.Generator, device: torch.device) -> list[Tensor]:
    """Draw factors with columns of norm 1, in float64 and on the CPU, so that a seed means the same everywhere.

    Returns:
        One matrix ``[size, rank]`` per mode.
    """
    # Leading singular vectors and slice-wise SVDs were tried: after 30 sweeps they end within 0.5 % of this.
    factors = [torch.randn(size, rank, generator=generator, dtype=torch.float64) for size in sizes]
    return [(factor / factor.norm(dim=0)).to(device) for factor in factors]


def energy(factors: Sequence[Tensor]) -> float:
    """Sum the squared norms of the components; the degeneracy, where the kernel has norm 1."""
    norms = factors[0].square().sum(0)
    for factor in factors[1:]:
        norms = norms * factor.square().sum(0)
    return float(norms.sum())


def sweep(target: Target, factors: Sequence[Tensor], solve: Solver) -> tuple[list[Tensor], float]:
    """Solve every factor once.

    Args:
        target: The kernel.
        factors: One matrix per mode, in the order of the dense kernel.
        solve: From the projected kernel ``[size, rank]`` and the Gram matrix ``[rank, rank]`` of the other modes to
            the factor ``[size, rank]``.

    Returns:
        New factors whose columns share their norms equally over the modes, and the squared relative error.
    """
    new = list(factors)
    grams = [factor.T @ factor for factor in new]

    def update(mode: int, projected: Tensor) -> None:
        new[mode] = solve(projected, _product(grams, skip=mode))
        grams[mode] = new[mode].T @ new[mode]

    update(1, _weigh_taps(target.contract_out(new[0]), new[2:]))
    partial = target.contract_in(new[1])
    update(0, _weigh_taps(partial, new[2:]))
    per_tap = (partial * new[0].to(partial.dtype).unsqueeze(1)).sum(0).double()  # [taps, rank]
    per_tap = per_tap.unflatten(0, target.sizes[2:])
    projected = per_tap
    for mode in range(2, len(new)):
        projected = per_tap.movedim(mode - 2, 0)
        for other in reversed([m for m in range(2, len(new)) if m != mode]):
            projected = (projected * new[other]).sum(-2)
        update(mode, projected)
    # |W|^2 - 2 <W, W_cp> + |W_cp|^2, all of it at hand after the last mode
    error = 1 - 2 * float((projected * new[-1]).sum()) + float(_product(grams).sum())
    return _share_norms(new), max(error, 0.0)


def fit(
    dense: Tensor,
    rank: int,
    generator: torch.Generator,
    max_iter: int,
    tol: float,
    enough: float = 0.0,
) -> list[Tensor]:
    """Fit a CP kernel from a random start.

    Args:
        dense: ``[out, in, *taps]`` in float64, of norm 1.
        rank: Number of components.
        generator: Of the start, on the CPU.
        max_iter: Sweeps at most.
        tol: Stop when the squared error falls by less than this fraction per sweep, over a window of sweeps.
        enough: Stop at this relative error.

    Returns:
        Factors in float64, one matrix ``[size, rank]`` per mode.
    """
    target = Target(dense, torch.float32)
    point = random_start(target.sizes, rank, generator, dense.device)
    best, error, best_energy = point, 1.0, 0.0
    history: list[float] = []
    momentum = 0
    for number in range(max_iter):
        ridge = max(_RIDGE_PER_ERROR * error, _SMALLEST_RIDGE, _FIRST_RIDGE * _RIDGE_DECAY**number)
        factors, new_error = sweep(target, point, ridge_solver(ridge))
        new_energy = energy(factors)
        if momentum > 0 and new_error + ridge * new_energy > error + ridge * best_energy:
            momentum, point = 0, best  # overshot: restart from the last good factors, with a plain sweep
            continue
        weight = momentum / (momentum + 3)
        momentum += number >= _PLAIN_SWEEPS
        point = [f + weight * (f - old) for f, old in zip(factors, best, strict=True)] if weight else factors
        best, error, best_energy = factors, new_error, new_energy
        history.append(error)
        if error < _SINGLE_PRECISION_ERROR:
            target = target.in_double()
        if math.sqrt(error) <= enough or _has_stalled(history, tol):
            break
    return best


def ridge_solver(ridge: float) -> Solver:
    """Make the solver of a least-squares step that penalises the energy of the components.

    Returns:
        A solver for :func:`sweep`.
    """

    def solve(projected: Tensor, gram: Tensor) -> Tensor:
        scale = unit_diagonal(gram)
        scaled = gram * scale * scale.unsqueeze(1)
        strength = ridge
        while True:
            cholesky, info = torch.linalg.cholesky_ex(scaled + torch.diag(torch.full_like(scale, strength)))
            if not info:
                return torch.cholesky_solve((projected * scale).T, cholesky).T * scale
            strength *= 100

    return solve


def unit_diagonal(gram: Tensor) -> Tensor:
    """Return the column scale ``[rank]`` under which a Gram matrix has ones on its diagonal."""
    return gram.diagonal().clamp_min(_TINY).rsqrt()


def _weigh_taps(partial: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """Contract the taps of ``[size, taps, rank]`` with their factors: ``[size, rank]``."""
    weights = taps[0]
    for factor in taps[1:]:
        weights = (weights.unsqueeze(1) * factor).flatten(0, 1)  # [taps, rank]
    return (partial * weights.to(partial.dtype)).sum(1).double()


def _product(grams: Sequence[Tensor], skip: int | None = None) -> Tensor:
    kept = [gram for mode, gram in enumerate(grams) if mode != skip]
    product = kept[0]
    for gram in kept[1:]:
        product = product * gram
    return product


def _share_norms(factors: Sequence[Tensor]) -> list[Tensor]:
    norms = [factor.norm(dim=0).clamp_min(_TINY) for factor in factors]
    shared = torch.stack(norms).log().mean(0).exp()
    return [factor * (shared / norm) for factor, norm in zip(factors, norms, strict=True)]


def _has_stalled(history: Sequence[float], tol: float) -> bool:
    if len(history) <= _STOP_WINDOW:
        return False
    return history[-1 - _STOP_WINDOW] - history[-1] < _STOP_WINDOW * tol * history[-1]
