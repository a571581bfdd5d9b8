"""Layers of timm that are no plain convolutions: the oracle is timm's own forward pass."""

import pytest
import torch
from timm.layers import (
    Conv2dSame,
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    StdConv2d,
    StdConv2dSame,
)
from torch import nn

from hocp_mm.functional import dense_kernel
from hocp_mm.layers import FrameAxis, HOCPConv2d, factorize_, merge_dense_, transduct_
from hocp_mm.layers.surgery import cp_twin
from hocp_mm.layers.variants import variant_of
from tests.laws import assert_close, random_kernel

KINDS = {
    "Conv2dSame, stride 2": lambda **o: Conv2dSame(6, 8, 3, stride=2, bias=True, **o),
    "Conv2dSame, even kernel, dilated": lambda **o: Conv2dSame(6, 8, 4, dilation=2, **o),
    "StdConv2d": lambda **o: StdConv2d(6, 8, 3, stride=2, bias=True, **o),
    "StdConv2dSame, stride 2": lambda **o: StdConv2dSame(6, 8, 3, stride=2, **o),
    "StdConv2dSame, static": lambda **o: StdConv2dSame(6, 8, 3, **o),
    "ScaledStdConv2d": lambda **o: ScaledStdConv2d(6, 8, 3, gamma=1.7, **o),
    "ScaledStdConv2dSame, stride 2": lambda **o: ScaledStdConv2dSame(6, 8, (3, 5), stride=2, gamma=1.7, **o),
}
SIZES = [(7, 7), (8, 9), (2, 3)]


def build(kind: str, groups: int = 1) -> nn.Conv2d:
    """A layer in float64, with gains that differ."""
    layer = KINDS[kind](groups=groups).double()
    if hasattr(layer, "gain"):
        nn.init.uniform_(layer.gain, 0.5, 2)
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cp_twin_of_full_rank_computes_what_the_layer_does(kind, size):
    layer = build(kind)
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    twin = cp_twin(layer, taps * 6, seed=0)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    assert_close(twin(x), layer(x), 1e-4, kind)
    assert twin.fit_report.relative_error < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [1, 2], ids=["dense", "grouped"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_kept_layer_computes_the_same_on_every_frame(kind, groups, size):
    layer, axis = build(kind, groups), FrameAxis()
    clip = torch.randn(2, 3, 6, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(clip.flatten(0, 1))
    names = set(layer.state_dict())
    net = nn.Sequential(layer)
    transduct_(net, 3, layers=".", frame_axis=axis)
    axis.length = 3
    assert_close(net(clip.flatten(0, 1)), expected, 1e-12, kind)
    assert {name.removeprefix("0.") for name in net.state_dict()} == names | {"factors.t"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_factorized_layer_computes_the_same_on_every_frame(kind):
    net, axis = nn.Sequential(build(kind)), FrameAxis()
    factorize_(net, 5)
    clip = torch.randn(2, 3, 6, 7, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = net(clip.flatten(0, 1))
    transduct_(net, 3, frame_axis=axis)
    axis.length = 3
    assert_close(net(clip.flatten(0, 1)), expected, 1e-12, kind)
    assert net[0].source_kernel == variant_of(build(kind)).standardization


def test_gradients_of_a_kept_standardised_layer_reach_weight_and_gain():
    layer, axis = build("ScaledStdConv2dSame, stride 2", groups=2), FrameAxis()
    x = torch.randn(4, 6, 7, 7, dtype=torch.float64)
    layer(x).sin().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    layer.zero_grad()
    net = nn.Sequential(layer)
    transduct_(net, 3, layers=".", frame_axis=axis)
    axis.length = 2
    net(x).sin().sum().backward()
    for name, gradient in expected.items():
        assert_close(net[0].get_parameter(name).grad, gradient, 1e-10, name)


def test_a_fresh_kernel_has_the_size_of_the_standardised_one_it_stands_for():
    layer = ScaledStdConv2d(64, 96, 3, gamma=1.7)
    nn.init.uniform_(layer.gain, 0.5, 2)
    twin = cp_twin(layer, "x3", fit=False)
    fresh = (dense_kernel(twin.kernel()).flatten(1).std(dim=1) / layer.gain.flatten()).detach()
    assert float(fresh.mean()) == pytest.approx(layer.scale, rel=0.1)


def test_subclasses_that_only_choose_arguments_count_as_their_base():
    class Mine(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(4, 4, 3)

    class Same(Conv2dSame):
        pass

    assert variant_of(Mine()) == (False, None)
    assert variant_of(Same(4, 4, 3)) == (True, None)


def test_an_unknown_forward_pass_is_not_taken_for_a_convolution():
    class Squared(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).square()

    class Flipped(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x.flip(-1), weight, bias)

    class Conv2dSameOfSomebodyElse(nn.Conv2d):
        def forward(self, x):
            return x

    Conv2dSameOfSomebodyElse.__name__ = "Conv2dSame"
    for kind in (Squared, Flipped, Conv2dSameOfSomebodyElse):
        assert variant_of(kind(8, 8, 3)) is None
        with pytest.raises(NotImplementedError, match=rf"got {kind.__name__} \(layer '0'\)"):
            factorize_(nn.Sequential(kind(8, 8, 3)), 4)


@pytest.mark.parametrize(("size", "stride", "kernel"), [(7, 2, 3), (8, 2, 3), (8, 3, 5), (5, 1, 3), (2, 4, 3)])
def test_tf_same_gives_ceil_of_size_over_stride(size, stride, kernel):
    layer = HOCPConv2d(3, 4, kernel, stride=stride, padding="tf_same", rank=2)
    assert layer(torch.randn(1, 3, size, size)).shape[2:] == (-(-size // stride),) * 2


def test_merging_refuses_padding_that_a_dense_layer_cannot_say():
    merged = nn.Sequential(HOCPConv2d(3, 4, 3, padding="tf_same", rank=2))
    x = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        expected = merged(x)
        merge_dense_(merged)
        assert_close(merged(x), expected, 1e-5, "stride 1")
    with pytest.raises(NotImplementedError, match="padding='tf_same' with a stride"):
        merge_dense_(nn.Sequential(HOCPConv2d(3, 4, 3, stride=2, padding="tf_same", rank=2)))


def test_parts_of_frames_are_not_taken_for_frames():
    """Attention heads next to each other in the batch: each is a clip of its own."""
    axis = FrameAxis()
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4))
    transduct_(net, 3, frame_axis=axis)
    nn.init.normal_(net[0].factors["t"])
    axis.clips, axis.length = 2, 5
    heads = torch.randn(2, 5, 3, 4, 6, 6)  # [clips, frames, heads, ...]
    with torch.no_grad():
        out = net(heads.flatten(0, 2)).unflatten(0, (2, 5, 3))
        for head in range(3):
            alone = net(heads[:, :, head].flatten(0, 1)).unflatten(0, (2, 5))
            assert_close(out[:, :, head], alone, 1e-6, f"head {head}")
    with pytest.raises(ValueError, match="multiple of 2 clips of 5 frames, got 7"):
        net(torch.randn(7, 4, 6, 6))


def test_the_temporal_factor_of_a_factorized_layer_sees_parts_of_frames_alone():
    axis, kernel = FrameAxis(), random_kernel(out=4, in_=4, rank=3, dtype=torch.float32)
    net = nn.Sequential(HOCPConv2d(4, 4, 3, padding=1, rank=3))
    net[0].set_kernel(kernel)
    transduct_(net, 3, frame_axis=axis)
    nn.init.normal_(net[0].factors["t"])
    axis.clips, axis.length = 1, 4
    parts = torch.randn(4, 2, 4, 5, 5)  # [frames, parts, ...]
    with torch.no_grad():
        out = net(parts.flatten(0, 1)).unflatten(0, (4, 2))
        assert_close(out[:, 1], net(parts[:, 1]), 1e-5, "part 1")


def test_the_wrappers_of_mmcv_count_as_their_base():
    wrappers = pytest.importorskip("mmcv.cnn.bricks.wrappers", reason="mmcv is not installed")
    net = nn.Sequential(wrappers.Conv3d(6, 4, 3, padding=1)).double()
    x = torch.randn(1, 6, 3, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = net(x)
        factorize_(net, 27 * 4)
        assert_close(net(x), expected, 1e-4, "Conv3d of mmcv")


def test_a_parametrized_kernel_is_not_taken_for_a_parameter():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)))
    with pytest.raises(NotImplementedError, match=r"got ParametrizedConv2d \(layer '0'\)"):
        factorize_(net, 4)
