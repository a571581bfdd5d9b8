"""What a network costs layer by layer, against the dense network of the same order and against its 2-D parent.

    layer       CP kernel with taps (t, h, w) on a clip          what the network runs
    dense twin  dense kernel with taps (t, h, w) on the clip     what it saves
    parent      dense kernel with taps (h, w) on each frame      the image network that it grew out of

Three columns because a video network can be cheaper than either. Formulas: :mod:`hocp_mm.functional.cost`. As in
published counts, convolutions and linear layers have MACs; norms, activations, pooling and products inside attention
have none.

A CP layer with ``implementation='auto'`` is counted as PyTorch's own operations run it: mobilenet or reconstructed,
whichever multiplies less. What runs may be another form of the same function. The fused kernel, usual on a CPU in
float32, writes no activation with the rank's channels: there ``inner_bytes`` and ``saved_bytes`` are upper bounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.functional.choice import cheapest
from hocp_mm.functional.cost import Cost, CostForm, linear_cost, motion_cost
from hocp_mm.functional.padding import expand_ints
from hocp_mm.layers.complexity_timing import medians, time_layer
from hocp_mm.layers.complexity_trace import FOLDED, Call, Conv, as_conv, record, smallest_call
from hocp_mm.layers.modes import evaluating
from hocp_mm.layers.motion import MotionComponents
from hocp_mm.layers.selection import CP, DENSE
from hocp_mm.layers.temporal import FrameFoldedConv2d

Progress = Callable[[str, int, int], None]
"""Called with the name of the layer that was measured, how many are done, and how many there are."""

REPEATS = 10
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


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
        >>> from hocp_mm.layers import HOCPConv2d
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
    with torch.no_grad(), evaluating(model):
        calls = record(model, layers, inputs)
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
            own, dense, parent = time_layer(layers[rows[i].name], calls[rows[i].name], repeats)
            rows[i] = replace(rows[i], milliseconds=own, dense_milliseconds=dense, parent_milliseconds=parent)
            if progress:
                progress(rows[i].name, done, len(timed))
        device = next((call.device for seen in calls.values() for call in seen), torch.device("cpu"))
        whole = medians({"pass": lambda: model(*inputs)}, repeats, device)
        return Complexity(tuple(rows), whole["pass"])


def _is_row(module: nn.Module) -> bool:
    return isinstance(module, (*DENSE, *CP, *_NORMS, nn.Linear, MotionComponents))


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


def _row(name: str, layer: Any, calls: Sequence[Call], parameters: int) -> LayerComplexity:
    met = [_costs(layer, call) for call in calls]
    sums = [sum(column, Cost()) for column in zip(*met, strict=True)] or [Cost()] * 3
    # Parameters are there once, however often a layer runs, and also if it never does. A twin has the layer's own but
    # for its kernel.
    nominal = [cost.parameters for cost in (met or [_costs(layer, smallest_call(layer))])[0]]
    shared = parameters == 0 and any(p.numel() for p in layer.parameters())
    counts = [0 if shared else parameters + n - nominal[0] for n in nominal]
    own, dense, parent = (replace(cost, parameters=count) for cost, count in zip(sums, counts, strict=True))
    notes = {"never called": not calls, "parameters shared": shared}
    row = LayerComplexity(
        name,
        type(layer).__name__,
        rank=layer.kernel().rank if isinstance(layer, CP) else None,
        calls=len(calls),
        input_shape=tuple(calls[0].input.shape) if calls else (),
        output_shape=calls[0].output_shape if calls else (),
        cost=own,
        dense=dense,
        parent=parent,
        note=", ".join(text for text, there in notes.items() if there),
    )
    if not isinstance(layer, (*DENSE, *CP)):
        return row
    time_taps, time_stride = ((layer.factors["t"].shape[0],), (1,)) if isinstance(layer, FOLDED) else ((), ())
    return replace(
        row,
        kernel_size=(*time_taps, *layer.kernel_size),
        stride=(*time_stride, *expand_ints(layer.stride, len(layer.kernel_size), "stride")),
        groups=layer.groups,
    )


def _costs(layer: Any, call: Call) -> tuple[Cost, Cost, Cost]:
    """Return what one call costs in the layer, its dense twin and its parent."""
    if isinstance(layer, nn.Linear):
        positions = prod(call.input.shape[:-1])
        cost = linear_cost(layer.in_features, layer.out_features, positions, dtype=call.dtype)
        return cost, cost, cost
    if isinstance(layer, MotionComponents):  # which neither the dense twin nor the parent has
        (channels, components), size = layer.factors["in"].shape, len(layer.factors["t"])
        positions = call.input.numel() // channels if call.frames > 1 else 0  # nothing moves in one frame
        return motion_cost(channels, components, size, positions, dtype=call.dtype), Cost(), Cost()
    if not isinstance(layer, (*DENSE, *CP)):
        elements = prod(call.output_shape) * call.dtype.itemsize
        norm = Cost(output_bytes=elements, saved_bytes=elements)
        return norm, norm, norm
    conv = as_conv(layer, call)
    return _own_cost(layer, conv), conv.cost(), conv.on_frames().cost()


def _own_cost(layer: Any, conv: Conv) -> Cost:
    if isinstance(layer, CP):
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
    return "frame_folded" if isinstance(layer, FOLDED) and form in ("mobilenet", "factorized") else form
