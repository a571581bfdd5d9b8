"""Fit a CP kernel to a dense kernel.

Alternating least squares in float64 with a ridge that fades out; columns are normalised at every step, so the
weights carry the norms. CP fits can diverge into rank-one terms that cancel each other (Phan et al., "Stable
Low-rank Tensor Decomposition for Compression of Convolutional Neural Network", ECCV 2020): the ratio of summed
component energy to kernel energy is watched, and a fit above ``MAX_DEGENERACY`` is repeated with a stronger ridge.
1x1 kernels are matrices and take the exact truncated SVD.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hocp_mm.functional.cp import CPKernel, balance, component_norms, dense_kernel, mode_names

MAX_DEGENERACY = 10.0
_RIDGES = (1e-9, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class Decomposition:
    """A fitted kernel and how good it is.

    Attributes:
        kernel: The CP kernel, in the dtype and on the device of the dense one, factors balanced.
        relative_error: ``|W - W_cp| / |W|`` in the Frobenius norm.
        degeneracy: ``sum_r |component r|^2 / |W|^2``; 1 for orthogonal components, large when they cancel.
    """

    kernel: CPKernel
    relative_error: float
    degeneracy: float


def decompose(
    dense: Tensor, rank: int, *, groups: int = 1, seed: int = 0, max_iter: int = 60, tol: float = 1e-5
) -> Decomposition:
    """Decompose a dense convolution kernel into ``rank`` components.

    The same arguments give the same factors; the global random state is not touched.

    Args:
        dense: ``[out, in / groups, *kernel_size]``, 1 to 4 convolved modes.
        rank: Components over all groups.
        groups: Groups of the convolution, fitted one by one.
        seed: Of the random start.
        max_iter: ALS sweeps at most.
        tol: Stop when the relative error falls by less than this per sweep.

    Returns:
        The kernel with its errors, taken over all groups.

    Raises:
        ValueError: If ``dense`` holds NaN or infinite values, or ``rank`` is no positive multiple of ``groups``.
    """
    names = mode_names(dense.ndim - 2)
    if rank < 1 or rank % groups or dense.shape[0] % groups:
        raise ValueError(
            f"decompose: rank and out channels must be positive multiples of groups={groups}, "
            f"got {rank}, {dense.shape[0]}."
        )
    if not torch.isfinite(dense).all():
        raise ValueError(f"decompose: the kernel must be finite, got NaN or inf (shape {tuple(dense.shape)}).")
    target = dense.detach().to(torch.float64)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    parts = [_fit_group(block, rank // groups, generator, max_iter, tol) for block in target.chunk(groups)]
    factors = {n: torch.cat([part.factors[n] for part in parts], dim=1).to(dense.dtype) for n in names}
    kernel = CPKernel(torch.cat([part.weights for part in parts]).to(dense.dtype), factors, groups)
    energy = target.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    residual = (dense_kernel(_double(kernel)) - target).square().sum()
    components = component_norms(_double(kernel)).square().sum()
    return Decomposition(kernel, float((residual / energy).sqrt()), float(components / energy))


def _double(kernel: CPKernel) -> CPKernel:
    return CPKernel(kernel.weights.double(), {n: f.double() for n, f in kernel.factors.items()}, kernel.groups)


def _fit_group(dense: Tensor, rank: int, generator: torch.Generator, max_iter: int, tol: float) -> CPKernel:
    names = mode_names(dense.ndim - 2)
    if not dense.any():
        zeros = {n: dense.new_zeros(size, rank) for n, size in zip(names, dense.shape, strict=True)}
        return CPKernel(dense.new_ones(rank), zeros)
    if dense[0, 0].numel() == 1:
        return _svd(dense, rank)
    best: tuple[float, CPKernel] | None = None
    for ridge in _RIDGES:
        kernel = _als(dense, rank, generator, max_iter, tol, ridge)
        degeneracy = float(component_norms(kernel).square().sum() / dense.square().sum())
        if best is None or degeneracy < best[0]:
            best = degeneracy, kernel
        if degeneracy <= MAX_DEGENERACY:
            break
    assert best is not None
    return balance(best[1])


def _svd(dense: Tensor, rank: int) -> CPKernel:
    """Take the best rank-``rank`` matrix of a kernel whose convolved modes all have one tap."""
    names = mode_names(dense.ndim - 2)
    u, s, vh = torch.linalg.svd(dense.flatten(1), full_matrices=False)
    keep = min(rank, s.shape[0])
    # Components beyond the matrix rank are zero, and so exact.
    pad = (0, rank - keep)
    factors = {
        "out": torch.nn.functional.pad(u[:, :keep] * s[:keep], pad),
        "in": torch.nn.functional.pad(vh[:keep].T, pad),
    }
    factors |= {name: dense.new_ones(1, rank) for name in names[2:]}
    return balance(CPKernel(dense.new_ones(rank), factors))


def _als(dense: Tensor, rank: int, generator: torch.Generator, max_iter: int, tol: float, ridge: float) -> CPKernel:
    names = mode_names(dense.ndim - 2)
    factors = [
        torch.randn(size, rank, generator=generator, dtype=torch.float64).to(dense.device) for size in dense.shape
    ]
    factors = [factor / factor.norm(dim=0) for factor in factors]
    weights = dense.new_ones(rank)
    energy, previous = float(dense.square().sum()), float("inf")
    inner = factors[-1]
    for sweep in range(max_iter):
        # A strong ridge first keeps early sweeps from wandering into cancelling pairs.
        strength = max(ridge, 0.1 * 0.3**sweep)
        for mode in range(dense.ndim):
            solved, inner = _solve_mode(dense, factors, mode, strength)
            weights = solved.norm(dim=0).clamp_min(1e-300)
            factors[mode] = solved / weights
        gram = _gram(factors, skip=None) * torch.outer(weights, weights)
        error = max(0.0, energy - 2 * float((inner * factors[-1] * weights).sum()) + float(gram.sum())) / energy
        if previous - error < tol * max(error, 1e-12) and strength == ridge:
            break
        previous = error
    return CPKernel(weights, dict(zip(names, factors, strict=True)))


def _solve_mode(dense: Tensor, factors: Sequence[Tensor], mode: int, ridge: float) -> tuple[Tensor, Tensor]:
    """Least squares for one factor; returns it unnormalised with the projected kernel (MTTKRP), ``[size, rank]``."""
    projected = _project(dense, factors, mode)
    gram = _gram(factors, skip=mode)
    gram.diagonal().add_(ridge)  # columns have norm 1, so the diagonal is 1 before
    return torch.linalg.solve(gram, projected.T).T, projected


def _gram(factors: Sequence[Tensor], skip: int | None) -> Tensor:
    gram = factors[0].new_ones(factors[0].shape[1], factors[0].shape[1])
    for mode, factor in enumerate(factors):
        if mode != skip:
            gram = gram * (factor.T @ factor)
    return gram


def _project(dense: Tensor, factors: Sequence[Tensor], mode: int) -> Tensor:
    """Contract all modes but one with their factors, per component: ``[size of mode, rank]``."""
    # One matrix product against the largest other mode, then small weighted sums: the Khatri-Rao product of all modes
    # is never formed.
    others = sorted((m for m in range(dense.ndim) if m != mode), key=lambda m: -dense.shape[m])
    first, rest = others[0], sorted(others[1:])
    z = dense.permute(mode, *rest, first).reshape(-1, dense.shape[first]) @ factors[first]
    z = z.reshape(dense.shape[mode], *(dense.shape[m] for m in rest), -1)
    for m in reversed(rest):
        z = (z * factors[m]).sum(dim=-2)
    return z
