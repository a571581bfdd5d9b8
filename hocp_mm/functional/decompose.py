"""Fit a CP kernel to a dense kernel, at a given rank or to a given error.

Groups are fitted one by one (:mod:`hocp_mm.functional.group_fit`) and judged together.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hocp_mm.functional.cp import CPKernel, component_norms, dense_kernel, mode_names
from hocp_mm.functional.group_fit import GroupFit, Moments, see_through

MAX_DEGENERACY = 10.0
_GROWTH = 1.5
_MARGIN = 1e-3  # of a target error: what rounding and the estimate during the fit may cost


@dataclass(frozen=True)
class Decomposition:
    """A fitted kernel and how good it is.

    Attributes:
        kernel: The CP kernel, in the dtype and on the device of the dense one, factors balanced.
        relative_error: ``|W - W_cp| / |W|`` in the Frobenius norm.
        degeneracy: ``sum_r |component r|^2 / |W|^2``; 1 for orthogonal components, large when they cancel. What is
            fitted (the whitened kernel, where there is a moment) has at most ``MAX_DEGENERACY``.
        weighted_error: The same ratio for what an error costs by the given moments H of outputs and M of inputs,
            ``|H^(1/2) (W - W_cp) M^(1/2)| / |H^(1/2) W M^(1/2)|``; equal to ``relative_error`` without one.
    """

    kernel: CPKernel
    relative_error: float
    degeneracy: float
    weighted_error: float


def decompose(
    dense: Tensor,
    rank: int,
    *,
    groups: int = 1,
    seed: int = 0,
    max_iter: int = 50,
    tol: float = 1e-4,
    input_moment: Tensor | None = None,
    output_moment: Tensor | None = None,
) -> Decomposition:
    """Decompose a dense convolution kernel into ``rank`` components.

    The same arguments give the same factors; the global random state is not touched.

    Args:
        dense: ``[out, in / groups, *kernel_size]``, 1 to 4 convolved modes.
        rank: Components over all groups.
        groups: Groups of the convolution, fitted one by one.
        seed: Of the random start.
        max_iter: ALS sweeps at most.
        tol: Stop when the squared relative error falls by less than this fraction of itself per sweep.
        input_moment: Second moment ``E[x x^T]`` of the input channels, ``[groups, in / groups, in / groups]`` or, for
            one group, ``[in, in]`` (see :func:`hocp_mm.layers.calibration.input_moments`). The fit then minimises the
            expected error of the output, neighbouring positions taken as uncorrelated, instead of the error of the
            weights.
        output_moment: What an error of the output channels costs, ``[groups, out / groups, out / groups]`` or, for
            one group, ``[out, out]`` (see :func:`hocp_mm.layers.calibration.output_moments`). None counts all alike.

    Returns:
        The kernel with its errors, taken over all groups.

    Raises:
        ValueError: If ``dense`` or a moment holds NaN or infinite values, ``rank`` is no positive multiple of
            ``groups``, or a moment has another shape or is no second moment.
    """
    if rank < 1 or rank % groups:
        raise ValueError(f"decompose: rank must be a positive multiple of groups={groups}, got {rank}.")
    moments = check_kernel(dense, groups, input_moment, output_moment, "decompose")
    generator = torch.Generator().manual_seed(seed)
    blocks = dense.detach().double().chunk(groups)
    parts = [
        GroupFit(block, pair, MAX_DEGENERACY).fit(rank // groups, generator, max_iter, tol)
        for block, pair in zip(blocks, moments, strict=True)
    ]
    return _assess(dense, parts, moments)


def decompose_to_error(
    dense: Tensor,
    target_error: float,
    *,
    groups: int = 1,
    seed: int = 0,
    max_rank: int | None = None,
    granularity: float = 0.05,
    max_iter: int = 50,
    tol: float = 1e-4,
    input_moment: Tensor | None = None,
    output_moment: Tensor | None = None,
) -> Decomposition:
    """Find the smallest rank that reaches an error, and decompose at it.

    The rank starts at the smallest one that the spectra of the groups allow together, grows until a fit reaches the
    error, and is bisected from there; each fit stops as soon as it reaches the error. Smallest is up to what a fit of
    ``max_iter`` sweeps finds.

    Args:
        dense: ``[out, in / groups, *kernel_size]``, 1 to 4 convolved modes.
        target_error: Largest ``relative_error``, in (0, 1); with a moment largest ``weighted_error``.
        groups: Groups of the convolution; they share the rank equally.
        seed: Of the random starts.
        max_rank: Largest rank to try, a multiple of ``groups``. None takes the rank at which the CP kernel has as
            many parameters as the dense one.
        granularity: The search ends when a rank smaller by this fraction (or by 1 per group) is known to fail.
        max_iter: ALS sweeps per fit at most.
        tol: As for :func:`decompose`.
        input_moment: As for :func:`decompose`.
        output_moment: As for :func:`decompose`.

    Returns:
        The kernel with its errors; its rank is ``kernel.rank``.

    Raises:
        ValueError: If ``max_rank`` does not reach the error (the message has the best one), or an argument lies
            outside its range.
    """
    if not 0 < target_error < 1:
        raise ValueError(f"decompose_to_error: target_error must lie in (0, 1), got {target_error}.")
    if not 0 <= granularity < 1:
        raise ValueError(f"decompose_to_error: granularity must lie in [0, 1), got {granularity}.")
    if max_rank is not None and (max_rank < 1 or max_rank % groups):
        raise ValueError(f"decompose_to_error: max_rank must be a positive multiple of {groups=}, got {max_rank}.")
    moments = check_kernel(dense, groups, input_moment, output_moment, "decompose_to_error")
    blocks = dense.detach().double().chunk(groups)
    prepared = [GroupFit(block, pair, MAX_DEGENERACY) for block, pair in zip(blocks, moments, strict=True)]
    sizes = blocks[0].shape
    largest = max_rank // groups if max_rank else max(1, math.prod(sizes) // sum(sizes))

    def attempt(rank: int) -> Decomposition:
        generator = torch.Generator().manual_seed(seed)
        enough = target_error * (1 - _MARGIN)
        return _assess(dense, [g.fit(rank, generator, max_iter, tol, enough) for g in prepared], moments)

    rank = _least_rank(prepared, target_error, largest)
    # The spectra are those of the shrunk moment: with one they are only a place to start.
    failing, best = rank - 1 if input_moment is None and output_moment is None else 0, math.inf
    while (found := attempt(rank)).weighted_error > target_error:
        best = min(best, found.weighted_error)
        if rank == largest:
            raise ValueError(
                f"decompose_to_error: an error of {target_error} must be reached by rank {largest * groups}, "
                f"got {best:.4g} (kernel of shape {tuple(dense.shape)})."
            )
        failing, rank = rank, min(largest, math.ceil(rank * _GROWTH))
    while rank - failing > max(1, granularity * rank):
        middle = (rank + failing) // 2
        if (smaller := attempt(middle)).weighted_error <= target_error:
            found, rank = smaller, middle
        else:
            failing = middle
    return found


def _least_rank(groups: Sequence[GroupFit], error: float, largest: int) -> int:
    """Return the rank per group, ``largest`` at most, below which no fit of all groups can have this relative error."""
    budget = error**2 * sum(group.energy for group in groups)

    def in_reach(rank: int) -> bool:
        return sum(group.least_residual(rank) for group in groups) <= budget

    return bisect_left(range(1, largest), True, key=in_reach) + 1


def whitened(
    dense: Tensor, groups: int = 1, input_moment: Tensor | None = None, output_moment: Tensor | None = None
) -> Tensor:
    """Return what :func:`decompose` fits: the kernel, seen through the moments.

    Args:
        dense: ``[out, in / groups, *kernel_size]``.
        groups: Of the convolution.
        input_moment: As for :func:`decompose`.
        output_moment: As for :func:`decompose`.

    Returns:
        ``H^(1/2) W M^(1/2)`` in float64, of the same shape; its energy is what losing the kernel costs.

    Raises:
        ValueError: As :func:`decompose` does.
    """
    moments = check_kernel(dense, groups, input_moment, output_moment, "whitened")
    blocks = zip(dense.detach().double().chunk(groups), moments, strict=True)
    return torch.cat([see_through(block, pair)[0] for block, pair in blocks])


def check_kernel(
    dense: Tensor, groups: int, input_moment: Tensor | None, output_moment: Tensor | None, where: str
) -> list[Moments]:
    """Refuse what cannot be decomposed.

    Returns:
        The moments of output and input channels of each group, in float64 on the device of the kernel.

    Raises:
        ValueError: As :func:`decompose` does; ``where`` names the caller.
    """
    mode_names(dense.ndim - 2)  # refuses kernels of another order
    if dense.shape[0] % groups:
        raise ValueError(f"{where}: out channels must be a multiple of groups={groups}, got {dense.shape[0]}.")
    if not torch.isfinite(dense).all():
        raise ValueError(f"{where}: the kernel must be finite, got NaN or inf (shape {tuple(dense.shape)}).")
    outs = _check_moment(output_moment, groups, dense.shape[0] // groups, dense.device, f"{where}: output_moment")
    ins = _check_moment(input_moment, groups, dense.shape[1], dense.device, f"{where}: input_moment")
    return list(zip(outs, ins, strict=True))


def _check_moment(
    moment: Tensor | None, groups: int, size: int, device: torch.device, where: str
) -> Sequence[Tensor | None]:
    if moment is None:
        return [None] * groups
    moments = moment.detach().to(device, torch.float64)
    if moments.ndim == 2:
        moments = moments.unsqueeze(0)
    if moments.shape != (groups, size, size):
        raise ValueError(f"{where} must have shape {(groups, size, size)}, got {tuple(moment.shape)}.")
    if not torch.isfinite(moments).all():
        raise ValueError(f"{where} must be finite, got NaN or inf.")
    largest = moments.abs().amax()
    if (moments - moments.mT).abs().amax() > 1e-4 * largest or torch.linalg.eigvalsh(moments).amin() < -1e-4 * largest:
        raise ValueError(f"{where} must be symmetric and positive semi-definite, got a matrix that is not.")
    return list(moments) if moments.any() else [None] * groups  # zeros are no information


def _assess(dense: Tensor, parts: Sequence[CPKernel], moments: Sequence[Moments]) -> Decomposition:
    """Join the groups in the dtype of the dense kernel and measure what came out."""
    factors = {n: torch.cat([part.factors[n] for part in parts], dim=1).to(dense.dtype) for n in parts[0].factors}
    kernel = CPKernel(torch.cat([part.weights for part in parts]).to(dense.dtype), factors, len(parts))
    double = CPKernel(kernel.weights.double(), {n: f.double() for n, f in factors.items()}, len(parts))
    target = dense.detach().double()
    residual = target - dense_kernel(double)
    energy = max(float(target.square().sum()), torch.finfo(torch.float64).tiny)
    relative_error = math.sqrt(float(residual.square().sum()) / energy)
    weighted_error = relative_error
    if any(moment is not None for pair in moments for moment in pair):
        output, lost = (
            sum(_output_energy(b, *pair) for b, pair in zip(blocks.chunk(len(parts)), moments, strict=True))
            for blocks in (target, residual)
        )
        weighted_error = math.sqrt(lost / max(output, torch.finfo(torch.float64).tiny))
    return Decomposition(kernel, relative_error, float(component_norms(double).square().sum()) / energy, weighted_error)


def _output_energy(dense: Tensor, output_moment: Tensor | None, input_moment: Tensor | None) -> float:
    """Expected cost of the output per position on inputs that are uncorrelated between positions."""
    weighted = dense
    for mode, moment in enumerate((output_moment, input_moment)):
        if moment is not None:
            weighted = torch.movedim(weighted.movedim(mode, -1) @ moment, -1, mode)
    return max(0.0, float((weighted * dense).sum()))
