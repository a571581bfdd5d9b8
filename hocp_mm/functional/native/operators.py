"""The compiled kernel as PyTorch operators: autograd, and shapes for tracing.

``hocp_mm::cp_conv`` keeps for its backward pass what it was given (x, lambda and the factors) and computes the rank
activations again; a training step therefore keeps no more than a dense convolution does. There is no second
derivative and no forward-mode derivative: ``implementation='mobilenet'`` has both.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hocp_mm.functional.native.calls import Factors, empty_in, empty_output, memory_order, run_backward, run_forward

_WINDOW = "SymInt[] stride, SymInt[] pads, SymInt[] dilation"
_FACTORS = "Tensor x, Tensor weights, Tensor f_out, Tensor f_in, Tensor? f_t, Tensor? f_h, Tensor f_w"


@torch.library.custom_op(
    "hocp_mm::cp_conv", mutates_args=(), device_types="cpu", schema=f"({_FACTORS}, Tensor? bias, {_WINDOW}) -> Tensor"
)
def fused_cp_conv(
    x: Tensor,
    weights: Tensor,
    f_out: Tensor,
    f_in: Tensor,
    f_t: Tensor | None,
    f_h: Tensor | None,
    f_w: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Convolve a clip with a 3-D CP kernel in one pass; float32 on CPU, zero padding, one group.

    Args:
        x: ``[batch, in, t, h, w]``.
        weights: Lambda, ``[rank]``.
        f_out: Output factor ``[out, rank]``.
        f_in: Input factor ``[in, rank]``.
        f_t: Factor of t, ``[taps, rank]``; None where t is not convolved.
        f_h: Factor of h; None where h is not convolved.
        f_w: Factor of w.
        bias: ``[out]``.
        stride: Of t, h and w.
        pads: (before, after) of t, h and w, flat.
        dilation: Of t, h and w.

    Returns:
        ``[batch, out, t', h', w']`` in the memory format of ``x``.
    """
    return run_forward(x, Factors(weights, f_out, f_in, f_t, f_h, f_w), bias, (stride, pads, dilation))


@torch.library.custom_op(
    "hocp_mm::cp_conv_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor grad, {_FACTORS}, {_WINDOW}, bool[] wanted) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward_operator(
    grad: Tensor,
    x: Tensor,
    weights: Tensor,
    f_out: Tensor,
    f_in: Tensor,
    f_t: Tensor | None,
    f_h: Tensor | None,
    f_w: Tensor,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    """Return the gradients of x, lambda and the factors; empty where not wanted."""
    factors = Factors(weights, f_out, f_in, f_t, f_h, f_w)
    grads = run_backward(grad, x, factors, (stride, pads, dilation), wanted)
    return tuple(x.new_empty(0) if g is None else g for g in grads)


@fused_cp_conv.register_fake
def _(
    x: Tensor,
    weights: Tensor,
    f_out: Tensor,
    f_in: Tensor,
    f_t: Tensor | None,
    f_h: Tensor | None,
    f_w: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    return empty_output(x, Factors(weights, f_out, f_in, f_t, f_h, f_w), (stride, pads, dilation))


@_backward_operator.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weights: Tensor,
    f_out: Tensor,
    f_in: Tensor,
    f_t: Tensor | None,
    f_h: Tensor | None,
    f_w: Tensor,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    gx = empty_in(memory_order(x), x, x.shape) if wanted[0] else x.new_empty(0)
    factors = zip((weights, f_out, f_in, f_t, f_h, f_w), wanted[1:], strict=True)
    return (gx, *(x.new_empty(0 if f is None or not want else f.shape) for f, want in factors))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, stride, pads, dilation = inputs
    ctx.window = (stride, pads, dilation)
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:7])
    grads = _backward_operator(grad, *ctx.saved_tensors, *ctx.window, wanted)
    bias = grad.sum((0, 2, 3, 4)) if ctx.needs_input_grad[7] else None
    return (*(g if want else None for g, want in zip(grads, wanted, strict=True)), bias, None, None, None)


fused_cp_conv.register_autograd(_backward, setup_context=_setup_context)
