"""A video convolution on the frames that come next, given what is kept of those before them.

A CP kernel looks at time last and with R numbers per pixel, after the taps of space and before the output factor. So
the components of the last ``(size - 1) * dilation`` frames are all that a layer has to keep, however long a stream is,
and a new frame costs what it would cost alone, and ``size`` products per number.

    new frames [N*n, C, H, W] --in, inner, h, w--> components, behind those kept --t--> gate, out --> [N*n, O, H', W']

A sequence is a list of frames that follow each other, each ``[parts, R, H, W]`` (``parts`` is 1 unless a network cuts
its frames): lists, so that nothing is copied where one frame goes out and one comes in. Frames are numbered from the
first of the stream. A layer that looks ahead gives a frame when the last one that it sees is there: from new frames
``first`` to ``first + n - 1`` come outputs ``first - ahead`` to ``first + n - 1 - ahead``, those below 0 of no meaning.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hocp_mm.functional.cp import CPKernel, merged_taps
from hocp_mm.functional.cp_conv import Pointwise, depthwise, project_in
from hocp_mm.functional.fused import fused_fits
from hocp_mm.functional.native import Factors, PackedFactors, StepPlan, pack_factors
from hocp_mm.functional.padding import Window

Frames = list[Tensor]
"""Frames of one stream that follow each other, each ``[parts, R, H, W]``."""
Ends = Literal["zeros", "repeat"]
"""What lies before the first frame of a stream and behind its last one: zeros, or that frame again."""


def extend(
    past: Sequence[Tensor], new: Sequence[Tensor], length: int, first: int, end: int | None, ends: Ends
) -> Frames:
    """Put new frames behind those that are kept.

    Args:
        past: The last ``length`` frames, or none at the start of a stream.
        new: At least one frame; those numbered below 0 or from ``end`` on may hold anything.
        length: Frames that are kept.
        first: Number of the first new frame; negative while what comes in has been held back by layers before.
        end: Frames of the whole stream, once it has ended; None before.
        ends: What takes the place of frames that the stream does not have.

    Returns:
        ``length + len(new)`` frames; those from ``-length`` on are what to keep.

    Raises:
        ValueError: If there is no new frame, or ``past`` has another length.
    """
    if not new or len(past) not in (0, length):
        raise ValueError(
            f"extend: at least 1 new frame and {length} or none of the past are needed, got {len(new)} and {len(past)}."
        )
    if ends == "zeros":
        nothing = None
        frames = list(past) or [nothing := torch.zeros_like(new[0])] * length
        for number, frame in enumerate(new, start=first):
            if number >= 0 and (end is None or number < end):
                frames.append(frame)
            else:
                nothing = torch.zeros_like(frame) if nothing is None else nothing
                frames.append(nothing)
        return frames
    frames = [*(past or [new[0]] * length), *new]
    if 0 <= -first < len(new):  # the first frame is among the new ones
        begin = length - first
        frames[:begin] = [frames[begin]] * begin
    if end is not None:
        for place in range(max(0, length + end - first), len(frames)):
            frames[place] = frames[max(0, place - 1)]
    return frames


def temporal_step(sequences: Sequence[Frames], taps: Tensor, dilation: int = 1) -> Tensor:
    """Convolve sequences along time, without padding.

    Args:
        sequences: N sequences of ``(size - 1) * dilation + n`` frames ``[parts, R, H, W]``.
        taps: Temporal factor ``[size, R]``.
        dilation: Frames between taps.

    Returns:
        ``[N*n*parts, R, H, W]``, frames of a stream next to each other.
    """
    count = len(sequences[0]) - (len(taps) - 1) * dilation
    total: Tensor | None = None
    for tap, values in enumerate(taps.to(sequences[0][0].dtype)[..., None, None].unbind()):
        start = tap * dilation
        frames = [frame for sequence in sequences for frame in sequence[start : start + count]]
        seen = frames[0] if len(frames) == 1 else torch.cat(frames)
        total = seen * values if total is None else torch.addcmul(total, seen, values)
    assert total is not None
    return total


def components(images: Tensor, kernel: CPKernel, window: Window, inner: Pointwise | None = None) -> Tensor:
    """Return what a CP convolution of images gives before its temporal taps, which is what a stream keeps.

    Args:
        images: ``[B, in, H, W]``.
        kernel: CP kernel with modes h, w and perhaps t, which is left out.
        window: Of h and w.
        inner: Psi, as in ``cp_conv``.

    Returns:
        ``[B, rank, H', W']``.
    """
    z = project_in(images, kernel)
    return depthwise(z if inner is None else inner(z), merged_taps(kernel, ("h", "w")), *window)


def pack(kernel: CPKernel, bias: Tensor | None) -> PackedFactors:
    """Ready a kernel with modes t, h, w for :func:`plan_step`."""
    f = kernel.factors
    return pack_factors(Factors(kernel.weights, f["out"], f["in"], f["t"], f["h"], f["w"]), bias)


def plan_step(packed: PackedFactors, window: Window, shape: Sequence[int], streams: int, dilation: int = 1) -> StepPlan:
    """Plan what the compiled kernel does for the next frames of some streams, in one pass.

    Args:
        packed: The kernel.
        window: Of h and w.
        shape: Of the images ``[N*n, in, H, W]``, for which :func:`step_fits`.
        streams: N.
        dilation: Frames between taps.

    Returns:
        A callable that takes the images, and for each stream the components ``[1, R, H', W']`` of the ``(size - 1) *
        dilation`` frames before; it returns ``[N*n, out, H', W']`` and the components of the new frames.
    """
    flat = [p for pair in window.pads for p in pair]
    return StepPlan(packed, ((1, *window.stride), (0, 0, *flat), (dilation, *window.dilation)), shape, streams)


def step_fits(images: Tensor, kernel: CPKernel, bias: Tensor | None, window: Window) -> bool:
    """Tell whether the compiled kernel can take ``images``: as `fused_fits`, zeros around them, and no gradients."""
    zeros = window.padding_mode == "zeros" or not any(p for pair in window.pads for p in pair)
    flat = Window((1, *window.stride), ((0, kernel.kernel_size[0] - 1), *window.pads), (1, *window.dilation))
    return not torch.is_grad_enabled() and zeros and fused_fits(images.unsqueeze(2), kernel, bias, flat)
