"""Give layers the ranks that a state dict has: pruned networks load into the model that their config describes."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.layers.component_cuts import Cut, keep_components_
from hocp_mm.layers.gate import SqueezeExcitation
from hocp_mm.layers.selection import CP, HOCPConv

_WHERE = "match_ranks_"
_IN, _TIME, _GATE = "factors.in", "factors.t", "gate."
_HIDDEN_AXES = {"gate.reduce.weight": 0, "gate.reduce.bias": 0, "gate.expand.weight": 1}


@torch.no_grad()
def match_ranks_(model: nn.Module, state: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Give every HO-CP layer as many components as a state dict has for it; call it before ``load_state_dict``.

    A layer follows if the state dict has each of its tensors that has an axis of components, with the right other
    axes; the temporal factor does not count, and the gate may lack as a whole: image networks have none. So a layer
    grows hardly beyond what the state dict holds, which must be of floating point, and never to more components than
    its kernel has numbers. Psi and the gate follow, too; other layers are left alone.

    Parameters remain the same objects with new data, so an optimizer that was built before keeps its references; what
    recorded the old shapes must be made anew, such as ``DistributedDataParallel``.

    Values of a layer that changes are arbitrary until loaded, but for one case: old components stand in the new
    places in turn, so a temporal factor that the state dict lacks, equal for all components at its start, stays the
    same delta.

    Args:
        model: The network; changed, or not at all if something is refused.
        state: Tensors under the names of the model's own ``state_dict``; other entries are not looked at.

    Returns:
        Old and new rank of each layer that changed.

    Raises:
        ValueError: If tensors of one layer disagree about its rank, or the rank is zero, not divisible by groups, or
            larger than the kernel.
        NotImplementedError: If a layer that would change has a group norm in Psi, or shares what would change with
            another layer.

    Example:
        >>> from hocp_mm.layers import HOCPConv2d
        >>> pruned, fresh = HOCPConv2d(8, 8, 3, rank=4), HOCPConv2d(8, 8, 3, rank=6)
        >>> match_ranks_(fresh, pruned.state_dict()), fresh.load_state_dict(pruned.state_dict())
        ({'': (6, 4)}, <All keys matched successfully>)
    """
    keep: dict[str, Tensor] = {}
    more: list[Cut] = []
    hidden_units: list[tuple[SqueezeExcitation, int]] = []
    for name, layer in model.named_modules():
        if not isinstance(layer, CP):
            continue
        own = _entries(name, layer, state)
        rank = _agreed("components", name, own, _axes(layer, own))
        if rank is None or rank == layer.rank:
            continue
        if rank < 1 or rank % layer.groups:
            raise ValueError(
                f"{_WHERE}: rank must be a positive multiple of groups={layer.groups}, got {rank} (layer '{name}')."
            )
        hidden = _agreed("hidden units", name, own, _HIDDEN_AXES.items())
        if not _is_whole(layer, own, rank, hidden):
            continue
        if rank > max(layer.rank, most := math.prod(layer.kernel().shape)):
            raise ValueError(
                f"{_WHERE}: rank must be at most {most}, the numbers of the kernel, got {rank} (layer '{name}')."
            )
        keep[name] = _in_turn(layer.rank, rank)
        # A gate is built with hidden units in proportion to the rank, and pruning leaves their number alone: only the
        # state dict can tell it.
        if layer.gate is not None and hidden is not None and hidden != layer.gate.reduce.out_features:
            hidden_units.append((layer.gate, hidden))
            more += _hidden_cuts(name, layer.gate, hidden)
    ranks = keep_components_(model, keep, more=more, where=_WHERE)
    for gate, hidden in hidden_units:
        gate.reduce.out_features = gate.expand.in_features = hidden
    return ranks


def _entries(name: str, layer: HOCPConv, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take a layer's own tensors out of a state dict, under the names they have in the layer."""
    prefix = f"{name}." if name else ""
    found = {key: state.get(f"{prefix}{key}") for key in _tensors(layer)}
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def _tensors(layer: HOCPConv) -> dict[str, Tensor]:
    """Return what a layer has, factors under the names that they have where nothing computes them."""
    others = {key: value for key, value in layer.state_dict().items() if not key.startswith("factors.")}
    return {**others, **{f"factors.{mode}": factor for mode, factor in layer.kernel().factors.items()}}


def _is_whole(layer: HOCPConv, own: Mapping[str, Tensor], rank: int, hidden: int | None) -> bool:
    """Tell whether a state dict has all that the rank of a layer makes larger or smaller, in the right shapes."""
    tensors = _tensors(layer)
    if not any(key.startswith(_GATE) for key in own):
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(_GATE)}
    shapes: dict[str, list[int]] = {}
    for size, axes in ((rank, _axes(layer, tensors)), (hidden, _HIDDEN_AXES.items())):
        for key, dim in axes:
            if key in tensors:
                shapes.setdefault(key, list(tensors[key].shape))[dim] = size or 0
    if _IN in own and own[_IN].ndim == 2:  # may have fewer channels: laterals of SlowFast are added afterwards
        shapes[_IN][0] = min(shapes[_IN][0], max(1, len(own[_IN])))
    shapes.pop(_TIME, None)  # an image network has none, and little is lost if it does not fit
    return all(
        key in own and list(own[key].shape) == shape and own[key].is_floating_point() for key, shape in shapes.items()
    )


def _axes(layer: HOCPConv, own: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """Yield the entries that have an axis of components, and which axis that is."""
    act = None if layer.inner is None else dict(layer.inner.named_children()).get("act")
    one_slope = isinstance(act, nn.PReLU) and act.num_parameters == 1  # for all components
    for key in own:
        if key.startswith("factors.") or key == "gate.reduce.weight":
            yield key, 1
        elif key in ("weights", "gate.expand.weight", "gate.expand.bias") or (
            key.startswith("inner.")
            and not key.endswith("num_batches_tracked")
            and not (key == "inner.act.weight" and one_slope)
        ):
            yield key, 0


def _agreed(what: str, name: str, own: Mapping[str, Tensor], axes: Iterable[tuple[str, int]]) -> int | None:
    """Return the one size that axes have; None where there is no axis."""
    sizes: dict[str, int] = {}
    for key, dim in axes:
        if key in own:
            if own[key].ndim <= dim:
                raise ValueError(
                    f"{_WHERE}: '{key}' must have more than {dim} dimensions, got shape {tuple(own[key].shape)} "
                    f"(layer '{name}')."
                )
            sizes[key] = own[key].shape[dim]
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise ValueError(f"{_WHERE}: tensors of a layer must have equally many {what}, got {found} (layer '{name}').")
    return next(iter(sizes.values()), None)


def _in_turn(old: int, new: int) -> Tensor:
    return torch.arange(new) % old


def _hidden_cuts(name: str, gate: SqueezeExcitation, hidden: int) -> Iterator[Cut]:
    turn = _in_turn(gate.reduce.out_features, hidden)
    for key, parameter in gate.named_parameters():
        for axis_of, dim in _HIDDEN_AXES.items():
            if axis_of == f"gate.{key}":
                yield Cut(name, parameter, dim, turn)
