import copy

import pytest
import torch
from torch import nn

from hocp_mm.layers import FrameAxis, HOCPConv1d, HOCPConv2d, HOCPConv3d, prune_ranks_, transduct_
from hocp_mm.layers.rank_matching import match_ranks_
from tests.laws import assert_close, state_shapes

PSI = {"inner_norm_cfg": {"type": "BN"}, "inner_act_cfg": {"type": "ReLU"}}
SE = {"gate_cfg": {"type": "SE", "reduction": 2}}
BLOCKS = {
    "plain": {},
    "psi": PSI,
    "instance norm and a slope per component": {
        "inner_norm_cfg": {"type": "IN", "affine": True, "track_running_stats": True},
        "inner_act_cfg": {"type": "PReLU", "num_parameters": 8},
    },
    "one slope for all components": {"inner_act_cfg": {"type": "PReLU"}},
    "psi and gate": {**PSI, **SE},
    "groups": {"groups": 2},
}  # fmt: skip
CONV = {1: HOCPConv1d, 2: HOCPConv2d, 3: HOCPConv3d}


def block(kind="plain", rank=8, order=2):
    """A layer in double precision and evaluation mode whose parameters and statistics are all drawn."""
    options = copy.deepcopy(BLOCKS[kind])
    if "num_parameters" in options.get("inner_act_cfg", {}):
        options["inner_act_cfg"]["num_parameters"] = rank
    layer = CONV[order](6, 4, 3, padding=1, rank=rank, dtype=torch.float64, **options).eval()
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_().abs_().add_(0.1)
    return layer


def assert_loads(model, source, x):
    """The model takes the source's state without exception, and then computes the same."""
    model.load_state_dict(source.state_dict(), strict=True)
    assert_close(model(x), source(x), 0, "loaded model")


@pytest.mark.parametrize("rank", [4, 12], ids=["fewer components", "more components"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_state_of_another_rank_loads_strictly_and_computes_the_same(kind, rank):
    source, model = nn.Sequential(block(kind, rank)), nn.Sequential(block(kind))
    assert match_ranks_(model, source.state_dict()) == {"0": (8, rank)}
    assert model[0].rank == model[0].kernel().rank == rank
    assert_loads(model, source, torch.randn(2, 6, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_pruned_network_loads_into_the_network_that_it_was(kind):
    source = block(kind)
    with torch.no_grad():
        source.weights[[1, 2, 5, 6]] = 0
    assert prune_ranks_(source) == {"": (8, 4)}
    model = block(kind)
    assert match_ranks_(model, source.state_dict()) == {"": (8, 4)}
    assert_loads(model, source, torch.randn(2, 6, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_layers_of_all_orders_follow(order):
    source, model = block(rank=5, order=order), block(order=order)
    assert match_ranks_(model, source.state_dict()) == {"": (8, 5)}
    assert_loads(model, source, torch.randn(2, 6, *[5] * order, dtype=torch.float64))


@pytest.mark.parametrize("rank", [3, 11])
def test_temporal_factors_that_an_image_state_lacks_keep_their_delta(rank):
    """The law of transduction with other ranks: every frame has the output of the image network."""
    source, video, axis = nn.Sequential(block("psi", rank)), nn.Sequential(block("psi")), FrameAxis()
    transduct_(video, 3, frame_axis=axis)
    video.double()
    match_ranks_(video, source.state_dict())
    assert video.load_state_dict(source.state_dict(), strict=False).missing_keys == ["0.factors.t"]
    axis.length = 4
    frames = torch.randn(4, 6, 5, 5, dtype=torch.float64)
    assert_close(video(frames), source(frames), 1e-12, "frames of a clip")


def test_an_optimizer_that_was_built_before_trains_the_resized_model():
    source, model = block("psi and gate", 4), block("psi and gate")
    before = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    match_ranks_(model, source.state_dict())
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    model.load_state_dict(source.state_dict())
    model(torch.randn(2, 6, 5, 5, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.weights, source.weights)


def test_backward_works_while_the_graph_of_the_old_shapes_is_alive():
    model, x = block(), torch.randn(2, 6, 5, 5, dtype=torch.float64)
    old_loss = model(x).sum()
    old_loss.backward()
    match_ranks_(model, block(rank=3).state_dict())
    model.zero_grad()
    model(x).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
    assert old_loss.grad_fn is not None


def test_layers_that_agree_or_are_not_in_the_state_are_left_alone():
    model = nn.Sequential(block(), block(), nn.Conv2d(4, 4, 1, dtype=torch.float64))
    before = copy.deepcopy(model.state_dict())
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("1.")}
    assert match_ranks_(model, {**state, "1.weight": torch.ones(4, 6, 3, 3)}) == {}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_gate_of_another_reduction_is_no_matter_of_ranks():
    """Where the rank agrees, hidden units are a word of the config, and strict loading has to complain."""
    state = block("psi and gate").state_dict()
    model = HOCPConv2d(6, 4, 3, rank=8, dtype=torch.float64, **PSI, gate_cfg={"type": "SE", "reduction": 4})
    assert match_ranks_(model, state) == {}
    with pytest.raises(RuntimeError, match=r"size mismatch for gate\.reduce\.weight"):
        model.load_state_dict(state)


def changed(kind="plain", rank=5, **tensors):
    state = {f"1.{name}": tensor for name, tensor in block(kind, rank).state_dict().items()}
    return {**state, **{f"1.{name.replace('__', '.')}": tensor for name, tensor in tensors.items()}}


REFUSED = {
    "factors that disagree": (
        "plain", lambda: changed(factors__h=torch.ones(3, 4)), ValueError,
        r"equally many components, got weights 5, .*factors\.h 4.* \(layer '1'\)",
    ),
    "statistics of Psi that disagree": (
        "psi", lambda: changed("psi", inner__norm__running_var=torch.ones(8)), ValueError,
        r"equally many components, got .*inner\.norm\.running_var 8",
    ),
    "a gate that disagrees with itself": (
        "psi and gate", lambda: changed("psi and gate", gate__reduce__bias=torch.ones(7)), ValueError,
        r"equally many hidden units, got gate\.reduce\.weight 2, gate\.reduce\.bias 7",
    ),
    "a rank that groups do not divide": (
        "groups", lambda: {"1.weights": torch.ones(5)}, ValueError,
        r"positive multiple of groups=2, got 5 \(layer '1'\)",
    ),
    "no component": ("plain", lambda: {"1.weights": torch.ones(0)}, ValueError, "multiple of groups=1, got 0"),
    "a scalar": ("plain", lambda: {"1.weights": torch.ones(())}, ValueError, r"more than 0 dimensions, got shape \(\)"),
    "a flat factor": ("plain", lambda: {"1.factors.in": torch.ones(6)}, ValueError, r"got shape \(6,\) \(layer '1'\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_states_that_fit_no_rank_are_refused_before_any_change(case):
    kind, make, error, message = REFUSED[case]
    model = nn.Sequential(block(), block(kind))
    before = state_shapes(model)
    with pytest.raises(error, match=f"match_ranks_: .*{message}"):
        match_ranks_(model, {"0.weights": torch.ones(4), **make()})
    assert state_shapes(model) == before
    assert [layer.rank for layer in model] == [8, 8]


def test_a_group_norm_in_psi_is_refused():
    norm = {"inner_norm_cfg": {"type": "GN", "num_groups": 2}}
    state = HOCPConv2d(6, 4, 3, rank=4, **norm).state_dict()
    with pytest.raises(NotImplementedError, match=r"match_ranks_: layer '': .*group norm mixes channels"):
        match_ranks_(HOCPConv2d(6, 4, 3, rank=8, **norm), state)


def test_layers_that_share_a_factor_are_refused():
    model = nn.Sequential(block(), block())
    model[1].factors["h"] = model[0].factors["h"]
    with pytest.raises(NotImplementedError, match="match_ranks_: a layer must not share"):
        match_ranks_(model, nn.Sequential(block(rank=4), block(rank=4)).state_dict())


HUGE = 10**12  # nothing of this size can be made


def huge_state(kind, order):
    """The tensors with an axis of components, as if there were `HUGE` of them."""
    state = block(kind, 64, order).state_dict()
    return {
        name: torch.empty([HUGE if size == 64 else size for size in tensor.shape], device="meta")
        for name, tensor in state.items()
        if 64 in tensor.shape or name.startswith("gate.")
    }


def broken(state, how):
    """The state without one of its tensors at a time, or with one of another shape."""
    for name, tensor in state.items():
        if name == "factors.t":  # which an image network lacks
            continue
        others = {other: value for other, value in state.items() if other != name}
        if how == "lacks":
            yield others
        elif how == "has more axes":
            yield {**others, name: tensor[..., None]}
        elif (shape := [size if size == HUGE else size + 1 for size in tensor.shape]) != list(tensor.shape):
            yield {**others, name: torch.empty(shape, device="meta")}


@pytest.mark.parametrize("how", ["lacks", "has more axes", "has longer axes"])
@pytest.mark.parametrize(("kind", "order"), [*((kind, 2) for kind in BLOCKS), ("plain", 1), ("plain", 3)])
def test_a_layer_grows_by_no_more_than_there_is(kind, order, how):
    """A lambda alone could say a rank that is large for nothing."""
    states = list(broken(huge_state(kind, order), how))
    assert len(states) >= 3
    for state in states:
        layer = block(kind, order=order)
        try:
            assert match_ranks_(layer, state) == {}
        except ValueError as error:  # hidden units may disagree
            assert "hidden units" in str(error)  # noqa: PT017
        assert layer.rank == 8


def test_a_network_without_a_gate_gives_its_rank_to_one_with_a_gate():
    layer = block("psi and gate")
    assert match_ranks_(layer, block("psi", 5).state_dict()) == {"": (8, 5)}
    assert layer.gate.expand.out_features == 5


def test_kernels_that_laterals_will_widen_give_their_rank():
    layer, state = block(), block(rank=5).state_dict()
    assert match_ranks_(layer, {**state, "factors.in": state["factors.in"][:4]}) == {"": (8, 5)}


def _resized(rank: int, dtype: torch.dtype = torch.float32, in_rows: int = 8) -> dict[str, torch.Tensor]:
    """Return what a layer of another rank would have in a file, in no memory."""
    shapes = {"weights": (rank,), "factors.out": (8, rank), "factors.in": (in_rows, rank)}
    own = HOCPConv2d(8, 8, 3, rank=8).state_dict()
    state = {
        key: torch.zeros((), dtype=dtype).expand(shapes.get(key, (len(value), rank))) for key, value in own.items()
    }
    return {**state, "bias": own["bias"]} if "bias" in own else state


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64])
def test_what_is_no_floating_point_gives_no_ranks(dtype):
    model = HOCPConv2d(8, 8, 3, rank=8)
    assert match_ranks_(model, _resized(16)) == {"": (8, 16)}
    assert match_ranks_(model, _resized(32, dtype)) == {}
    assert model.rank == 16


def test_factors_without_channels_give_no_ranks():
    model = HOCPConv2d(8, 8, 3, rank=8)
    assert match_ranks_(model, _resized(32, in_rows=0)) == {}
    assert match_ranks_(model, _resized(32, in_rows=1)) == {"": (8, 32)}


def test_a_layer_has_no_more_components_than_its_kernel_has_numbers():
    assert match_ranks_(HOCPConv2d(8, 8, 3, rank=8), _resized(576)) == {"": (8, 576)}
    for rank in (577, 10**12):
        with pytest.raises(ValueError, match=f"rank must be at most 576, the numbers of the kernel, got {rank}"):
            match_ranks_(HOCPConv2d(8, 8, 3, rank=8), _resized(rank))
    assert match_ranks_(HOCPConv2d(8, 8, 3, rank=1000), _resized(900)) == {"": (1000, 900)}
