"""What records a network meets our layers: ``torch.fx`` and extractors of features, and files of TorchScript."""

import inspect
import subprocess
import sys

import pytest
import torch
from torch import Tensor, fx, nn

from hocp_mm.layers import FrameAxis, HOCPConv1d, HOCPConv2d, HOCPConv3d, exportable, sync_norms_, transduct_
from hocp_mm.layers.few_channels import make_trainable_
from hocp_mm.models import TimmHOCPBackbone
from tests.laws import assert_close

FRAMES = 3
OPTIONS = {"inner_norm_cfg": {"type": "BN"}, "inner_act_cfg": {"type": "ReLU"}, "gate_cfg": {"type": "SE"}}
LAYERS = {
    "1-D": (lambda: HOCPConv1d(4, 4, 3, padding=1, rank=4), 1),
    "2-D": (lambda: HOCPConv2d(4, 4, 3, padding=1, rank=4), 2),
    "2-D, Psi and gate": (lambda: HOCPConv2d(4, 4, 3, padding=1, rank=4, **OPTIONS), 2),
    "2-D, padding by size": (lambda: HOCPConv2d(4, 4, 3, stride=2, padding="tf_same", rank=4), 2),
    "3-D": (lambda: HOCPConv3d(4, 4, 3, padding=1, rank=4), 3),
    "folded CP": (lambda: folded(HOCPConv2d(4, 4, 3, padding=1, rank=4)), 2),
    "folded depthwise": (lambda: folded(nn.Conv2d(4, 4, 3, padding=1, groups=4)), 2),
    "strided 1x1 of few channels": (lambda: trainable(nn.Conv2d(4, 4, 1, stride=2)), 2),
    "synchronised norm": (lambda: synced(nn.BatchNorm2d(4)), 2),
}


def folded(layer: nn.Module) -> nn.Module:
    axis, net = FrameAxis(), nn.Sequential(layer)
    transduct_(net, 3, frame_axis=axis)
    nn.init.normal_(net[0].factors["t"])
    axis.length = FRAMES
    return net[0]


def trainable(conv: nn.Module) -> nn.Module:
    assert make_trainable_(conv) == [""]
    return conv


def synced(norm: nn.Module) -> nn.Module:
    sync_norms_(norm)
    return norm


def network(case: str) -> tuple[nn.Sequential, Tensor]:
    """Return a layer between two others, and an input."""
    torch.manual_seed(0)
    make, order = LAYERS[case]
    return nn.Sequential(nn.ReLU(), make(), nn.Sigmoid()).eval(), torch.randn(FRAMES, 4, *[6] * order)


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_is_one_node_of_a_graph(case):
    net, x = network(case)
    traced = fx.symbolic_trace(net)
    assert [str(node.target) for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]
    assert torch.equal(traced(x), net(x))
    assert traced(x[:, :, 1:]).shape == net(x[:, :, 1:]).shape  # no size was written down
    traced(x).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_takes_its_input_by_name(case):
    net, x = network(case)
    (word,) = inspect.signature(net[1].forward).parameters

    class Named(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(**{word: x})

    named = Named(net[1])
    assert torch.equal(named(x), net[1](x))
    assert torch.equal(fx.symbolic_trace(named)(x), net[1](x))


def test_a_layer_alone_has_no_graph():
    with pytest.raises(fx.proxy.TraceError):
        fx.symbolic_trace(HOCPConv2d(4, 4, 3))


NETWORKS = {
    "CP": ("test_resnet", {}),
    "an image network": ("test_resnet", {"temporal_kernel": 1}),
    "depthwise": ("test_efficientnet", {}),
    "with a head": ("test_convnext", {}),
    "padding by size": ("tf_efficientnet_lite0", {}),
    "conditional": ("tf_efficientnet_cc_b0_4e", {}),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_extractors_of_features_take_a_converted_network(case):
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="timm's extractor needs it")
    from timm.models import create_feature_extractor, get_graph_node_names

    name, options = NETWORKS[case]
    video = TimmHOCPBackbone(name, rank=2, **options).eval()
    net, layer = video.net, (video.transducted or video.factorized)[-1]
    for key, parameter in net.named_parameters():
        if key.endswith("factors.t"):
            nn.init.normal_(parameter)
    video.frame_axis.length = FRAMES
    x, seen = torch.randn(FRAMES, 3, 32, 32), []
    handle = net.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    net(x)
    handle.remove()
    assert layer in get_graph_node_names(net)[1]
    makers = [create_feature_extractor]
    if case in ("CP", "an image network"):  # of others timm has layers that torchvision alone cannot trace
        makers.append(extraction.create_feature_extractor)
    for make in makers:
        found = make(net, [layer])(x)[layer]
        assert_close(found, seen[0], 1e-6, layer)


LOADED = "import sys, torch; y = torch.jit.load(sys.argv[1])(torch.load(sys.argv[2])); torch.save(y, sys.argv[3])"


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("case", LAYERS)
def test_a_traced_network_is_saved_and_loaded_where_this_package_is_not(case, tmp_path):
    net, x = network(case)
    traced = torch.jit.trace(exportable(net), (x,))
    traced.save(str(tmp_path / "net.pt"))
    assert_close(torch.jit.load(str(tmp_path / "net.pt"))(x), net(x), 1e-6, "loaded here")
    if case == "folded CP":  # one process is enough
        torch.save(x, tmp_path / "x.pt")
        paths = [str(tmp_path / f"{name}.pt") for name in ("net", "x", "y")]
        subprocess.run([sys.executable, "-I", "-c", LOADED, *paths], check=True, cwd=tmp_path, timeout=120)
        assert_close(torch.load(tmp_path / "y.pt"), net(x), 1e-6, "loaded elsewhere")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_would_be_saved_for_nobody_is_refused():
    for case in LAYERS:
        net, x = network(case)
        if any(name.endswith("factors.in") for name in net.state_dict()):
            with pytest.raises(NotImplementedError, match=r"cannot be loaded, .*\(trace hocp_mm.layers.exp"):
                torch.jit.trace(net, (x,))
        else:
            torch.jit.trace(net, (x,))
        net(x)  # afterwards it is as before
        torch.jit._get_trace_graph(net, (x,))  # what counts operations
