"""What each layer of a network meets in one pass: its calls, and its convolution with time as a mode of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.functional.cost import Cost, CostForm, conv_cost
from hocp_mm.functional.padding import expand_ints, resolve_padding
from hocp_mm.layers.motion import MotionComponents
from hocp_mm.layers.selection import CP, DENSE
from hocp_mm.layers.temporal import FrameFoldedConv2d, FrameFoldedHOCPConv2d

FOLDED = (FrameFoldedConv2d, FrameFoldedHOCPConv2d)


@dataclass(frozen=True)
class Call:
    """What a forward hook keeps; ``input`` is on the meta device, for its shape, strides and dtype."""

    input: Tensor
    device: torch.device
    output_shape: tuple[int, ...]
    dtype: torch.dtype
    frames: int


@dataclass(frozen=True)
class Conv:
    """A convolution as one input met it, with time as a mode of its own."""

    in_channels: int
    out_channels: int
    taps: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    bias: bool
    batch: int
    sizes: tuple[int, ...]
    after: tuple[int, ...]
    dtype: torch.dtype

    def cost(self, rank: int | None = None, form: CostForm = "auto") -> Cost:
        """Return what the convolution costs, dense or with a CP kernel."""
        return conv_cost(
            self.in_channels, self.out_channels, self.taps, self.sizes, stride=self.stride, groups=self.groups,
            bias=self.bias, rank=rank, implementation=form, batch=self.batch, dtype=self.dtype, output_sizes=self.after,
        )  # fmt: skip

    def on_frames(self) -> "Conv":
        """Return the 2-D convolution on each frame; one without time stays itself."""
        if len(self.taps) < 3:
            return self
        return replace(
            self, taps=self.taps[1:], stride=self.stride[1:], pads=self.pads[1:], dilation=self.dilation[1:],
            batch=self.batch * self.sizes[0], sizes=self.sizes[1:], after=self.after[1:],
        )  # fmt: skip


def record(model: nn.Module, layers: Mapping[str, nn.Module], inputs: Sequence[Any]) -> dict[str, list[Call]]:
    """Run the network once and note what went in and out of each layer; its hooks are gone afterwards.

    Returns:
        The calls of each layer, in their order.
    """
    calls: dict[str, list[Call]] = {name: [] for name in layers}

    def hook_for(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            frames = layer.frame_axis.length if isinstance(layer, FOLDED) else 1
            if isinstance(layer, MotionComponents):
                frames = (*args, *kwargs.values())[1]
            shapeless = torch.empty_like(x, device="meta")
            calls[name].append(Call(shapeless, x.device, tuple(output.shape), output.dtype, frames))

        return hook

    handles = [layer.register_forward_hook(hook_for(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def smallest_call(layer: Any) -> Call:
    """Make up a call of a layer that never ran, for its number of parameters."""
    sizes = layer.kernel_size if isinstance(layer, (*DENSE, *CP)) else ()
    channels = getattr(layer, "in_channels", getattr(layer, "in_features", 1))
    x = torch.empty(1, channels, *sizes, device="meta")
    return Call(x, x.device, (1, 1, *[1] * len(sizes)), x.dtype, 1)


def as_conv(layer: Any, call: Call) -> Conv:
    """Return the convolution that a layer is in one of its calls."""
    space = len(layer.kernel_size)
    shape, after = tuple(call.input.shape), call.output_shape[-space:]
    batch = prod(shape[: -space - 1])
    # A subclass of nn.Conv2d may pad by itself; the output sizes are taken from its output, and only layers of this
    # package are run again as a dense twin.
    stride, dilation = expand_ints(layer.stride, space, "stride"), expand_ints(layer.dilation, space, "dilation")
    pads = resolve_padding(layer.padding, layer.kernel_size, stride, dilation, shape[-space:])
    conv = Conv(
        layer.in_channels, layer.out_channels, tuple(layer.kernel_size), stride, pads, dilation, layer.groups,
        layer.bias is not None, batch, shape[-space:], after, call.dtype,
    )  # fmt: skip
    if not isinstance(layer, FOLDED):
        return conv
    size, frames = layer.factors["t"].shape[0], call.frames
    return replace(
        conv, taps=(size, *conv.taps), stride=(1, *conv.stride), pads=((layer.before, size - 1 - layer.before), *pads),
        dilation=(1, *conv.dilation), batch=batch // frames, sizes=(frames, *conv.sizes), after=(frames, *conv.after),
    )  # fmt: skip
