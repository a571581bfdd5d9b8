import copy

import pytest
import torch
from torch import nn

from hocp_mm.functional import dense_kernel
from hocp_mm.layers import HOCPConv2d, factorize_, input_moments, output_moments
from hocp_mm.layers import rank_allocation as module
from hocp_mm.layers.rank_allocation import allocate_ranks, measure, record_shapes
from tests.laws import random_kernel, relative_error


def network() -> nn.Sequential:
    """A stem, and three dense layers: of rank 2, without structure, and strided with groups."""
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
    )
    with torch.no_grad():
        net[1].weight.copy_(dense_kernel(random_kernel(out=12, in_=12, rank=2)))
        for conv in (net[1], net[3], net[4]):
            conv.weight.div_(conv.weight.norm())
    return net


def factor_parameters(net):
    return sum(
        p.numel() for layer in net.modules() if isinstance(layer, HOCPConv2d) for n, p in layer.named_parameters()
        if n != "bias"
    )  # fmt: skip


def dense_weights(net):
    return sum(net[index].weight.numel() for index in (1, 3, 4))


@pytest.mark.parametrize("budget", [0.2, 0.5, 1.0])
def test_a_fraction_of_the_parameters_is_met_and_used(budget):
    net = network()
    limit = budget * dense_weights(net)
    ranks = allocate_ranks(net, budget)
    assert factorize_(net, ranks) == ["1", "3", "4"]
    assert 0.8 * limit < factor_parameters(net) <= limit


def test_an_int_is_a_number_of_parameters():
    net = network()
    factorize_(net, allocate_ranks(net, 1000))
    assert 900 < factor_parameters(net) <= 1000


def test_layers_that_compress_well_get_fewer_components():
    ranks = allocate_ranks(network(), 0.3)
    assert ranks["1"] < ranks["3"]


def test_the_allocation_beats_one_expansion_for_all_at_the_same_cost():
    def error(net):
        kernels = [dense_kernel(net[index].kernel()) for index in (1, 3, 4)]
        pairs = zip(kernels, (dense[index].weight for index in (1, 3, 4)), strict=True)
        return sum(relative_error(kernel, weight) ** 2 for kernel, weight in pairs)

    dense = network()
    uniform, allocated = copy.deepcopy(dense), copy.deepcopy(dense)
    factorize_(uniform, "x1")
    factorize_(allocated, allocate_ranks(dense, factor_parameters(uniform)))
    assert factor_parameters(allocated) <= factor_parameters(uniform)
    assert error(allocated) < 0.9 * error(uniform)


def test_importance_moves_the_budget():
    plain = allocate_ranks(network(), 0.3)
    torch.manual_seed(0)
    moved = allocate_ranks(network(), 0.3, importance={"1": 0.0, "3": 0.01, "4": 1.0})
    assert moved["4"] > plain["4"]
    assert moved["3"] < plain["3"]


@pytest.mark.parametrize("budget", [0.6, 40_000])
def test_macs_are_counted_on_the_inputs(budget):
    net, images = network(), torch.randn(2, 3, 8, 8)
    limit = budget if isinstance(budget, int) else budget * 2 * (2 * 12 * 12 * 9 * 64 + 12 * 16 * 9 * 16)
    ranks = allocate_ranks(net, limit if isinstance(budget, int) else budget, "macs", inputs=images)
    spent = 2 * sum(
        min(ranks[name] * (12 * before + 9 * after + out * after), 12 * out * 9 * after)
        for name, out, before, after in (("1", 12, 64, 64), ("3", 12, 64, 64), ("4", 16, 64, 16))
    )
    assert 0.5 * limit < spent <= limit


def test_latency_is_measured_on_three_ranks_of_each_layer_and_never_exceeded(monkeypatch):
    met: list[tuple[type, int, tuple[int, ...]]] = []

    def clock(layer, calls):
        rank = getattr(layer, "rank", 40)
        met.append((type(layer), rank, calls[0][0]))
        return 100.0 + 10 * rank

    monkeypatch.setattr(module, "measure", clock)
    ranks = allocate_ranks(network(), 0.7, "latency", inputs=torch.randn(1, 3, 8, 8))
    assert {kind for kind, _, _ in met} == {HOCPConv2d, nn.Conv2d}
    assert sum(kind is HOCPConv2d for kind, _, _ in met) == 9
    assert {shape for _, _, shape in met} == {(1, 12, 8, 8)}
    assert 0.7 * 0.9 * 1500 < sum(100 + 10 * rank for rank in ranks.values()) <= 0.7 * 1500


def test_measuring_runs_the_layer_on_shapes_it_met_and_leaves_the_generator_alone():
    layer, shapes = nn.Conv2d(3, 4, 3), []
    layer.register_forward_hook(lambda _, args, out: shapes.append(tuple(args[0].shape)))
    state = torch.get_rng_state()
    assert measure(layer, [((2, 3, 5, 5), (2, 4, 3, 3))]) > 0
    assert set(shapes) == {(2, 3, 5, 5)}
    assert torch.equal(torch.get_rng_state(), state)


def test_recording_changes_nothing():
    net = network()
    net[2].eval()
    before, flags = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    shapes = record_shapes(net, {"4": net[4]}, torch.randn(2, 3, 8, 8))
    assert shapes == {"4": [((2, 12, 8, 8), (2, 16, 4, 4))]}
    assert [m.training for m in net.modules()] == flags
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not net[4]._forward_hooks


def test_a_layer_called_twice_costs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    net, images = Twice(), torch.randn(1, 8, 6, 6)
    rank = allocate_ranks(net, 5_000, "macs", inputs=images, ranks=range(1, 20))["conv"]
    per_component = 2 * 36 * (8 + 9 + 8)
    assert rank == 5_000 // per_component


def test_the_seed_decides_and_candidates_stay_below_parity():
    net = network()
    state = torch.get_rng_state()
    assert allocate_ranks(net, 0.4, seed=1) == allocate_ranks(net, 0.4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    found = allocate_ranks(net, 1.0, ranks=[5, 1000])
    assert (found["3"], found["4"]) == (12 * 12 * 9 // (12 + 12 + 6), 12 * 16 * 9 // (12 + 16 + 6))  # 'same'


def test_layers_of_other_orders_and_groups_are_allocated():
    net = nn.Sequential(nn.Conv1d(8, 8, 3), nn.Conv3d(8, 8, 3, groups=2))
    ranks = allocate_ranks(net, 0.6, layers=".")
    assert ranks["1"] % 2 == 0
    factorize_(net, ranks)
    assert [layer.rank for layer in net] == list(ranks.values())


REFUSED = {
    "another unit": (lambda n: allocate_ranks(n, 0.5, "flops"), ValueError, "unit must be one of .* got 'flops'"),
    "a fraction above 1": (lambda n: allocate_ranks(n, 1.5), ValueError, r"float in \(0, 1\], got 1.5"),
    "a budget of 0": (lambda n: allocate_ranks(n, 0), ValueError, "positive int or a float .* got 0"),
    "a bool": (lambda n: allocate_ranks(n, True), ValueError, "got True"),
    "macs without inputs": (lambda n: allocate_ranks(n, 0.5, "macs"), ValueError, "must be given for unit 'macs'"),
    "too small a budget": (lambda n: allocate_ranks(n, 100), ValueError, "smallest ranks, 291 params, got 100"),
    "no layer": (lambda n: allocate_ranks(n[:1], 0.5), ValueError, "must hold a layer to factorize"),
    "no match": (lambda n: allocate_ranks(n, 0.5, layers="layer9"), ValueError, "none matches"),
    "missing importance": (lambda n: allocate_ranks(n, 0.5, importance={"1": 1.0}), KeyError, "got none for '3'"),
    "negative importance": (
        lambda n: allocate_ranks(n, 0.5, importance={"1": -1.0, "3": 1.0, "4": 1.0}), ValueError, "got -1.0 for '1'",
    ),
    "a layer that does not run": (
        lambda n: allocate_ranks(_Idle(), 0.5, "macs", inputs=torch.randn(1, 8, 4, 4)), ValueError, "'idle' does not",
    ),
}  # fmt: skip


class _Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("case", REFUSED)
def test_allocation_refuses(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make(network())


@pytest.mark.slow
def test_a_resnet_18_is_allocated():
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet18")
    ranks = allocate_ranks(net, 0.3)
    assert len(ranks) == 16
    factorize_(net, ranks, fit=False)
    assert factor_parameters(net) <= 0.3 * 10_985_472


def test_moments_move_the_budget_to_the_layers_that_the_output_feels():
    net = network()
    images = [torch.randn(4, 3, 10, 10) for _ in range(2)]
    with torch.no_grad():
        net[1].weight.copy_(net[3].weight)
        net[3].weight.mul_(1e-3)
        net[4].bias.fill_(1.0)
    with pytest.raises(KeyError, match="output_moments must hold every layer, got none for '1'"):
        allocate_ranks(net, 0.3, output_moments={})
    patterns = ["1", "3", "4"]
    moments = {
        "input_moments": input_moments(net, images, patterns),
        "output_moments": output_moments(net, images, patterns),
    }
    # What comes before the small kernel is drowned by the bias behind it; the weights do not show it.
    plain, felt = allocate_ranks(net, 0.3, layers=patterns), allocate_ranks(net, 0.3, layers=patterns, **moments)
    assert plain["1"] > plain["3"]
    assert felt["1"] < plain["1"]
