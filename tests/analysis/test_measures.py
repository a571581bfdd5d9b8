"""What checks of transduction find: nothing in a sound network, and each planted fault."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hocp_mm.analysis.measures import (
    dense_error,
    framewise_error,
    temporal_factors,
    time_leaks,
    untouched_parameters,
)
from hocp_mm.analysis.twins import Twins, build_twins, exact_kernel, full_rank, save_random_weights
from hocp_mm.functional import dense_kernel, fold_frames, unfold_frames
from hocp_mm.layers import FrameAxis, FrameFoldedConv2d
from tests.laws import relative_error

NAME, SIZE, ROUNDING = "test_resnet", 32, 1e-12


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    save_random_weights(path, NAME, torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    return str(path)


@pytest.fixture
def twins(weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    return build_twins(NAME, weights, rank=4).double()


def clips(n: int = 1, frames: int = 4) -> Tensor:
    return torch.randn(n, 3, frames, SIZE, SIZE, dtype=torch.float64)


class Halves(nn.Module):
    """A depthwise layer with a temporal factor that sees each half of a frame as an image, as attention heads do."""

    def __init__(self, init: str = "last", after: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.frame_axis = FrameAxis()
        conv = nn.Conv2d(3, 3, 3, padding=1, groups=3).double()
        self.conv = FrameFoldedConv2d.from_image_layer(conv, 3, init, self.frame_axis)
        self.after, self.says_clips, self.parts_first = after, True, False

    def forward(self, clip: Tensor) -> list[Tensor]:
        n, _, frames = clip.shape[:3]
        self.frame_axis.length = frames
        self.frame_axis.clips = n if self.says_clips else None
        halves = torch.stack(fold_frames(clip).chunk(2, dim=-1), 0 if self.parts_first else 1)
        out = self.conv(halves.flatten(0, 1)).unflatten(0, halves.shape[:2])
        joined = torch.cat(out.unbind(0 if self.parts_first else 1), -1)
        return [self.after(unfold_frames(joined, frames))]


def test_a_sound_network_passes_every_check(twins: Twins):
    assert framewise_error(twins.video, twins.image, clips()) < ROUNDING
    leaks = time_leaks(twins.causal, clips(2, 3))
    assert (leaks.future, leaks.clips) == (0, 0)
    assert leaks.worst < ROUNDING
    assert leaks.reach > 0.01
    assert untouched_parameters(twins.video, clips()) == ({}, [])


def test_twins_share_all_weights_but_those_in_time(twins: Twins):
    video, causal, image = (net.net.state_dict() for net in twins[:3])
    spatial = [name for name in video if not name.endswith("factors.t") and ".motion." not in name]
    assert list(image) == spatial
    assert all(torch.equal(video[name], other[name]) for name in spatial for other in (image, causal))
    assert all(f[1].eq(1).all() and f.sum() == f.shape[1] for f in temporal_factors(twins.video).values())
    assert all(f[2].eq(1).all() and f.sum() == f.shape[1] for f in temporal_factors(twins.causal).values())


def test_taps_that_are_no_delta_are_a_framewise_error(twins: Twins):
    with torch.no_grad():
        next(iter(temporal_factors(twins.video).values()))[0, 0] = 1e-3
    assert framewise_error(twins.video, twins.image, clips()) > 1e-6


def test_a_feature_that_is_no_number_is_an_infinite_error(twins: Twins):
    with torch.no_grad():
        next(iter(temporal_factors(twins.video).values()))[1, 0] = math.nan
    assert framewise_error(twins.video, twins.image, clips()) == math.inf


def test_a_feature_where_nothing_should_be_is_an_infinite_error():
    assert framewise_error(lambda clip: [clip], lambda clip: [0 * clip], clips()) == math.inf
    assert framewise_error(lambda clip: [0 * clip], lambda clip: [0 * clip], clips()) == 0


def test_features_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="must agree in shape"):
        framewise_error(lambda clip: [clip], lambda clip: [clip[:, :1]], clips())


def test_the_decomposition_costs_nothing_at_full_rank_and_something_below(twins: Twins, weights: str):
    clip = clips()
    exact = build_twins(NAME, weights, rank="full").double()
    assert max(dense_error(exact.video, exact.dense, clip)) < ROUNDING
    assert max(exact.report.decomposed.values()) == 0
    errors = dense_error(twins.video, twins.dense, clip)
    assert min(errors) > 0.01
    with torch.no_grad():
        dense = torch.stack([twins.dense(frame)[2] for frame in clip.unbind(2)], 2)
        assert errors[2] == pytest.approx(relative_error(twins.video(clip)[2], dense))


def test_weights_in_cp_form_have_no_dense_network(twins: Twins, tmp_path: Path):
    torch.save({"state_dict": twins.image.float().state_dict()}, tmp_path / "static.pth")
    video = build_twins(NAME, str(tmp_path / "static.pth"), rank=4)
    assert video.dense is None
    assert framewise_error(video.video.double(), twins.image.double(), clips()) < ROUNDING


@pytest.mark.parametrize("says_clips", [True, False])
def test_heads_taken_for_frames_are_found_though_a_delta_hides_them(says_clips: bool):
    network = Halves()
    network.says_clips = says_clips
    image = Halves()
    image.conv.load_state_dict(network.conv.state_dict())
    assert framewise_error(network, image, clips()) < ROUNDING
    assert (time_leaks(network, clips(2, 3)).worst < ROUNDING) is says_clips


def test_heads_in_another_order_than_the_layer_expects_are_found():
    network = Halves()
    network.parts_first = True
    assert time_leaks(network, clips(2, 3)).worst > 0.01


def test_a_look_at_later_frames_is_found():
    leaks = time_leaks(Halves(after=lambda features: features - features.mean(2, keepdim=True)), clips(2, 3))
    assert leaks.future > 0.01
    assert leaks.clips == 0


def test_a_look_at_other_clips_is_found():
    leaks = time_leaks(Halves(after=lambda features: features - features.mean(0)), clips(2, 3))
    assert leaks.clips > 0.01
    assert leaks.future == 0


def test_a_network_in_which_no_temporal_factor_acts_does_not_pass():
    network = Halves()
    network.conv.weight.data.zero_()
    leaks = time_leaks(network, clips(2, 3))
    assert leaks.reach == 0
    assert leaks.worst == math.inf


def test_looking_for_leaks_leaves_the_network_as_it_was(twins: Twins):
    before = {name: tensor.clone() for name, tensor in twins.causal.state_dict().items()}
    time_leaks(twins.causal, clips(2, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in twins.causal.state_dict().items())


def test_the_frames_may_come_from_the_seed_of_the_check():
    # The frames that take the place of others must not be the same ones.
    clip = torch.randn(2, 3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()
    assert time_leaks(Halves(), clip, seed=0).reach > 0.01


@pytest.mark.parametrize(
    ("network", "clip", "message"),
    [
        (Halves("central"), clips(2, 3), "see later frames: ['conv']"),
        (nn.Conv3d(3, 3, 1), clips(2, 3), "got 0 factors"),
        (Halves(), clips(1, 3), "N, T >= 2, got (1, 3, 3, 32, 32)"),
        (Halves(), clips(2, 1), "N, T >= 2, got (2, 3, 1, 32, 32)"),
    ],
)
def test_leaks_cannot_be_looked_for_everywhere(network: nn.Module, clip: Tensor, message: str):
    with pytest.raises(ValueError, match="time_leaks: ") as caught:
        time_leaks(network, clip)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (lambda taps: taps.detach(), "missing"),
        (lambda taps: taps * 0 + taps.detach(), "zero"),
        (lambda taps: taps * math.nan, "not finite"),
    ],
)
def test_a_temporal_factor_that_cannot_train_is_named(monkeypatch: pytest.MonkeyPatch, fault: Callable, why: str):
    import hocp_mm.layers.temporal as module

    sound = module.temporal_depthwise
    monkeypatch.setattr(module, "temporal_depthwise", lambda z, taps, *args: sound(z, fault(taps), *args))
    untouched = untouched_parameters(Halves(), clips())
    assert untouched.temporal == {"conv.factors.t": why}
    assert untouched.parameters == (["conv.factors.t"] if why == "missing" else [])


def test_a_parameter_without_part_in_the_features_is_named_unless_it_is_frozen(twins: Twins):
    twins.video.spare = nn.Parameter(torch.zeros(1))
    assert untouched_parameters(twins.video, clips()).parameters == ["spare"]
    twins.video.spare.requires_grad_(False)
    assert untouched_parameters(twins.video, clips()) == ({}, [])


def test_the_backward_pass_runs_as_in_training_and_leaves_no_trace(twins: Twins):
    twins.video.train()
    twins.video.net.layer1.eval()
    modes = [module.training for module in twins.video.modules()]
    before = {name: tensor.clone() for name, tensor in twins.video.state_dict().items()}
    seen = []
    twins.video.net.layer2.register_forward_hook(lambda module, *_: seen.append(module.training))
    untouched_parameters(twins.video, clips())
    assert seen == [True]
    assert modes == [module.training for module in twins.video.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in twins.video.state_dict().items())
    assert all(parameter.grad is None for parameter in twins.video.parameters())


@pytest.mark.parametrize(
    ("shape", "groups"), [((6, 4, 3, 3), 1), ((4, 6, 3, 2), 1), ((6, 2, 3, 3), 2), ((5, 7, 3), 1), ((4, 3, 2, 3, 3), 1)]
)
def test_a_kernel_of_full_rank_is_the_dense_one_to_the_bit(shape: tuple[int, ...], groups: int):
    dense = torch.randn(shape)
    kernel = exact_kernel(dense, groups)
    assert kernel.rank == full_rank(shape[1] * groups, shape[0], shape[2:])
    assert torch.equal(dense_kernel(kernel), dense)


def test_random_weights_are_those_of_a_network_that_has_lived(weights: str):
    import timm

    state = torch.load(weights)
    net = timm.create_model(NAME)
    net.load_state_dict(state)
    assert all(parameter.abs().max() >= 0.01 for parameter in net.parameters())
    inputs = []
    net.bn1.register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    net.eval()(images)
    assert relative_error(state["bn1.running_mean"], inputs[0].mean((0, 2, 3))) < 0.01
    assert relative_error(state["bn1.running_var"], inputs[0].var((0, 2, 3))) < 0.01


def test_random_weights_follow_their_seed_alone(tmp_path: Path):
    images = torch.randn(2, 3, SIZE, SIZE)
    states = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        save_random_weights(tmp_path / "a.pth", NAME, images, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(torch.load(tmp_path / "a.pth")["layer1.0.conv1.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
