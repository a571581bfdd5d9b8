import copy

import pytest
import torch
from torch import nn

from hocp_mm.functional import cp_conv, decompose, dense_kernel
from hocp_mm.layers import (
    FrameAxis,
    HOCPConv1d,
    HOCPConv2d,
    HOCPConv3d,
    complexity,
    factorize_,
    input_moments,
    transduct_,
)
from tests.laws import assert_close, assert_equals_dense, random_kernel, relative_error, state_shapes

LAYERS = {1: (HOCPConv1d, nn.Conv1d), 2: (HOCPConv2d, nn.Conv2d), 3: (HOCPConv3d, nn.Conv3d)}
SETTINGS = {
    "defaults": {},
    "strided, padded, dilated": {"stride": 2, "padding": 2, "dilation": 2},
    "same": {"padding": "same"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "grouped without bias": {"groups": 2, "bias": False},
}


@pytest.mark.parametrize("order", LAYERS)
@pytest.mark.parametrize("case", SETTINGS)
def test_a_layer_equals_the_dense_layer_with_its_kernel(order, case):
    cp_class, dense_class = LAYERS[order]
    layer = cp_class(8, 12, 3, rank=10, **SETTINGS[case])
    assert_equals_dense(layer, torch.randn(2, 8, *[9] * order), dense_class(8, 12, 3, **SETTINGS[case]), 1e-5)


def test_anisotropic_3d_settings_keep_each_axis():
    options = {"kernel_size": (1, 3, 5), "stride": (1, 2, 3), "padding": (0, 1, 2), "dilation": (1, 2, 1)}
    layer = HOCPConv3d(4, 6, **options, rank=8)
    assert_equals_dense(layer, torch.randn(2, 4, 3, 9, 11), nn.Conv3d(4, 6, **options), 1e-5)


@pytest.mark.parametrize("rank", [16, 64, 512])
def test_a_fresh_layer_has_he_variance_at_any_rank(rank):
    kernels = torch.stack([dense_kernel(HOCPConv2d(32, 48, 3, rank=rank).kernel()) for _ in range(8)])
    assert kernels.var().item() == pytest.approx(2 / (32 * 9), rel=0.15)


def test_a_fresh_layer_is_initialised_and_init_weights_keeps_it():
    layer = HOCPConv3d(8, 8, 3, rank=8)
    before = copy.deepcopy(layer.state_dict())
    layer.init_weights()
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    assert torch.equal(layer.weights, torch.ones(8))
    assert not layer.bias.any()


def test_factors_are_named_by_mode():
    assert state_shapes(HOCPConv3d(4, 6, (3, 5, 7), rank=2)) == {
        "weights": (2,), "bias": (6,), "factors.out": (6, 2), "factors.in": (4, 2),
        "factors.t": (3, 2), "factors.h": (5, 2), "factors.w": (7, 2),
    }  # fmt: skip


def test_a_2d_state_dict_fills_a_3d_layer_except_exactly_the_temporal_factor():
    flat, video = HOCPConv2d(4, 6, 3, rank=5), HOCPConv3d(4, 6, 3, rank=5)
    result = video.load_state_dict(flat.state_dict(), strict=False)
    assert result.missing_keys == ["factors.t"]
    assert result.unexpected_keys == []
    assert torch.equal(video.factors["h"], flat.factors["h"])


def test_no_weight_attribute_for_foreign_code_to_write_into():
    assert not hasattr(HOCPConv2d(4, 4, 3), "weight")


def test_parameter_count_is_the_formula():
    layer = HOCPConv3d(64, 128, 3, rank=64, bias=False)
    assert sum(p.numel() for p in layer.parameters()) == 64 * (64 + 128 + 9 + 1)


@pytest.mark.parametrize("order", LAYERS)
def test_from_dense_keeps_settings_dtype_and_a_copy_of_the_bias(order):
    cp_class, dense_class = LAYERS[order]
    dense = dense_class(6, 8, 3, stride=2, padding=1, dilation=2, groups=2, dtype=torch.float64).eval()
    with torch.no_grad():
        dense.weight.copy_(dense_kernel(random_kernel(out=8, in_=6, taps=(3,) * order, rank=2, groups=2)))
    layer = cp_class.from_dense(dense, 2)
    x = torch.randn(2, 6, *[9] * order, dtype=torch.float64)
    assert_close(layer(x), dense(x), 1e-5, "decomposed layer")
    assert not layer.training
    assert layer.bias.data_ptr() != dense.bias.data_ptr()
    assert torch.equal(layer.bias, dense.bias)


def test_from_dense_is_seeded():
    dense = nn.Conv2d(6, 8, 3)
    twins = [HOCPConv2d.from_dense(dense, 4, seed=3).state_dict() for _ in range(2)]
    assert all(torch.equal(twins[0][name], twins[1][name]) for name in twins[0])


def test_from_dense_fits_better_with_more_components():
    dense = nn.Conv2d(8, 8, 3, bias=False)
    errors = [relative_error(dense_kernel(HOCPConv2d.from_dense(dense, r).kernel()), dense.weight) for r in (4, 16, 60)]
    assert errors[0] > errors[1] > errors[2]


def test_from_dense_reports_the_error_of_the_fit():
    dense = nn.Conv2d(8, 8, 3, bias=False)
    layer = HOCPConv2d.from_dense(dense, 16)
    error = relative_error(dense_kernel(layer.kernel()), dense.weight)
    assert layer.fit_report.relative_error == pytest.approx(error, rel=1e-4)
    assert layer.fit_report.degeneracy > 0
    assert copy.deepcopy(layer).fit_report == layer.fit_report
    assert "fit_report" not in layer.state_dict()
    assert HOCPConv2d.from_dense(dense, 16, fit=False).fit_report is None


def test_from_dense_takes_ranks_that_look_at_the_kernel():
    dense = nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        dense.weight.copy_(dense_kernel(random_kernel(out=8, in_=8, rank=3)))
    layer = HOCPConv2d.from_dense(dense, "error0.05")
    assert layer.fit_report.relative_error <= 0.05
    assert layer.rank <= 4
    assert HOCPConv2d.from_dense(dense, "auto").rank <= 8


def test_from_dense_fits_outputs_when_told_the_inputs():
    dense = nn.Conv2d(6, 8, 3)
    moment = torch.diag(torch.linspace(0.1, 10, 6))
    layer = HOCPConv2d.from_dense(dense, 4, input_moment=moment)
    expected = decompose(dense.weight, 4, input_moment=moment).kernel
    assert torch.equal(layer.factors["in"], expected.factors["in"])
    assert not torch.equal(layer.factors["in"], HOCPConv2d.from_dense(dense, 4).factors["in"])


def test_recomputing_changes_memory_and_not_the_gradients():
    options = {"rank": 8, "implementation": "mobilenet", "gate_cfg": {"type": "SE"}, "dropout": 0.4}
    kept, again = HOCPConv2d(4, 6, 3, **options), HOCPConv2d(4, 6, 3, **options, recompute=True)
    nn.init.normal_(kept.gate.expand.weight)
    again.load_state_dict(kept.state_dict())
    x = torch.randn(2, 4, 6, 6)
    sizes: dict[str, list[int]] = {"kept": [], "again": []}
    for name, layer in {"kept": kept, "again": again}.items():
        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, n=name: sizes[n].append(t.numel()) or t, lambda t: t):
            loss = layer(x).square().mean()
        loss.backward()
    assert max(sizes["again"]) < max(sizes["kept"])
    for (name, one), two in zip(kept.named_parameters(), again.parameters(), strict=True):
        assert_close(two.grad, one.grad, 1e-6, name)


def test_from_dense_passes_options_on_and_a_gate_preserves_the_function():
    dense = nn.Conv2d(6, 8, 3)
    options = {"implementation": "mobilenet", "dropout": 0.25}
    plain = HOCPConv2d.from_dense(dense, 4, **options)
    gated = HOCPConv2d.from_dense(dense, 4, **options, gate_cfg={"type": "SE"})
    assert (gated.implementation, gated.dropout) == ("mobilenet", 0.25)
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(gated.eval()(x), plain.eval()(x))


def test_from_dense_without_a_fit_may_have_psi():
    layer = HOCPConv2d.from_dense(nn.Conv2d(6, 8, 3), 4, fit=False, inner_norm_cfg={"type": "BN"})
    assert isinstance(layer.inner.norm, nn.BatchNorm2d)


@pytest.mark.parametrize(("weight", "bias"), [(False, True), (True, False)])
def test_from_dense_keeps_what_is_frozen(weight, bias):
    dense = nn.Conv2d(6, 8, 3)
    dense.weight.requires_grad_(weight)
    dense.bias.requires_grad_(bias)
    layer = HOCPConv2d.from_dense(dense, 4, gate_cfg={"type": "SE"})
    assert {p.requires_grad for p in (layer.weights, *layer.factors.values())} == {weight}
    assert layer.bias.requires_grad == bias
    assert all(p.requires_grad for p in layer.gate.parameters()), "the dense layer knows nothing of the gate"


def test_every_parameter_gets_a_gradient():
    layer = HOCPConv3d(4, 6, 3, rank=5)
    layer(torch.randn(1, 4, 4, 5, 5)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


class _Padded(nn.Conv2d):
    pass


REFUSED = {
    "groups that do not divide": (lambda: HOCPConv2d(6, 8, 3, groups=4), ValueError, "got groups=4 for 6 -> 8"),
    "no groups": (lambda: HOCPConv2d(6, 8, 3, groups=0), ValueError, "all positive, got groups=0 for 6 -> 8"),
    "no channels": (lambda: HOCPConv2d(0, 8, 3), ValueError, "all positive, got groups=1 for 0 -> 8"),
    "no taps": (lambda: HOCPConv2d(4, 4, (3, 0)), ValueError, r"kernel_size must be positive, got \(3, 0\)"),
    "no stride": (lambda: HOCPConv2d(4, 4, 3, stride=0), ValueError, r"stride must be positive, got \(0, 0\)"),
    "no dilation": (lambda: HOCPConv2d(4, 4, 3, dilation=0), ValueError, "dilation must be positive"),
    "negative padding": (lambda: HOCPConv2d(4, 4, 3, padding=-1), ValueError, r"must be at least 0, got \(-1, -1\)"),
    "an unknown padding mode": (
        lambda: HOCPConv2d(4, 4, 3, padding_mode="reflection"), ValueError, "padding_mode must be .*'reflection'",
    ),
    "an unknown implementation": (
        lambda: HOCPConv2d(4, 4, 3, implementation="dense"), ValueError, "implementation must be one of .*got 'dense'",
    ),
    "recomputing with Psi": (
        lambda: HOCPConv2d(4, 4, 3, recompute=True, inner_norm_cfg={"type": "BN"}), ValueError, "recompute cannot",
    ),
    "Psi on weights of a dense network": (
        lambda: HOCPConv2d.from_dense(nn.Conv2d(4, 4, 3), inner_act_cfg={"type": "ReLU"}), ValueError,
        "Psi must be off when weights come from a dense network, got .*'ReLU'",
    ),
    "a wrong length": (
        lambda: HOCPConv3d(4, 4, (3, 3)), ValueError, r"kernel_size must be an int or 3 ints, got \(3, 3\)",
    ),
    "same with a stride": (lambda: HOCPConv2d(4, 4, 3, 2, "same"), ValueError, "needs stride 1"),
    "an unknown rank": (lambda: HOCPConv2d(4, 4, 3, rank="auto"), ValueError, "got 'auto'"),
    "a subclass": (lambda: HOCPConv2d.from_dense(_Padded(4, 4, 3)), TypeError, "expected Conv2d, got _Padded"),
    "another order": (lambda: HOCPConv3d.from_dense(nn.Conv2d(4, 4, 3)), TypeError, "expected Conv3d, got Conv2d"),
    "a kernel of another rank": (
        lambda: HOCPConv2d(4, 6, 3, rank=3).set_kernel(random_kernel()), ValueError,
        "expected shape .* rank 3, groups 1, got",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_layers_refuse(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make()


def test_repr_says_what_the_layer_is():
    assert repr(HOCPConv2d(4, 6, 3, padding=1, bias=False, rank=5)) == (
        "HOCPConv2d(\n  4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False, rank=5\n"
        "  (factors): ParameterDict(\n"
        "      (h): Parameter containing: [torch.FloatTensor of size 3x5]\n"
        "      (in): Parameter containing: [torch.FloatTensor of size 4x5]\n"
        "      (out): Parameter containing: [torch.FloatTensor of size 6x5]\n"
        "      (w): Parameter containing: [torch.FloatTensor of size 3x5]\n"
        "  )\n)"
    )


@pytest.mark.parametrize("order", LAYERS)
@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_one_number_in_a_sequence_is_that_number_as_in_torch(order, name):
    cp_class, dense_class = LAYERS[order]
    for one in ((2,), [2]):
        dense = dense_class(4, 6, 3, **{name: one})
        layer = cp_class(4, 6, 3, rank=4, **{name: one})
        assert getattr(layer, name) == (2,) * order
        with torch.no_grad():
            dense.weight.copy_(dense_kernel(layer.kernel()))
            dense.bias.copy_(layer.bias)
        x = torch.randn(2, 4, *[7] * order)
        assert_close(layer(x), dense(x), 1e-5, f"{name}={one}")
        assert_close(cp_conv(x, layer.kernel(), layer.bias, **{name: one}), dense(x), 1e-5, "functional")
        assert getattr(cp_class.from_dense(dense, 4), name) == (2,) * order


def test_a_kernel_of_one_number_in_a_sequence_is_refused_where_torch_cannot_run_it():
    assert HOCPConv1d(4, 4, (3,)).kernel_size == (3,)
    for order in (2, 3):
        cp_class, dense_class = LAYERS[order]
        with pytest.raises(RuntimeError):
            dense_class(4, 4, (3,))(torch.randn(1, 4, *[5] * order))
        with pytest.raises(ValueError, match=rf"kernel_size must be an int or {order} ints, got \(3,\)"):
            cp_class(4, 4, (3,))


def test_dense_layers_with_one_number_in_a_sequence_are_converted_and_counted():
    def network() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(6, 8, 3, stride=(2,), padding=(1,)), nn.Conv2d(8, 8, 3, dilation=(2,), groups=8))

    x, net = torch.randn(2, 6, 16, 16), network()
    expected, axis = net(x), FrameAxis()
    assert complexity(net, x).rows[0].stride == (2, 2)
    moments = input_moments(net, [x])
    factorize_(net, {"0": 8}, fit=False, input_moments=moments)
    transduct_(net, 3, frame_axis=axis)
    axis.length = 2
    assert net(x).shape == expected.shape
    assert complexity(net, x).rows[0].stride == (1, 2, 2)


def stable_rate(layer: nn.Module, x: torch.Tensor, target: torch.Tensor) -> float:
    """The largest rate of plain gradient descent at which a squared error does not grow along any direction."""
    parameters = list(layer.parameters())
    loss = (layer(x) - target).square().mean()
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    vector, curvature = [torch.randn_like(gradient) for gradient in gradients], 0.0
    for _ in range(30):
        norm = torch.stack([part.norm() for part in vector]).norm()
        vector = [part / norm for part in vector]
        product = sum((g * v).sum() for g, v in zip(gradients, vector, strict=True))
        turned = torch.autograd.grad(product, parameters, retain_graph=True)
        curvature = float(sum((h * v).sum() for h, v in zip(turned, vector, strict=True)))
        vector = [part.detach() for part in turned]
    return 2 / abs(curvature)


@pytest.mark.parametrize("order", [2, 3])
def test_a_fresh_layer_takes_smaller_steps_than_a_dense_one_and_a_fitted_one_does_not(order):
    torch.manual_seed(0)
    cp_class, dense_class = LAYERS[order]
    x, target = (torch.randn(4, 8, *[8] * order, dtype=torch.float64) for _ in range(2))
    options = {"padding": 1, "dtype": torch.float64}
    dense = dense_class(8, 8, 3, **options)
    fitted = cp_class.from_dense(dense, 8, implementation="mobilenet")
    fresh = cp_class(8, 8, 3, rank=8, implementation="mobilenet", **options)
    rates = [stable_rate(layer, x, target) for layer in (dense, fitted, fresh)]
    assert 3 < rates[0] < 8
    assert rates[1] > 1
    assert 0.1 < rates[2] < 1 < rates[0] / 3
