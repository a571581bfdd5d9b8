"""Convolution with a CP kernel, in several forms that give the same numbers.

    x [C] --1x1 (in)--> [R] --inner--> --depthwise, one per convolved mode--> [R] --gate--> --1x1 (out * lambda)--> [O]

Kossaifi et al., CVPR 2020 (arXiv 1906.06196). Where we differ: lambda is folded into the output factor instead of
scaling an activation, and strided modes run first, which is exact and does less work.

========================= ==================================================================================
``implementation``        form
========================= ==================================================================================
``'factorized'``          one depthwise convolution per convolved mode
``'mobilenet'``           one depthwise convolution with the merged taps of all convolved modes
``'reconstructed'``       one dense convolution with the rebuilt kernel
``'auto'``                ``'reconstructed'`` where CP needs more multiplications, else ``'mobilenet'``
========================= ==================================================================================
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from hocp_mm.functional.cp import CPKernel, dense_kernel, merged_taps, output_projection

Implementation = Literal["auto", "factorized", "mobilenet", "reconstructed"]
Ints = int | Sequence[int]
Pads = tuple[tuple[int, int], ...]
Pointwise = Callable[[Tensor], Tensor]
"""From components ``[batch, rank, *sizes]`` to the same shape."""

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# F.pad's names for nn.ConvNd's padding modes.
_PAD_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def expand_ints(value: Ints, order: int, name: str) -> tuple[int, ...]:
    """Spread an int over ``order`` modes, or check that a sequence has that length.

    Returns:
        ``order`` ints.

    Raises:
        ValueError: If the length is wrong.
    """
    values = (value,) * order if isinstance(value, int) else tuple(value)
    if len(values) != order:
        raise ValueError(f"cp_conv: {name} must be an int or {order} ints, got {tuple(values)}.")
    return values


def resolve_padding(
    padding: Ints | str, kernel_size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pads:
    """Turn ``padding`` in the words of ``torch.nn.ConvNd`` into (before, after) pairs.

    ``'same'`` puts the odd element of an even kernel after the data, as PyTorch does.

    Returns:
        One pair for each convolved mode.

    Raises:
        ValueError: If the word is unknown or ``'same'`` meets a stride.
    """
    if padding == "valid":
        return ((0, 0),) * len(kernel_size)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"cp_conv: padding='same' needs stride 1, got {tuple(stride)}.")
        totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise ValueError(f"cp_conv: padding must be ints, 'same' or 'valid', got {padding!r}.")
    return tuple((p, p) for p in expand_ints(padding, len(kernel_size), "padding"))


def cp_conv(
    x: Tensor,
    kernel: CPKernel,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    *,
    padding_mode: str = "zeros",
    implementation: Implementation = "auto",
    inner: Pointwise | None = None,
    gate: Pointwise | None = None,
) -> Tensor:
    """Convolve ``x`` with a CP kernel; equals ``F.convNd`` with the dense kernel without ``inner`` and ``gate``.

    Args:
        x: ``[batch, in, *sizes]`` or ``[in, *sizes]``.
        kernel: CP kernel with 1 to 3 convolved modes.
        bias: ``[out]``.
        stride: As in ``nn.ConvNd``.
        padding: As in ``nn.ConvNd``: ints, ``'same'`` or ``'valid'``.
        dilation: As in ``nn.ConvNd``.
        padding_mode: As in ``nn.ConvNd``.
        implementation: See the module.
        inner: Psi, a pointwise callable ``[batch, rank, *sizes] -> same`` after the first 1x1 convolution (the
            paper's batch norm and ReLU). The result then has no dense equivalent.
        gate: A callable of the same shapes on the components before the last 1x1 convolution, such as
            squeeze-excitation. The result then has no dense equivalent either.

    Returns:
        ``[batch, out, *output sizes]``, unbatched if ``x`` was.

    Raises:
        ValueError: If shapes, words or lengths do not fit, or ``'reconstructed'`` meets ``inner`` or ``gate``.
        NotImplementedError: If the kernel has more than 3 convolved modes.
    """
    order = kernel.kernel_order
    _check(x, kernel, padding_mode, implementation, inner or gate)
    if x.ndim == order + 1:
        batched = cp_conv(
            x.unsqueeze(0), kernel, bias, stride, padding, dilation,
            padding_mode=padding_mode, implementation=implementation, inner=inner, gate=gate,
        )  # fmt: skip
        return batched.squeeze(0)
    strides, dilations = expand_ints(stride, order, "stride"), expand_ints(dilation, order, "dilation")
    pads = resolve_padding(padding, kernel.kernel_size, strides, dilations)
    if implementation == "auto":
        implementation = cheapest(kernel) if inner is None and gate is None else "mobilenet"
    if implementation == "reconstructed":
        x, rest = pad(x, pads, padding_mode)
        return _CONV[order](x, dense_kernel(kernel), bias, strides, rest, dilations, kernel.groups)
    z = project_in(x, kernel)
    z = z if inner is None else inner(z)
    if implementation == "mobilenet":
        z = depthwise(z, merged_taps(kernel, kernel.convolved), strides, pads, dilations, padding_mode)
    else:
        for axis in sorted(range(order), key=lambda a: -strides[a]):
            z = _along(z, kernel, axis, strides, pads, dilations, padding_mode)
    return project_out(z if gate is None else gate(z), kernel, bias)


def cheapest(kernel: CPKernel) -> Literal["mobilenet", "reconstructed"]:
    """Pick the form with fewer multiplications per output position."""
    out, per_group, *taps = kernel.shape
    factorized = kernel.rank * (per_group + out // kernel.groups + prod(taps))
    return "mobilenet" if factorized <= out * per_group * prod(taps) else "reconstructed"


def project_in(x: Tensor, kernel: CPKernel) -> Tensor:
    """Contract the channels of ``x`` ``[batch, in, *sizes]`` with the input factor: ``[batch, rank, *sizes]``."""
    weight = kernel.factors["in"].T
    return _CONV[x.ndim - 2](x, weight.reshape(*weight.shape, *[1] * (x.ndim - 2)), groups=kernel.groups)


def project_out(z: Tensor, kernel: CPKernel, bias: Tensor | None) -> Tensor:
    """Contract the components of ``z`` ``[batch, rank, *sizes]`` with lambda times the output factor."""
    weight = output_projection(kernel)
    return _CONV[z.ndim - 2](z, weight.reshape(*weight.shape, *[1] * (z.ndim - 2)), bias, groups=kernel.groups)


def depthwise(
    z: Tensor, taps: Tensor, stride: Sequence[int], pads: Pads, dilation: Sequence[int], padding_mode: str = "zeros"
) -> Tensor:
    """Convolve each of the components with its own filter: ``z [batch, rank, *sizes]``, ``taps [rank, *taps]``."""
    z, rest = pad(z, pads, padding_mode)
    return _CONV[z.ndim - 2](z, taps.unsqueeze(1), None, tuple(stride), rest, tuple(dilation), z.shape[1])


def pad(x: Tensor, pads: Pads, padding_mode: str) -> tuple[Tensor, tuple[int, ...]]:
    """Pad what a convolution call cannot, and return what is left for it to pad (symmetric zeros)."""
    if padding_mode == "zeros" and all(before == after for before, after in pads):
        return x, tuple(before for before, _ in pads)
    if any(before or after for before, after in pads):
        flat = [n for pair in reversed(pads) for n in pair]  # F.pad counts from the last dimension
        x = F.pad(x, flat, mode=_PAD_MODE[padding_mode])
    return x, (0,) * len(pads)


def _along(
    z: Tensor, kernel: CPKernel, axis: int, stride: Sequence[int], pads: Pads, dilation: Sequence[int], mode: str
) -> Tensor:
    """Run the depthwise convolution of one convolved mode alone."""

    def only(values: Sequence[int], neutral: int) -> list[int]:
        return [v if a == axis else neutral for a, v in enumerate(values)]

    taps = kernel.factors[kernel.convolved[axis]].T
    alone = tuple(pair if a == axis else (0, 0) for a, pair in enumerate(pads))
    return depthwise(
        z, taps.reshape(kernel.rank, *only(kernel.kernel_size, 1)), only(stride, 1), alone, only(dilation, 1), mode
    )


def _check(x: Tensor, kernel: CPKernel, padding_mode: str, implementation: str, between: Pointwise | None) -> None:
    order = kernel.kernel_order
    if order not in _CONV:
        raise NotImplementedError(f"cp_conv: PyTorch convolves 1 to 3 modes, the kernel has {order}.")
    if x.ndim not in (order + 1, order + 2):
        raise ValueError(
            f"cp_conv: x of shape {tuple(x.shape)} does not fit a kernel with {order} convolved modes "
            f"{kernel.convolved}."
        )
    channels = kernel.factors["in"].shape[0] * kernel.groups
    if x.shape[-order - 1] != channels:
        raise ValueError(f"cp_conv: the kernel has {channels} input channels, got x of shape {tuple(x.shape)}.")
    if padding_mode not in _PAD_MODE:
        raise ValueError(f"cp_conv: padding_mode must be one of {tuple(_PAD_MODE)}, got {padding_mode!r}.")
    if implementation not in get_args(Implementation):
        raise ValueError(f"cp_conv: implementation must be one of {get_args(Implementation)}, got {implementation!r}.")
    if implementation == "reconstructed" and between is not None:
        raise ValueError("cp_conv: implementation 'reconstructed' cannot apply inner or gate, got a callable.")
