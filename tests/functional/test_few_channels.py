"""Strided 1x1 convolutions of few channels train where oneDNN's code for AVX2 would end the process."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hocp_mm.functional.few_channels import conv1d, conv2d
from hocp_mm.layers import FrameAxis, factorize_, transduct_
from hocp_mm.layers.few_channels import FewChannelsConv2d, make_trainable_
from tests.laws import assert_close
from tests.material.processes import ROOT

CONVS = {1: (conv1d, F.conv1d), 2: (conv2d, F.conv2d)}


@pytest.mark.parametrize("order", CONVS)
@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"stride": 3},
        {"stride": 2, "padding": 1},
        {"stride": 2, "dilation": 2},
        {"stride": 2, "groups": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("taps", [1, 3])
def test_it_is_the_convolution_of_torch(order, options, taps):
    ours, theirs = CONVS[order]
    x = torch.randn(2, 3, *[9] * order, dtype=torch.float64)
    weight = torch.randn(6, 3 // options.get("groups", 1), *[taps] * order, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    words = {name: value if name == "groups" else (value,) * order for name, value in options.items()}
    assert_close(ours(x, weight, bias, **words), theirs(x, weight, bias, **words), 1e-14, "convolution")


def test_uneven_strides():
    x, weight = torch.randn(2, 3, 7, 8), torch.randn(4, 3, 1, 1)
    for stride in itertools.product((1, 2, 3), repeat=2):
        assert_close(conv2d(x, weight, stride=stride), F.conv2d(x, weight, stride=stride), 1e-6, str(stride))


def test_a_layer_changes_its_class_alone_and_is_still_known():
    net = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2), nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, stride=2))
    x, state, text = torch.randn(2, 3, 9, 9), dict(net.state_dict()), [module.extra_repr() for module in net]
    before = [module(x) for module in net]
    assert make_trainable_(net) == ["0"]
    assert [type(module) for module in net] == [FewChannelsConv2d, nn.Conv2d, nn.Conv2d]
    assert [module.extra_repr() for module in net] == text
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())
    for module, output in zip(net, before, strict=True):
        assert_close(module(x), output, 1e-6, "output")
    axis = FrameAxis()
    transduct_(net, 3, layers="^0$", frame_axis=axis)
    axis.length = 2
    assert_close(net[0](x), before[0], 1e-6, "transducted")
    plain = nn.Sequential(FewChannelsConv2d(3, 8, 1, stride=2))
    assert factorize_(plain, 3, layers="0") == ["0"]


NETWORKS = """
from hocp_mm.models import TimmHOCPBackbone
for options in (
    dict(model_name="repvgg_a0", factorize=(), temporal_layers="conv_kxk", out_indices=(0,)),
    dict(model_name="repvgg_a0", factorize=(), temporal_layers="conv_kxk", out_indices=(0,), in_chans=1),
    dict(model_name="mobileone_s0", factorize=(), temporal_layers="conv_kxk", out_indices=(0,)),
    dict(model_name="fastvit_t8", rank=1, out_indices=(0,)),
):
    for net in (TimmHOCPBackbone(**options), TimmHOCPBackbone(**options).to(memory_format=torch.channels_last)):
        sum(f.sum() for f in net.train()(torch.randn(1, net.in_chans, 4, 64, 64))).backward()
"""
LAYERS = """
for channels, order in itertools.product((1, 3, 7), (1, 2)):
    x = torch.randn(4, *([96] * order), channels).movedim(-1, 1)
    make = (HOCPConv1d, HOCPConv2d)[order - 1]
    for form in ("reconstructed", "mobilenet", "factorized"):
        make(channels, 48, 1, stride=2, rank=2, implementation=form)(x).sum().backward()
    if order == 2:
        axis, net = FrameAxis(), torch.nn.Sequential(torch.nn.Conv2d(channels, 48, 1, stride=2))
        transduct_(net, 3, layers="0", frame_axis=axis)
        axis.length = 2
        net(x).sum().backward()
        clip = x[:, :, None].expand(-1, -1, 8, -1, -1)
        HOCPConv3d(channels, 48, 1, stride=(2, 1, 1), rank=2, implementation="reconstructed")(clip).sum().backward()
"""


def test_networks_and_layers_of_few_channels_train_where_onednn_has_avx2_alone():
    code = f"import itertools\nimport torch\nfrom hocp_mm.layers import *\n{LAYERS}\n{NETWORKS}"
    environ = os.environ | {"PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False, timeout=240).returncode == 0
