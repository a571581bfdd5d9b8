"""What a dense kernel says about the rank it needs: an analytic estimate, and a cheap error curve.

The estimate is EVBMF, the closed-form global solution of empirical variational Bayesian matrix factorization
(Nakajima, Sugiyama, Babacan, Tomioka, "Global analytic solution of fully-observed variational Bayesian matrix
factorization", JMLR 14, 2013). For a matrix ``[L, M]``, ``L <= M``, ``a = L / M``, with singular values ``s_h`` and
``x_h = s_h^2 / (M sigma^2)``, it minimises over the noise variance

    F(sigma^2) = sum_h x_h - log x_h + [x_h > x0] (log(t_h + 1) + a log(t_h / a + 1) - t_h)
    t_h = (x_h - 1 - a + sqrt((x_h - 1 - a)^2 - 4 a)) / 2,      x0 = (1 + t0) (1 + a / t0)

and keeps the components with ``x_h > x0``; ``t0`` is the zero of the bracket. Two differences from the code in
circulation: ``t0`` is that zero, not its approximation ``2.5129 sqrt(a)``, and F, which has several local minima, is
searched over its whole interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import ceil, exp, log, log1p, prod, sqrt

import torch
from torch import Tensor

from hocp_mm.functional import als

SWEEPS = 5
SUFFICIENT = 0.3
_PROBES, _LARGEST_FIT = 3, 768
_GRID, _REFINEMENTS = 512, 6
_CANDIDATES = 32


@dataclass(frozen=True)
class MatrixEstimate:
    """What EVBMF finds in a matrix.

    Attributes:
        rank: Components above the noise.
        noise_variance: Of one entry.
        singular_values: Of the estimated low-rank part, ``[rank]``, shrunk from those of the matrix.
    """

    rank: int
    noise_variance: float
    singular_values: Tensor


def evbmf(matrix: Tensor) -> MatrixEstimate:
    """Estimate rank and noise of a low-rank matrix seen through Gaussian noise, without any setting.

    Ranks up to about half the shorter side can be found; beyond that too few directions hold noise alone.

    Args:
        matrix: ``[rows, columns]``, finite.

    Returns:
        Rank 0 for pure noise and for zeros.

    Raises:
        ValueError: If ``matrix`` is no matrix, is empty, or holds NaN or infinite values.

    Example:
        >>> evbmf(torch.ones(8, 20) + 1e-3 * torch.eye(8, 20)).rank
        1
    """
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(f"evbmf: matrix must be a matrix with entries, got shape {tuple(matrix.shape)}.")
    if not torch.isfinite(matrix).all():
        raise ValueError(f"evbmf: matrix must be finite, got NaN or inf (shape {tuple(matrix.shape)}).")
    wide = matrix.detach().double()
    wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
    rows, columns = wide.shape
    energies = torch.linalg.eigvalsh(wide @ wide.T).flip(0).cpu()
    if energies[0] <= 0:
        return MatrixEstimate(0, 0.0, energies.new_zeros(0))
    # Eigenvalues below this are rounding; without a floor an exact low-rank matrix would have log 0 in F.
    y = energies.clamp_min(rows * torch.finfo(energies.dtype).eps * float(energies[0])) / columns
    aspect = rows / columns
    t0 = _smallest_t(aspect)
    x0 = (1 + t0) * (1 + aspect / t0)
    variance = _noise_variance(y, aspect, x0)
    kept = y[y > variance * x0] * columns
    ratio = (rows + columns) * variance / kept
    shrunk = kept.sqrt() / 2 * (1 - ratio + ((1 - ratio) ** 2 - 4 * rows * columns * (variance / kept) ** 2).sqrt())
    return MatrixEstimate(kept.numel(), variance, shrunk)


def _smallest_t(aspect: float) -> float:
    low, high = sqrt(aspect), 3.0  # the zero lies near 2.51 sqrt(aspect), with aspect <= 1
    for _ in range(60):
        middle = (low + high) / 2
        if log1p(middle) + aspect * log1p(middle / aspect) > middle:
            low = middle
        else:
            high = middle
    return low


def _noise_variance(y: Tensor, aspect: float, x0: float) -> float:
    """Minimise F over the interval that holds its global minimum; ``y`` is ``s^2 / columns``, falling."""
    most = ceil(y.numel() / (1 + aspect)) - 1
    low, high = max(float(y[most]) / x0, float(y[most:].mean())), float(y.mean())
    grid = torch.logspace(0, 1, _GRID, base=max(high / low, 1.0), dtype=y.dtype) * low
    best = 0
    for _ in range(_REFINEMENTS):
        best = int(_free_energy(grid, y, aspect, x0).argmin())
        ends = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
        grid, best = torch.linspace(*ends, 33, dtype=y.dtype), 16
    return float(grid[best])


def _free_energy(variances: Tensor, y: Tensor, aspect: float, x0: float) -> Tensor:
    x = y / variances.unsqueeze(1)  # [variances, components]
    centred = x - 1 - aspect
    t = (centred + (centred.square() - 4 * aspect).clamp_min(0).sqrt()) / 2
    signal = torch.log1p(t) + aspect * torch.log1p(t / aspect) - t
    return (x - x.log() + torch.where(x > x0, signal, 0.0)).sum(dim=1)


def estimate_rank(dense: Tensor, groups: int = 1) -> int:
    """Estimate the CP rank of a kernel seen through noise.

    EVBMF runs on every unfolding with the output channels on one side and the input channels on the other: ``out``
    against the rest and ``in`` against the rest, whose ranks are the Tucker-2 ranks, and the mixed ones, such as
    ``out x h`` against ``in x w``. Each rank bounds the CP rank from below, and for components in general position
    each *equals* it until it fills the shorter side; so the largest is taken. Only when a mixed one fills what the
    Tucker ranks leave room for is the Tucker core no sum of few components, and the rank is then the one that holds a
    core of that size, by count of parameters.

    Near the truth up to about the number of channels of a group; above that EVBMF has too few noise directions, and
    the estimate is low. A kernel that is noise to the eye, such as a fresh one, gets the smallest rank.

    Args:
        dense: ``[out, in / groups, *kernel_size]``.
        groups: Of the convolution; the group that needs most counts for all.

    Returns:
        Components over all groups, at least ``groups`` and a multiple of it.

    Raises:
        ValueError: If ``dense`` is no kernel, its output channels are no multiple of ``groups``, or it is not finite.
    """
    if dense.ndim < 3 or dense.numel() == 0 or groups < 1 or dense.shape[0] % groups:
        raise ValueError(
            f"estimate_rank: dense must be [out, in / groups, *kernel_size] with out a multiple of groups={groups}, "
            f"got shape {tuple(dense.shape)}."
        )
    return groups * max(1, *(_estimate_block(block) for block in dense.detach().chunk(groups)))


def _estimate_block(block: Tensor) -> int:
    taps = [mode for mode in range(2, block.ndim) if block.shape[mode] > 1]
    found: dict[tuple[int, ...], int] = {}  # convolved modes on the side of `out` -> rank
    for count in range(len(taps) + 1):
        for side in combinations(taps, count):
            other = [mode for mode in range(2, block.ndim) if mode not in side]
            rows = block.shape[0] * prod(block.shape[mode] for mode in side)
            found[side] = evbmf(block.permute(0, *side, 1, *other).reshape(rows, -1)).rank
    out, in_, largest = found[()], found[tuple(taps)], max(found.values())
    mixed = {side: rank for side, rank in found.items() if 0 < len(side) < len(taps)}
    all_taps = prod(block.shape[2:])
    for side, rank in mixed.items():
        near = prod(block.shape[mode] for mode in side)
        room = min(out * near, in_ * all_taps // near)
        if rank > 0.9 * room and rank > max(out, in_):
            core = (out, in_, *block.shape[2:])
            largest = max(largest, ceil(prod(core) / (sum(core) - len(core) + 1)))
    return largest


def sufficient_rank(dense: Tensor, groups: int = 1, *, error: float = SUFFICIENT, seed: int = 0) -> int:
    """Choose a rank that keeps most of a trained kernel, and no noise where there is a clean one behind.

    That of :func:`estimate_rank` where its relative error is at most ``error``; else about the smallest for which it is
    (:func:`error_curve`), at most that of parameter parity. Trained kernels seldom are a few components and noise:
    their spectra fall slowly, and what EVBMF alone takes for noise is most of what they have learned.

    Args:
        dense: ``[out, in / groups, *kernel_size]``.
        groups: Of the convolution.
        error: Of the kernel, in (0, 1).
        seed: Of the short fits.

    Returns:
        Components over all groups, at least ``groups`` and a multiple of it.

    Raises:
        ValueError: As :func:`estimate_rank`, or if ``error`` is not between 0 and 1.
    """
    if not 0 < error < 1:
        raise ValueError(f"sufficient_rank: error must be between 0 and 1, got {error}.")
    least = estimate_rank(dense, groups)
    if error_curve(dense, [least], groups=groups, seed=seed)[0] <= error**2:
        return least
    sizes = (dense.shape[0] // groups, *dense.shape[1:])
    parity = max(1, prod(sizes) // sum(sizes))
    candidates = sorted({max(1, round(parity * part / _CANDIDATES)) * groups for part in range(1, _CANDIDATES + 1)})
    curve = error_curve(dense, candidates, groups=groups, seed=seed)
    enough = [rank for rank, lost in zip(candidates, curve, strict=True) if lost <= error**2]
    return max(least, enough[0] if enough else candidates[-1])


def error_curve(
    dense: Tensor, ranks: Sequence[int], *, groups: int = 1, seed: int = 0, sweeps: int = SWEEPS
) -> list[float]:
    """Tell roughly how the squared relative error falls with the rank, to compare layers and not to quote.

    Three of the ranks, the first and the last among them, are really fitted, but by a few sweeps of alternating least
    squares in single precision; in between, the logarithm of the error is interpolated in the rank. Ranks above 768
    in a group, whose fits take many seconds, are extrapolated. Short fits err on the high side, alike for all
    layers. 1x1 kernels have the exact curve, from their singular values.

    Args:
        dense: ``[out, in / groups, *kernel_size]``.
        ranks: Components over all groups, rising, multiples of ``groups``.
        groups: Of the convolution.
        seed: Of the random starts.
        sweeps: Of each fit.

    Returns:
        ``|W - W_cp|^2 / |W|^2`` for each rank, never rising; zeros for a zero kernel.

    Raises:
        ValueError: If ``ranks`` is empty, does not rise or does not fit ``groups``, or ``dense`` is not finite.
    """
    increasing = all(low < high for low, high in pairwise(ranks))
    if not ranks or ranks[0] < 1 or not increasing or any(rank % groups for rank in ranks):
        raise ValueError(f"error_curve: ranks must be rising multiples of groups={groups}, got {list(ranks)}.")
    if not torch.isfinite(dense).all():
        raise ValueError(f"error_curve: the kernel must be finite, got NaN or inf (shape {tuple(dense.shape)}).")
    blocks = dense.detach().double().chunk(groups)
    energies = [float(block.square().sum()) for block in blocks]
    if sum(energies) == 0:
        return [0.0] * len(ranks)
    fitted = max(1, sum(rank // groups <= _LARGEST_FIT for rank in ranks))
    probes = sorted({round(share * (fitted - 1) / (_PROBES - 1)) for share in range(_PROBES)})
    exact = prod(dense.shape[2:]) == 1
    residuals = [0.0] * (len(ranks) if exact else len(probes))
    for block, energy in zip(blocks, energies, strict=True):
        if energy == 0:
            continue
        if exact:
            tail = torch.linalg.svdvals(block.flatten(1)).square().flip(0).cumsum(0).flip(0).tolist()
            errors = [tail[rank // groups] if rank // groups < len(tail) else 0.0 for rank in ranks]
        else:
            unit = block / energy**0.5
            errors = [energy * _short_fit(unit, ranks[probe] // groups, seed, sweeps) for probe in probes]
        residuals = [sum(pair) for pair in zip(residuals, errors, strict=True)]
    relative = [residual / sum(energies) for residual in residuals]
    for index in range(1, len(relative)):
        relative[index] = min(relative[index - 1 : index + 1])
    return relative if exact else _interpolate([ranks[probe] for probe in probes], relative, ranks)


def _interpolate(known: Sequence[int], errors: Sequence[float], ranks: Sequence[int]) -> list[float]:
    """Follow straight lines of log error over rank, from rank 0 with error 1 and on beyond the last known rank."""
    at, logs = [0, *known], [0.0, *(log(max(error, 1e-12)) for error in errors)]
    curve: list[float] = []
    for rank in ranks:
        right = next((index for index, place in enumerate(at) if place >= rank), len(at) - 1)
        slope = (logs[right] - logs[right - 1]) / (at[right] - at[right - 1])
        curve.append(exp(logs[right] + slope * (rank - at[right])))
    return curve


def _short_fit(unit: Tensor, rank: int, seed: int, sweeps: int) -> float:
    """Fit a kernel of norm 1 for a few sweeps.

    Returns:
        The smallest squared error that was met.
    """
    target = als.Target(unit, torch.float32)
    factors = als.random_start(target.sizes, rank, torch.Generator().manual_seed(seed), unit.device)
    best = 1.0
    for sweep in range(sweeps):
        factors, error = als.sweep(target, factors, als.ridge_solver(max(1e-4, 0.1 * 0.3**sweep)))
        best = min(best, error)
    return best
