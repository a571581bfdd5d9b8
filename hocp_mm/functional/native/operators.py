"""The compiled kernel as PyTorch operators: autograd, and shapes for tracing.

``hocp_mm::cp_conv`` keeps for its backward pass what it was given (x, lambda and the factors) and computes the rank
activations again; a training step therefore keeps no more than a dense convolution does. Second derivatives go through
the dense convolution. There is no forward-mode derivative: ``implementation='mobilenet'`` has one.

``hocp_mm::motion_`` changes its first argument and has no derivative.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import flop_registry, shape_wrapper

from hocp_mm.functional.native.calls import (
    Factors,
    empty_in,
    empty_output,
    memory_order,
    run_backward,
    run_forward,
    run_motion,
)

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
    bias = grad.sum((0, 2, 3, 4)) if ctx.needs_input_grad[7] else None
    if torch.is_grad_enabled():  # create_graph=True
        grads = _differentiable_backward(grad, ctx.saved_tensors, ctx.window, wanted)
    else:
        grads = _backward_operator(grad, *ctx.saved_tensors, *ctx.window, wanted)
    return (*(g if want else None for g, want in zip(grads, wanted, strict=True)), bias, None, None, None)


def _differentiable_backward(
    grad: Tensor, saved: Sequence[Tensor | None], window: Sequence[Sequence[int]], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients as functions of what they depend on, by PyTorch's operations."""
    # Aliases: where x was itself computed from a factor, the derivatives here are still partial ones.
    aliases = [None if tensor is None else tensor.view_as(tensor) for tensor in saved]
    x, weights, f_out, f_in, f_t, f_h, f_w = aliases
    assert x is not None
    assert f_w is not None
    one = f_w.new_ones(1, f_w.shape[1])
    factors = (weights, f_out, f_in, one if f_t is None else f_t, one if f_h is None else f_h, f_w)
    dense = torch.einsum("r,or,ir,tr,hr,wr->oithw", *factors)
    stride, pads, dilation = (tuple(values) for values in window)
    padded = F.pad(x, [*pads[4:], *pads[2:4], *pads[:2]])
    out = F.conv3d(padded, dense, None, stride, 0, dilation)
    leaves = [tensor for tensor, want in zip(aliases, wanted, strict=True) if want and tensor is not None]
    found = iter(torch.autograd.grad(out, leaves, grad, create_graph=True) if leaves else ())
    return [next(found) if want else None for want in wanted]


fused_cp_conv.register_autograd(_backward, setup_context=_setup_context)


# Not `custom_op`, whose wrapper takes as long as all of the small layers: nothing here has a derivative.
torch.library.define(
    "hocp_mm::motion_",
    "(Tensor(a!) images, Tensor f_in, Tensor f_t, Tensor f_out, int frames, int before, bool relu) -> ()",
)


@torch.library.impl("hocp_mm::motion_", "CPU")
def _motion_on_cpu(
    images: Tensor, f_in: Tensor, f_t: Tensor, f_out: Tensor, frames: int, before: int, relu: bool
) -> None:
    run_motion(images, f_in, f_t, f_out, frames, before, relu)


@torch.library.register_fake("hocp_mm::motion_")
def _(images: Tensor, f_in: Tensor, f_t: Tensor, f_out: Tensor, frames: int, before: int, relu: bool) -> None: ...


add_motion: Any = torch.ops.hocp_mm.motion_.default
"""Add motion components in place (:func:`hocp_mm.functional.motion`); float32 on CPU, without gradients.

Args:
    images: ``[N*T, C, H, W]`` with channels innermost.
    f_in: ``[C, Q]``.
    f_t: ``[size, Q]``.
    f_out: ``[C, Q]``.
    frames: T.
    before: Index of the tap that sees the present frame.
    relu: Keep positive differences alone, in place of the absolute values of all.
"""


def _products(x: Sequence[int], factors: Sequence[Sequence[int] | None], out: Sequence[int]) -> tuple[int, int, int]:
    """Count multiply-accumulates from shapes: of the first projection, the taps, and the last projection."""
    weights, f_out, f_in, f_t, f_h, f_w = factors
    assert weights is not None
    assert f_out is not None
    assert f_in is not None
    assert f_w is not None
    taps = (1 if f_h is None else f_h[0]) * f_w[0] + (0 if f_t is None else f_t[0])
    read, written = x[0] * prod(x[2:]), out[0] * prod(out[2:])
    return weights[0] * f_in[0] * read, weights[0] * taps * written, weights[0] * f_out[0] * written


def _count_forward(x: Sequence[int], *rest: Any, out_shape: Sequence[int], **_: Any) -> int:
    return 2 * sum(_products(x, rest[:6], out_shape))


def _count_backward(grad: Sequence[int], x: Sequence[int], *rest: Any, **_: Any) -> int:
    first, taps, last = _products(x, rest[:6], grad)
    return 2 * (3 * first + 3 * taps + 2 * last)  # all but the last product is computed again


def _count_motion(images: Sequence[int], f_in: Sequence[int], f_t: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * images[0] * prod(images[2:]) * f_t[1] * (2 * f_in[0] + f_t[0])


# PyTorch's counter knows its own operators only, and two FLOPs to a multiply-accumulate. Not register_flop_formula:
# that of torch 2.4 files a formula where its counter does not look.
flop_registry[torch.ops.hocp_mm.cp_conv] = shape_wrapper(_count_forward)
flop_registry[torch.ops.hocp_mm.cp_conv_backward] = shape_wrapper(_count_backward)
flop_registry[torch.ops.hocp_mm.motion_] = shape_wrapper(_count_motion)
