"""Convolution with a CP kernel, in several forms that give the same numbers.

    x [C] --1x1 (in)--> [R] --inner--> --depthwise, one per convolved mode--> [R] --gate--> --1x1 (out * lambda)--> [O]

Kossaifi et al., CVPR 2020 (arXiv 1906.06196). Where we differ: lambda is folded into the output factor instead of
scaling an activation, and strided modes run first, which is exact and does less work.

========================= ==================================================================================
``implementation``        form
========================= ==================================================================================
``'factorized'``          one depthwise convolution per convolved mode
``'mobilenet'``           one depthwise convolution with the merged taps of all convolved modes
``'fused'``               everything in one pass, tile by tile: the compiled kernel, where it can
                          (:func:`hocp_mm.functional.fused.fused_fits`), else ``'mobilenet'``
``'reconstructed'``       one dense convolution with the rebuilt kernel
``'auto'``                the fastest, see :mod:`hocp_mm.functional.choice`
========================= ==================================================================================
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from hocp_mm.functional.choice import IMPLEMENTATIONS, Form, Implementation, run_form
from hocp_mm.functional.cp import CPKernel, dense_kernel, merged_taps, output_projection
from hocp_mm.functional.few_channels import conv1d, conv2d
from hocp_mm.functional.fused import fused, fused_fits
from hocp_mm.functional.order_four import conv4d
from hocp_mm.functional.padding import PADDING_MODES, Ints, Pads, Window, expand_ints, pad, resolve_padding

Pointwise = Callable[[Tensor], Tensor]
"""From components ``[batch, rank, *sizes]`` to the same shape."""


def _conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    """Call ``F.conv3d``, or ``F.conv2d`` where the last two modes are not convolved."""
    # With one tap in h and w, F.conv3d on the CPU returns channels_last_3d input as contiguous; F.conv2d keeps it.
    if tuple(weight.shape[3:]) == (1, 1) and tuple(stride[1:]) == (1, 1) and tuple(padding[1:]) == (0, 0):
        y = conv2d(x.flatten(3), weight.flatten(3), bias, (stride[0], 1), (padding[0], 0), (dilation[0], 1), groups)
        return y.unflatten(3, x.shape[3:])
    return F.conv3d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)


_CONV = {1: conv1d, 2: conv2d, 3: _conv3d, 4: conv4d}


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
    recompute: bool = False,
) -> Tensor:
    """Convolve ``x`` with a CP kernel; equals ``F.convNd`` with the dense kernel without ``inner`` and ``gate``.

    Args:
        x: ``[batch, in, *sizes]`` or ``[in, *sizes]``.
        kernel: CP kernel with 1 to 4 convolved modes.
        bias: ``[out]``.
        stride: As in ``nn.ConvNd``.
        padding: As in ``nn.ConvNd``: ints, ``'same'`` or ``'valid'``; or ``'tf_same'`` (TensorFlow's SAME, see
            :func:`hocp_mm.functional.padding.resolve_padding`).
        dilation: As in ``nn.ConvNd``.
        padding_mode: As in ``nn.ConvNd``.
        implementation: See the module.
        inner: Psi, a pointwise callable ``[batch, rank, *sizes] -> same`` after the first 1x1 convolution (the
            paper's batch norm and ReLU). The result then has no dense equivalent.
        gate: A callable of the same shapes on the components before the last 1x1 convolution, such as
            squeeze-excitation. The result then has no dense equivalent either. It must keep no state where
            ``recompute`` runs it twice.
        recompute: Keep no activation of the rank's size for the backward pass, which computes them again: less
            memory for about a third more time. The fused form always works so, and takes less time all the same.

    Returns:
        ``[batch, out, *output sizes]``, unbatched if ``x`` was.

    Raises:
        ValueError: If shapes, words or lengths do not fit, ``'reconstructed'`` meets ``inner`` or ``gate``, or
            ``recompute`` meets ``inner`` (its running statistics would be updated twice).
    """
    order = kernel.kernel_order
    if x.ndim not in (order + 1, order + 2):
        raise ValueError(
            f"cp_conv: x of shape {tuple(x.shape)} does not fit a kernel with {order} convolved modes "
            f"{kernel.convolved}."
        )
    check_channels(x, x.shape[-order - 1], kernel, bias)
    check_words(padding_mode, implementation, inner, gate, recompute)
    if x.ndim == order + 1:
        batched = cp_conv(
            x.unsqueeze(0), kernel, bias, stride, padding, dilation, padding_mode=padding_mode,
            implementation=implementation, inner=inner, gate=gate, recompute=recompute,
        )  # fmt: skip
        return batched.squeeze(0)
    strides = expand_ints(stride, order, "stride", least=1)
    dilations = expand_ints(dilation, order, "dilation", least=1)
    pads = resolve_padding(padding, kernel.kernel_size, strides, dilations, x.shape[2:])
    window = Window(strides, pads, dilations, padding_mode)

    def run(form: Form, x: Tensor, kernel: CPKernel) -> Tensor:
        if form == "fused":
            return fused(x, kernel, bias, window)
        if form == "reconstructed":
            return reconstructed(x, kernel, bias, window)
        return _through_components(form, x, kernel, bias, window, inner, gate)

    plain = inner is None and gate is None
    can_fuse = plain and fused_fits(x, kernel, bias, window)
    return run_form(run, x, kernel, implementation, window, can_fuse=can_fuse, can_rebuild=plain, recompute=recompute)


def reconstructed(x: Tensor, kernel: CPKernel, bias: Tensor | None, window: Window) -> Tensor:
    """Convolve batched ``x`` with the rebuilt dense kernel."""
    x, rest = pad(x, window.pads, window.padding_mode)
    conv = _CONV[kernel.kernel_order]
    return conv(x, dense_kernel(kernel), bias, window.stride, rest, window.dilation, kernel.groups)


def _through_components(
    form: Form,
    x: Tensor,
    kernel: CPKernel,
    bias: Tensor | None,
    window: Window,
    inner: Pointwise | None,
    gate: Pointwise | None,
) -> Tensor:
    """Run the chain that the module draws, with PyTorch's operations."""
    z = project_in(x, kernel)
    z = z if inner is None else inner(z)
    if form == "mobilenet":
        z = depthwise(z, merged_taps(kernel, kernel.convolved), *window)
    else:
        for axis in sorted(range(kernel.kernel_order), key=lambda a: -window.stride[a]):
            z = _along(z, kernel, axis, window)
    return project_out(z if gate is None else gate(z), kernel, bias)


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


def _along(z: Tensor, kernel: CPKernel, axis: int, window: Window) -> Tensor:
    """Run the depthwise convolution of one convolved mode alone."""

    def only(values: Sequence[int], neutral: int) -> list[int]:
        return [v if a == axis else neutral for a, v in enumerate(values)]

    taps = kernel.factors[kernel.convolved[axis]].T.reshape(kernel.rank, *only(kernel.kernel_size, 1))
    pads = tuple(pair if a == axis else (0, 0) for a, pair in enumerate(window.pads))
    return depthwise(z, taps, only(window.stride, 1), pads, only(window.dilation, 1), window.padding_mode)


def check_words(
    padding_mode: str, implementation: str, inner: Pointwise | None, gate: Pointwise | None, recompute: bool
) -> None:
    """Refuse words that ``cp_conv`` does not know, and those that do not go together.

    Raises:
        ValueError: With the rule and the value.
    """
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"cp_conv: padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}.")
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"cp_conv: implementation must be one of {IMPLEMENTATIONS}, got {implementation!r}.")
    if implementation == "reconstructed" and (inner is not None or gate is not None):
        raise ValueError("cp_conv: implementation 'reconstructed' cannot apply inner or gate, got a callable.")
    if recompute and inner is not None:
        raise ValueError("cp_conv: recompute cannot repeat inner, got an inner callable.")


def check_channels(x: Tensor, channels: int, kernel: CPKernel, bias: Tensor | None) -> None:
    """Refuse data or a bias that do not fit the channels of a kernel.

    Raises:
        ValueError: With the sizes.
    """
    expected = kernel.factors["in"].shape[0] * kernel.groups
    if channels != expected:
        raise ValueError(f"cp_conv: the kernel has {expected} input channels, got x of shape {tuple(x.shape)}.")
    if bias is not None and tuple(bias.shape) != kernel.shape[:1]:
        raise ValueError(f"cp_conv: bias must have shape {kernel.shape[:1]}, got {tuple(bias.shape)}.")
