"""The one place that hands pointers to the compiled kernel."""

import ctypes
import functools
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hocp_mm.functional.native.build import NativeUnavailableError, SwitchedOffError, load_library

_logger = logging.getLogger("hocp_mm")
_FIELDS = "n t h w c to ho wo o r kt kh kw st sh sw pt ph pw dt dh dw xn xt xh xw xc on ot oh ow oc"
Window = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Stride, (before, after) pads flat, dilation; of t, h and w."""

Order = Literal["channels outside", "channels inside", "frames outside"]
"""``[n, c, t, h, w]`` as it reads, channels innermost (``channels_last_3d``), or folded frames ``[n, t, c, h, w]``."""


class Factors(NamedTuple):
    """A CP kernel of up to three convolved modes, as the operators take it; None for a mode that is not convolved."""

    weights: Tensor
    out: Tensor
    in_: Tensor
    t: Tensor | None
    h: Tensor | None
    w: Tensor

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.weights.shape[0]

    @property
    def taps(self) -> tuple[int, int, int]:
        """Taps of t, h and w."""
        return (1 if self.t is None else self.t.shape[0], 1 if self.h is None else self.h.shape[0], self.w.shape[0])

    def merged(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return what the kernel reads: input factor, taps of t, taps of h and w ``[kh, kw, rank]``, lambda * out."""
        hw = self.w.unsqueeze(0) if self.h is None else self.h.unsqueeze(1) * self.w
        t = None if self.t is None else self.t.contiguous()
        return self.in_.contiguous(), t, hw.contiguous(), (self.out * self.weights).contiguous()


class _Problem(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _FIELDS.split()]


@functools.cache
def _library() -> ctypes.CDLL:
    library = load_library()
    library.hocp_padded.restype, library.hocp_padded.argtypes = ctypes.c_int64, [ctypes.c_int64]
    library.hocp_forward.argtypes = [ctypes.c_void_p] * 8
    library.hocp_backward.argtypes = [ctypes.c_void_p] * 12
    library.hocp_motion.argtypes = [ctypes.c_int64] * 8 + [ctypes.c_void_p] * 4
    library.hocp_packed.restype, library.hocp_packed.argtypes = ctypes.c_int64, [ctypes.c_void_p]
    library.hocp_pack.restype, library.hocp_pack.argtypes = None, [ctypes.c_void_p] * 7
    library.hocp_step.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] + [ctypes.c_void_p] * 3
    return library


def native_available() -> bool:
    """Whether the compiled kernel works here; builds it at the first call, and logs once why it does not.

    Returns:
        True where ``hocp_mm::cp_conv`` can be called.
    """
    return _works()


# All that torch.compiler.assume_constant_result does; the decorator imports the compiler for it, half as long as torch.
native_available._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


# Not on the function above: dynamo looks through a cache and would trace the search for a compiler.
@functools.cache
def _works() -> bool:
    try:
        _library()
        _check_arithmetic()
    except (NativeUnavailableError, MemoryError) as error:
        level = logging.INFO if isinstance(error, SwitchedOffError) else logging.WARNING
        _logger.log(level, "hocp_mm: no compiled CPU kernel (%s); PyTorch's own, slower operations are used.", error)
        return False
    return True


def empty_output(x: Tensor, factors: Factors, window: Window) -> Tensor:
    """Make the tensor that the convolution fills: its size, and the memory order of ``x``."""
    stride, pads, dilation = window
    sizes = [
        (x.shape[2 + a] + pads[2 * a] + pads[2 * a + 1] - dilation[a] * (taps - 1) - 1) // stride[a] + 1
        for a, taps in enumerate(factors.taps)
    ]
    return empty_in(memory_order(x), x, (x.shape[0], factors.out.shape[0], *sizes))


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


def run_forward(x: Tensor, factors: Factors, bias: Tensor | None, window: Window) -> Tensor:
    """See ``operators.fused_cp_conv``.

    Returns:
        ``[batch, out, t', h', w']``.

    Raises:
        ValueError: If sizes do not fit: past this line they are pointers.
        MemoryError: If there is none for the intermediate results.
    """
    _check_sizes(x, factors, bias, window)
    out = empty_output(x, factors, window)
    order = memory_order(x)
    x = _arrange(x, order)
    held = [*factors.merged(), None if bias is None else bias.contiguous()]
    problem = _describe(order, x, out, factors, window)
    if _library().hocp_forward(ctypes.byref(problem), _pointer(x), *map(_pointer, held), _pointer(out)):
        raise MemoryError("cp_conv: no memory for the compiled kernel.")
    return out


def run_backward(
    grad: Tensor, x: Tensor, factors: Factors, window: Window, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """See ``operators._backward_operator``.

    Returns:
        Gradients of x, lambda and the factors; None where not wanted or where there is no factor.

    Raises:
        MemoryError: If there is none for the intermediate results.
    """
    order = memory_order(x)
    x, grad = _arrange(x, order), _arrange(grad, order)
    held = factors.merged()
    want_x, want_weights, want_out, want_in, want_t, want_h, want_w = wanted
    merged_wanted = (want_in, want_t, want_h or want_w, want_weights or want_out)
    wide = _library().hocp_padded(factors.rank)
    grads = [
        x.new_empty((*f.shape[:-1], wide)) if f is not None and want else None
        for f, want in zip(held, merged_wanted, strict=True)
    ]
    gx = empty_in(order, x, x.shape) if want_x else None
    problem = _describe(order, x, grad, factors, window)
    pointers = [_pointer(t) for t in (x, *held, grad, gx, *grads)]
    if _library().hocp_backward(ctypes.byref(problem), *pointers):
        raise MemoryError("cp_conv: no memory for the compiled kernel.")
    g_in, g_t, g_hw, g_product = (None if g is None else g[..., : factors.rank] for g in grads)
    g_h = g_w = g_weights = g_out = None
    if g_hw is not None:
        g_h = (g_hw * factors.w).sum(1) if want_h and factors.h is not None else None
        g_w = (g_hw[0] if factors.h is None else (g_hw * factors.h.unsqueeze(1)).sum(0)) if want_w else None
    if g_product is not None:
        g_weights = (g_product * factors.out).sum(0) if want_weights else None
        g_out = g_product * factors.weights if want_out else None
    found = (g_weights, g_out, g_in, g_t, g_h, g_w)
    return (gx, *(None if g is None else g.contiguous() for g in found))


def run_motion(images: Tensor, f_in: Tensor, f_t: Tensor, f_out: Tensor, frames: int, before: int, relu: bool) -> None:
    """See ``operators.add_motion``.

    Raises:
        ValueError: If sizes or dtypes do not fit, or ``images`` does not have its channels innermost.
        MemoryError: If there is none for the components.
    """
    fits = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    fits = fits and images.dtype == f_in.dtype == f_t.dtype == f_out.dtype == torch.float32
    fits = fits and frames > 0 and len(images) % frames == 0 and 0 <= before < len(f_t)
    if not fits or f_in.shape != (images.shape[1], f_t.shape[1]) or f_out.shape != f_in.shape:
        shapes = [tuple(tensor.shape) for tensor in (images, f_in, f_t, f_out)]
        raise ValueError(
            "hocp_mm::motion_: sizes must fit together, all be float32, and channels be innermost, got images, factors "
            f"of {shapes}, {images.dtype}, {frames=}, {before=}."
        )
    if not images.numel() or not f_t.numel():
        return
    batch, channels, height, width = images.shape
    size, components = f_t.shape
    held = [factor.contiguous() for factor in (f_in, f_t, f_out)]
    sizes = (batch // frames, frames, height * width, channels, components, size, before, relu)
    if _library().hocp_motion(*sizes, images.data_ptr(), *(factor.data_ptr() for factor in held)):
        raise MemoryError("motion: no memory for the compiled kernel.")


class PackedFactors(NamedTuple):
    """The factors of a layer as the kernel reads them, which are packed once for many steps.

    Attributes:
        array: Of the compiled kernel alone.
        in_channels: C.
        out_channels: O.
        rank: R.
        taps: Of t, h and w.
        biased: Whether a bias is in it.
    """

    array: Tensor
    in_channels: int
    out_channels: int
    rank: int
    taps: tuple[int, int, int]
    biased: bool

    def problem(self, **fields: int) -> _Problem:
        """Describe the layer, and whatever else is given."""
        (kt, kh, kw), own = self.taps, {"c": self.in_channels, "o": self.out_channels, "r": self.rank}
        return _Problem(**own, kt=kt, kh=kh, kw=kw, **fields)


def pack_factors(factors: Factors, bias: Tensor | None) -> PackedFactors:
    """Pack a kernel with a temporal factor for `StepPlan`.

    Returns:
        The packed kernel.

    Raises:
        ValueError: If sizes do not fit: past this line they are pointers.
    """
    fits = factors.t is not None and all(f is None or f.shape[-1] == factors.rank for f in factors)
    if not fits or not (bias is None or tuple(bias.shape) == (factors.out.shape[0],)):
        shapes = [None if f is None else tuple(f.shape) for f in (*factors, bias)]
        raise ValueError(f"pack_factors: sizes must fit together, got factors and bias of {shapes}.")
    sizes = factors.in_.shape[0], factors.out.shape[0], factors.rank, factors.taps
    packed = PackedFactors(factors.in_.new_empty(0), *sizes, bias is not None)
    problem = packed.problem()
    array = factors.in_.new_empty(_library().hocp_packed(ctypes.byref(problem)))
    held = [*factors.merged(), None if bias is None else bias.contiguous()]
    _library().hocp_pack(ctypes.byref(problem), *map(_pointer, held), _pointer(array))
    return packed._replace(array=array)


class StepPlan:
    """The convolution of the next frames of some streams, given the components of those before them.

    What does not change from step to step is made once: for a single frame, it would take as long as the layer.

    Args:
        packed: The kernel.
        window: Stride 1 in t; the padding of t is not read, and none but zeros are there.
        shape: Of the images ``[N*n, C, H, W]``, frames of a stream next to each other.
        streams: N.

    Raises:
        ValueError: If sizes do not fit.
    """

    def __init__(self, packed: PackedFactors, window: Window, shape: Sequence[int], streams: int) -> None:
        stride, pads, dilation = window
        batch, channels, *size = shape
        height, width = ((size[a] + sum(pads[2 * a + 2 : 2 * a + 4]) - dilation[a + 1] * (packed.taps[a + 1] - 1) - 1)
                         // stride[a + 1] + 1 for a in (0, 1))  # fmt: skip
        if channels != packed.in_channels or streams < 1 or batch < 1 or batch % streams or min(height, width) < 1:
            raise ValueError(
                f"StepPlan: sizes must fit together, got images {tuple(shape)} of {streams} streams, {packed[1:]} and "
                f"{window}."
            )
        self._packed, self._shape, self._wide = packed, torch.Size(shape), _library().hocp_padded(packed.rank)
        self._kept = torch.Size((1, packed.rank, height, width))
        self._strides = (1, width * self._wide, self._wide)
        self.streams, self.length = streams, (packed.taps[0] - 1) * dilation[0]
        frames = batch // streams
        strides = {
            f"{name}{axis}": value
            for name, (c, h, w) in (("x", (channels, *size)), ("o", (packed.out_channels, height, width)))
            for axis, value in zip("nthwc", (frames * h * w * c, h * w * c, w * c, c, 1), strict=True)
        }
        self._problem = packed.problem(
            n=streams, t=frames, h=size[0], w=size[1], to=frames, ho=height, wo=width,
            st=1, sh=stride[1], sw=stride[2], pt=0, ph=pads[2], pw=pads[4],
            dt=dilation[0], dh=dilation[1], dw=dilation[2], **strides,
        )  # fmt: skip
        self._pointers = ctypes.c_void_p * max(1, self.streams * self.length)

    def __call__(self, images: Tensor, past: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
        """Convolve.

        Args:
            images: Of the shape that was planned, float32 on CPU.
            past: For each stream, components ``[1, R, H', W']`` of the ``(taps - 1) * dilation`` frames before.

        Returns:
            ``[N*n, O, H', W']`` with channels innermost, and the components of the new frames, ``[N*n, R, H', W']``.

        Raises:
            ValueError: If sizes do not fit: past this line they are pointers.
            MemoryError: If there is none for the intermediate results.
        """
        fits = images.shape == self._shape and images.dtype == torch.float32 and images.device.type == "cpu"
        fits = fits and len(past) == self.streams and all(len(own) == self.length for own in past)
        if not fits or any(frame.shape != self._kept for own in past for frame in own):
            kept = [[tuple(frame.shape) for frame in own] for own in past]
            raise ValueError(
                f"StepPlan: images {tuple(self._shape)} of {self.streams} streams and {self.length} frames "
                f"{tuple(self._kept)} of the past of each were planned, got {tuple(images.shape)} and {kept}."
            )
        held = [self._arranged(frame) for own in past for frame in own]
        images = images.contiguous(memory_format=torch.channels_last)
        batch, (_, _, height, width), packed = len(images), self._kept, self._packed
        out = images.new_empty((batch, height, width, packed.out_channels))
        fresh = images.new_empty((batch, height, width, self._wide))
        if _library().hocp_step(
            ctypes.byref(self._problem), images.data_ptr(), packed.array.data_ptr(), packed.biased,
            self._pointers(*[frame.data_ptr() for frame in held]), fresh.data_ptr(), out.data_ptr(),
        ):  # fmt: skip
            raise MemoryError("cp_conv: no memory for the compiled kernel.")
        new = fresh if self._wide == packed.rank else fresh[..., : packed.rank]
        return out.permute(0, 3, 1, 2), new.permute(0, 3, 1, 2)

    def _arranged(self, frame: Tensor) -> Tensor:
        """Return components as the kernel wants them, ``[H, W, R padded to vectors]`` with zeros."""
        _, rank, height, width = self._kept
        if frame.dtype == torch.float32 and rank == self._wide and frame.stride()[1:] == self._strides:
            return frame
        held = frame.new_zeros(height, width, self._wide, dtype=torch.float32)
        held[..., :rank] = frame[0].permute(1, 2, 0)
        return held


def _check_sizes(x: Tensor, factors: Factors, bias: Tensor | None, window: Window) -> None:
    stride, pads, _ = window
    fits = x.ndim == 5 and x.shape[1] == factors.in_.shape[0] and min(stride) > 0 and min(window[2]) > 0
    fits = fits and all(f is None or f.shape[-1] == factors.rank for f in factors)
    fits = fits and (bias is None or tuple(bias.shape) == (factors.out.shape[0],))
    alone = (x.shape[2], stride[0], *pads[:2]) == (x.shape[2], 1, 0, 0)
    if not fits or (factors.t is None and not alone):
        shapes = [None if f is None else tuple(f.shape) for f in (x, *factors, bias)]
        raise ValueError(f"hocp_mm::cp_conv: sizes must fit together, got x, factors and bias of {shapes}, {window}.")


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


def _describe(order: Order, x: Tensor, out: Tensor, factors: Factors, window: Window) -> _Problem:
    stride, pads, dilation = window
    n, c, *size = x.shape
    _, o, *out_size = out.shape
    strides = (*_strides(order, x.shape), *_strides(order, out.shape))
    return _Problem(n, *size, c, *out_size, o, factors.rank, *factors.taps, *stride, *pads[::2], *dilation, *strides)


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


def _check_arithmetic() -> None:
    """Compare small layers with plain matrix products: a miscompiled kernel must not go unnoticed.

    Raises:
        NativeUnavailableError: If the numbers differ.
    """
    generator = torch.Generator().manual_seed(0)
    x, f_out, f_in, f_t, f_h, f_w, weights, grad = (
        torch.randn(size, generator=generator)
        for size in ((2, 5, 3, 6, 7), (19, 20), (5, 20), (3, 20), (3, 20), (3, 20), (20,), (2, 19, 3, 6, 7))
    )
    window = ((1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 1, 1))
    factors = Factors(weights, f_out, f_in, f_t, f_h, f_w)
    out = run_forward(x, factors, None, window)
    gx = run_backward(grad, x, factors, window, [True] * 7)[0]
    assert gx is not None
    dense = torch.einsum("r,or,ir,tr,hr,wr->oithw", *(f.double() for f in (weights, f_out, f_in, f_t, f_h, f_w)))
    expected = torch.nn.functional.conv3d(x.double(), dense, padding=1)
    expected_gx = torch.nn.functional.conv_transpose3d(grad.double(), dense, padding=1)
    moving, m_in, m_t, m_out = (torch.randn(s, generator=generator) for s in ((6, 19, 4, 3), (19, 5), (3, 5), (19, 5)))
    clip, ends = moving.double().unflatten(0, (2, 3)), torch.tensor([0, 0, 1, 2, 2])
    seen = torch.einsum("ntchw,cq->ntqhw", clip, m_in.double())[:, ends].unfold(1, 3, 1)
    moved = torch.einsum("ntqhwk,kq->ntqhw", seen, m_t.double() - m_t.double().mean(0)).abs()
    expected_motion = clip + torch.einsum("ntqhw,cq->ntchw", moved, m_out.double())
    moving = moving.contiguous(memory_format=torch.channels_last)
    run_motion(moving, m_in, m_t, m_out, 3, 1, False)
    # The last frame of each clip alone, behind the components of those before it, whatever it sees of the one after.
    packed = pack_factors(factors, None)
    components = torch.einsum("nithw,ir->ntrhw", x, f_in).flatten(0, 1)
    taps = (f_h.unsqueeze(1) * f_w).permute(2, 0, 1).unsqueeze(1)
    kept = torch.nn.functional.conv2d(components, taps, padding=1, groups=20).unflatten(0, (2, 3))
    past = [list(own[:2].unsqueeze(1)) for own in kept]
    stepped, new = StepPlan(packed, window, (2, 5, 6, 7), 2)(x[:, :, 2], past)
    expected_step = torch.nn.functional.conv3d(x.double(), dense, padding=(0, 1, 1))[:, :, 0]
    found = (
        ("output", out, expected), ("gradient", gx, expected_gx), ("motion", moving, expected_motion.flatten(0, 1)),
        ("step", stepped, expected_step), ("memory", new, kept[:, 2]),
    )  # fmt: skip
    for what, actual, right in found:
        error = float((actual - right).norm() / right.norm())
        if not error < 1e-5:
            raise NativeUnavailableError(f"its {what} is wrong on this machine, relative error {error:.1e}")
