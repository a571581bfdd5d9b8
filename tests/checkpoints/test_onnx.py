"""Exports to ONNX give the network that was exported; what is not whole, or not in the file, is refused."""

import inspect
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from hocp_mm.checkpoints import KnownWeights, known_weights, read_checkpoint, unwrap_state_dict
from hocp_mm.errors import CheckpointError
from hocp_mm.models import TimmHOCPBackbone
from tests.laws import assert_close
from tests.material.affect_networks import efficientnet

NEW = pytest.mark.skipif(
    "external_data" not in inspect.signature(torch.onnx.export).parameters,
    reason="torch < 2.5 writes the weights of its new exporter into a file of their own",
)


def lived_in(name: str, **options) -> nn.Module:
    """A network whose norms change what goes through them."""
    torch.manual_seed(0)
    net = timm.create_model(name, **options).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    return net


def export(net: nn.Module, path, *, old: bool = True, **options) -> str:
    picture = torch.randn(1, 3, 64, 64)
    torch.onnx.export(net, (picture,), str(path), dynamo=not old, verbose=False, **options)
    return str(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("old", [True, pytest.param(False, marks=NEW)], ids=["anonymous", "folded under old names"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_an_export_is_the_network_again(name, old, tmp_path):
    net = lived_in(name)
    path = export(net, tmp_path / "net.onnx", old=old, **({} if old else {"external_data": False}))
    video = TimmHOCPBackbone(name, checkpoint=path, factorize=(), temporal_kernel=1).eval()
    assert video.load_report is not None
    assert video.load_report.complete
    assert "norms folded into them, were put in their places" in str(video.load_report)
    images = torch.randn(2, 3, 64, 64)
    expected = net.forward_intermediates(images, indices=[-1], intermediates_only=True)[0]
    assert_close(video(images.unsqueeze(2))[-1][:, :, 0], expected, 1e-5, "features")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_export_that_kept_its_norms_has_the_names_of_the_file(tmp_path):
    net = lived_in("test_resnet")
    training = torch.onnx.TrainingMode.PRESERVE
    path = export(net, tmp_path / "net.onnx", training=training, do_constant_folding=False)
    state = unwrap_state_dict(read_checkpoint(path), path)
    own = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert state.keys() == own.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in own.items())


def folded(net: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Fold the norms of an EfficientNet by hand: kernel and bias of each layer, in the order of execution."""
    layers: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            layers.append((module.weight.detach(), None if module.bias is None else module.bias.detach()))
        elif isinstance(module, nn.BatchNorm2d):
            scale = (module.weight / (module.running_var + module.eps).sqrt()).detach()
            kernel, _ = layers[-1]
            layers[-1] = kernel * scale.view(-1, 1, 1, 1), (module.bias - module.running_mean * scale).detach()
    return layers


def write(path, layers, **changes) -> str:
    """Write a graph with a node for each layer; nobody runs it."""
    nodes, stored = [], []
    for place, (weight, bias) in enumerate(layers):
        names = [f"onnx::{place}_w"] + ([] if bias is None else [f"onnx::{place}_b"])
        kind = "Conv" if weight.ndim == 4 else "Gemm"
        nodes.append(helper.make_node(kind, ["x", *names], ["x"], **({} if kind == "Conv" else {"transB": 1})))
        stored += [numpy_helper.from_array(t.numpy(), n) for n, t in zip(names, (weight, bias), strict=False)]
    for entry in stored[:1]:
        for key, value in changes.items():
            if key == "dims":
                del entry.dims[:]
                entry.dims.extend(value)
            else:
                setattr(entry, key, value)
    graph = helper.make_graph(nodes, "net", [], [], stored)
    Path(path).write_bytes(helper.make_model(graph).SerializeToString())
    return str(path)


def test_a_known_affect_network_is_known_by_its_export(tmp_path):
    net = efficientnet("b0", 10)
    path = write(tmp_path / "enet_b0_8_va_mtl.onnx", folded(net))
    known = known_weights(unwrap_state_dict(read_checkpoint(path), path), path)
    assert isinstance(known, KnownWeights)
    assert known.title == "enet_b0_8_va_mtl"
    assert torch.equal(known.weight, net.classifier.weight)
    again = timm.create_model("tf_efficientnet_b0", num_classes=10).eval()
    last = {"classifier.weight": known.weight, "classifier.bias": known.bias}
    again.load_state_dict({**known.state, **last}, strict=False)
    picture = torch.randn(1, 3, 64, 64)
    assert_close(again(picture), net(picture), 1e-4, "outputs")


def stored(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.random.default_rng(len(name)).uniform(0.5, 1.5, shape).astype("float32"), name)


def as_of_keras(path, *, changes=()) -> onnx.ModelProto:
    """A graph as tf2onnx makes it: norms behind depthwise layers, and biases of linear ones, stand alone."""
    node = helper.make_node
    nodes = {
        "scaled": node("Mul", ["input", "std"], ["scaled"]),
        "turned": node("Transpose", ["scaled"], ["turned"], perm=[0, 3, 1, 2]),
        "stem": node("Conv", ["turned", "k0", "b0"], ["stem"], strides=[2, 2], pads=[0, 0, 1, 1]),
        "relu": node("Relu", ["stem"], ["relu"]),
        "deep": node("Conv", ["relu", "k1"], ["deep"], pads=[1, 1, 1, 1], group=4),
        "times": node("Mul", ["deep", "scale"], ["times"]),
        "plus": node("Add", ["shift", "times"], ["plus"]),
        "three": node("Add", ["plus", "three"], ["gate"]),  # of a hard sigmoid: no bias
        "gate": node("Clip", ["gate", "zero", "six"], ["gated"]),
        "pooled": node("GlobalAveragePool", ["gated"], ["pooled"]),
        "flat": node("Squeeze", ["pooled", "axes"], ["flat"]),
        "last": node("MatMul", ["flat", "w"], ["last"]),
        "less": node("Sub", ["last", "c"], ["less"]),
        "out": node("Div", ["less", "d"], ["out"]),
    }
    nodes.update(changes)
    numbers = [
        stored("std", 1, 1, 1, 3), stored("k0", 4, 3, 3, 3), stored("b0", 4), stored("k1", 4, 1, 3, 3),
        stored("scale", 1, 4, 1, 1), stored("shift", 4, 1, 1), stored("w", 4, 5), stored("c", 5), stored("d", 1, 5),
        *(numpy_helper.from_array(np.array(v, "float32"), n) for n, v in (("three", 3), ("zero", 0), ("six", 6))),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]  # fmt: skip
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("input", (2, 6, 6, 3)), ("out", (2, 5)))
    ]
    model = helper.make_model(helper.make_graph(list(nodes.values()), "net", values[:1], values[1:], numbers))
    Path(path).write_bytes(model.SerializeToString())
    return model


def test_constants_behind_layers_are_folded_into_them(tmp_path):
    """Against onnx's own evaluator: a bias or norm that is lost changes every number."""
    path = tmp_path / "keras.onnx"
    model = as_of_keras(path)
    picture = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    (expected,) = ReferenceEvaluator(model).run(None, {"input": picture})
    state = unwrap_state_dict(read_checkpoint(path), path)
    assert list(state) == [f"onnx.{place}.{leaf}" for place in range(3) for leaf in ("weight", "bias")]
    own = [state[f"onnx.{place}.weight"] for place in range(3)], [state[f"onnx.{place}.bias"] for place in range(3)]
    (stem, deep, last), (first, second, third) = own
    clip = torch.from_numpy(picture * numpy_helper.to_array(model.graph.initializer[0])).permute(0, 3, 1, 2)
    seen = F.conv2d(F.pad(clip, (0, 1, 0, 1)), stem, first, stride=2).relu()
    gate = (F.conv2d(seen, deep, second, padding=1, groups=4) + 3).clamp(0, 6)
    assert_close(F.linear(gate.mean((2, 3)), last, third), torch.from_numpy(expected), 1e-5, "outputs")
    told = " ".join(state.notes)
    assert "scales the pictures itself" in told
    assert "1 convolutions of the file pad more at the end" in told


LOST = {
    "a sum behind an activation": {"relu": helper.make_node("Add", ["stem", "relu0"], ["relu"])},
    "a product behind a sum of two": {"plus": helper.make_node("Add", ["times", "times"], ["x"])},
    "one number per pixel": {"times": helper.make_node("Mul", ["deep", "pixels"], ["times"])},
    "a constant less the output": {"less": helper.make_node("Sub", ["c", "last"], ["less"])},
    "a layer with two readers": {"three": helper.make_node("Add", ["plus", "deep"], ["gate"])},
    "a parametric activation": {"relu": helper.make_node("PRelu", ["stem", "shift"], ["relu"])},
}


@pytest.mark.parametrize("changes", LOST.values(), ids=LOST.keys())
def test_constants_that_belong_to_no_layer_are_refused(changes, tmp_path):
    path = tmp_path / "keras.onnx"
    model = as_of_keras(path, changes=changes)
    model.graph.initializer.extend([stored("relu0", 3, 3), stored("pixels", 1, 1, 3, 3)])
    if "plus" in changes:
        model.graph.node[6].CopyFrom(helper.make_node("Mul", ["x", "scale"], ["plus"]))
        model.graph.node.insert(6, changes["plus"])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"keras.onnx: holds .* of \[.*\], which belongs to no layer \(\w+\)"):
        read_checkpoint(path)


def test_a_flattened_picture_with_channels_last_is_refused(tmp_path):
    """The columns of the linear layer stand in another order than PyTorch's."""
    node = helper.make_node
    nodes = [
        node("Conv", ["input", "k0", "b0"], ["seen"]),
        node("Transpose", ["seen"], ["turned"], perm=[0, 2, 3, 1]),
        node("Reshape", ["turned", "shape"], ["flat"]),
        node("MatMul", ["flat", "w"], ["out"]),
    ]
    numbers = [
        stored("k0", 4, 3, 3, 3), stored("b0", 4), stored("w", 16, 5),
        numpy_helper.from_array(np.array([1, -1]), "shape"),
    ]  # fmt: skip
    path = tmp_path / "vgg.onnx"
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "net", [], [], numbers)).SerializeToString())
    with pytest.raises(CheckpointError, match=r"a linear layer \(w\) on pixels whose channels stand last"):
        read_checkpoint(path)


def test_a_graph_that_runs_in_a_circle_ends(tmp_path):
    node = helper.make_node
    nodes = [node("Conv", ["x", "k0"], ["y"]), node("Mul", ["y", "b0"], ["y"]), node("Identity", ["y"], ["y"])]
    path = tmp_path / "circle.onnx"
    numbers = [stored("k0", 4, 3, 3, 3), stored("b0", 4, 1, 1)]
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "net", [], [], numbers)).SerializeToString())
    with pytest.raises(CheckpointError, match="belongs to no layer"):
        read_checkpoint(path)


LAYERS = [(torch.ones(4, 3, 3, 3), torch.zeros(4)), (torch.ones(2, 4), torch.zeros(2))]
REFUSED = {
    "no file of onnx": (lambda path: path.write_bytes(b"not a graph" * 40), "not a whole ONNX file"),
    "a file cut off": (lambda path: (write(path, LAYERS), path.write_bytes(path.read_bytes()[:-40])), "ONNX file"),
    "values elsewhere": (lambda path: write(path, LAYERS, data_location=TensorProto.EXTERNAL), "in another file"),
    "a size that is not true": (lambda path: write(path, LAYERS, dims=[10**9, 10**9]), "not as many as it says"),
    "a negative size": (lambda path: write(path, LAYERS, dims=[-4, 3, 3, -3]), "a negative size"),
    "no layer": (lambda path: write(path, []), "no convolution or linear layer"),
}


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_whole_is_refused(make, said, tmp_path):
    path = tmp_path / "net.onnx"
    make(path)
    with pytest.raises(CheckpointError, match=said) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)


def test_another_network_is_refused_by_name(tmp_path):
    path = write(tmp_path / "net.onnx", LAYERS)
    with pytest.raises(CheckpointError, match=r"not one weight fits"):
        TimmHOCPBackbone("test_resnet", checkpoint=path)
