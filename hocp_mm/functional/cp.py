"""CP (Kruskal) form of a convolution kernel, with factors addressed by mode name.

    W[o, i, t, h, w] = sum_r weights[r] * out[o, r] * in[i, r] * t[t, r] * h[h, r] * w[w, r]

Source: Kossaifi et al., "Factorized Higher-Order CNNs", CVPR 2020 (arXiv 1906.06196), where ``weights`` is
lambda. Modes are right-aligned, so the factor of a 2-D layer keeps its name when a third mode is added; a
2-D checkpoint then fills a 3-D layer except exactly ``factors.t``.

With ``groups > 1`` the kernel is a block of independent CP kernels, one per group: component ``r`` belongs to
group ``r // (rank // groups)`` and ``out``/``in`` hold the channels *of one group*.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_CONVOLVED_MODES = ("k4", "t", "h", "w")
MAX_KERNEL_ORDER = len(_CONVOLVED_MODES)


def mode_names(kernel_order: int) -> tuple[str, ...]:
    """Name the modes of a kernel with ``kernel_order`` convolved modes, in the order of the dense kernel.

    Returns:
        ``('out', 'in', ...)``, right-aligned: the last mode is always ``w``.

    Raises:
        ValueError: If ``kernel_order`` is outside 1 to 4.

    Example:
        >>> mode_names(3)
        ('out', 'in', 't', 'h', 'w')
    """
    if not 1 <= kernel_order <= MAX_KERNEL_ORDER:
        raise ValueError(f"mode_names: kernel_order must lie in 1..{MAX_KERNEL_ORDER}, got {kernel_order}.")
    return ("out", "in", *_CONVOLVED_MODES[-kernel_order:])


@dataclass(frozen=True)
class CPKernel:
    """A convolution kernel as ``rank`` weighted rank-one terms.

    Attributes:
        weights: Lambda, shape ``[rank]``.
        factors: Mode name to matrix ``[mode size, rank]``; ``out`` and ``in`` hold ``channels / groups`` rows.
        groups: Number of independent blocks; ``rank`` is a multiple of it.

    Raises:
        ValueError: If the modes are not those of :func:`mode_names` or shapes disagree with ``weights``.
    """

    weights: Tensor
    factors: Mapping[str, Tensor]
    groups: int = 1

    def __post_init__(self) -> None:
        """Check names and shapes, and put the factors in the order of the dense kernel."""
        if self.weights.ndim != 1 or self.rank < 1:
            raise ValueError(
                f"CPKernel: weights must have shape [rank] with rank >= 1, got {tuple(self.weights.shape)}."
            )
        names = mode_names(len(self.factors) - 2)
        if set(names) != set(self.factors):
            raise ValueError(f"CPKernel: factors must be named {names}, got {tuple(self.factors)}.")
        if list(self.factors) != list(names):
            object.__setattr__(self, "factors", {name: self.factors[name] for name in names})
        for name, factor in self.factors.items():
            if factor.ndim != 2 or factor.shape[1] != self.rank or factor.shape[0] < 1:
                raise ValueError(
                    f"CPKernel: factor '{name}' must have shape [mode size, {self.rank}], got {tuple(factor.shape)}."
                )
        if self.groups < 1 or self.rank % self.groups:
            raise ValueError(f"CPKernel: rank must be a multiple of groups={self.groups}, got {self.rank}.")

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.weights.shape[0]

    @property
    def kernel_order(self) -> int:
        """Number of convolved modes: 2 for images, 3 for clips."""
        return len(self.factors) - 2

    @property
    def convolved(self) -> tuple[str, ...]:
        """Names of the convolved modes, slowest first."""
        return tuple(self.factors)[2:]

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Taps of each convolved mode."""
        return tuple(self.factors[name].shape[0] for name in self.convolved)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense kernel, ``[out, in / groups, *kernel_size]``."""
        return (self.factors["out"].shape[0] * self.groups, self.factors["in"].shape[0], *self.kernel_size)


def merged_taps(kernel: CPKernel, modes: tuple[str, ...]) -> Tensor:
    """Multiply the taps of some convolved modes into one depthwise filter per component.

    Returns:
        Tensor ``[rank, *taps of modes]``.
    """
    taps = kernel.factors[modes[0]].T  # [rank, k]
    for name in modes[1:]:
        taps = taps.unsqueeze(-1) * kernel.factors[name].T.reshape(kernel.rank, *[1] * (taps.ndim - 1), -1)
    return taps


def output_projection(kernel: CPKernel) -> Tensor:
    """Fold lambda into the output factor, as the weight of a grouped 1x1 convolution from rank to out channels.

    Returns:
        Tensor ``[out, rank / groups]``.
    """
    per_group = (kernel.factors["out"] * kernel.weights).unflatten(1, (kernel.groups, -1))  # [out/g, g, rank/g]
    return per_group.transpose(0, 1).flatten(0, 1)


def dense_kernel(kernel: CPKernel) -> Tensor:
    """Rebuild the dense kernel, differentiably.

    Returns:
        Tensor ``[out, in / groups, *kernel_size]``, the layout of ``torch.nn.functional.convNd``.

    Example:
        >>> ones = {name: torch.ones(2, 3) for name in mode_names(1)}
        >>> dense_kernel(CPKernel(torch.ones(3), ones)).tolist()
        [[[3.0, 3.0], [3.0, 3.0]], [[3.0, 3.0], [3.0, 3.0]]]
    """
    taps = merged_taps(kernel, kernel.convolved).flatten(1)  # [rank, taps]
    right = kernel.factors["in"].T.unsqueeze(2) * taps.unsqueeze(1)  # [rank, in/g, taps]
    left = output_projection(kernel).unflatten(0, (kernel.groups, -1))  # [g, out/g, rank/g]
    return torch.bmm(left, right.flatten(1).unflatten(0, (kernel.groups, -1))).reshape(kernel.shape)


def component_norms(kernel: CPKernel) -> Tensor:
    """Frobenius norm of each rank-one term, shape ``[rank]``."""
    norms = kernel.weights.abs()
    for factor in kernel.factors.values():
        norms = norms * factor.norm(dim=0)
    return norms


def balance(kernel: CPKernel) -> CPKernel:
    """Share each component's norm equally among its factors and set lambda to its sign.

    The dense kernel is unchanged. Balanced factors make weight decay and learning rates act alike on every mode.
    A component of norm zero becomes all zeros.

    Returns:
        A kernel of new tensors.
    """
    shared = component_norms(kernel).pow(1 / len(kernel.factors))
    factors = {
        name: factor / factor.norm(dim=0).clamp_min(torch.finfo(factor.dtype).tiny) * shared
        for name, factor in kernel.factors.items()
    }
    return CPKernel(torch.where(kernel.weights < 0, -1.0, 1.0).to(kernel.weights), factors, kernel.groups)
