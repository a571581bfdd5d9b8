"""The walk over a network, against parameters and FLOPs that PyTorch counts on the networks themselves."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hocp_mm.functional import fold_frames
from hocp_mm.functional.cost import conv_cost
from hocp_mm.layers import FrameAxis, HOCPConv1d, HOCPConv2d, HOCPConv3d, factorize_, transduct_
from hocp_mm.layers.complexity import Complexity, complexity


def image_network() -> nn.Sequential:
    """A stem, dense, depthwise, grouped and pointwise convolutions, norms and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(12, 12, 3, padding=1, groups=12),
        nn.Conv2d(12, 6, 1),
        nn.GroupNorm(2, 6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


def video_network() -> tuple[nn.Sequential, FrameAxis]:
    network, axis = image_network(), FrameAxis()
    factorize_(network, 5, fit=False)
    assert transduct_(network, 3, frame_axis=axis) == ["3", "4"]
    return network, axis


def folded_clip(batch: int, frames: int, size: int = 16) -> torch.Tensor:
    return fold_frames(torch.randn(batch, 3, frames, size, size))


def counted_macs(network: nn.Module, *inputs: torch.Tensor) -> int:
    """MACs of all convolutions and matrix products by PyTorch's counter, which knows no fast path but its own."""
    network = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*(x.to("meta") for x in inputs))
    return counter.get_total_flops() // 2


def rows(result: Complexity) -> dict:
    return {row.name: row for row in result.rows}


def test_totals_are_the_parameters_and_macs_of_the_network():
    network, axis = video_network()
    axis.length = 4
    x = folded_clip(2, 4)
    result = complexity(network, x)
    assert result.total.parameters == sum(p.numel() for p in network.parameters())
    assert result.total.macs == counted_macs(network, x)


def test_dense_twin_and_parent_are_the_networks_they_stand_for():
    network, axis = video_network()
    axis.length = 4
    result = complexity(network, folded_clip(2, 4))
    assert result.sees_time

    image = image_network()
    assert result.parent.parameters == sum(p.numel() for p in image.parameters())
    assert result.parent.macs == counted_macs(image, torch.empty(8, 3, 16, 16))

    dense = nn.Sequential(
        nn.Conv3d(8, 12, 3, padding=1, stride=(1, 2, 2), bias=False), nn.Conv3d(12, 12, 3, padding=1, groups=12)
    )
    twins = [rows(result)[name].dense for name in ("3", "4")]
    assert sum(twin.parameters for twin in twins) == sum(p.numel() for p in dense.parameters())
    assert sum(twin.macs for twin in twins) == counted_macs(dense, torch.empty(2, 8, 4, 8, 8))
    kept = [row for name, row in rows(result).items() if name not in ("3", "4")]
    assert all(row.dense == row.cost for row in kept)
    assert result.dense.parameters == sum(row.cost.parameters for row in kept) + sum(t.parameters for t in twins)


def test_a_whole_timm_network_on_the_meta_device():
    network, axis = timm.create_model("test_resnet", num_classes=5), FrameAxis()
    factorize_(network, "x1", fit=False)
    transduct_(network, 3, frame_axis=axis)
    axis.length = 4
    network, x = network.to("meta"), torch.empty(8, 3, 32, 32, device="meta")
    result = complexity(network, x)
    assert result.total.parameters == sum(p.numel() for p in network.parameters())
    assert result.total.macs == counted_macs(network, x)
    with pytest.raises(ValueError, match="measure needs a model with data, got one on the meta device"):
        complexity(network, x, measure=1)


def test_a_row_tells_what_a_layer_is():
    network, axis = video_network()
    axis.length = 4
    row = rows(complexity(network, folded_clip(2, 4)))["3"]
    assert (row.kind, row.kernel_size, row.stride, row.rank) == ("FrameFoldedHOCPConv2d", (3, 3, 3), (1, 2, 2), 5)
    assert (row.input_shape, row.output_shape, row.calls) == ((8, 8, 8, 8), (8, 12, 4, 4), 1)
    assert row.cost == conv_cost(
        8, 12, (3, 3, 3), (4, 8, 8), stride=(1, 2, 2), padding=1, rank=5, implementation="frame_folded", batch=2
    )
    depthwise = rows(complexity(network, folded_clip(2, 4)))["4"]
    assert (depthwise.kernel_size, depthwise.groups, depthwise.rank) == ((3, 3, 3), 12, None)
    assert depthwise.cost.inner_bytes == depthwise.cost.output_bytes == 4 * 8 * 12 * 4 * 4


LAYERS = {
    "1-D": (HOCPConv1d(4, 6, 3, rank=5), (2, 4, 9)),
    "2-D": (HOCPConv2d(4, 6, 3, rank=5, bias=False), (2, 4, 9, 8)),
    "2-D, one by one": (HOCPConv2d(4, 6, 3, rank=5, implementation="factorized", stride=2), (2, 4, 9, 8)),
    "2-D, rebuilt": (HOCPConv2d(4, 6, 3, rank=5, implementation="reconstructed"), (2, 4, 9, 8)),
    "2-D, a rank so high that auto rebuilds": (HOCPConv2d(4, 6, 3, rank=90), (2, 4, 9, 8)),
    "2-D, no batch": (HOCPConv2d(4, 6, 3, rank=5), (4, 9, 8)),
    "3-D": (HOCPConv3d(4, 6, 3, rank=5, padding=1, stride=(1, 2, 2)), (1, 4, 3, 9, 8)),
    "3-D, time alone": (HOCPConv3d(4, 6, (3, 1, 1), rank=5, padding=(1, 0, 0)), (1, 4, 3, 9, 8)),
    "dense 3-D": (nn.Conv3d(4, 6, 3, padding=1), (1, 4, 3, 9, 8)),
}


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_a_single_layer_is_a_network(layer, shape):
    result = complexity(layer, torch.randn(shape))
    (row,) = result.rows
    assert (row.name, row.kind) == ("", type(layer).__name__)
    assert row.cost.parameters == sum(p.numel() for p in layer.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(layer).to("meta")(torch.empty(shape, device="meta"))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert row.cost.macs == convolutions // 2
    assert result.sees_time == (len(layer.kernel_size) == 3)


def test_a_folded_layer_counts_as_its_form():
    kinds = {}
    for rank, form in ((5, "auto"), (5, "fused"), (200, "auto")):
        network, axis = nn.Sequential(HOCPConv2d(4, 6, 3, padding=1, rank=rank, implementation=form)), FrameAxis()
        transduct_(network, 3, frame_axis=axis)
        axis.length = 2
        kinds[rank, form] = complexity(network, torch.randn(4, 4, 5, 5)).rows[0]
    assert kinds[5, "fused"].cost.macs == kinds[5, "auto"].cost.macs
    assert kinds[5, "fused"].cost.inner_bytes == 0 < kinds[5, "auto"].cost.inner_bytes
    assert kinds[200, "auto"].cost.macs == kinds[200, "auto"].dense.macs


def test_psi_keeps_a_kernel_from_being_rebuilt():
    plain, psi = (HOCPConv2d(4, 6, 3, rank=90, bias=False, **o) for o in ({}, {"inner_norm_cfg": {"type": "BN"}}))
    x = torch.randn(2, 4, 9, 8)
    assert complexity(plain, x).total.macs == complexity(plain, x).dense.macs
    found = rows(complexity(psi, x))
    assert found[""].cost.macs > found[""].dense.macs
    assert found["inner.norm"].cost.parameters == 2 * 90  # its own row
    assert found[""].cost.parameters == 90 * (4 + 6 + 6 + 1)


class Shared(nn.Module):
    """One layer called twice, one never, two that hold the same weight, and a parameter of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = HOCPConv2d(4, 4, 3, padding=1, rank=3)
        self.never = nn.Linear(4, 7)
        self.first, self.second = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x):
        return self.second(self.first(self.twice(self.twice(x)))) * self.scale[0]


def test_calls_and_parameters_count_as_often_as_they_are_there():
    network, x = Shared(), torch.randn(1, 4, 6, 6)
    result = complexity(network, x)
    found = rows(result)
    once = conv_cost(4, 4, (3, 3), (6, 6), padding=1, bias=True, rank=3)
    assert (found["twice"].calls, found["twice"].cost.macs) == (2, 2 * once.macs)
    assert found["twice"].cost.parameters == once.parameters
    assert found["twice"].dense.parameters == 4 * 4 * 9 + 4
    assert (found["never"].calls, found["never"].cost.macs, found["never"].note) == (0, 0, "never called")
    assert found["never"].cost.parameters == 4 * 7 + 7
    assert (found["first"].cost.parameters, found["second"].cost.parameters) == (16, 0)
    assert found["second"].cost.macs == found["first"].cost.macs > 0
    assert found["second"].note == "parameters shared"
    assert (found["other"].cost.parameters, found["other"].note) == (5, "parameters only: Shared")
    assert result.total.parameters == sum(p.numel() for p in network.parameters())


def test_a_layer_that_never_ran_has_the_parameters_of_its_twin():
    network = nn.ModuleDict({"used": nn.Identity(), "idle": HOCPConv3d(4, 6, 3, rank=2)})
    network.forward = lambda x: network["used"](x)
    (row,) = complexity(network, torch.zeros(1)).rows
    assert (row.cost.parameters, row.dense.parameters, row.parent.parameters) == (2 * 20 + 6, 24 * 27 + 6, 24 * 9 + 6)
    assert row.cost.macs == row.dense.macs == row.parent.macs == 0


def test_a_layer_that_pads_by_itself_is_counted_by_its_output():
    from timm.layers import Conv2dSame

    (row,) = complexity(Conv2dSame(3, 5, 3, stride=2), torch.zeros(1, 3, 9, 9)).rows
    assert row.output_shape == (1, 5, 5, 5)
    assert row.cost.macs == 5 * 3 * 9 * 25


def test_bytes_follow_autocast():
    layer, x = nn.Conv2d(3, 5, 1), torch.zeros(1, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert complexity(layer, x).total.output_bytes == 2 * 5 * 16
    assert complexity(layer, x).total.output_bytes == 4 * 5 * 16


class Faulty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        self.conv(x)
        raise KeyError("broken")


@pytest.mark.parametrize("measure", [False, 2])
def test_the_network_is_left_as_it_was(measure):
    network, axis = video_network()
    axis.length = 4
    network.train()
    network[1].eval()
    network[3].requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    flags = [module.training for module in network.modules()]
    needs = [p.requires_grad for p in network.parameters()]
    random = torch.get_rng_state()
    x = folded_clip(1, 4)
    torch.set_rng_state(random)
    complexity(network, x, measure=measure)
    assert [module.training for module in network.modules()] == flags
    assert [p.requires_grad for p in network.parameters()] == needs
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert all(not module._forward_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert axis.length == 4
    assert all(p.grad is None for p in network.parameters())


def test_a_failing_network_is_left_as_it_was_too():
    network = Faulty().train()
    with pytest.raises(KeyError, match="broken"):
        complexity(network, torch.zeros(1, 3, 2, 2))
    assert network.training
    assert network.conv.training
    assert not network.conv._forward_hooks


def test_measuring_times_every_layer_and_its_twins():
    network, axis = video_network()
    axis.length = 4
    seen = []
    result = complexity(network, folded_clip(1, 4), measure=2, progress=lambda *news: seen.append(news))
    assert [name for name, _, _ in seen] == ["0", "3", "4", "5", "9"]
    assert [done for _, done, _ in seen] == [1, 2, 3, 4, 5]
    assert {total for _, _, total in seen} == {5}
    assert result.milliseconds > 0
    found = rows(result)
    for name in ("0", "3", "4", "5", "9"):
        row = found[name]
        assert min(row.milliseconds, row.dense_milliseconds, row.parent_milliseconds) > 0
        # What is its own twin is not measured twice.
        assert (row.dense_milliseconds == row.milliseconds) == (name not in ("3", "4"))
    assert found["1"].milliseconds is None


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())
def test_every_kind_of_layer_can_be_measured(layer, shape):
    (row,) = complexity(layer, torch.randn(shape), measure=1).rows
    assert min(row.milliseconds, row.dense_milliseconds, row.parent_milliseconds) > 0


def test_a_negative_number_of_repetitions_is_refused():
    with pytest.raises(ValueError, match="measure must be a number of repetitions, got -1"):
        complexity(nn.Linear(2, 2), torch.zeros(1, 2), measure=-1)
