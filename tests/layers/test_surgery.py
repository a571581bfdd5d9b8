import copy

import pytest
import torch
from torch import nn

from hocp_mm.functional import fold_frames, unfold_frames
from hocp_mm.layers import (
    FrameAxis,
    FrameFoldedConv2d,
    FrameFoldedHOCPConv2d,
    HOCPConv2d,
    HOCPConv3d,
    factorize_,
    freeze_all_but_,
    transduct_,
)
from tests.laws import assert_close, assert_framewise


def network() -> nn.Sequential:
    """A stem, a dense, a depthwise and a pointwise convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.Conv2d(12, 6, 1),
    ).eval()


def on_clips(net: nn.Module, axis: FrameAxis):
    """Run a folded network on ``[N, C, T, H, W]``."""

    def run(clip):
        axis.length = clip.shape[2]
        return unfold_frames(net(fold_frames(clip)), clip.shape[2])

    return run


def test_factorize_takes_dense_kernels_beyond_the_stem():
    net = network()
    assert factorize_(net, "x1") == ["3"]
    assert isinstance(net[3], HOCPConv2d)
    assert net[3].rank == 8
    assert type(net[0]) is nn.Conv2d


def test_factorize_takes_patterns_and_ranks_by_pattern():
    net = network()
    assert factorize_(net, {"^3": 5, ".": "x2"}, layers=["^0$", "^3$"]) == ["0", "3"]
    assert (net[0].rank, net[3].rank) == (6, 5)


@pytest.mark.parametrize("init", ["central", "last"])
def test_transducted_networks_are_framewise(init):
    net, axis, image_axis = network(), FrameAxis(), FrameAxis()
    factorize_(net, 6)
    image = copy.deepcopy(net)
    assert transduct_(net, 3, init, frame_axis=axis) == ["3", "4"]
    assert isinstance(net[3], FrameFoldedHOCPConv2d)
    assert isinstance(net[4], FrameFoldedConv2d)
    for frames in (1, 2, 5):  # a changing T is safe
        assert_framewise(on_clips(net, axis), on_clips(image, image_axis), torch.randn(2, 3, frames, 8, 8))


def test_the_folded_layer_is_the_3d_layer():
    layer, axis = HOCPConv2d(4, 6, 3, padding=1, rank=5, bias=True), FrameAxis()
    model = nn.Sequential(layer)
    transduct_(model, 3, "uniform", frame_axis=axis)
    nn.init.normal_(model[0].factors["t"])
    video = HOCPConv3d(4, 6, 3, padding=1, rank=5)
    video.load_state_dict(model[0].state_dict())
    clip = torch.randn(2, 4, 5, 6, 6)
    assert_close(on_clips(model, axis)(clip), video(clip), 1e-5, "folded against HOCPConv3d")


def test_the_folded_depthwise_layer_is_a_3d_convolution():
    conv, axis = nn.Conv2d(4, 4, 3, padding=1, groups=4), FrameAxis()
    dense = nn.Conv3d(4, 4, 3, padding=1, groups=4)
    model = nn.Sequential(conv)
    transduct_(model, 3, frame_axis=axis)
    nn.init.normal_(model[0].factors["t"])
    with torch.no_grad():
        dense.weight.copy_(torch.einsum("oihw,to->oithw", conv.weight, model[0].factors["t"]))
        dense.bias.copy_(conv.bias)
    clip = torch.randn(2, 4, 5, 6, 6)
    assert_close(on_clips(model, axis)(clip), dense(clip), 1e-5, "folded depthwise")


def test_causal_transduction_never_sees_the_future():
    net, axis = network(), FrameAxis()
    factorize_(net, 6)
    transduct_(net, 3, "last", frame_axis=axis)
    for index in (3, 4):
        nn.init.normal_(net[index].factors["t"])
    run, clip = on_clips(net, axis), torch.randn(1, 3, 6, 8, 8)
    changed = clip.clone()
    changed[:, :, 4:] += 1
    with torch.no_grad():
        assert torch.equal(run(clip)[:, :, :4], run(changed)[:, :, :4])
        assert not torch.equal(run(clip)[:, :, 4:], run(changed)[:, :, 4:])


def test_transduction_keeps_the_old_parameters_dtype_and_frozen_flags():
    net, axis = network().double(), FrameAxis()
    factorize_(net, 6)
    net.requires_grad_(False)
    old = dict(net.named_parameters())
    transduct_(net, 3, frame_axis=axis)
    new = dict(net.named_parameters())
    assert set(new) - set(old) == {"3.factors.t", "4.factors.t"}
    assert all(new[name] is old[name] for name in old)
    assert new["3.factors.t"].dtype == torch.float64
    assert not any(new[name].requires_grad for name in old)
    assert new["3.factors.t"].requires_grad


def test_copies_share_one_frame_axis_of_their_own():
    net = network()
    net.frame_axis = FrameAxis()
    factorize_(net, 6)
    transduct_(net, 3, frame_axis=net.frame_axis)
    twin = copy.deepcopy(net)
    assert twin.frame_axis is twin[3].frame_axis is twin[4].frame_axis
    assert twin.frame_axis is not net.frame_axis


def test_freeze_all_but():
    net = network()
    assert freeze_all_but_(net, [r"^3\.", "bias$"]) == ["0.bias", "1.bias", "3.weight", "4.bias", "5.bias"]
    assert [n for n, p in net.named_parameters() if p.requires_grad] == [
        "0.bias",
        "1.bias",
        "3.weight",
        "4.bias",
        "5.bias",
    ]


class _SameConv(nn.Conv2d):
    pass


def _with_subclass() -> nn.Module:
    return nn.Sequential(_SameConv(8, 8, 3))


REFUSED = {
    "a pattern without a match": (lambda: factorize_(network(), 4, layers="layer9"), ValueError, "none matches"),
    "a subclass to factorize": (
        lambda: factorize_(_with_subclass(), 4), NotImplementedError, r"got _SameConv \(layer '0'\)",
    ),
    "a subclass to transduct": (
        lambda: transduct_(_with_subclass(), 3, layers=".", frame_axis=FrameAxis()), NotImplementedError,
        "got _SameConv",
    ),
    "nothing to transduct": (
        lambda: transduct_(nn.Sequential(nn.Conv2d(3, 3, 1)), 3, frame_axis=FrameAxis()), ValueError,
        "no layer can see time",
    ),
    "a rank without a pattern": (lambda: factorize_(network(), {"layer9": 3}), KeyError, "got none for '3'"),
    "an even central kernel": (
        lambda: transduct_(network(), 4, frame_axis=FrameAxis()), ValueError, "odd size, got 4",
    ),
    "a freeze pattern without a match": (
        lambda: freeze_all_but_(network(), "factor.t"), ValueError, "must match a parameter",
    ),
    "a layer run outside its backbone": (
        lambda: FrameAxis().length, RuntimeError, "number of frames is not set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_surgery_refuses(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make()
