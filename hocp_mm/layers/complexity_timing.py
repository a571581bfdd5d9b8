"""How long a layer takes, against its dense twin and its 2-D parent: in turns, on random data of its own shapes."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hocp_mm.functional.clock import wait_for
from hocp_mm.functional.frame_folded import fold_frames, unfold_frames
from hocp_mm.functional.padding import pad
from hocp_mm.layers.complexity_trace import FOLDED, Call, Conv, as_conv
from hocp_mm.layers.motion import MotionComponents
from hocp_mm.layers.selection import CP, DENSE

_WARM_UP = 2
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def time_layer(layer: nn.Module, calls: Sequence[Call], repeats: int) -> tuple[float, float, float]:
    """Time a layer and its twins on each input shape that it met, and add up over its calls.

    Returns:
        Median milliseconds of the layer, of its dense twin and of its 2-D parent.
    """
    counted: dict[tuple[Any, ...], list[Call]] = {}
    for call in calls:
        counted.setdefault((call.input.shape, call.input.stride(), call.frames), []).append(call)
    own = dense = parent = 0.0
    for alike in counted.values():
        times = _time_call(layer, alike[0], repeats)
        own, dense, parent = (total + len(alike) * t for total, t in zip((own, dense, parent), times, strict=True))
    return own, dense, parent


def medians(runs: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Time calls that take turns, so that a busy moment hits all of them.

    Returns:
        Median milliseconds of each.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-_WARM_UP, repeats):
        for name, run in runs.items():
            wait_for(device)
            start = time.perf_counter()
            run()
            wait_for(device)
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(spent) for name, spent in times.items()}


def _time_call(layer: Any, call: Call, repeats: int) -> tuple[float, float, float]:
    x = _random(call.input, torch.empty(0, dtype=call.input.dtype, device=call.device))
    if isinstance(layer, FOLDED):
        layer.frame_axis.length = call.frames
    arguments = (x, call.frames) if isinstance(layer, MotionComponents) else (x,)
    runs: dict[str, Callable[[], Any]] = {"own": lambda: layer(*arguments)}
    if isinstance(layer, (*DENSE, *CP)):
        conv, folded = as_conv(layer, call), isinstance(layer, FOLDED)
        batched = x if x.ndim == len(layer.kernel_size) + 2 else x[None]
        if folded or isinstance(layer, CP):
            # A dense 3-D network keeps its clips as [N, C, T, H, W], a 2-D one its frames in the layout it was given.
            runs["dense"] = _runner(conv, unfold_frames(batched, call.frames).contiguous() if folded else batched)
        if len(conv.taps) == 3:
            runs["parent"] = _runner(conv.on_frames(), batched if folded else fold_frames(batched))
    times = medians(runs, repeats, call.device)
    dense = times.get("dense", times["own"])
    return times["own"], dense, times.get("parent", dense)


def _runner(conv: Conv, x: Tensor) -> Callable[[], Tensor]:
    """Return a call of PyTorch's convolution on ``x``; random weights, zero padding."""
    shape = (conv.out_channels, conv.in_channels // conv.groups, *conv.taps)
    weight = _random(torch.empty(shape, device="meta"), x)
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        weight = weight.contiguous(memory_format=torch.channels_last)
    bias = _random(torch.empty(conv.out_channels, device="meta"), x) if conv.bias else None

    def run() -> Tensor:
        z, rest = pad(x, conv.pads, "zeros")
        return _CONV[len(conv.taps)](z, weight, bias, conv.stride, rest, conv.dilation, conv.groups)

    return run


def _random(like: Tensor, reference: Tensor) -> Tensor:
    """Return random values with the layout of ``like``; dtype and device are those of ``reference``."""
    # A generator of its own: measuring must not move the caller's random numbers.
    generator = torch.Generator(device=reference.device).manual_seed(0)
    values = torch.empty_like(like, dtype=reference.dtype, device=reference.device)
    return values.uniform_(-1, 1, generator=generator)
