"""Exports to ONNX give the network that was exported; what is not whole, or not in the file, is refused."""

import inspect
from pathlib import Path

import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
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
