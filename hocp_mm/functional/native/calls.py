"""The one place that hands pointers to the compiled kernel."""

import ctypes
import functools
import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hocp_mm.functional.native.build import NativeUnavailableError, load_library

_FIELDS = "n t h w c to ho wo o r kt kh kw st sh sw pt ph pw dt dh dw xn xt xh xw xc on ot oh ow oc"
Shape = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Stride, (before, after) pads flat, dilation; of t, h and w."""

Order = Literal["channels outside", "channels inside", "frames outside"]
"""``[n, c, t, h, w]`` as it reads, channels innermost (``channels_last_3d``), or folded frames ``[n, t, c, h, w]``."""

_logger = logging.getLogger("hocp_mm")


class _Problem(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _FIELDS.split()]


@functools.cache
def _library() -> ctypes.CDLL:
    library = load_library()
    library.hocp_padded.restype, library.hocp_padded.argtypes = ctypes.c_int64, [ctypes.c_int64]
    library.hocp_forward.argtypes = [ctypes.c_void_p] * 8
    library.hocp_backward.argtypes = [ctypes.c_void_p] * 12
    return library


@torch.compiler.assume_constant_result
def native_available() -> bool:
    """Whether the compiled kernel works here; builds it at the first call, and logs once why it does not.

    Returns:
        True where ``hocp_mm::cp_conv`` can be called.
    """
    return _works()


# Not on the function above: dynamo looks through a cache and would trace the search for a compiler.
@functools.cache
def _works() -> bool:
    try:
        _library()
        _check_arithmetic()
    except NativeUnavailableError as error:
        _logger.info("hocp_mm: no compiled CPU kernel (%s); PyTorch's own operations are used.", error)
        return False
    return True


def empty_output(x: Tensor, taps_t: Tensor | None, taps_hw: Tensor, w_out: Tensor, shape: Shape) -> Tensor:
    """Make the tensor that the convolution fills: its size, and the memory order of ``x``."""
    stride, pads, dilation = shape
    taps = (1 if taps_t is None else taps_t.shape[0], *taps_hw.shape[:2])
    sizes = [
        (x.shape[2 + a] + pads[2 * a] + pads[2 * a + 1] - dilation[a] * (taps[a] - 1) - 1) // stride[a] + 1
        for a in range(3)
    ]
    return empty_in(memory_order(x), x, (x.shape[0], w_out.shape[0], *sizes))


def memory_order(x: Tensor) -> Order:
    """Tell how ``x`` ``[n, c, t, h, w]`` lies in memory, or how a copy of it for the kernel should."""
    if x.is_contiguous():
        return "channels outside"
    if x.is_contiguous(memory_format=torch.channels_last_3d):
        return "channels inside"
    if x.transpose(1, 2).is_contiguous():
        return "frames outside"
    return "channels inside" if x.stride(1) == 1 else "channels outside"


def empty_in(order: Order, like: Tensor, sizes: Sequence[int]) -> Tensor:
    """Make an empty tensor ``[n, c, t, h, w]`` that lies in memory order ``order``."""
    n, c, *rest = sizes
    if order == "frames outside":
        return like.new_empty((n, rest[0], c, *rest[1:])).transpose(1, 2)
    inside = order == "channels inside"
    memory_format = torch.channels_last_3d if inside else torch.contiguous_format
    return torch.empty((n, c, *rest), dtype=like.dtype, device=like.device, memory_format=memory_format)


def run_forward(
    x: Tensor,
    w_in: Tensor,
    taps_t: Tensor | None,
    taps_hw: Tensor,
    w_out: Tensor,
    bias: Tensor | None,
    shape: Shape,
) -> Tensor:
    """See ``operators.fused_cp_conv``."""
    out = empty_output(x, taps_t, taps_hw, w_out, shape)
    order = memory_order(x)
    x = _arrange(x, order)
    factors = [None if f is None else f.contiguous() for f in (w_in, taps_t, taps_hw, w_out, bias)]
    problem = _describe(order, x, out, factors, shape)
    if _library().hocp_forward(ctypes.byref(problem), _pointer(x), *map(_pointer, factors), _pointer(out)):
        raise MemoryError("cp_conv: no memory for the compiled kernel.")
    return out


def run_backward(
    grad: Tensor,
    x: Tensor,
    w_in: Tensor,
    taps_t: Tensor | None,
    taps_hw: Tensor,
    w_out: Tensor,
    shape: Shape,
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    """See ``operators._backward_operator``."""
    order = memory_order(x)
    x, grad = _arrange(x, order), _arrange(grad, order)
    factors = [None if f is None else f.contiguous() for f in (w_in, taps_t, taps_hw, w_out)]
    rank = w_in.shape[1]
    wide = _library().hocp_padded(rank)
    grads = [
        None if f is None or not want else x.new_empty((*f.shape[:-1], wide))
        for f, want in zip(factors, wanted[1:], strict=True)
    ]
    gx = empty_in(order, x, x.shape) if wanted[0] else None
    problem = _describe(order, x, grad, factors, shape)
    pointers = [_pointer(t) for t in (x, *factors, grad, gx, *grads)]
    if _library().hocp_backward(ctypes.byref(problem), *pointers):
        raise MemoryError("cp_conv: no memory for the compiled kernel.")
    kept = [x.new_empty(0) if g is None else g[..., :rank].contiguous() for g in grads]
    return (x.new_empty(0) if gx is None else gx, *kept)


def _arrange(x: Tensor, order: Order) -> Tensor:
    if order == "frames outside":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    return x.contiguous(memory_format=torch.channels_last_3d if order == "channels inside" else torch.contiguous_format)


def _strides(order: Order, sizes: Sequence[int]) -> tuple[int, ...]:
    """Strides of n, t, h, w, c from the sizes: what a tensor reports for dimensions of size 1 means nothing."""
    _, c, t, h, w = sizes
    if order == "channels inside":
        return (c * t * h * w, h * w * c, w * c, c, 1)
    if order == "frames outside":
        return (c * t * h * w, c * h * w, w, 1, h * w)
    return (c * t * h * w, h * w, w, 1, t * h * w)


def _describe(order: Order, x: Tensor, out: Tensor, factors: Sequence[Tensor | None], shape: Shape) -> _Problem:
    stride, pads, dilation = shape
    _, taps_t, taps_hw, *_ = factors
    assert taps_hw is not None
    taps = (1 if taps_t is None else taps_t.shape[0], *taps_hw.shape)  # kt, kh, kw, rank
    n, c, *size = x.shape
    _, o, *out_size = out.shape
    strides = (*_strides(order, x.shape), *_strides(order, out.shape))
    return _Problem(n, *size, c, *out_size, o, taps[3], *taps[:3], *stride, *pads[::2], *dilation, *strides)


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def _check_arithmetic() -> None:
    """Compare one small layer with plain matrix products: a miscompiled kernel must not go unnoticed.

    Raises:
        NativeUnavailableError: If the numbers differ.
    """
    generator = torch.Generator().manual_seed(0)
    x, w_in, taps_t, taps_hw, w_out, grad = (
        torch.randn(size, generator=generator)
        for size in ((2, 5, 3, 6, 7), (5, 20), (3, 20), (3, 3, 20), (19, 20), (2, 19, 3, 6, 7))
    )
    shape = ((1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 1, 1))
    out = run_forward(x, w_in, taps_t, taps_hw, w_out, None, shape)
    gx, *_ = run_backward(grad, x, w_in, taps_t, taps_hw, w_out, shape, [True] * 5)
    dense = torch.einsum("ir,tr,hwr,or->oithw", *(f.double() for f in (w_in, taps_t, taps_hw, w_out)))
    expected = torch.nn.functional.conv3d(x.double(), dense, padding=1)
    expected_gx = torch.nn.functional.conv_transpose3d(grad.double(), dense, padding=1)
    for what, actual, right in (("output", out, expected), ("gradient", gx, expected_gx)):
        error = float((actual - right).norm() / right.norm())
        if not error < 1e-5:
            raise NativeUnavailableError(f"its {what} is wrong on this machine, relative error {error:.1e}")
