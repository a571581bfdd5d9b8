"""Fewer components: the lasso on lambda as a proximal step, and taking components out of a kernel.

The paper (arXiv 1906.06196) adds ``gamma * sum |lambda|`` to the loss to select ranks. Its gradient never gives an
exact zero; the proximal step after the gradient step does: ``lambda <- sign(lambda) max(|lambda| - lr gamma, 0)``.
Since ``lambda_r`` may shrink while the factors grow, the step means something only for factors with unit columns.
"""

from collections.abc import Iterable
from math import ceil

import torch
from torch import Tensor

from hocp_mm.functional.cp import CPKernel


def soft_threshold(x: Tensor, amount: float) -> Tensor:
    """Move every entry towards zero by ``amount``, and to exactly zero if it is not farther away.

    This is the proximal operator of ``amount * sum |x|``.

    Args:
        x: Any tensor.
        amount: At least 0.

    Returns:
        Tensor like ``x``.

    Raises:
        ValueError: If ``amount`` is negative or NaN.

    Example:
        >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1).tolist()
        [-2.0, 0.0, 1.0]
    """
    if not amount >= 0:
        raise ValueError(f"soft_threshold: amount must be at least 0, got {amount}.")
    return x.sign() * (x.abs() - amount).clamp_min(0)


def normalize(kernel: CPKernel, modes: Iterable[str] | None = None) -> CPKernel:
    """Give factors unit columns; lambda takes their norms.

    The dense kernel is unchanged. A column of zeros stays one, and its component gets the weight 0.

    Args:
        kernel: Any kernel.
        modes: Modes to normalise; None for all.

    Returns:
        A kernel of new tensors for lambda and these modes; other factors are the same tensors.

    Raises:
        KeyError: If the kernel has no such mode.
    """
    modes = tuple(kernel.factors) if modes is None else tuple(modes)
    unknown = [mode for mode in modes if mode not in kernel.factors]
    if unknown:
        raise KeyError(f"normalize: modes must be among {tuple(kernel.factors)}, got {unknown}.")
    weights, factors = kernel.weights, dict(kernel.factors)
    for mode in modes:
        # Norms in double precision: in half precision squares of small entries are zero.
        norms = factors[mode].double().norm(dim=0)
        scale = torch.where(norms > 0, norms, 1.0)
        factors[mode] = (factors[mode] / scale).to(factors[mode].dtype)
        weights = (weights * norms).to(weights.dtype)
    return CPKernel(weights, factors, kernel.groups)


def prune(kernel: CPKernel, keep: Tensor) -> CPKernel:
    """Take components out of a kernel; differentiable.

    Args:
        kernel: Any kernel.
        keep: The components that stay: a mask ``[rank]``, or their indices. Every group keeps as many, in the order
            of the groups.

    Returns:
        A kernel of new tensors. Its dense kernel is the old one if what was taken out was zero.

    Raises:
        ValueError: If ``keep`` is no such mask or indices, keeps nothing, or keeps other numbers in other groups.

    Example:
        >>> ones = {name: torch.ones(2, 3) for name in ("out", "in", "w")}
        >>> prune(CPKernel(torch.tensor([1.0, 0.0, 2.0]), ones), torch.tensor([True, False, True])).weights.tolist()
        [1.0, 2.0]
    """
    index = kept_index(keep, kernel.rank)
    per_group = kernel.rank // kernel.groups
    counts = torch.bincount(index // per_group, minlength=kernel.groups)
    if (counts != counts[0]).any() or (index.diff() <= 0).any():
        raise ValueError(
            f"prune: keep must rise and hold as many components of each group, got {counts.tolist()} "
            f"(groups of {per_group})."
        )
    factors = {name: factor.index_select(1, index.to(factor.device)) for name, factor in kernel.factors.items()}
    return CPKernel(kernel.weights.index_select(0, index.to(kernel.weights.device)), factors, kernel.groups)


def surviving(strengths: Tensor, threshold: float = 0.0, *, groups: int = 1, min_rank: int = 1) -> Tensor:
    """Choose the components stronger than a share of the strongest.

    Args:
        strengths: ``[rank]``, not negative: how much each component contributes.
        threshold: In [0, 1): what is at most this share of the largest strength goes; 0 takes only zeros out.
        groups: Blocks of components that keep equal numbers, as many as the fullest block needs; the others keep
            their next strongest components, too.
        min_rank: Components to keep at least, rounded up to a multiple of ``groups``.

    Returns:
        Indices, rising.

    Raises:
        ValueError: If a strength is NaN, infinite or negative, or another number is out of range.

    Example:
        >>> surviving(torch.tensor([3.0, 0.0, 0.1, 2.0]), groups=2).tolist(), surviving(torch.zeros(3)).tolist()
        ([0, 1, 2, 3], [0])
    """
    rank = strengths.shape[0]
    if not torch.isfinite(strengths).all() or (strengths < 0).any():
        raise ValueError("surviving: strengths must be finite and not negative, got others.")
    if not 0 <= threshold < 1:
        raise ValueError(f"surviving: threshold must lie in [0, 1), got {threshold}.")
    if isinstance(min_rank, bool) or not isinstance(min_rank, int) or min_rank < 1:
        raise ValueError(f"surviving: min_rank must be a positive int, got {min_rank!r}.")
    blocks = strengths.reshape(groups, rank // groups)
    alive = int((blocks > threshold * blocks.max()).sum(dim=1).max())
    count = min(rank // groups, max(alive, ceil(min_rank / groups)))
    # Stable, so that ties keep the earlier component on every device.
    chosen = blocks.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values
    offsets = torch.arange(groups, device=strengths.device).unsqueeze(1) * (rank // groups)
    return (chosen + offsets).flatten()


def kept_index(keep: Tensor, rank: int) -> Tensor:
    """Turn a mask ``[rank]`` or indices of what to keep into checked indices.

    Args:
        keep: The mask, or the indices.
        rank: Components, or channels that stand for them.

    Returns:
        Tensor of integers, at least one.

    Raises:
        ValueError: If the mask has another shape, nothing is kept, or an index is outside.
    """
    if keep.dtype == torch.bool and keep.shape != (rank,):
        raise ValueError(f"prune: keep must be a mask of shape [{rank}], got shape {tuple(keep.shape)}.")
    index = keep.nonzero().flatten() if keep.dtype == torch.bool else keep
    if index.ndim != 1 or index.is_floating_point() or len(index) == 0 or index.min() < 0 or index.max() >= rank:
        raise ValueError(f"prune: keep must hold at least one of the components 0..{rank - 1}, got {keep.tolist()}.")
    return index
