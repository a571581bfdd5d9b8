import copy

import pytest
import torch
from torch import nn

from hocp_mm.functional import dense_kernel, fold_frames, unfold_frames
from hocp_mm.layers import (
    FrameAxis,
    FrameFoldedConv2d,
    FrameFoldedHOCPConv2d,
    HOCPConv1d,
    HOCPConv2d,
    HOCPConv3d,
    factorize_,
    freeze_all_but_,
    transduct_,
)
from tests.laws import assert_close, assert_framewise, random_kernel, relative_error


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


@pytest.mark.parametrize("order", [1, 2, 3])
def test_convolutions_of_all_orders_are_factorized(order):
    dense_class = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[order]
    net = nn.Sequential(dense_class(6, 8, 3, padding=1), dense_class(8, 8, 1), dense_class(8, 8, 3, groups=4)).double()
    with torch.no_grad():
        net[0].weight.copy_(dense_kernel(random_kernel(out=8, in_=6, taps=(3,) * order, rank=1)))
    x = torch.randn(2, 6, *[5] * order, dtype=torch.float64)
    expected = net(x)
    assert factorize_(net, 3) == ["0"]
    assert type(net[0]) is {1: HOCPConv1d, 2: HOCPConv2d, 3: HOCPConv3d}[order]
    assert_close(net(x), expected, 1e-6, "factorized network")


@pytest.mark.slow
def test_a_3d_network_of_torchvision_is_factorized():
    video = pytest.importorskip("torchvision.models.video")
    net = video.r3d_18().eval()
    names = factorize_(net, "x0.5", fit=False)
    assert len(names) == 16  # of torchvision's own subclass of nn.Conv3d; the stem is kept
    assert all(isinstance(net.get_submodule(name), HOCPConv3d) for name in names)
    assert net(torch.randn(1, 3, 4, 32, 32)).shape == (1, 400)


def test_a_subclass_that_computes_the_same_is_factorized():
    class Named(nn.Conv2d):
        def __init__(self, channels):
            super().__init__(channels, channels, 3, padding=1)

    net = nn.Sequential(Named(6)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(dense_kernel(random_kernel(out=6, in_=6, rank=1)))
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    expected = net(x)
    factorize_(net, 2)
    assert type(net[0]) is HOCPConv2d
    assert not net[0].training
    assert_close(net(x), expected, 1e-6, "factorized subclass")


def test_a_full_name_stands_for_its_layer_alone():
    net = nn.Sequential()
    for name in ("layer1", "layer10", "layer2"):
        net.add_module(name, nn.Conv2d(8, 8, 3))
    assert factorize_(net, {"layer1": 3, ".": 7}, fit=False) == ["layer1", "layer10", "layer2"]
    assert [layer.rank for layer in net] == [3, 7, 7]


def test_a_mapping_of_full_names_chooses_the_layers():
    net = network()
    assert factorize_(net, {"5": 4, "0": 2}) == ["0", "5"]  # a stem and a 1x1, which None leaves out
    assert (net[0].rank, net[5].rank) == (2, 4)


def test_auto_ranks_come_from_the_weights():
    net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)).double()
    with torch.no_grad():
        for layer, rank in zip(net, (3, 5), strict=True):
            layer.weight.copy_(dense_kernel(random_kernel(out=16, in_=16, rank=rank)))
    factorize_(net, "auto")
    assert [layer.rank for layer in net] == [3, 5]


def test_an_error_target_is_met_by_every_layer():
    net = nn.Sequential(nn.Conv2d(8, 12, 3), nn.Conv2d(12, 8, 3))
    dense = copy.deepcopy(net)
    factorize_(net, "error0.4")
    for layer, conv in zip(net, dense, strict=True):
        assert 0.3 < relative_error(dense_kernel(layer.kernel()), conv.weight) <= 0.4


def test_input_moments_reach_the_fit_of_their_layer(monkeypatch):
    met = {}

    def from_dense(conv, rank, **options):
        met[conv] = options["input_moment"]
        return HOCPConv2d(8, 8, 3)

    monkeypatch.setattr(HOCPConv2d, "from_dense", from_dense)
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    convolutions, moments = list(net), {"0": torch.eye(8), "1": 2 * torch.eye(8)}
    factorize_(net, 4, input_moments=moments)
    assert [met[conv] for conv in convolutions] == [moments["0"], moments["1"]]


def test_an_error_target_is_searched_once_and_with_the_moments():
    conv = nn.Conv2d(16, 16, 3)
    moment = torch.diag(torch.arange(1, 17) ** -2.0)
    expected = HOCPConv2d.from_dense(conv, "error0.2", input_moment=moment)
    assert expected.rank < HOCPConv2d.from_dense(conv, "error0.2").rank
    net = nn.Sequential(conv)
    factorize_(net, "error0.2", input_moments={"0": moment})
    assert net[0].rank == expected.rank
    assert net[0].fit_report == expected.fit_report
    assert torch.equal(net[0].factors["in"], expected.factors["in"])


def test_options_reach_the_new_layers():
    net = network()
    factorize_(net, 4, fit=False, inner_act_cfg={"type": "ReLU"}, dropout=0.2)
    assert net[3].inner is not None
    assert net[3].dropout == 0.2


def test_a_shared_layer_is_replaced_under_all_its_names():
    net = nn.Module()
    net.first = net.again = nn.Conv2d(8, 8, 3)
    net.inside = nn.Sequential(net.first)
    assert factorize_(net, 4) == ["first"]
    assert isinstance(net.first, HOCPConv2d)
    assert net.again is net.inside[0] is net.first


def test_a_refused_network_is_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(8, 8, 3), _SameConv(8, 8, 3))
    with pytest.raises(NotImplementedError):
        factorize_(net, 4)
    with pytest.raises(KeyError):
        factorize_(nn.Sequential(net[0], nn.Conv2d(8, 8, 3)), {"^0": 4})
    other = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    with pytest.raises(ValueError, match="rank: must be"):
        factorize_(other, {"^0": 4, "^1": "x0"})
    assert type(other[0]) is nn.Conv2d
    assert type(net[0]) is nn.Conv2d


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
    def forward(self, input):
        return super().forward(nn.functional.pad(input, (1, 1, 1, 1)))


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
    "a full name that is a part of another": (
        lambda: factorize_(network(), {"3": 3, "^4": 2}, layers="."), KeyError, "got none for '0'",
    ),
    "a moment too few": (
        lambda: factorize_(network(), 3, input_moments={"0": torch.eye(3)}), KeyError, "got none for '3'",
    ),
    "weights to look at that are not kept": (
        lambda: factorize_(network(), "auto", fit=False), ValueError, "no weights to look at, got 'auto'",
    ),
    "the model itself": (
        lambda: factorize_(nn.Conv2d(8, 8, 3), 3), ValueError, r"got the model itself \(Conv2d\)",
    ),
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
