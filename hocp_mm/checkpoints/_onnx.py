"""Weights in an ONNX file: initialisers under their own names, or, where names are lost, by their place.

Exporters fold norms into the convolutions before them and call what comes out ``onnx::Conv_1034``, or
``conv_stem.weight_bias``. What such a file still tells is the order in which its layers run, so these get the names
``onnx.0.weight``, ``onnx.0.bias``, and :mod:`hocp_mm.checkpoints.renaming` lays them beside the layers of a network.
Only numbers are read: the graph is not run, and values in other files are refused.
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


def read_onnx(file: Path) -> dict[str, Any]:
    """Return the weights in a file.

    Args:
        file: With suffix ``.onnx``.

    Returns:
        Tensors by name: those of the initialisers, or ``onnx.<place>.weight`` and ``.bias`` of layers in their order.

    Raises:
        RefusedError: If it holds no such layer, or values that are not all in it.
        ImportError: If the package onnx is not installed.
    """
    import onnx

    graph: Any = onnx.load_model(str(file), load_external_data=False).graph
    stored = {entry.name: entry for entry in graph.initializer}
    known = {name: tensor for name, entry in stored.items() if (tensor := _tensor(entry)) is not None}
    nodes = [node for node in graph.node if node.op_type in _LAYERS and _weight(node, known) is not None]
    expect(bool(nodes), "no convolution or linear layer with weights of its own")
    names = [str(_weight(node, known)) for node in nodes]
    norms = [node for node in graph.node if node.op_type == _NORM]
    taken = [name for node in nodes for name in node.input[1:3] if name in known]
    if norms or all(name.endswith((".weight", ".bias")) for name in taken):
        return _by_name(known, nodes, norms)
    found: dict[str, Any] = {}
    for place, (node, name) in enumerate(zip(nodes, names, strict=True)):
        found[f"onnx.{place}.weight"] = _oriented(node, known[name])
        if len(node.input) > 2 and node.input[2]:
            expect(node.input[2] in known, f"a bias of {echo(name, 100)} that is not stored")
            found[f"onnx.{place}.bias"] = known[node.input[2]]
    return found


def _by_name(known: dict[str, Tensor], nodes: list[Any], norms: list[Any]) -> dict[str, Any]:
    """Return the tensors that layers and norms take, under the names that they have in the file."""
    found: dict[str, Any] = {}
    for node in nodes:
        for name in (name for name in node.input[1:] if name in known):
            found[name] = _oriented(node, known[name])
    for node in norms:
        found.update({name: known[name] for name in node.input[1:] if name in known})
    return found


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
