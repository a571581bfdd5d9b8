"""Four convolved modes. PyTorch has no operator to compare with, so the oracle takes every window out and sums."""

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from hocp_mm.functional import CPKernel, Implementation, cp_conv, decompose, dense_kernel, transduct
from hocp_mm.functional.order_four import conv4d, pad4d
from hocp_mm.functional.padding import resolve_padding
from tests.laws import assert_close, brute_force_conv, random_kernel

FORMS = get_args(Implementation)
NEUTRAL = {"stride": (1,) * 4, "padding": (0,) * 4, "dilation": (1,) * 4, "groups": 1}
SETTINGS = {
    "defaults": {"taps": (2, 3, 2, 3), "size": (3, 4, 5, 4)},
    "anisotropic everything": {
        "taps": (2, 1, 3, 2),
        "size": (5, 4, 6, 7),
        "stride": (2, 1, 3, 1),
        "padding": (1, 0, 2, 1),
        "dilation": (1, 2, 2, 3),
    },
    "strided and dilated first mode": {
        "taps": (3, 2, 2, 2),
        "size": (9, 3, 3, 3),
        "stride": (3, 1, 1, 1),
        "dilation": (2, 1, 1, 1),
        "padding": (2, 0, 0, 0),
    },
    "grouped": {"taps": (2, 2, 2, 2), "size": (3, 3, 3, 3), "groups": 2},
    "depthwise": {"taps": (2, 3, 1, 2), "size": (3, 4, 2, 3), "groups": 4, "out": 8, "padding": (1, 1, 0, 1)},
    "one tap": {"taps": (1, 1, 1, 1), "size": (2, 3, 4, 2)},
    "one strided tap": {"taps": (1, 1, 1, 1), "size": (3, 3, 4, 5), "stride": (2, 1, 2, 3)},
    "one padded tap": {"taps": (1, 1, 1, 1), "size": (2, 3, 2, 2), "padding": (1, 0, 2, 0)},
    "taps in the first mode": {"taps": (3, 1, 1, 1), "size": (5, 2, 3, 2), "padding": (1, 0, 0, 0)},
    "taps in the second mode": {"taps": (1, 3, 1, 1), "size": (2, 5, 3, 2), "stride": (1, 2, 1, 1)},
    "taps in the third mode": {"taps": (1, 1, 3, 1), "size": (2, 3, 5, 2), "dilation": (1, 1, 2, 1)},
    "taps in the last mode": {"taps": (1, 1, 1, 3), "size": (2, 3, 2, 5), "padding": (0, 0, 0, 2)},
    "idle modes apart from each other": {"taps": (2, 1, 2, 1), "size": (3, 3, 3, 3)},
}


def drawn(case: str, batch: int = 2) -> tuple[torch.Tensor, CPKernel, torch.Tensor, dict]:
    settings = {"out": 6, **NEUTRAL, **SETTINGS[case]}
    size, taps, out = settings.pop("size"), settings.pop("taps"), settings.pop("out")
    kernel = random_kernel(out=out, in_=4, taps=taps, rank=8, groups=settings["groups"])
    return torch.randn(batch, 4, *size, dtype=torch.float64), kernel, torch.randn(out, dtype=torch.float64), settings


def reference(x, kernel, bias, stride, padding, dilation, groups, padding_mode="zeros"):
    pads = [(p, p) for p in padding]
    y = brute_force_conv(x, dense_kernel(kernel), stride, pads, dilation, groups, padding_mode)
    return y + bias.reshape(-1, 1, 1, 1, 1)


def test_the_oracle_agrees_with_pytorch_where_pytorch_has_an_operator():
    x, weight = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64), torch.randn(6, 2, 2, 3, 2, dtype=torch.float64)
    stride, padding, dilation = (2, 1, 3), (1, 0, 2), (1, 2, 3)
    actual = brute_force_conv(x, weight, stride, [(p, p) for p in padding], dilation, groups=2)
    assert_close(actual, F.conv3d(x, weight, None, stride, padding, dilation, 2), 1e-13, "oracle")


@pytest.mark.parametrize("case", SETTINGS)
def test_conv4d_equals_the_definition(case):
    x, kernel, bias, settings = drawn(case)
    assert_close(conv4d(x, dense_kernel(kernel), bias, **settings), reference(x, kernel, bias, **settings), 1e-12, case)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", SETTINGS)
def test_every_cp_form_equals_the_definition(case, form):
    x, kernel, bias, settings = drawn(case)
    expected = reference(x, kernel, bias, **settings)
    settings.pop("groups")
    assert_close(cp_conv(x, kernel, bias, **settings, implementation=form), expected, 1e-12, case)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", [(2, 1, 0, 1), "same"], ids=str)
@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "replicate", "reflect"])
def test_padding_modes_equal_the_definition(padding_mode, padding, form):
    kernel = random_kernel(taps=(4, 2, 1, 3), rank=5)
    x = torch.randn(2, 4, 4, 3, 2, 5, dtype=torch.float64)
    pads = resolve_padding(padding, kernel.kernel_size, (1,) * 4, (1,) * 4)
    expected = brute_force_conv(x, dense_kernel(kernel), (1,) * 4, pads, (1,) * 4, 1, padding_mode)
    actual = cp_conv(x, kernel, padding=padding, padding_mode=padding_mode, implementation=form)
    assert_close(actual, expected, 1e-12, padding_mode)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("mode", ["constant", "circular", "replicate", "reflect"])
def test_pad4d_equals_numpy_on_uneven_edges(mode, batch):
    x = torch.randn(batch, 3, 4, 3, 5, 4, dtype=torch.float64)
    edges = [(1, 0), (2, 1), (0, 3), (1, 2)]
    word = {"circular": "wrap", "replicate": "edge"}.get(mode, mode)
    padded = pad4d(x, [n for edge in reversed(edges) for n in edge], mode)
    if batch:
        assert torch.equal(padded, torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *edges], mode=word)))
    assert padded.shape == (batch, 3, 5, 6, 8, 7)


@pytest.mark.parametrize("form", FORMS)
def test_unbatched_and_empty_input(form):
    x, kernel, bias, _ = drawn("defaults", batch=1)
    expected = cp_conv(x, kernel, bias, padding=1, implementation="reconstructed")
    assert_close(cp_conv(x[0], kernel, bias, padding=1, implementation=form), expected[0], 1e-12, "unbatched")
    assert cp_conv(x[:0], kernel, bias, padding=1, implementation=form).shape == (0, *expected.shape[1:])
    assert_close(conv4d(x[0], dense_kernel(kernel), bias, padding=1), expected[0], 1e-12, "conv4d, unbatched")


@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": (2, 1, 1, 2), "padding": (1, 0, 1, 0), "dilation": (2, 1, 1, 1)}],
    ids=["defaults", "everything"],
)
def test_conv4d_gradients(settings):
    x = torch.randn(1, 2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 2, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    run = lambda *tensors: conv4d(*tensors, **settings, groups=2)  # noqa: E731
    assert gradcheck(run, (x, weight, bias))
    assert gradgradcheck(run, (x, weight, bias))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_cp_gradients(form, padding_mode):
    kernel = random_kernel(out=2, in_=2, taps=(2, 1, 2, 2), rank=2, requires_grad=True)
    x = torch.randn(1, 2, 3, 2, 2, 3, dtype=torch.float64, requires_grad=True)

    def run(x, weights, *factors):
        rebuilt = CPKernel(weights, dict(zip(kernel.factors, factors, strict=True)))
        return cp_conv(x, rebuilt, padding=(1, 0, 1, 0), padding_mode=padding_mode, implementation=form)

    assert gradcheck(run, (x, kernel.weights, *kernel.factors.values()))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "reconstructed"])
def test_inner_and_gate_see_components_with_four_sizes(form):
    x, kernel, _, _ = drawn("defaults")
    seen = []

    def watched(z):
        seen.append(tuple(z.shape))
        return 2 * z

    actual = cp_conv(x, kernel, None, padding=(1, 1, 1, 1), implementation=form, inner=watched, gate=watched)
    plain = cp_conv(x, kernel, None, padding=(1, 1, 1, 1), implementation="reconstructed")
    assert_close(actual, 4 * plain, 1e-12, form)
    assert seen == [(2, 8, 3, 4, 5, 4), (2, 8, 4, 4, 6, 4)]


def test_memory_layout_of_the_input_does_not_matter():
    x, kernel, bias, _ = drawn("defaults")
    strided = x.permute(0, 2, 3, 4, 5, 1).contiguous().permute(0, 5, 1, 2, 3, 4)
    assert not strided.is_contiguous()
    for form in FORMS:
        expected = cp_conv(x, kernel, bias, implementation=form)
        assert_close(cp_conv(strided, kernel, bias, implementation=form), expected, 1e-13, form)


@pytest.mark.parametrize(("init", "before"), [("central", 1), ("last", 2)])
def test_transduction_from_three_modes_to_four_keeps_every_slice(init, before):
    kernel = random_kernel(taps=(2, 3, 3))
    x = torch.randn(2, 4, 5, 3, 4, 4, dtype=torch.float64)
    padded = F.pad(x, (0,) * 6 + (before, 2 - before))
    slices = torch.stack([cp_conv(x[:, :, i], kernel, padding=(0, 1, 1)) for i in range(5)], dim=2)
    assert_close(cp_conv(padded, transduct(kernel, 3, init), padding=(0, 0, 1, 1)), slices, 1e-13, init)


def test_a_kernel_of_known_rank_is_recovered():
    kernel = random_kernel(out=5, in_=4, taps=(3, 3, 3, 3), rank=2)
    even = {name: factor / factor.norm(dim=0) for name, factor in kernel.factors.items()}
    dense = dense_kernel(CPKernel(torch.ones(2, dtype=torch.float64), even))
    fit = decompose(dense, 2)
    assert fit.relative_error < 1e-4
    assert_close(dense_kernel(fit.kernel), dense, 1e-4, "order 4")


REFUSED = {
    "an image": ({"x": torch.randn(1, 4, 6, 6)}, r"got \(1, 4, 6, 6\) and"),
    "a kernel of three modes": ({"weight": torch.randn(6, 4, 2, 2, 2)}, "4 taps"),
    "a wrong length": ({"stride": (1, 2, 3)}, r"stride must be an int or 4 ints, got \(1, 2, 3\)"),
    "a word": ({"padding": "same"}, "padding must be an int or 4 ints, got 'same'"),
    "a small input": ({"x": torch.randn(1, 4, 3, 1, 3, 3)}, r"must hold the dilated kernel, got sizes \(3, 1, 3, 3\)"),
    "a kernel too far spread": ({"dilation": (3, 1, 1, 1)}, r"dilation \(3, 1, 1, 1\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_conv4d_refuses(case):
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        conv4d(**{"x": torch.randn(1, 4, 3, 3, 3, 3), "weight": torch.randn(6, 4, 2, 2, 2, 2), **options})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("mode", "message"), [("reflect", "should be less than"), ("circular", "wrapping around")])
def test_padding_beyond_the_input_is_refused_as_in_nn(mode, message, form):
    for size in ((2, 4, 4, 4), (4, 4, 4, 2)):
        with pytest.raises(RuntimeError, match=message):
            cp_conv(
                torch.randn(1, 4, *size),
                random_kernel(taps=(2, 2, 2, 2), dtype=torch.float32),
                padding=3,
                padding_mode=mode,
                implementation=form,
            )
