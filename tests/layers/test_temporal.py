"""Layers that see time keep what the image layer held: Psi, gate, dropout, precision, frozen parts."""

import pytest
import torch
from torch import nn

from hocp_mm.functional import fold_frames, unfold_frames
from hocp_mm.layers import FrameAxis, FrameFoldedHOCPConv2d, HOCPConv1d, HOCPConv2d, HOCPConv3d
from tests.laws import assert_close, assert_framewise
from tests.layers.test_inner import lived_in

PSI = {"inner_norm_cfg": {"type": "BN"}, "inner_act_cfg": {"type": "ReLU"}}
ALL = {**PSI, "gate_cfg": {"type": "SE", "reduction": 2}}
OPTIONS = {
    "plain": {}, "Psi": PSI, "gate": {"gate_cfg": {"type": "SE"}}, "Psi and gate": ALL,
    "grouped": {**ALL, "groups": 2},
}  # fmt: skip


def image_layer(**options) -> HOCPConv2d:
    return lived_in(HOCPConv2d(4, 6, 3, stride=(2, 1), padding=1, rank=8, **options))


def folded(layer, size=3, init="central"):
    """Return a function on clips that runs the frame-folded twin of ``layer``, and the twin."""
    twin = FrameFoldedHOCPConv2d.from_image_layer(layer, size, init, FrameAxis())

    def run(clip):
        twin.frame_axis.length = clip.shape[2]
        return unfold_frames(twin(fold_frames(clip)), clip.shape[2])

    return run, twin


def on_single_frames(layer):
    return lambda clip: layer(clip[:, :, 0].contiguous(memory_format=torch.channels_last)).unsqueeze(2)


@pytest.mark.parametrize("init", ["central", "last"])
@pytest.mark.parametrize("case", OPTIONS)
def test_folded_layers_are_framewise_with_psi_and_gate(case, init):
    layer = image_layer(**OPTIONS[case]).eval()
    layer.implementation = "mobilenet"
    run, _ = folded(layer, 3, init)
    assert_framewise(run, on_single_frames(layer), torch.randn(2, 4, 5, 6, 6), 1e-6)


@pytest.mark.parametrize("norm", [{"type": "GN", "num_groups": 2}, {"type": "IN"}])
def test_folded_layers_are_framewise_with_norms_of_single_samples(norm):
    layer = HOCPConv2d(4, 6, 3, padding=1, rank=8, inner_norm_cfg=norm)
    run, _ = folded(layer)
    assert_framewise(run, on_single_frames(layer), torch.randn(2, 4, 5, 6, 6), 1e-6)


def test_batch_norm_on_folded_frames_is_the_3d_one():
    run, twin = folded(image_layer(**ALL))
    nn.init.normal_(twin.factors["t"])
    video = HOCPConv3d(4, 6, 3, stride=(1, 2, 1), padding=1, rank=8, **ALL)
    video.load_state_dict(twin.state_dict())
    clip = torch.randn(2, 4, 5, 6, 6)
    assert_close(run(clip), video(clip), 1e-5, "training mode")
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert_close(getattr(twin.inner.norm, name), getattr(video.inner.norm, name), 1e-6, name)
    twin.eval(), video.eval()
    assert_close(run(clip), video(clip), 1e-5, "evaluation mode")


def test_a_folded_layer_takes_over_modules_and_options():
    layer = image_layer(**ALL, dropout=0.5, implementation="factorized")
    layer.inner.norm.eval()  # as mmengine's norm_eval leaves it
    names = list(layer.factors)
    _, twin = folded(layer)
    assert (twin.inner, twin.gate) == (layer.inner, layer.gate)
    assert (twin.dropout, twin.implementation) == (0.5, "factorized")
    assert twin.training
    assert not twin.inner.norm.training
    assert list(layer.factors) == names, "the image layer gained a temporal factor"


def test_a_folded_layer_drops_components_in_training_only():
    run, twin = folded(image_layer(dropout=0.5))
    clip = torch.randn(1, 4, 3, 6, 6)
    assert not torch.equal(run(clip), run(clip))
    twin.eval()
    assert torch.equal(run(clip), run(clip))


@pytest.mark.parametrize("settings", [{"padding": 1}, {"padding": "same"}, {"padding": "valid"}, {"groups": 2}])
@pytest.mark.parametrize("options", [{}, PSI])
@pytest.mark.parametrize("order", [1, 2])
def test_one_layer_transducts_to_the_next_order(order, options, settings):
    cls, video_cls, dtype = {1: (HOCPConv1d, HOCPConv2d), 2: (HOCPConv2d, HOCPConv3d)}[order] + (torch.float64,)
    layer = lived_in(cls(4, 6, 3, rank=8, dilation=2, dtype=dtype, **settings, **options)).eval()
    video = layer.transduct(5)
    assert type(video) is video_cls
    clip = torch.randn(2, 4, 4, *[7] * order, dtype=dtype)
    assert video(clip).shape[2] == 4
    assert_framewise(video, lambda frame: layer(frame[:, :, 0]).unsqueeze(2), clip, 1e-12)
    assert video.kernel_size == (5, *layer.kernel_size)


def test_transduct_keeps_strides_modes_and_precision():
    layer = HOCPConv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2), padding_mode="circular", rank=8, dropout=0.25)
    layer = layer.eval()
    layer.requires_grad_(False)
    video = layer.transduct(3, "uniform")
    assert (video.stride, video.padding, video.padding_mode) == ((1, 2, 1), (1, 1, 2), "circular")
    assert (video.dropout, video.training) == (0.25, False)
    assert [n for n, p in video.named_parameters() if p.requires_grad] == ["factors.t"]
    assert all(video.get_parameter(n) is p for n, p in layer.named_parameters())
    clip = torch.randn(1, 4, 1, 6, 6).expand(-1, -1, 5, -1, -1)
    assert_close(video(clip)[:, :, 2], layer(clip[:, :, 0]), 1e-5, "a still clip")


def test_transduct_shares_gates_and_copies_running_statistics():
    layer = image_layer(**ALL).eval()
    video = layer.transduct(3)
    assert type(video.inner.norm) is nn.BatchNorm3d
    assert video.inner.norm.weight is layer.inner.norm.weight
    assert_framewise(
        video, lambda frame: layer(frame[:, :, 0]).unsqueeze(2), torch.randn(2, 4, 5, 6, 6), 1e-6
    )  # fmt: skip
    before = layer.inner.norm.running_mean.clone()
    video.train()(torch.randn(2, 4, 5, 6, 6))
    assert torch.equal(layer.inner.norm.running_mean, before)
    assert not torch.equal(video.inner.norm.running_mean, before)


def test_synchronised_batch_norm_stays_synchronised():
    layer = HOCPConv2d(4, 6, 3, rank=8, inner_norm_cfg={"type": "SyncBN", "momentum": 0.3})
    norm = layer.transduct(3).inner.norm
    assert type(norm) is nn.SyncBatchNorm
    assert norm.momentum == 0.3


def test_a_layer_transducts_from_one_to_three_modes():
    layer = HOCPConv1d(4, 6, 3, padding=1, rank=8).eval()
    video = layer.transduct(3).transduct(3)
    row = torch.randn(2, 4, 7)
    clip = row[:, :, None, None].expand(-1, -1, 3, 5, -1)
    assert list(video.kernel().factors) == ["out", "in", "t", "h", "w"]
    assert_close(video(clip), layer(row)[:, :, None, None].expand(-1, -1, 3, 5, -1), 1e-6, "three modes")


REFUSED = {
    "a causal factor": (lambda: HOCPConv2d(4, 6, 3).transduct(3, "last"), ValueError, "use transduct_ on the network"),
    "an even factor": (lambda: HOCPConv2d(4, 6, 3).transduct(4, "uniform"), ValueError, "size must be odd .* got 4"),
    "an unknown start": (lambda: HOCPConv2d(4, 6, 3).transduct(3, "ones"), ValueError, "got 'ones'"),
    "a fourth mode": (lambda: HOCPConv3d(4, 6, 3).transduct(3), NotImplementedError, "HOCPConv3d.transduct: only"),
    "a folded layer": (
        lambda: folded(image_layer())[1].transduct(3), NotImplementedError, "FrameFoldedHOCPConv2d.transduct: only",
    ),
    "a gate over a row": (
        lambda: HOCPConv1d(4, 6, 3, gate_cfg={"type": "SE"}).transduct(3), NotImplementedError, "a gate must average",
    ),
    "a norm of single samples": (
        lambda: HOCPConv2d(4, 6, 3, inner_norm_cfg={"type": "IN"}).transduct(3), NotImplementedError,
        "must be a batch norm, got InstanceNorm2d",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make()
