"""Weights in an ONNX file: initialisers under their own names, or, where names are lost, by their place.

Exporters fold norms into the convolutions before them and call what comes out ``onnx::Conv_1034``, or
``conv_stem.weight_bias``. What such a file still tells is the order in which its layers run, so these get the names
``onnx.0.weight``, ``onnx.0.bias``, and :mod:`hocp_mm.checkpoints.renaming` lays them beside the layers of a network.
Keras' exports leave the norms behind depthwise convolutions, and the biases of linear layers, as products and sums with
constants: these are folded here. Only numbers are read: the graph is not run, and values in other files are refused, as
are constants that belong to no layer.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hocp_mm.checkpoints._plain_data import RefusedError, echo, expect

__all__ = ["PLACE", "read_onnx"]

PLACE = re.compile(r"onnx\.(\d{1,6})")
"""Name of a layer whose place alone is known."""
_LAYERS = {"Conv", "Gemm", "MatMul"}
_NORM = "BatchNormalization"
_FOLDED, _MOST_FOLDED = {"Add", "Sub", "Mul", "Div"}, 8
_ARITHMETIC = {*_FOLDED, "PRelu"}
_SHAPES = {"Reshape", "Flatten", "Squeeze", "Identity", "Dropout", "Cast"}  # what leaves numbers in their order
_CHANNELS_LAST = [0, 2, 3, 1]


def read_onnx(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the weights in a file.

    Args:
        file: With suffix ``.onnx``.

    Returns:
        Tensors by name: those of the initialisers, or ``onnx.<place>.weight`` and ``.bias`` of layers in their order;
        and lines about what a network around them must do as the file does.

    Raises:
        RefusedError: If it holds no such layer, values that are not all in it, or, where names are lost, constants
            that cannot be folded into a layer.
        ImportError: If the package onnx is not installed.
    """
    import onnx

    graph: Any = onnx.load_model(str(file), load_external_data=False).graph
    stored = {entry.name: entry for entry in graph.initializer}
    known = {name: tensor for name, entry in stored.items() if (tensor := _tensor(entry)) is not None}
    every = list(graph.node)  # which keeps their identities
    nodes = [node for node in every if node.op_type in _LAYERS and _weight(node, known) is not None]
    expect(bool(nodes), "no convolution or linear layer with weights of its own")
    names = [str(_weight(node, known)) for node in nodes]
    norms = [node for node in every if node.op_type == _NORM]
    taken = [name for node in nodes for name in node.input[1:3] if name in known]
    if norms or all(name.endswith((".weight", ".bias")) for name in taken):
        return _by_name(known, nodes, norms), []
    found: dict[str, Any] = {}
    users = _users(every, graph)
    folded: set[int] = set()
    for place, (node, name) in enumerate(zip(nodes, names, strict=True)):
        weight, bias = _oriented(node, known[name]), None
        if len(node.input) > 2 and node.input[2]:
            expect(node.input[2] in known, f"a bias of {echo(node.input[2], 100)} that is not stored")
            bias = known[node.input[2]]
        weight, bias = _with_constants(node, weight, bias, known, users, folded)
        found[f"onnx.{place}.weight"] = weight
        if bias is not None:
            found[f"onnx.{place}.bias"] = bias
    return found, _told(every, nodes, known, folded)


def _by_name(known: dict[str, Tensor], nodes: list[Any], norms: list[Any]) -> dict[str, Any]:
    """Return the tensors that layers and norms take, under the names that they have in the file."""
    found: dict[str, Any] = {}
    for node in nodes:
        for name in (name for name in node.input[1:] if name in known):
            found[name] = _oriented(node, known[name])
    for node in norms:
        found.update({name: known[name] for name in node.input[1:] if name in known})
    return found


def _users(every: list[Any], graph: Any) -> dict[str, list[Any]]:
    """Return the nodes that take each value, None for the end of the graph."""
    users: dict[str, list[Any]] = {}
    for node in every:
        for name in dict.fromkeys(node.input):
            users.setdefault(name, []).append(node)
    for output in graph.output:
        users.setdefault(output.name, []).append(None)
    return users


def _with_constants(
    node: Any,
    weight: Tensor,
    bias: Tensor | None,
    known: dict[str, Tensor],
    users: dict[str, list[Any]],
    folded: set[int],
) -> tuple[Tensor, Tensor | None]:
    """Fold what a layer's output alone is multiplied by or added to, one number per channel.

    A single number is left where it is: those belong to activations (a hard sigmoid adds 3).

    Returns:
        The weight and the bias; the nodes that are in them come into ``folded``.
    """
    channels, axes = len(weight), node.op_type == "Conv"
    for _ in range(_MOST_FOLDED):
        after = users.get(node.output[0], [])
        if len(after) != 1 or after[0] is None or after[0].op_type not in _FOLDED or len(after[0].input) != 2:
            break
        last, node = node.output[0], after[0]
        name = next((name for name in node.input if name in known), None)
        if name is None or channels == 1 or tuple(_per_channel(known[name].shape, axes)) != (channels,):
            break
        if node.op_type in ("Sub", "Div") and node.input[0] != last:
            break
        constant = known[name].flatten()
        if node.op_type in ("Mul", "Div"):
            factor = constant if node.op_type == "Mul" else 1 / constant
            weight = weight * factor.view(-1, *[1] * (weight.ndim - 1))
            bias = None if bias is None else bias * factor
        else:
            shift = constant if node.op_type == "Add" else -constant
            bias = shift if bias is None else bias + shift
        folded.add(id(node))
    return weight, bias


def _per_channel(shape: torch.Size, axes: bool) -> torch.Size:
    """Return ``[C]`` for the shape of a constant of one number per channel, before two axes of pixels or at the end."""
    plain = shape[1:] if len(shape) == (4 if axes else 2) and shape[0] == 1 else shape
    if not axes:
        return plain
    return plain[:1] if plain[1:] == (1, 1) else torch.Size()


def _told(every: list[Any], nodes: list[Any], known: dict[str, Tensor], folded: set[int]) -> list[str]:
    """Look at what stands beside the layers.

    Returns:
        Lines about pictures that are scaled in the network, and about padding.

    Raises:
        RefusedError: If another constant than those of the pictures is left, or channels are flattened last.
    """
    layers = set(map(id, nodes))
    behind, turned, padded = set[str](), set[str](), set[str]()  # values; nodes stand in the order in which they run
    scaled, uneven = False, 0
    for node in every:
        if node.op_type in _ARITHMETIC and id(node) not in folded:
            for name in (name for name in node.input if name in known and known[name].numel() > 1):
                rule = f"{echo(name, 100)} of {list(known[name].shape)}, which belongs to no layer ({node.op_type})"
                expect(behind.isdisjoint(node.input), rule)
                scaled = True
        if node.op_type == "Conv":
            pads = _ints(node, "pads")
            same = any(attribute.name == "auto_pad" and attribute.s.startswith(b"SAME") for attribute in node.attribute)
            halves = pads[: len(pads) // 2], pads[len(pads) // 2 :]
            uneven += same or halves[0] != halves[1] or not padded.isdisjoint(node.input)
        elif id(node) in layers:
            rule = f"a linear layer ({echo(node.input[1], 100)}) on pixels whose channels stand last"
            expect(turned.isdisjoint(node.input), rule)
        if id(node) in layers or not behind.isdisjoint(node.input):
            behind.update(node.output)
        turns = node.op_type == "Transpose" and _ints(node, "perm") == _CHANNELS_LAST
        if turns or (node.op_type in _SHAPES and not turned.isdisjoint(node.input)):
            turned.update(node.output)
        if node.op_type == "Pad":
            padded.update(node.output)
    notes = ["the file scales the pictures itself, which its weights do not tell"] if scaled else []
    if uneven:
        notes.append(
            f"{uneven} convolutions of the file pad more at the end (TensorFlow's SAME), as timm's tf_ networks do"
        )
    return notes


def _ints(node: Any, name: str) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == name), [])


def _weight(node: Any, known: dict[str, Tensor]) -> str | None:
    """Return the name of the stored matrix or kernel that a layer multiplies by."""
    name = node.input[1] if len(node.input) > 1 else None
    return name if name in known and known[name].ndim >= 2 else None


def _oriented(node: Any, tensor: Tensor) -> Tensor:
    """Turn the matrix of a linear layer into PyTorch's ``[out, in]``."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return tensor if node.op_type == "Conv" or tensor.ndim != 2 or transposed else tensor.T.contiguous()


def _tensor(entry: Any) -> Tensor | None:
    """Return the values of an initialiser, or None if they are no floating-point numbers."""
    from onnx import TensorProto, numpy_helper

    floating = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    expect(entry.data_location != TensorProto.EXTERNAL, f"values of {echo(entry.name, 100)} in another file")
    if entry.data_type not in floating:
        return None
    sizes = tuple(entry.dims)
    expect(all(size >= 0 for size in sizes), f"a negative size of {echo(entry.name, 100)}")
    try:
        array = numpy_helper.to_array(entry)
    except (ValueError, TypeError) as error:
        raise RefusedError(f"values of {echo(entry.name, 100)} that are not as many as it says") from error
    expect(array.shape == sizes, f"values of {echo(entry.name, 100)} that are not as many as it says")
    return torch.from_numpy(np.array(array))
