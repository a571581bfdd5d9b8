import copy

import pytest
import torch
from torch import nn

from hocp_mm.functional import dense_kernel
from hocp_mm.layers import FrameAxis, HOCPConv1d, HOCPConv2d, HOCPConv3d, transduct_
from hocp_mm.layers.merging import merge_dense_
from tests.laws import assert_close, state_shapes

LAYERS = {1: (HOCPConv1d, nn.Conv1d), 2: (HOCPConv2d, nn.Conv2d), 3: (HOCPConv3d, nn.Conv3d)}
SETTINGS = {
    "defaults": {},
    "strided, padded, dilated": {"stride": 2, "padding": 2, "dilation": 2},
    "same": {"padding": "same", "padding_mode": "reflect"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "grouped without bias": {"groups": 2, "bias": False},
}


@pytest.mark.parametrize("order", LAYERS)
@pytest.mark.parametrize("case", SETTINGS)
def test_the_merged_layer_is_a_dense_one_with_the_same_output(order, case):
    make, dense_class = LAYERS[order]
    layer = make(8, 12, 3, rank=10, dtype=torch.float64, **SETTINGS[case])
    model = nn.Sequential(copy.deepcopy(layer))
    assert merge_dense_(model) == ["0"]
    assert type(model[0]) is dense_class
    x = torch.randn(2, 8, *[9] * order, dtype=torch.float64)
    assert_close(model(x), layer(x), 1e-12, f"merged {case}")
    expected = dense_class(8, 12, 3, dtype=torch.float64, **SETTINGS[case])
    assert repr(model[0]) == repr(expected)
    assert state_shapes(model[0]) == state_shapes(expected)


def test_dtype_mode_and_bias_are_kept_and_the_generator_is_left_alone():
    layer = HOCPConv2d(4, 6, 3, rank=5, dtype=torch.bfloat16).eval()
    bias, model, state = layer.bias, nn.Sequential(layer), torch.get_rng_state()
    merge_dense_(model)
    assert model[0].weight.dtype == torch.bfloat16
    assert model[0].bias is bias
    assert not model[0].training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_kernel_trains_if_a_factor_did(frozen):
    layer = HOCPConv2d(4, 6, 3, rank=5)
    for parameter in (layer.weights, *layer.factors.values()):
        parameter.requires_grad_(False)
    layer.factors["w"].requires_grad_(not frozen)
    model = nn.Sequential(layer)
    merge_dense_(model)
    assert model[0].weight.requires_grad is not frozen
    assert model[0].weight.is_leaf


@pytest.mark.parametrize("init", ["central", "last"])
def test_a_frame_folded_layer_that_sees_one_frame_becomes_a_2d_convolution(init):
    model, axis = nn.Sequential(HOCPConv2d(4, 6, 3, padding=1, rank=5, dtype=torch.float64)), FrameAxis()
    transduct_(model, 3, init, frame_axis=axis)
    with torch.no_grad():
        model[0].factors["t"].mul_(torch.randn(5, dtype=torch.float64))
    axis.length = 3
    x = torch.randn(6, 4, 8, 8, dtype=torch.float64)
    expected = model(x)
    merge_dense_(model)
    assert type(model[0]) is nn.Conv2d
    assert_close(model(x), expected, 1e-12, "merged frame-folded layer")


def test_patterns_choose_and_the_kernel_is_the_layers_own():
    model = nn.Sequential(HOCPConv2d(4, 4, 3, rank=5), HOCPConv2d(4, 4, 3, rank=5))
    kernel = dense_kernel(model[1].kernel())
    assert merge_dense_(model, "1") == ["1"]
    assert isinstance(model[0], HOCPConv2d)
    assert_close(model[1].weight, kernel, 1e-6, "kernel")


class _Own(HOCPConv2d):
    pass


def _seeing_time() -> nn.Module:
    model = nn.Sequential(HOCPConv2d(4, 4, 3, rank=5))
    transduct_(model, 3, "uniform", frame_axis=FrameAxis())
    return model[0]


REFUSED = {
    "psi": (lambda: HOCPConv2d(4, 4, 3, inner_act_cfg={"type": "ReLU"}), r"'inner' between its stages \(layer '1'\)"),
    "a gate": (lambda: HOCPConv2d(4, 4, 3, gate_cfg={"type": "SE"}), r"'gate' between its stages \(layer '1'\)"),
    "other frames": (_seeing_time, r"sees other frames; .* \(layer '1'\)"),
    "a subclass": (lambda: _Own(4, 4, 3), r"the subclass _Own \(layer '1'\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_the_layer_and_changes_nothing(case):
    make, message = REFUSED[case]
    model = nn.Sequential(HOCPConv2d(4, 4, 3), make())
    with pytest.raises(NotImplementedError, match=message):
        merge_dense_(model)
    assert isinstance(model[0], HOCPConv2d)


def test_nothing_to_merge_is_refused():
    with pytest.raises(ValueError, match="merge_dense_: the model must hold an HO-CP layer"):
        merge_dense_(nn.Sequential(nn.Conv2d(3, 3, 1)))
