from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from hocp_mm.functional import (
    CPKernel,
    Implementation,
    cp_conv,
    cp_conv_folded,
    dense_kernel,
    fold_frames,
    temporal_depthwise,
    unfold_frames,
)
from hocp_mm.functional.padding import resolve_padding
from tests.laws import DENSE_CONV, assert_close, random_kernel

FORMS = get_args(Implementation)
SETTINGS = {
    "plain 1-D": {"taps": (3,), "size": (9,)},
    "plain 2-D": {"taps": (3, 3), "size": (6, 7)},
    "plain 3-D": {"taps": (3, 3, 3), "size": (4, 5, 6)},
    "anisotropic everything": {
        "taps": (1, 3, 5),
        "size": (5, 9, 11),
        "stride": (1, 2, 3),
        "padding": (0, 1, 2),
        "dilation": (2, 1, 2),
    },
    "even taps": {"taps": (2, 4), "size": (8, 9), "padding": (1, 2)},
    "grouped": {"taps": (3, 3), "size": (6, 6), "padding": 1, "groups": 2},
    "depthwise": {"taps": (3, 3), "size": (6, 6), "padding": 1, "groups": 4, "out": 4},
    "one tap": {"taps": (1, 1), "size": (4, 4), "stride": 2},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", SETTINGS)
def test_every_form_equals_the_dense_convolution(case, form):
    options = dict(SETTINGS[case])
    size, taps, groups, out = options.pop("size"), options.pop("taps"), options.pop("groups", 1), options.pop("out", 6)
    kernel = random_kernel(out=out, taps=taps, groups=groups)
    x, bias = torch.randn(2, 4, *size, dtype=torch.float64), torch.randn(out, dtype=torch.float64)
    expected = DENSE_CONV[len(taps)](x, dense_kernel(kernel), bias, groups=groups, **options)
    assert_close(cp_conv(x, kernel, bias, **options, implementation=form), expected, 1e-12, case)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", (2, 1)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_padding_modes_equal_nn_conv(padding_mode, padding, form):
    dense = torch.nn.Conv2d(4, 6, (4, 3), padding=padding, padding_mode=padding_mode, dtype=torch.float64)
    kernel = random_kernel(taps=(4, 3))
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    with torch.no_grad():
        dense.weight.copy_(dense_kernel(kernel))
    actual = cp_conv(x, kernel, dense.bias, padding=padding, padding_mode=padding_mode, implementation=form)
    assert_close(actual, dense(x), 1e-12, padding_mode)


def test_unbatched_input():
    kernel = random_kernel()
    x = torch.randn(4, 6, 6, dtype=torch.float64)
    assert_close(cp_conv(x, kernel), F.conv2d(x, dense_kernel(kernel)), 1e-12, "unbatched")


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form):
    kernel = random_kernel(out=2, in_=2, taps=(2, 3), rank=3, requires_grad=True)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def run(x, weights, *factors):
        return cp_conv(
            x,
            CPKernel(weights, dict(zip(kernel.factors, factors, strict=True))),
            stride=2,
            padding=1,
            implementation=form,
        )

    assert torch.autograd.gradcheck(run, (x, kernel.weights, *kernel.factors.values()))


def test_inner_is_applied_between_the_first_projection_and_the_taps():
    kernel = random_kernel()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    z = torch.einsum("nchw,cr->nrhw", x, kernel.factors["in"]).relu()
    taps = torch.einsum("hr,wr->rhw", kernel.factors["h"], kernel.factors["w"]).unsqueeze(1)
    z = F.conv2d(z, taps, padding=1, groups=8) * kernel.weights.reshape(1, -1, 1, 1)
    expected = torch.einsum("nrhw,or->nohw", z, kernel.factors["out"])
    for form in [form for form in FORMS if form != "reconstructed"]:
        assert_close(cp_conv(x, kernel, padding=1, inner=F.relu, implementation=form), expected, 1e-12, form)


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_folded_convolution_equals_conv3d(before, frames):
    kernel = random_kernel(taps=(3, 3, 2))
    clip, bias = torch.randn(2, 4, frames, 6, 7, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    expected = F.conv3d(F.pad(clip, (0, 0, 0, 0, before, 2 - before)), dense_kernel(kernel), bias, (1, 2, 1), (0, 1, 1))
    folded = cp_conv_folded(
        fold_frames(clip),
        kernel,
        bias,
        (2, 1),
        resolve_padding((1, 1), (3, 2), (2, 1), (1, 1)),
        (1, 1),
        frames=frames,
        before=before,
    )
    assert_close(unfold_frames(folded, frames), expected, 1e-12, f"frames={frames}, before={before}")


def test_folding_is_undone_and_keeps_frames_apart():
    clip = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(unfold_frames(fold_frames(clip), 4), clip)
    assert torch.equal(fold_frames(clip)[5], clip[1, :, 1])


def test_temporal_pass_keeps_channels_last():
    images = fold_frames(torch.randn(2, 8, 4, 5, 6))
    out = temporal_depthwise(images, torch.randn(3, 8), 4, 1)
    assert out.is_contiguous(memory_format=torch.channels_last)


REFUSED = {
    "a wrong number of dimensions": (
        {"x": torch.randn(4, 4)},
        ValueError,
        "does not fit a kernel with 2 convolved modes",
    ),
    "wrong channels": ({"x": torch.randn(1, 3, 6, 6)}, ValueError, "4 input channels, got x of shape"),
    "a wrong length": ({"stride": (1, 2, 3)}, ValueError, r"stride must be an int or 2 ints, got \(1, 2, 3\)"),
    "a bias of another length": ({"bias": torch.ones(3)}, ValueError, r"bias must have shape \(6,\), got \(3,\)"),
    "a stride of 0": ({"stride": 0}, ValueError, r"stride must be at least 1, got \(0, 0\)"),
    "a dilation below 1": ({"dilation": (1, -1)}, ValueError, r"dilation must be at least 1, got \(1, -1\)"),
    "a negative padding": ({"padding": -1}, ValueError, r"padding must be at least 0, got \(-1, -1\)"),
    "an unknown form": ({"implementation": "fast"}, ValueError, "implementation must be one of"),
    "an unknown padding word": (
        {"padding": "full"},
        ValueError,
        "padding must be ints, 'same', 'valid' or 'tf_same', got 'full'",
    ),
    "an unknown padding mode": ({"padding_mode": "mirror"}, ValueError, "padding_mode must be one of"),
    "same with a stride": ({"padding": "same", "stride": 2}, ValueError, "needs stride 1"),
    "a rebuilt kernel with inner": (
        {"implementation": "reconstructed", "inner": F.relu},
        ValueError,
        "cannot apply inner or gate",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_cp_conv_refuses(case):
    options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        cp_conv(**{"x": torch.randn(1, 4, 6, 6), "kernel": random_kernel(dtype=torch.float32), **options})


def test_folded_batch_must_hold_whole_clips():
    with pytest.raises(ValueError, match="multiple of frames=4, got 6"):
        temporal_depthwise(torch.randn(6, 2, 3, 3), torch.randn(3, 2), 4, 1)
    with pytest.raises(ValueError, match="T >= 1"):
        fold_frames(torch.randn(2, 3, 0, 4, 4))


FOLDED_REFUSED = {
    "other channels": ({"images": torch.randn(4, 5, 6, 6)}, "4 input channels"),
    "no images": ({"images": torch.randn(4, 6, 6)}, r"images must be \[N\*T, in, H, W\]"),
    "a kernel without time": ({"kernel": random_kernel(dtype=torch.float32)}, "modes t, h, w"),
    "a dilation of 0": ({"dilation": (0, 1)}, "dilation must be at least 1"),
}


@pytest.mark.parametrize("case", FOLDED_REFUSED)
def test_folded_convolution_refuses(case):
    options, message = FOLDED_REFUSED[case]
    given = {
        "images": torch.randn(4, 4, 6, 6), "kernel": random_kernel(taps=(3, 3, 3), dtype=torch.float32), "bias": None,
        "stride": (1, 1), "pads": ((1, 1), (1, 1)), "dilation": (1, 1), "frames": 2, "before": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        cp_conv_folded(**{**given, **options})


@pytest.mark.parametrize("form", ["factorized", "mobilenet"])
def test_recomputation_repeats_the_random_numbers_of_a_gate(form):
    kernel, x = random_kernel(), torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)

    def gradient(recompute):
        torch.manual_seed(0)
        out = cp_conv(x, kernel, padding=1, implementation=form, gate=F.dropout, recompute=recompute)
        return torch.autograd.grad(out.square().sum(), x)[0]

    assert torch.equal(gradient(True), gradient(False))


def test_a_kernel_without_components_is_refused():
    with pytest.raises(ValueError, match=r"rank >= 1, got \(0,\)"):
        random_kernel(rank=0)
