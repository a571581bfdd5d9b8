import copy

import pytest
import torch
from torch import nn

from hocp_mm.functional import dense_kernel
from hocp_mm.functional.cp import component_norms
from hocp_mm.layers import (
    FrameAxis,
    FrameFoldedHOCPConv2d,
    HOCPConv1d,
    HOCPConv2d,
    HOCPConv3d,
    factorize_,
    transduct_,
)
from hocp_mm.layers.rank_selection import normalize_factors_, prune_ranks_, shrink_weights_
from tests.laws import assert_close, state_shapes

PSI = {"inner_norm_cfg": {"type": "BN"}, "inner_act_cfg": {"type": "ReLU"}}
SE = {"gate_cfg": {"type": "SE", "reduction": 2}}
BLOCKS = {
    "plain": {},
    "psi": PSI,
    "instance norm and PReLU": {
        "inner_norm_cfg": {"type": "IN", "affine": True, "track_running_stats": True},
        "inner_act_cfg": {"type": "PReLU", "num_parameters": 8},
    },
    "gate": SE,
    "psi and gate": {**PSI, **SE},
}  # fmt: skip
DEAD = [1, 4, 5]
LIVE = [0, 2, 3, 6, 7]


def block(kind="plain", order=2, groups=1, **options):
    """A layer in double precision whose parameters and statistics are all drawn."""
    make = {1: HOCPConv1d, 2: HOCPConv2d, 3: HOCPConv3d}[order]
    layer = make(6, 4, 3, padding=1, rank=8, groups=groups, dtype=torch.float64, **{**BLOCKS[kind], **options})
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_().abs_().add_(0.1)
        for tensor in layer.parameters():
            tensor.normal_()
    return layer


def kill_(layer, components=DEAD):
    with torch.no_grad():
        layer.weights[components] = 0
    return layer


def x_for(order=2, n=3):
    return torch.randn(n, 6, *[6] * order, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", BLOCKS)
def test_pruning_what_contributes_nothing_keeps_the_output(kind, training):
    layer = kill_(block(kind)).train(training)
    x, reference = x_for(), copy.deepcopy(layer)
    assert prune_ranks_(nn.Sequential(layer)) == {"0": (8, 5)}
    assert layer.rank == layer.kernel().rank == 5
    assert_close(layer(x), reference(x), 1e-12, "pruned layer")


@pytest.mark.parametrize("order", [1, 2, 3])
def test_layers_of_all_orders_are_pruned(order):
    layer = kill_(block(order=order))
    x = x_for(order)
    expected = layer(x)
    assert prune_ranks_(layer) == {"": (8, 5)}
    assert_close(layer(x), expected, 1e-12, "pruned layer")


def test_frame_folded_layers_are_pruned():
    layer, axis = block("psi"), FrameAxis()
    model = nn.Sequential(layer).eval()
    transduct_(model, 3, frame_axis=axis)
    nn.init.normal_(model[0].factors["t"])
    kill_(model[0])
    model.double()
    axis.length = 3
    x = x_for(n=6)
    expected = model(x)
    assert prune_ranks_(model) == {"0": (8, 5)}
    assert isinstance(model[0], FrameFoldedHOCPConv2d)
    assert model[0].factors["t"].shape == (3, 5)
    assert_close(model(x), expected, 1e-12, "pruned frame-folded layer")


def test_a_dead_column_kills_a_component_unless_something_stands_behind_it():
    def dead(kind, mode):
        layer = block(kind)
        with torch.no_grad():
            layer.factors[mode][:, 2] = 0
        x, reference = x_for(), copy.deepcopy(layer).eval()
        pruned = prune_ranks_(layer.eval())
        assert_close(layer(x), reference(x), 1e-12, f"{kind}, {mode}")
        return bool(pruned)

    assert {mode: dead("plain", mode) for mode in ("out", "in", "h", "w")} == dict.fromkeys(
        ("out", "in", "h", "w"), True
    )
    assert {mode: dead("psi", mode) for mode in ("out", "in", "h")} == {"out": True, "in": False, "h": True}
    assert {mode: dead("gate", mode) for mode in ("out", "in", "h")} == {"out": False, "in": True, "h": True}


def test_groups_keep_equal_numbers_and_the_output():
    layer = kill_(block(groups=2), [0, 1, 4])  # 2 survive in the first group, 3 in the second
    x = x_for()
    expected = layer(x)
    assert prune_ranks_(layer) == {"": (8, 6)}
    assert_close(layer(x), expected, 1e-12, "pruned grouped layer")


def test_a_threshold_is_a_share_of_the_layers_strongest_component():
    layer = block()
    strengths = component_norms(layer.kernel()).detach()
    share = float(strengths.sort().values[3] / strengths.max())
    pruned = copy.deepcopy(layer)
    assert prune_ranks_(pruned, share * 1.001) == {"": (8, 4)}
    kept = component_norms(pruned.kernel()).detach()
    assert_close(kept.sort().values, strengths.sort().values[4:], 1e-12, "the four strongest")


def test_the_floor_and_the_pattern_hold():
    model = nn.Sequential(kill_(block(), range(8)), kill_(block(), range(8)))
    assert prune_ranks_(model, min_rank=3, layers="^1$") == {"1": (8, 3)}
    assert prune_ranks_(model) == {"0": (8, 1), "1": (3, 1)}


def test_the_state_fills_a_fresh_layer_of_the_new_rank():
    layer = kill_(block("psi"))
    prune_ranks_(layer)
    fresh = HOCPConv2d(6, 4, 3, padding=1, rank=5, dtype=torch.float64, **PSI)
    fresh.load_state_dict(layer.state_dict())
    x = x_for()
    assert_close(fresh(x), layer(x), 1e-12, "fresh layer")


OPTIMIZERS = {
    "SGD with momentum": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, 0.02, amsgrad=True),
    "AdamW, one parameter per group": lambda p: torch.optim.AdamW([{"params": [q]} for q in p], 0.02),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("kind", BLOCKS)
def test_training_goes_on_as_if_the_dead_components_stayed_at_zero(kind, make):
    """The oracle is the unpruned model, whose dead lambdas are put back to zero after every step."""
    model = block(kind)
    optimizer = make(list(model.parameters()))
    data = [x_for() for _ in range(8)]

    def step(model, optimizer, x):
        optimizer.zero_grad()
        model(x).sin().square().mean().backward()
        optimizer.step()

    for x in data[:4]:
        step(model, optimizer, x)
    kill_(model)
    whole = copy.deepcopy(model)
    whole_optimizer = make(list(whole.parameters()))
    whole_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # else the two share momentum
    prune_ranks_(model, optimizer=optimizer)
    for x in data[4:]:
        step(model, optimizer, x)
        step(whole, whole_optimizer, x)
        kill_(whole)
    assert_close(model(data[0]), whole(data[0]), 1e-10, "output after training")
    for mode, factor in whole.factors.items():
        assert_close(model.factors[mode], factor[:, LIVE], 1e-10, f"factor {mode}")
    optimizer.load_state_dict(optimizer.state_dict())  # shapes agree


def test_parameters_stay_the_same_objects_with_cut_gradients():
    layer = kill_(block("psi and gate"))
    layer(x_for()).sum().backward()
    before = dict(layer.named_parameters())
    grads = {name: parameter.grad.clone() for name, parameter in before.items()}
    layer.factors["h"].requires_grad_(False)
    prune_ranks_(layer)
    after = dict(layer.named_parameters())
    assert set(after) == set(before)
    assert all(after[name] is before[name] for name in before)
    assert all(parameter.grad.shape == parameter.shape for parameter in after.values())
    assert torch.equal(after["factors.out"].grad, grads["factors.out"][:, LIVE])
    assert torch.equal(after["inner.norm.weight"].grad, grads["inner.norm.weight"][LIVE])
    assert torch.equal(after["gate.reduce.weight"].grad, grads["gate.reduce.weight"][:, LIVE])
    assert not after["factors.h"].requires_grad


@pytest.mark.parametrize("kind", BLOCKS)
def test_normalizing_keeps_the_function_and_makes_lambda_the_size(kind):
    layer = block(kind).eval()
    x = x_for()
    expected = layer(x)
    assert normalize_factors_(nn.Sequential(layer)) == ["0"]
    assert_close(layer(x), expected, 1e-12, "normalised layer")
    free = {"out", "in", "h", "w"} - ({"in"} if layer.inner is not None else set())
    free -= {"out"} if layer.gate is not None else set()
    for mode in free:
        norms = layer.factors[mode].norm(dim=0)
        assert_close(norms, torch.ones_like(norms), 1e-12, f"columns of {mode}")


def test_the_lasso_shrinks_components_and_not_just_lambda():
    conv = nn.Conv2d(6, 4, 3)
    layer = HOCPConv2d.from_dense(conv, 8)
    assert torch.equal(layer.weights.abs(), torch.ones(8))  # balanced: lambda alone tells nothing
    sizes = component_norms(layer.kernel()).detach()
    amount = float(sizes.sort().values[3:5].mean())
    shrink_weights_(layer, amount)
    shrunk = component_norms(layer.kernel()).detach()
    assert_close(shrunk, (sizes - amount).clamp_min(0), 1e-5, "sizes of components")
    assert prune_ranks_(layer) == {"": (8, 4)}


def test_the_lasso_cannot_be_cheated_by_growing_factors():
    layer = block()
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weights.div_(1000)
        layer.factors["out"].mul_(1000)
    shrink_weights_(layer, 0.3)
    shrink_weights_(twin, 0.3)
    assert_close(dense_kernel(layer.kernel()), dense_kernel(twin.kernel()), 1e-10, "shrunk kernel")


def test_the_lasso_finds_the_components_that_a_task_needs():
    """A teacher of 2 components, a student of 8: after training with the lasso, few are left and they suffice."""
    teacher, student = block(), HOCPConv2d(6, 4, 3, padding=1, rank=8, dtype=torch.float64, bias=False)
    kill_(teacher, range(2, 8))
    teacher.bias.data.zero_()
    normalize_factors_(student)
    optimizer = torch.optim.Adam(student.parameters(), 0.02)
    for _ in range(250):
        optimizer.zero_grad()
        x = torch.randn(4, 6, 4, 4, dtype=torch.float64)
        (student(x) - teacher(x)).square().mean().backward()
        optimizer.step()
        shrink_weights_(student, 0.02 * 0.3)
    pruned = prune_ranks_(student, optimizer=optimizer)
    assert pruned[""][1] <= 4
    x = x_for()
    error = (student(x) - teacher(x)).norm() / teacher(x).norm()
    assert error.item() < 0.05


def test_frozen_lambdas_are_left_alone():
    model = nn.Sequential(block(), block())
    model[0].weights.requires_grad_(False)
    before = copy.deepcopy(model[0].state_dict())
    shrink_weights_(model, 3.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model[0].state_dict().items())
    assert (model[1].weights == 0).any()


def with_state(make, layer):
    optimizer = make(layer.parameters())
    layer(x_for()).sum().backward()
    optimizer.step()
    return optimizer


def _with_nan(layer):
    layer.weights.data[0] = float("nan")
    return layer


REFUSED = {
    "no layer": (lambda: prune_ranks_(nn.Conv2d(3, 3, 1)), ValueError, "prune_ranks_: .* must hold an HO-CP layer"),
    "no match": (lambda: shrink_weights_(block(), 0.1, "layer9"), ValueError, r"got none \(layers='layer9'"),
    "a negative amount": (lambda: shrink_weights_(block(), -0.1), ValueError, "at least 0, got -0.1"),
    "frozen lambdas": (
        lambda: shrink_weights_(block().requires_grad_(False), 0.1), ValueError, "must train in some layer, got 1",
    ),
    "a threshold of 1": (lambda: prune_ranks_(block(), 1.0), ValueError, r"\[0, 1\)"),
    "nan": (lambda: prune_ranks_(nn.Sequential(_with_nan(block()))), ValueError, "NaN or inf in layer '0'"),
    "a wrapped optimizer": (lambda: prune_ranks_(block(), optimizer=object()), TypeError, "Optimizer, got object"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_rank_selection_refuses(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make()


UNTOUCHED = {
    "a norm that mixes components": (
        lambda: block(inner_norm_cfg={"type": "GN", "num_groups": 2}), None, r"layer '1': .* group norm",
    ),
}  # fmt: skip
if hasattr(torch.optim, "Adafactor"):  # torch >= 2.5
    UNTOUCHED["an optimizer with factored state"] = (
        block, torch.optim.Adafactor, r"state of Adafactor .* \(layer '1'\)",
    )  # fmt: skip


@pytest.mark.parametrize("case", UNTOUCHED)
def test_a_refusal_changes_nothing(case):
    make, optimizer_class, message = UNTOUCHED[case]
    model = nn.Sequential(kill_(block("psi")), kill_(make()))
    optimizer = None if optimizer_class is None else with_state(optimizer_class, model[1])
    kill_(model[1])
    before = state_shapes(model)
    with pytest.raises(NotImplementedError, match=message):
        prune_ranks_(model, optimizer=optimizer)
    assert state_shapes(model) == before
    assert [layer.rank for layer in model] == [8, 8]


def shared_psi():
    first, second = block("psi"), block("psi")
    second.inner = first.inner
    return nn.ModuleList([kill_(first), kill_(second)])


def shared_with_a_live_one():
    first, second = kill_(block()), block()
    second.factors["out"] = first.factors["out"]
    return nn.ModuleDict({"dead": first, "live": second})


def shared_statistics():
    psi = {"inner_norm_cfg": {"type": "IN"}}
    first, second = kill_(block("plain", **psi)), block("plain", **psi)
    second.inner = first.inner
    return nn.ModuleList([first, second])


def shared_with_a_foreigner():
    net = nn.ModuleDict({"layer": kill_(block()), "head": nn.Linear(8, 4, dtype=torch.float64)})
    net["head"].weight = net["layer"].factors["out"]
    return net


SHARED = {
    "image and video": (lambda: (lambda a: nn.ModuleList([a, a.transduct(3)]))(kill_(block())), "'0' and '1'"),
    "Psi": (shared_psi, "'0' and '1'"),
    "Psi without parameters": (shared_statistics, "'0' and '1'"),
    "a layer that stays": (shared_with_a_live_one, "'dead' and 'live'"),
    "no HO-CP layer": (shared_with_a_foreigner, "'layer' and 'head'"),
}


@pytest.mark.parametrize(("make", "names"), SHARED.values(), ids=SHARED.keys())
@pytest.mark.parametrize("layers", [None, "^(0|dead|layer)$"])
def test_shared_parameters_are_refused_before_any_change(make, names, layers):
    net = make()
    before = state_shapes(net)
    ranks = [module.rank for module in net.children() if hasattr(module, "rank")]
    with pytest.raises(NotImplementedError, match=f"must not share what is cut, got .* in both {names}"):
        prune_ranks_(net, layers=layers)
    assert state_shapes(net) == before
    assert [module.rank for module in net.children() if hasattr(module, "rank")] == ranks


def test_one_layer_under_two_names_is_pruned_once():
    layer = kill_(block("psi and gate"))
    net = nn.ModuleDict({"first": layer, "again": layer, "inside": nn.Sequential(layer)}).eval()
    x = x_for()
    expected = layer(x)
    assert prune_ranks_(net) == {"first": (8, 5)}
    assert net["again"] is net["inside"][0] is layer
    assert_close(layer(x), expected, 1e-12, "pruned under two names")


def test_a_pruned_layer_has_no_report_of_a_fit():
    net = nn.Sequential(nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3))
    factorize_(net, 4)
    kill_(net[0], [1])
    prune_ranks_(net)
    assert net[0].fit_report is None
    assert net[1].fit_report is not None


def test_a_factorized_network_shrinks_and_is_pruned_as_a_whole():
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    factorize_(model, 12)
    x = torch.randn(2, 6, 9, 9)
    model.eval()
    shrink_weights_(model, 0.75)
    expected = model(x)
    pruned = prune_ranks_(model)
    assert {name: old for name, (old, _) in pruned.items()} == {"0": 12, "3": 12}
    assert_close(model(x), expected, 1e-5, "pruned network")
