"""The compiled kernel as PyTorch operators: autograd, and shapes for tracing.

``hocp_mm::cp_conv`` keeps for its backward pass what it was given (x and the factors) and computes the rank activations
again; a training step therefore keeps no more than a dense convolution does. There is no second derivative and no
forward-mode derivative: ``implementation='mobilenet'`` has both.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hocp_mm.functional.native.calls import empty_in, empty_output, memory_order, run_backward, run_forward

_SHAPE = "SymInt[] stride, SymInt[] pads, SymInt[] dilation"
_FACTORS = "Tensor x, Tensor w_in, Tensor? taps_t, Tensor taps_hw, Tensor w_out"


@torch.library.custom_op(
    "hocp_mm::cp_conv", mutates_args=(), device_types="cpu", schema=f"({_FACTORS}, Tensor? bias, {_SHAPE}) -> Tensor"
)
def fused_cp_conv(
    x: Tensor,
    w_in: Tensor,
    taps_t: Tensor | None,
    taps_hw: Tensor,
    w_out: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Convolve a clip with a 3-D CP kernel in one pass; float32 on CPU, zero padding, one group.

    Args:
        x: ``[batch, in, t, h, w]``.
        w_in: Input factor ``[in, rank]``.
        taps_t: Temporal factor ``[kt, rank]``; None for no temporal mode.
        taps_hw: Merged taps of h and w, ``[kh, kw, rank]``.
        w_out: Output factor times lambda, ``[out, rank]``.
        bias: ``[out]``.
        stride: Of t, h and w.
        pads: (before, after) of t, h and w, flat.
        dilation: Of t, h and w.

    Returns:
        ``[batch, out, t', h', w']`` in the memory format of ``x``.
    """
    return run_forward(x, w_in, taps_t, taps_hw, w_out, bias, (stride, pads, dilation))


@torch.library.custom_op(
    "hocp_mm::cp_conv_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor grad, {_FACTORS}, {_SHAPE}, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward_operator(
    grad: Tensor,
    x: Tensor,
    w_in: Tensor,
    taps_t: Tensor | None,
    taps_hw: Tensor,
    w_out: Tensor,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Return the gradients of x, w_in, taps_t, taps_hw and w_out; empty where not wanted."""
    return run_backward(grad, x, w_in, taps_t, taps_hw, w_out, (stride, pads, dilation), wanted)


@fused_cp_conv.register_fake
def _(
    x: Tensor,
    w_in: Tensor,
    taps_t: Tensor | None,
    taps_hw: Tensor,
    w_out: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    return empty_output(x, taps_t, taps_hw, w_out, (stride, pads, dilation))


@_backward_operator.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    w_in: Tensor,
    taps_t: Tensor | None,
    taps_hw: Tensor,
    w_out: Tensor,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    gx = empty_in(memory_order(x), x, x.shape) if wanted[0] else x.new_empty(0)
    factors = zip((w_in, taps_t, taps_hw, w_out), wanted[1:], strict=True)
    return (gx, *(x.new_empty(0 if f is None or not want else f.shape) for f, want in factors))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w_in, taps_t, taps_hw, w_out, _, *ctx.shape = inputs
    ctx.save_for_backward(x, w_in, taps_t, taps_hw, w_out)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w_in, taps_t, taps_hw, w_out = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:5])
    grads = _backward_operator(grad, x, w_in, taps_t, taps_hw, w_out, *ctx.shape, wanted)
    bias = grad.sum((0, 2, 3, 4)) if ctx.needs_input_grad[5] else None
    return (*(g if want else None for g, want in zip(grads, wanted, strict=True)), bias, None, None, None)


fused_cp_conv.register_autograd(_backward, setup_context=_setup_context)
