"""Weights under the names of another library, or of a larger network around them, get the names that timm uses today.

    written by                          known by                             becomes
    a wrapper, a larger network         model., backbone., encoder., net.    what stands behind the prefix
    EfficientNet-PyTorch (lukemelas)    _conv_stem, _blocks.N._expand_conv   conv_stem, blocks.S.I.conv_pw
    torchvision                         features.N of a MobileNet,           conv_stem, blocks.S.I.conv_pw
                                        EfficientNet or VGG                  features.N, pre_logits.fc1
    an export to ONNX                   onnx.N: the place alone, norms       conv_stem, bn1 (of no effect but a bias)
                                        folded into the layers before them

The libraries define the layers of these networks in the same order. So layers are put side by side in that order, and
a rule counts only if every tensor of every layer has the shape that the receiver has: all or nothing.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hocp_mm.checkpoints._onnx import PLACE
from hocp_mm.checkpoints.reading import Weights, under_names
from hocp_mm.errors import CheckpointError

__all__ = ["LUKEMELAS", "ONNX", "Renamed", "has_other_names", "todays_names"]

WORDS = ("module", "_orig_mod", "model", "backbone", "encoder", "net")
MOST_WORDS, MOST_PREFIXES = 4, 16
LUKEMELAS, TORCHVISION, ONNX = "EfficientNet-PyTorch", "torchvision", "ONNX"
COMPILED = "._orig_mod."  # may stand before any module
COUNTER = "num_batches_tracked"  # older torch had none

# In the order of the network; a norm has a number alone, and stands behind another layer in a block than outside.
_LUKEMELAS_FIRST, _LUKEMELAS_LAST = ("_conv_stem", "_bn0"), ("_conv_head", "_bn1", "_fc")
_LUKEMELAS_BLOCK = (
    "_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2",
)  # fmt: skip
_LUKEMELAS_LAYER = re.compile(r"(?:_blocks\.(\d{1,6})\.)?(_[a-z_]+\d?)")
_TORCHVISION_LAYER = re.compile(r"(features|classifier)((?:\.(?:\d{1,6}|block|conv|fc[12]))+)")

_NARROW, _WIDE = 1e-5, 1e-3  # epsilon of norms
_GATED_BLOCK = re.compile(r"features\.\d{1,6}\.block\.")
_FUSED, _LAST, _LARGE = "features.1.0.block.0.0.weight", "features.8.0.weight", 2048

Layers = dict[str, dict[str, Any]]  # what stands for each leaf of each layer


class Renamed(NamedTuple):
    """Weights under the names of the receiver.

    Attributes:
        state: Tensors; `Weights.notes` has lines about what was done.
        left_out: Names in it that have no place in the receiver on purpose: what lies beside a prefix, a classifier.
        library: Whose names they were, if not timm's.
        epsilon: That of the norms in that library's network, None if its names are timm's.
    """

    state: Weights
    left_out: list[str]
    library: str | None = None
    epsilon: float | None = None


def has_other_names(state: Mapping[str, Any]) -> bool:
    """Tell whether `todays_names` may have something to do; no network of timm has such names, but for VGG."""
    layers = {name.rpartition(".")[0] for name in state}
    return any(
        layer.split(".", 1)[0] in WORDS
        or COMPILED in f"{layer}."
        or PLACE.fullmatch(layer)
        or _lukemelas_place(layer)
        or _torchvision_place(layer)
        for layer in layers
    )


def todays_names(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], source: str = "checkpoint") -> Renamed:
    """Rename what has the names of another library, if it fits as a whole.

    Args:
        state: Weights, dense or CP.
        shapes: Shapes of the dense receiver by today's names, in the order of its layers; its classifier may be
            missing or have another number of classes, its first layer another number of channels.
        source: What to call the weights in errors.

    Returns:
        The weights: under new names where a prefix or a rule fits, else as they are. A linear layer that is a
        convolution today has the shape of one.

    Raises:
        CheckpointError: If there are several networks that fit, such as a teacher beside a student, or two tensors
            would get one name.

    Example:
        >>> shapes = {"conv1.weight": torch.Size([4, 3, 3, 3])}
        >>> renamed = todays_names({"model.conv1.weight": torch.ones(4, 3, 3, 3), "loss.weight": torch.ones(2)}, shapes)
        >>> list(renamed.state), renamed.left_out
        (['conv1.weight', 'loss.weight'], ['loss.weight'])
    """
    notes: list[str] = list(getattr(state, "notes", ()))
    receiver = _layers(shapes)
    if (folded := _unfolded(state, receiver)) is not None:
        notes.append(f"{len(_layers(state))} layers without names, norms folded into them, were put in their places")
        return folded._replace(state=Weights(folded.state, notes))
    inside = {prefix: _without(state, prefix, source) for prefix in _prefixes(state)}
    known = {prefix: len(_layers(names).keys() & receiver.keys()) for prefix, names in inside.items()}
    prefix = max(known, key=lambda one: (known[one], -len(one)))
    new_names, tensors = {name: name for name in inside[prefix]}, inside[prefix]
    origin: str | None = None
    epsilon: float | None = None
    fitting = [other for other in inside if prefix and known[other] == known[prefix]]
    if known[prefix] < len(receiver):
        ways = [
            (other, library, found)
            for other, names in inside.items()
            for library, place in ((LUKEMELAS, _lukemelas_place), (TORCHVISION, _torchvision_place))
            if (found := _in_order(names, place, receiver)) is not None
        ]
        if ways:
            fitting = [other for other, _, _ in ways]
            prefix, origin, new_names = ways[0]
            tensors = inside[prefix]
            epsilon = _WIDE if origin == LUKEMELAS else _torchvision_epsilon(tensors)
            old, new = next((old, new) for old, new in new_names.items() if old != new)
            notes.append(
                f"{sum(o != n for o, n in new_names.items())} tensors have names of {origin} and got today's, "
                f"by place and shape ('{old}' is '{new}')"
            )
    _require_one_network({other: inside[other] for other in fitting}, source)
    if prefix:
        notes.append(f"prefix '{prefix}' was taken off {len(tensors)} names")
    renamed: list[tuple[str, Tensor]] = []
    for old, tensor in tensors.items():
        new = new_names.get(old, old)
        linear = new in shapes and tensor.ndim == 2 and len(shapes[new]) == 4 and new != old
        renamed.append((new, tensor.reshape(shapes[new]) if linear else tensor))
    beside = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    left_out = [*beside, *(name for name in tensors if name not in new_names)]
    return Renamed(Weights(under_names([*renamed, *beside.items()], source), notes), left_out, origin, epsilon)


def _require_one_network(fitting: Mapping[str, Mapping[str, Tensor]], source: str) -> None:
    """Refuse to choose between networks under several prefixes, unless they are one that has several names."""
    first, *others = fitting.values() if fitting else [{}]
    for other in others:
        if first.keys() != other.keys() or not all(torch.equal(first[name], other[name]) for name in first):
            told = " and ".join(f"'{prefix}'" for prefix in list(fitting)[:3])
            raise CheckpointError(f"{source}: one network must fit, got others under {told} (save one of them alone).")


def _prefixes(state: Mapping[str, Any]) -> list[str]:
    """Return what may stand in front of names, none first."""
    found = {"": None}
    for name in state:
        parts = name.split(".", MOST_WORDS + 1)
        for count in range(1, min(len(parts), MOST_WORDS + 1)):
            if parts[count - 1] not in WORDS or len(found) == MOST_PREFIXES:
                break
            found[".".join(parts[:count]) + "."] = None
    return list(found)


def _without(state: Mapping[str, Tensor], prefix: str, source: str) -> dict[str, Tensor]:
    """Return what stands behind a prefix, without the marks of ``torch.compile``."""
    inside = ((name, tensor) for name, tensor in state.items() if name.startswith(prefix))
    return under_names(((name.removeprefix(prefix).replace(COMPILED, "."), tensor) for name, tensor in inside), source)


def _layers(tensors: Mapping[str, Any]) -> Layers:
    layers: Layers = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        layers.setdefault(layer, {})[leaf] = tensor
    return layers


def _lukemelas_place(layer: str) -> tuple[Any, ...] | None:
    """Return the place of a layer in a network of lukemelas, or None if it is not called as one in there."""
    match = _LUKEMELAS_LAYER.fullmatch(layer)
    if match is None:
        return None
    block, role = match.groups()
    parts = {0: _LUKEMELAS_FIRST, 2: _LUKEMELAS_LAST} if block is None else {1: _LUKEMELAS_BLOCK}
    for part, roles in parts.items():
        if role in roles:
            return part, int(block or 0), roles.index(role)
    return None


def _torchvision_place(layer: str) -> tuple[Any, ...] | None:
    """Return the place of a layer in a sequence of torchvision; places are numbered, but for those of a gate."""
    match = _TORCHVISION_LAYER.fullmatch(layer)
    if match is None:
        return None
    parts = match[2].split(".")[1:]
    return (match[1] == "classifier", *((part.isdigit(), int(part) if part.isdigit() else part) for part in parts))


def _torchvision_epsilon(tensors: Mapping[str, Tensor]) -> float:
    """Return the epsilon of norms: MobileNetV3, EfficientNetV2 and EfficientNets from B5 on have a larger one."""
    v2 = _FUSED in tensors and tensors[_FUSED].shape[1] > 1
    large = _FUSED in tensors and _LAST in tensors and len(tensors[_LAST]) >= _LARGE
    return _WIDE if v2 or large or any(map(_GATED_BLOCK.match, tensors)) else _NARROW


def _in_order(
    tensors: Mapping[str, Tensor], place: Callable[[str], tuple[Any, ...] | None], receiver: Layers
) -> dict[str, str] | None:
    """Put layers side by side.

    Args:
        tensors: Of a source.
        place: Says where in its network a layer of the source stands.
        receiver: Shapes of the receiver's layers, in order.

    Returns:
        New names by old ones, those of a last layer that the receiver lacks left out; None if anything does not fit.
    """
    layers = _layers(tensors)
    places = {layer: place(layer) for layer in layers}
    if None in places.values():
        return None
    order = sorted(layers, key=lambda layer: places[layer] or ())
    if not len(receiver) <= len(order) <= len(receiver) + 1:
        return None
    names: dict[str, str] = {}
    for number, (old, new) in enumerate(zip(order, receiver, strict=False)):
        edge = 1 if number == 0 else 0 if number == len(order) - 1 else None
        own, wanted = layers[old], receiver[new]
        if own.keys() - {COUNTER} != wanted.keys() - {COUNTER}:
            return None
        if not all(_fits(own[leaf].shape, wanted[leaf], edge) for leaf in own if leaf in wanted):
            return None
        names.update({f"{old}.{leaf}": f"{new}.{leaf}" for leaf in own})
    return names if any(old != new for old, new in names.items()) else None


def _unfolded(tensors: Mapping[str, Tensor], receiver: Layers) -> Renamed | None:
    """Put layers that only have a place beside those of the receiver; a norm behind one becomes its bias.

    Args:
        tensors: Of a source, with norms folded into the layers before them.
        receiver: Shapes of the receiver's layers, in order.

    Returns:
        Weights of the same function, norms of which divide by 1 where their epsilon is 0; None if they do not fit.
    """
    found = _layers(tensors)
    if not found or any(PLACE.fullmatch(layer) is None or "weight" not in found[layer] for layer in found):
        return None
    layers = {layer: found[layer] for layer in sorted(found, key=lambda layer: int(layer.rpartition(".")[2]))}
    names = list(receiver)
    plain = [name for name in names if "running_var" not in receiver[name]]
    if not len(plain) <= len(layers) <= len(plain) + 1:
        return None
    renamed: dict[str, Tensor] = {}
    for number, (name, own) in enumerate(zip(plain, layers.values(), strict=False)):
        wanted, weight, bias = receiver[name], own["weight"], own.get("bias")
        behind = names[names.index(name) + 1 :][:1]
        norm = behind[0] if behind and behind[0] not in plain else None
        edge = 1 if number == 0 else 0 if number == len(layers) - 1 else None
        if weight.ndim < 2 or "weight" not in wanted or not _fits(weight.shape, wanted["weight"], edge):
            return None
        if bias is not None and bias.shape != weight.shape[:1]:
            return None
        renamed[f"{name}.weight"] = weight
        none = weight.new_zeros(len(weight))
        if norm is not None and "bias" not in wanted:
            shift = none if bias is None else bias
            made = {"weight": none + 1, "bias": shift, "running_mean": none, "running_var": none + 1}
            if any(leaf not in made and leaf != COUNTER for leaf in receiver[norm]):
                return None
            renamed.update({f"{norm}.{leaf}": made[leaf] for leaf in receiver[norm] if leaf in made})
        elif "bias" in wanted:
            renamed[f"{name}.bias"] = none if bias is None else bias  # exporters leave out one of zeros
        elif bias is not None:
            return None
    if any(f"{name}.running_var" not in renamed for name in names if name not in plain):
        return None  # a norm that nothing could have been folded into
    rest = {f"{layer}.{leaf}": tensor for layer in list(layers)[len(plain) :] for leaf, tensor in layers[layer].items()}
    return Renamed(Weights({**renamed, **rest}), list(rest), ONNX, 0.0)


def _fits(own: torch.Size, wanted: torch.Size, edge: int | None) -> bool:
    """Compare shapes: ``edge`` is the axis that the data decide, channels of a first layer or classes of a last."""
    if edge is not None and len(own) == len(wanted) > edge:
        return all(axis == edge or one == other for axis, (one, other) in enumerate(zip(own, wanted, strict=True)))
    linear = len(own) == 2 and len(wanted) == 4 and own[0] == wanted[0] and own.numel() == wanted.numel()
    return own == wanted or linear
