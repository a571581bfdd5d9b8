"""Psi, the gate and component dropout: what a layer holds between the stages of a CP convolution."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hocp_mm.layers import HOCPConv1d, HOCPConv2d, HOCPConv3d
from hocp_mm.layers.gate import SqueezeExcitation, drop_components
from hocp_mm.layers.inner import build_inner, prune_inner_
from tests.laws import assert_close, state_shapes

LAYERS = {1: HOCPConv1d, 2: HOCPConv2d, 3: HOCPConv3d}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
PSI = {"inner_norm_cfg": {"type": "BN"}, "inner_act_cfg": {"type": "ReLU"}}
NORMS = {
    "BN": nn.BatchNorm2d, "BN2d": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "IN": nn.InstanceNorm2d,
    "GN": nn.GroupNorm,
}  # fmt: skip


def staged(layer, x):
    """Compute a layer with Psi and gate stage by stage, from dense convolutions written out here."""
    factors, order = layer.factors, layer.kernel_order
    z = torch.einsum("nc...,cr->nr...", x, factors["in"])
    z = z if layer.inner is None else layer.inner(z)
    taps = {1: "ar->ra", 2: "ar,br->rab", 3: "ar,br,cr->rabc"}[order]
    modes = ("t", "h", "w")[-order:]
    z = CONV[order](
        z, torch.einsum(taps, *(factors[m] for m in modes)).unsqueeze(1), None, layer.stride, layer.padding,
        layer.dilation, layer.rank,
    )  # fmt: skip
    if layer.gate is not None:
        squeeze = z.mean(dim=(-1, -2) if order > 1 else -1) * layer.weights.reshape(1, -1, *[1] * (order == 3))
        moved = squeeze.transpose(1, -1)
        hidden = F.relu(F.linear(moved, layer.gate.reduce.weight, layer.gate.reduce.bias))
        gates = 2 / (1 + torch.exp(-F.linear(hidden, layer.gate.expand.weight, layer.gate.expand.bias)))
        gates = gates.transpose(1, -1)
        z = z * gates.reshape(*gates.shape, *[1] * (z.ndim - gates.ndim))
    z = z * layer.weights.reshape(1, -1, *[1] * order)
    y = torch.einsum("nr...,or->no...", z, factors["out"])
    return y + layer.bias.reshape(1, -1, *[1] * order)


def lived_in(layer):
    """Give norm, gate and lambda values that a trained layer could have."""
    nn.init.normal_(layer.weights)
    for parameter in (*(() if layer.gate is None else layer.gate.parameters()),):
        nn.init.normal_(parameter)
    if layer.inner is not None and hasattr(layer.inner, "norm"):
        for tensor in (layer.inner.norm.weight, layer.inner.norm.running_var):
            nn.init.uniform_(tensor, 0.5, 2)
        nn.init.normal_(layer.inner.norm.running_mean)
    return layer


@pytest.mark.parametrize("order", LAYERS)
@pytest.mark.parametrize("implementation", ["auto", "factorized", "mobilenet"])
def test_psi_and_gate_stand_where_the_picture_says(order, implementation):
    options = {**PSI, "gate_cfg": {"type": "SE", "reduction": 2}, "implementation": implementation}
    layer = LAYERS[order](4, 6, 3, stride=2, padding=1, rank=8, dtype=torch.float64, **options)
    lived_in(layer).eval()
    x = torch.randn(2, 4, *[7] * order, dtype=torch.float64)
    assert_close(layer(x), staged(layer, x), 1e-12, "layer against its stages")
    assert_close(layer(x[0]), staged(layer, x)[0], 1e-12, "unbatched")


def test_names_in_the_state_dict():
    layer = HOCPConv2d(4, 6, 3, rank=8, bias=False, **PSI, gate_cfg={"type": "SE"})
    assert {n: s for n, s in state_shapes(layer).items() if n.startswith(("inner", "gate"))} == {
        "inner.norm.weight": (8,), "inner.norm.bias": (8,), "inner.norm.running_mean": (8,),
        "inner.norm.running_var": (8,), "inner.norm.num_batches_tracked": (), "gate.reduce.weight": (2, 8),
        "gate.reduce.bias": (2,), "gate.expand.weight": (8, 2), "gate.expand.bias": (8,),
    }  # fmt: skip


def test_without_options_there_is_nothing_in_between():
    layer = HOCPConv2d(4, 6, 3, rank=8)
    assert layer.inner is None
    assert layer.gate is None
    assert [name for name, _ in layer.named_children()] == ["factors"]


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_found_by_their_openmmlab_name(name):
    cfg = {"type": name, "eps": 0.25, **({"num_groups": 2} if name == "GN" else {})}
    before = dict(cfg)
    inner = build_inner(cfg, {"type": "SiLU", "inplace": True}, 8, 2)
    assert type(inner.norm) is NORMS[name]
    assert inner.norm.eps == 0.25
    assert type(inner.act) is nn.SiLU
    assert inner.act.inplace
    assert cfg == before, "the caller's config was changed"


def test_a_norm_may_be_frozen_by_its_cfg():
    inner = build_inner({"type": "BN", "requires_grad": False}, None, 8, 3)
    assert type(inner.norm) is nn.BatchNorm3d
    assert not any(p.requires_grad for p in inner.parameters())


def test_psi_and_gate_follow_dtype_and_device():
    layer = HOCPConv2d(4, 6, 3, rank=8, dtype=torch.float64, device="meta", **PSI, gate_cfg={"type": "SE"})
    tensors = [t for n, t in layer.state_dict().items() if not n.endswith("tracked")]
    assert {(t.dtype, t.device.type) for t in tensors} == {(torch.float64, "meta")}


# Output variance for an input of mean square m, from the 1x1 stages and unit-norm taps: the gain 2 of the output factor
# times the mean square behind Psi, which is m (He gain, halved by ReLU), 1/2 (norm and ReLU) or 1 (norm).
VARIANCES = {
    "no Psi": ({}, lambda m: 2 * m),
    "ReLU": ({"inner_act_cfg": {"type": "ReLU"}}, lambda m: 2 * m),
    "BN and ReLU": (PSI, lambda _: 1.0),
    "BN": ({"inner_norm_cfg": {"type": "BN"}}, lambda _: 2.0),
}


@pytest.mark.parametrize("case", VARIANCES)
@pytest.mark.parametrize(("rank", "groups", "scale"), [(32, 1, 1.0), (256, 1, 3.0), (128, 2, 1.0)])
def test_a_fresh_layer_has_the_output_variance_of_its_stages(case, rank, groups, scale):
    options, law = VARIANCES[case]
    x = scale * torch.randn(8, 32, 14, 14)
    outputs = [HOCPConv2d(32, 64, 3, rank=rank, groups=groups, **options)(x) for _ in range(12)]
    assert torch.stack(outputs).var().item() == pytest.approx(law(scale**2), rel=0.15)


@pytest.mark.parametrize("order", LAYERS)
def test_a_new_gate_changes_nothing_and_learns(order):
    plain = LAYERS[order](4, 6, 3, rank=8, implementation="mobilenet")
    gated = LAYERS[order](4, 6, 3, rank=8, implementation="mobilenet", gate_cfg={"type": "SE", "reduction": 1})
    assert gated.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    x = torch.randn(2, 4, *[5] * order)
    assert torch.equal(gated(x), plain(x))
    gated(x).square().mean().backward()
    assert gated.gate.expand.weight.grad.any()


def test_a_gate_of_a_clip_decides_frame_by_frame():
    layer = lived_in(HOCPConv3d(4, 6, (1, 3, 3), rank=8, gate_cfg={"type": "SE"}))
    clip = torch.randn(1, 4, 5, 7, 7)
    alone = torch.cat([layer(clip[:, :, t : t + 1]) for t in range(5)], dim=2)
    assert_close(layer(clip), alone, 1e-6, "frames together against frames alone")


@pytest.mark.parametrize("as_index", [False, True])
def test_pruning_components_of_lambda_zero_is_exact(as_index):
    options = {**PSI, "gate_cfg": {"type": "SE", "reduction": 2}, "dtype": torch.float64}
    layer = lived_in(HOCPConv2d(4, 6, 3, rank=8, **options)).eval()
    keep = torch.tensor([True, False, True, True, False, True, False, True])
    with torch.no_grad():
        layer.weights[~keep] = 0
    small = HOCPConv2d(4, 6, 3, rank=5, **options).eval()
    small.inner, small.gate = copy.deepcopy(layer.inner), copy.deepcopy(layer.gate)
    small.gate.requires_grad_(False)
    chosen = keep.nonzero().flatten() if as_index else keep
    prune_inner_(small.inner, chosen)
    small.gate.prune_(chosen)
    with torch.no_grad():
        small.weights.copy_(layer.weights[keep])
        small.bias.copy_(layer.bias)
        for name, factor in small.factors.items():
            factor.copy_(layer.factors[name][:, keep])
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    assert_close(small(x), layer(x), 1e-12, "pruned layer")
    assert (small.gate.reduce.in_features, small.gate.expand.out_features) == (5, 5)
    assert small.inner.norm.num_features == 5
    assert not any(p.requires_grad for p in small.gate.parameters())
    assert all(p.requires_grad for p in small.inner.parameters())


def test_pruning_follows_slopes_per_channel_and_instance_statistics():
    inner = build_inner(
        {"type": "IN", "track_running_stats": True, "affine": True}, {"type": "PReLU", "num_parameters": 6}, 6, 2
    )
    nn.init.normal_(inner.act.weight)
    nn.init.uniform_(inner.norm.running_var, 0.5, 2)
    inner.eval()
    x, keep = torch.randn(2, 6, 4, 4), torch.tensor([5, 1])
    expected = inner(x)[:, keep]
    prune_inner_(inner, keep)
    assert torch.equal(inner(x[:, keep]), expected)


@pytest.mark.parametrize(("p", "groups"), [(0.3, 1), (0.6, 2), (0.95, 1), (0.99, 4)])
def test_dropped_components_average_to_lambda_and_never_all_vanish(p, groups):
    weights = torch.randn(8, dtype=torch.float64)
    draws = torch.stack([drop_components(weights, p, groups) for _ in range(6000)])
    kept = (draws != 0).reshape(len(draws), groups, -1)
    assert kept.any(dim=2).all()
    stay = kept.double().mean()
    # 6000 draws: the frequency lies within 5 standard errors of the probability that the docstring gives.
    n = 8 // groups
    expected = 1 - p + p**n / n
    assert abs(stay.item() - expected) < 5 * (expected * (1 - expected) / draws.numel()) ** 0.5 + 1e-9
    error = (draws.mean(dim=0) - weights) / draws.std(dim=0).clamp_min(1e-12) * len(draws) ** 0.5
    assert error.abs().max() < 5 or p == 0


def test_a_group_of_one_component_is_never_dropped():
    weights = torch.randn(4)
    assert torch.equal(drop_components(weights, 0.9, groups=4), weights)


@pytest.mark.parametrize("implementation", ["factorized", "mobilenet", "reconstructed"])
def test_dropout_in_training_averages_to_the_layer_and_is_off_in_evaluation(implementation):
    layer = HOCPConv2d(4, 6, 3, rank=8, dropout=0.4, implementation=implementation, dtype=torch.float64)
    plain = HOCPConv2d(4, 6, 3, rank=8, implementation=implementation, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = plain(x)
        assert torch.equal(layer.eval()(x), expected)
        layer.train()
        draws = torch.stack([layer(x) for _ in range(1500)])
    error = (draws.mean(dim=0) - expected) / draws.std(dim=0) * len(draws) ** 0.5
    assert error.abs().max() < 5
    assert draws.std(dim=0).min() > 0


def test_dropped_components_get_no_gradient_and_the_parameters_stay():
    layer = HOCPConv2d(4, 6, 3, rank=64, dropout=0.5)
    before = layer.weights.detach().clone()
    layer(torch.randn(2, 4, 5, 5)).square().mean().backward()
    silent = layer.weights.grad == 0
    assert 10 < silent.sum() < 54
    assert not layer.factors["in"].grad[:, silent].any()
    assert torch.equal(layer.weights, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dropout_keeps_the_dtype(dtype):
    assert drop_components(torch.ones(8, dtype=dtype), 0.5).dtype == dtype


def build(**options):
    return HOCPConv2d(4, 6, 3, rank=8, **options)


REFUSED = {
    "an unknown norm": (
        lambda: build(inner_norm_cfg={"type": "LN"}), ValueError,
        r"inner_norm_cfg: type must be one of \('BN', 'SyncBN', 'GN', 'IN', .*\), got 'LN'",
    ),
    "an unknown activation": (
        lambda: build(inner_act_cfg={"type": "Relu"}), ValueError, r"inner_act_cfg: type must be .*, got 'Relu'",
    ),
    "an unknown gate": (lambda: build(gate_cfg={"type": "CBAM"}), ValueError, r"gate_cfg: type must be .*'CBAM'"),
    "a norm of another order": (
        lambda: build(inner_norm_cfg={"type": "BN3d"}), ValueError, "must be for 2 convolved modes, got 'BN3d'",
    ),
    "group norm without groups": (lambda: build(inner_norm_cfg={"type": "GN"}), ValueError, "'GN' needs num_groups"),
    "groups that do not divide the rank": (
        lambda: build(inner_norm_cfg={"type": "GN", "num_groups": 3}), ValueError, "inner_norm_cfg: .*divisible",
    ),
    "an unknown argument": (
        lambda: build(inner_norm_cfg={"type": "BN", "epsilon": 1}), TypeError, "inner_norm_cfg: .*'epsilon'",
    ),
    "no type": (lambda: build(inner_act_cfg={"inplace": True}), TypeError, "inner_act_cfg: must be None or a dict"),
    "a word for a cfg": (lambda: build(gate_cfg="SE"), TypeError, "gate_cfg: must be None or a dict .*, got 'SE'"),
    "a reduction of zero": (
        lambda: build(gate_cfg={"type": "SE", "reduction": 0}), ValueError, "reduction must be at least 1, got 0",
    ),
    "a rebuilt kernel with Psi": (
        lambda: build(implementation="reconstructed", **PSI), ValueError, "'reconstructed' cannot apply inner or gate",
    ),
    "dropout of everything": (lambda: build(dropout=1.0), ValueError, r"dropout must lie in \[0, 1\), got 1.0"),
    "negative dropout": (lambda: build(dropout=-0.1), ValueError, r"dropout must lie in \[0, 1\), got -0.1"),
    "a mask of another length": (
        lambda: SqueezeExcitation(8, 2).prune_(torch.ones(7, dtype=torch.bool)), ValueError,
        r"a mask of shape \[8\], got shape \(7,\)",
    ),
    "a mask that keeps nothing": (
        lambda: SqueezeExcitation(8, 2).prune_(torch.zeros(8, dtype=torch.bool)), ValueError, "at least one",
    ),
    "an index outside": (
        lambda: SqueezeExcitation(8, 2).prune_(torch.tensor([0, 8])), ValueError, r"0\.\.7, got \[0, 8\]",
    ),
    "group norm to prune": (
        lambda: prune_inner_(build_inner({"type": "GN", "num_groups": 2}, None, 8, 2), torch.tensor([1])),
        NotImplementedError, "group norm mixes channels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make()
