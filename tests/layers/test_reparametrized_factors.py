"""Factors that are made of other parameters, by a hook or a parametrization, train; nothing is written into them."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from hocp_mm.functional import dense_kernel
from hocp_mm.layers import (
    FrameAxis,
    HOCPConv1d,
    HOCPConv2d,
    HOCPConv3d,
    exportable,
    match_ranks_,
    merge_dense_,
    normalize_factors_,
    prune_ranks_,
    shrink_weights_,
    transduct_,
)
from tests.laws import assert_close

ORDERS = {1: HOCPConv1d, 2: HOCPConv2d, 3: HOCPConv3d}
MADE = {  # what makes a factor, and the parameter that trains in its place
    "weight_norm": (nn.utils.weight_norm, "{}_v"),
    "spectral_norm": (nn.utils.spectral_norm, "{}_orig"),
    "prune": (lambda factors, name: prune.l1_unstructured(factors, name, 0.4), "{}_orig"),
    "parametrized weight_norm": (parametrizations.weight_norm, "parametrizations.{}.original1"),
    "parametrized spectral_norm": (parametrizations.spectral_norm, "parametrizations.{}.original"),
    "orthogonal": (parametrizations.orthogonal, "parametrizations.{}.original"),
}


def remade(layer: nn.Module, how: str, mode: str) -> nn.Parameter:
    make, name = MADE[how]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch would rather have its parametrizations
        make(layer.factors, mode)
    return layer.factors.get_parameter(name.format(mode))


def frame_folded(kind: str) -> nn.Module:
    axis = FrameAxis()
    net = nn.Sequential(HOCPConv2d(8, 8, 3, padding=1, rank=6) if kind == "CP" else nn.Conv2d(8, 8, 3, 1, 1, groups=8))
    transduct_(net, 3, frame_axis=axis)
    nn.init.normal_(net[0].factors["t"])
    axis.length = 2
    return net[0]


LAYERS = {
    **{f"{order}-D {mode}": (lambda o=order: ORDERS[o](8, 8, 3, padding=1, rank=6), order, mode)
       for order in ORDERS for mode in ("out", "in", "w")},
    "folded t": (lambda: frame_folded("CP"), 2, "t"),
    "folded depthwise t": (lambda: frame_folded("depthwise"), 2, "t"),
}  # fmt: skip


@pytest.mark.parametrize("how", MADE)
@pytest.mark.parametrize("case", LAYERS)
def test_every_step_moves_the_output_through_the_factor(case, how):
    torch.manual_seed(0)
    make, order, mode = LAYERS[case]
    layer, x = make(), torch.randn(2, 8, *[5] * order)
    origin = remade(layer, how, mode)
    for parameter in layer.parameters():
        parameter.requires_grad_(parameter is origin)
    seen = []
    for _ in range(3):  # the second step is where a stale tensor shows
        output = layer(x)
        seen.append(output.detach())
        (output - 1).square().mean().backward()
        assert origin.grad.abs().sum() > 0
        with torch.no_grad():
            origin.sub_(origin.grad / origin.grad.norm())
        origin.grad = None
    assert all(not torch.allclose(seen[i], seen[i + 1]) for i in range(2))


@pytest.mark.parametrize("how", MADE)
def test_the_kernel_is_the_one_that_the_factor_has_now(how):
    layer, x = HOCPConv2d(8, 8, 3, padding=1, rank=6).eval(), torch.randn(2, 8, 5, 5)
    origin = remade(layer, how, "h")
    layer.eval()
    with torch.no_grad():
        origin.mul_(-1)
    dense = dense_kernel(layer.kernel()).detach()
    assert_close(nn.functional.conv2d(x, dense, layer.bias, padding=1), layer(x).detach(), 1e-5, "kernel()")
    merged = nn.Sequential(layer)
    with torch.no_grad():
        origin.mul_(-1)
    merge_dense_(merged)  # without a forward pass in between
    expected = layer(x).detach()
    assert_close(merged(x), expected, 1e-5, "merged")


@pytest.mark.parametrize("how", MADE)
def test_a_copy_for_export_has_the_factor_as_it_is(how):
    layer, x = HOCPConv2d(8, 8, 3, padding=1, rank=6).eval(), torch.randn(2, 8, 5, 5)
    origin = remade(layer, how, "h")
    with torch.no_grad():
        origin.mul_(-1)
        layer.eval()
        assert_close(exportable(layer)(x), layer(x), 1e-6, "exportable")


WRITERS = {
    "set_kernel": lambda net: net[0].set_kernel(copy.deepcopy(HOCPConv2d(8, 8, 3, padding=1, rank=6)).kernel()),
    "normalize_factors_": normalize_factors_,
    "normalize_factors_ in shrink_weights_": lambda net: shrink_weights_(net, 0.1),
    "prune_ranks_": lambda net: prune_ranks_(net, 0.9),
    "match_ranks_": lambda net: match_ranks_(net, nn.Sequential(HOCPConv2d(8, 8, 3, rank=4)).state_dict()),
    "share_": lambda net: transduct_(net, 3, frame_axis=FrameAxis()),
}


@pytest.mark.parametrize("how", MADE)
@pytest.mark.parametrize("operation", WRITERS)
def test_what_would_write_into_such_a_factor_is_refused(operation, how):
    net = nn.Sequential(HOCPConv2d(8, 8, 3, padding=1, rank=6))
    remade(net[0], how, "h")
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    with pytest.raises(NotImplementedError, match=f"{operation.split(' ')[0]}: factors must be parameters, got .*h "):
        WRITERS[operation](net)
    assert all(torch.equal(before[name], parameter) for name, parameter in net.named_parameters())


def test_hooks_can_be_removed_again():
    layer = HOCPConv2d(8, 8, 3, rank=6)
    remade(layer, "prune", "h")
    prune.remove(layer.factors, "h")
    layer.set_kernel(layer.kernel())
    assert isinstance(layer.factors["h"], nn.Parameter)


def test_hooks_of_others_wait_for_a_forward_pass():
    """Mmengine's counters hook all modules; without the hook behind the pass theirs in front ends the process."""
    called: list[str] = []
    layer = HOCPConv2d(4, 4, 3, rank=4)
    layer.factors.register_forward_pre_hook(lambda *_: called.append("before"))
    layer(torch.ones(1, 4, 5, 5))
    assert called == []
