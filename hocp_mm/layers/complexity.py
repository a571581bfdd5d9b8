"""What a network costs layer by layer, against the dense network of the same order and against its 2-D parent.

    layer       CP kernel with taps (t, h, w) on a clip          what the network runs
    dense twin  dense kernel with taps (t, h, w) on the clip     what it saves
    parent      dense kernel with taps (h, w) on each frame      the image network that it grew out of

Three columns because a video network can be cheaper than either. Formulas: :mod:`hocp_mm.functional.cost`. As in
published counts, convolutions and linear layers have MACs; norms, activations, pooling and products inside attention
have none.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hocp_mm.functional.choice import cheapest
from hocp_mm.functional.cost import Cost, CostForm, conv_cost, linear_cost
from hocp_mm.functional.frame_folded import fold_frames, unfold_frames
from hocp_mm.functional.padding import pad, resolve_padding
from hocp_mm.layers.cp_conv import HOCPConv1d, HOCPConv2d, HOCPConv3d
from hocp_mm.layers.temporal import FrameFoldedConv2d, FrameFoldedHOCPConv2d

Progress = Callable[[str, int, int], None]
"""Called with the name of the layer that was measured, how many are done, and how many there are."""

REPEATS = 10
_WARM_UP = 2
_DENSE = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CP = (HOCPConv1d, HOCPConv2d, HOCPConv3d)
_FOLDED = (FrameFoldedConv2d, FrameFoldedHOCPConv2d)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class LayerComplexity:
    """One row: a layer, its dense twin and its 2-D parent, summed over all calls of the layer.

    Attributes:
        name: Dotted name in the network; ``'other'`` for what is no convolution, linear layer or norm.
        kind: Class name.
        kernel_size: Taps, time included; empty where there are none, as are ``stride`` and shapes.
        stride: As ``kernel_size``.
        groups: Of a convolution, else 1.
        rank: Components of a CP kernel, else None.
        calls: How often the layer ran.
        input_shape: At the first call.
        output_shape: At the first call.
        cost: Of the layer. Parameters that an earlier row holds too are not counted again.
        dense: Of the convolution of the same size with a dense kernel; of the layer itself if that is one.
        parent: Of the dense convolution with the taps (h, w) alone, on each frame that enters the layer; of the dense
            twin if the layer sees no time.
        milliseconds: Median time of the layer, if measured.
        dense_milliseconds: The same of the dense twin.
        parent_milliseconds: The same of the parent.
        note: What the numbers leave out.
    """

    name: str
    kind: str
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    groups: int = 1
    rank: int | None = None
    calls: int = 0
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    cost: Cost = field(default_factory=Cost)
    dense: Cost = field(default_factory=Cost)
    parent: Cost = field(default_factory=Cost)
    milliseconds: float | None = None
    dense_milliseconds: float | None = None
    parent_milliseconds: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Complexity:
    """The rows of a network and their totals.

    Attributes:
        rows: In the order of ``named_modules``; what is left over comes last.
        milliseconds: Median time of a whole pass, if measured.
    """

    rows: tuple[LayerComplexity, ...]
    milliseconds: float | None = None

    @property
    def total(self) -> Cost:
        """Of the network."""
        return sum((row.cost for row in self.rows), Cost())

    @property
    def dense(self) -> Cost:
        """Of the network with a dense kernel in place of every CP one."""
        return sum((row.dense for row in self.rows), Cost())

    @property
    def parent(self) -> Cost:
        """Of the dense 2-D network that runs on every frame alone."""
        return sum((row.parent for row in self.rows), Cost())

    @property
    def sees_time(self) -> bool:
        """Whether a layer has taps in time, so that the parent is another network than the dense twin."""
        return any(row.dense != row.parent for row in self.rows)


@dataclass(frozen=True)
class _Conv:
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
        return conv_cost(
            self.in_channels, self.out_channels, self.taps, self.sizes, stride=self.stride, groups=self.groups,
            bias=self.bias, rank=rank, implementation=form, batch=self.batch, dtype=self.dtype, output_sizes=self.after,
        )  # fmt: skip

    def on_frames(self) -> "_Conv":
        """Return the 2-D convolution on each frame; one without time stays itself."""
        if len(self.taps) < 3:
            return self
        return replace(
            self, taps=self.taps[1:], stride=self.stride[1:], pads=self.pads[1:], dilation=self.dilation[1:],
            batch=self.batch * self.sizes[0], sizes=self.sizes[1:], after=self.after[1:],
        )  # fmt: skip

    def runner(self, x: Tensor) -> Callable[[], Tensor]:
        """Return a call of PyTorch's convolution on ``x``; random weights, zero padding."""
        weight = _random(torch.empty(self.out_channels, self.in_channels // self.groups, *self.taps, device="meta"), x)
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous(memory_format=torch.channels_last)
        bias = _random(torch.empty(self.out_channels, device="meta"), x) if self.bias else None

        def run() -> Tensor:
            z, rest = pad(x, self.pads, "zeros")
            return _CONV[len(self.taps)](z, weight, bias, self.stride, rest, self.dilation, self.groups)

        return run


@dataclass(frozen=True)
class _Call:
    """What a forward hook keeps; ``input`` is on the meta device, for its shape, strides and dtype."""

    input: Tensor
    device: torch.device
    output_shape: tuple[int, ...]
    dtype: torch.dtype
    frames: int


def complexity(
    model: nn.Module, *inputs: Any, measure: bool | int = False, progress: Progress | None = None
) -> Complexity:
    """Count what one forward pass costs, layer by layer; optionally measure the layers, too.

    The pass runs without gradients in evaluation mode; weights, statistics, training flags, hooks and random
    generators are afterwards as they were. Model and inputs may live on the meta device if nothing is measured.

    Args:
        model: Any network. Convolutions (dense, CP, frame-folded), linear layers and norms become rows; parameters of
            all other modules are summed in a row ``'other'``.
        *inputs: Of its forward pass.
        measure: Repetitions of each measurement (True: 10). Layer, dense twin and parent take turns on random data of
            the layer's own input shape.
        progress: Called after each measured layer.

    Returns:
        The rows.

    Raises:
        ValueError: If ``measure`` is negative or meets a model without data (meta device).

    Example:
        >>> net = nn.Sequential(HOCPConv2d(8, 8, 3, padding=1, bias=False, rank=4), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> result = complexity(net, torch.zeros(1, 8, 5, 5))
        >>> [(row.name, row.rank, row.cost.macs, row.dense.macs) for row in result.rows]
        [('0', 4, 2500, 14400), ('2', None, 400, 400)]
        >>> result.total.parameters, result.dense.parameters
        (110, 594)
    """
    repeats = REPEATS if measure is True else int(measure)
    if repeats < 0:
        raise ValueError(f"complexity: measure must be a number of repetitions, got {measure}.")
    layers = {name: module for name, module in model.named_modules() if _is_row(module)}
    with torch.no_grad(), _evaluating(model):
        calls = _record(model, layers, inputs)
        if repeats and any(call.device.type == "meta" for seen in calls.values() for call in seen):
            raise ValueError("complexity: measure needs a model with data, got one on the meta device.")
        owned, other = _parameters(model, layers)
        rows = [_row(name, layer, calls[name], owned[name]) for name, layer in layers.items()]
        if other.cost.parameters:
            rows.append(other)
        if not repeats:
            return Complexity(tuple(rows))
        timed = [i for i, (name, layer) in enumerate(layers.items()) if calls[name] and not isinstance(layer, _NORMS)]
        for done, i in enumerate(timed, start=1):
            rows[i] = _measure(rows[i], layers[rows[i].name], calls[rows[i].name], repeats)
            if progress:
                progress(rows[i].name, done, len(timed))
        device = next((call.device for seen in calls.values() for call in seen), torch.device("cpu"))
        whole = _medians({"pass": lambda: model(*inputs)}, repeats, device)
        return Complexity(tuple(rows), whole["pass"])


def _is_row(module: nn.Module) -> bool:
    return isinstance(module, (*_DENSE, *_CP, *_NORMS, nn.Linear))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # Flag by flag: `train` may be overridden, and parts of a network may be in evaluation mode on purpose.
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


def _record(model: nn.Module, layers: dict[str, nn.Module], inputs: Sequence[Any]) -> dict[str, list[_Call]]:
    """Run the network once and note what went in and out of each layer."""
    calls: dict[str, list[_Call]] = {name: [] for name in layers}

    def hook_for(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            frames = layer.frame_axis.length if isinstance(layer, _FOLDED) else 1
            shapeless = torch.empty_like(x, device="meta")
            calls[name].append(_Call(shapeless, x.device, tuple(output.shape), output.dtype, frames))

        return hook

    handles = [layer.register_forward_hook(hook_for(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _parameters(model: nn.Module, layers: dict[str, nn.Module]) -> tuple[dict[str, int], LayerComplexity]:
    """Count each parameter once, for the innermost row around it; return the counts and the row of the rest."""
    owned, seen, rest, kinds = dict.fromkeys(layers, 0), set[Tensor](), 0, dict[str, None]()
    owner: dict[str, str] = {}
    for name, module in model.named_modules():  # parents first
        parent = owner.get(name.rpartition(".")[0], "") if name else ""
        owner[name] = name if name in layers else parent
        own = [p for p in module.parameters(recurse=False) if p not in seen]
        seen.update(own)
        count = sum(p.numel() for p in own)
        if owner[name] in layers:
            owned[owner[name]] += count
        elif count:
            rest += count
            kinds[type(module).__name__] = None
    note = f"parameters only: {', '.join(kinds)}"
    only = Cost(parameters=rest)
    return owned, LayerComplexity("other", "other", cost=only, dense=only, parent=only, note=note)


def _row(name: str, layer: Any, calls: Sequence[_Call], parameters: int) -> LayerComplexity:
    met = [_costs(layer, call) for call in calls]
    sums = [sum(column, Cost()) for column in zip(*met, strict=True)] or [Cost()] * 3
    # Parameters are there once, however often a layer runs, and also if it never does. A twin has the layer's own but
    # for its kernel.
    nominal = [cost.parameters for cost in (met or [_costs(layer, _smallest_call(layer))])[0]]
    shared = parameters == 0 and any(p.numel() for p in layer.parameters())
    counts = [0 if shared else parameters + n - nominal[0] for n in nominal]
    own, dense, parent = (replace(cost, parameters=count) for cost, count in zip(sums, counts, strict=True))
    notes = {"never called": not calls, "parameters shared": shared}
    row = LayerComplexity(
        name,
        type(layer).__name__,
        rank=layer.kernel().rank if isinstance(layer, _CP) else None,
        calls=len(calls),
        input_shape=tuple(calls[0].input.shape) if calls else (),
        output_shape=calls[0].output_shape if calls else (),
        cost=own,
        dense=dense,
        parent=parent,
        note=", ".join(text for text, there in notes.items() if there),
    )
    if not isinstance(layer, (*_DENSE, *_CP)):
        return row
    time_taps, time_stride = ((layer.factors["t"].shape[0],), (1,)) if isinstance(layer, _FOLDED) else ((), ())
    return replace(
        row,
        kernel_size=(*time_taps, *layer.kernel_size),
        stride=(*time_stride, *layer.stride),
        groups=layer.groups,
    )


def _smallest_call(layer: Any) -> _Call:
    """Make up a call of a layer that never ran, for its number of parameters."""
    sizes = layer.kernel_size if isinstance(layer, (*_DENSE, *_CP)) else ()
    channels = getattr(layer, "in_channels", getattr(layer, "in_features", 1))
    x = torch.empty(1, channels, *sizes, device="meta")
    return _Call(x, x.device, (1, 1, *[1] * len(sizes)), x.dtype, 1)


def _costs(layer: Any, call: _Call) -> tuple[Cost, Cost, Cost]:
    """Return what one call costs in the layer, its dense twin and its parent."""
    if isinstance(layer, nn.Linear):
        positions = prod(call.input.shape[:-1])
        cost = linear_cost(layer.in_features, layer.out_features, positions, dtype=call.dtype)
        return cost, cost, cost
    if not isinstance(layer, (*_DENSE, *_CP)):
        elements = prod(call.output_shape) * call.dtype.itemsize
        norm = Cost(output_bytes=elements, saved_bytes=elements)
        return norm, norm, norm
    conv = _as_conv(layer, call)
    return _own_cost(layer, conv), conv.cost(), conv.on_frames().cost()


def _own_cost(layer: Any, conv: _Conv) -> Cost:
    if isinstance(layer, _CP):
        return conv.cost(layer.kernel().rank, _form(layer))
    if isinstance(layer, FrameFoldedConv2d):
        space = conv.on_frames().cost()
        depthwise = replace(
            conv, in_channels=conv.out_channels, groups=conv.out_channels, taps=(conv.taps[0],), sizes=conv.after[:1],
            after=conv.after[:1], stride=(1,), bias=False, batch=conv.batch * prod(conv.after[1:]),
        )  # fmt: skip
        both = space + depthwise.cost()
        return replace(both, output_bytes=space.output_bytes, inner_bytes=space.output_bytes)
    return conv.cost()


def _form(layer: Any) -> CostForm:
    """Name the form that counts for a CP layer: 'auto' decides by multiplications, whatever a machine finds faster."""
    form: CostForm = layer.implementation
    between = layer.inner is not None or layer.gate is not None  # such a kernel cannot be rebuilt
    if form == "auto":
        form = "mobilenet" if between else cheapest(layer.kernel())
    return "frame_folded" if isinstance(layer, _FOLDED) and form in ("mobilenet", "factorized") else form


def _as_conv(layer: Any, call: _Call) -> _Conv:
    space = len(layer.kernel_size)
    shape, after = tuple(call.input.shape), call.output_shape[-space:]
    batch = prod(shape[: -space - 1])
    # A subclass of nn.Conv2d may pad by itself; the output sizes are taken from its output, and only layers of this
    # package are run again as a dense twin.
    pads = resolve_padding(layer.padding, layer.kernel_size, layer.stride, layer.dilation)
    conv = _Conv(
        layer.in_channels, layer.out_channels, tuple(layer.kernel_size), tuple(layer.stride), pads,
        tuple(layer.dilation), layer.groups, layer.bias is not None, batch, shape[-space:], after, call.dtype,
    )  # fmt: skip
    if not isinstance(layer, _FOLDED):
        return conv
    size, frames = layer.factors["t"].shape[0], call.frames
    return replace(
        conv, taps=(size, *conv.taps), stride=(1, *conv.stride), pads=((layer.before, size - 1 - layer.before), *pads),
        dilation=(1, *conv.dilation), batch=batch // frames, sizes=(frames, *conv.sizes), after=(frames, *conv.after),
    )  # fmt: skip


def _measure(row: LayerComplexity, layer: nn.Module, calls: Sequence[_Call], repeats: int) -> LayerComplexity:
    """Time the layer and its twins on each input shape that it met, and add up over its calls."""
    counted: dict[tuple[Any, ...], list[_Call]] = {}
    for call in calls:
        counted.setdefault((call.input.shape, call.input.stride(), call.frames), []).append(call)
    total = [0.0, 0.0, 0.0]
    for alike in counted.values():
        for column, milliseconds in enumerate(_time_call(layer, alike[0], repeats)):
            total[column] += len(alike) * milliseconds
    return replace(row, milliseconds=total[0], dense_milliseconds=total[1], parent_milliseconds=total[2])


def _time_call(layer: Any, call: _Call, repeats: int) -> tuple[float, float, float]:
    x = _random(call.input, torch.empty(0, dtype=call.input.dtype, device=call.device))
    if isinstance(layer, _FOLDED):
        layer.frame_axis.length = call.frames
    runs: dict[str, Callable[[], Any]] = {"own": lambda: layer(x)}
    if isinstance(layer, (*_DENSE, *_CP)):
        conv, folded = _as_conv(layer, call), isinstance(layer, _FOLDED)
        batched = x if x.ndim == len(layer.kernel_size) + 2 else x[None]
        if folded or isinstance(layer, _CP):
            # A dense 3-D network keeps its clips as [N, C, T, H, W], a 2-D one its frames in the layout it was given.
            runs["dense"] = conv.runner(unfold_frames(batched, call.frames).contiguous() if folded else batched)
        if len(conv.taps) == 3:
            runs["parent"] = conv.on_frames().runner(batched if folded else fold_frames(batched))
    times = _medians(runs, repeats, call.device)
    dense = times.get("dense", times["own"])
    return times["own"], dense, times.get("parent", dense)


def _medians(runs: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median milliseconds of each; the runs take turns, so that a busy moment hits all of them."""
    synchronize = getattr(torch, device.type).synchronize
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-_WARM_UP, repeats):
        for name, run in runs.items():
            synchronize()
            start = time.perf_counter()
            run()
            synchronize()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(spent) for name, spent in times.items()}


def _random(like: Tensor, reference: Tensor) -> Tensor:
    """Return random values with the layout of ``like``; dtype and device are those of ``reference``."""
    # A generator of its own: measuring must not move the caller's random numbers.
    generator = torch.Generator(device=reference.device).manual_seed(0)
    values = torch.empty_like(like, dtype=reference.dtype, device=reference.device)
    return values.uniform_(-1, 1, generator=generator)
