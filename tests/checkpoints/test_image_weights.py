import copy
from functools import partial

import pytest
import timm
import torch
from timm.layers import ScaledStdConv2d
from torch import nn

from hocp_mm.checkpoints import LoadReport, load_image_weights_
from hocp_mm.errors import CheckpointError
from hocp_mm.functional import decompose, dense_kernel
from hocp_mm.layers import FrameAxis, HOCPConv1d, HOCPConv3d, factorize_, transduct_
from tests.laws import assert_close, assert_framewise, random_kernel, relative_error, state_shapes


def image_network() -> nn.Sequential:
    """A dense image network whose second kernel has CP rank 3."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, bias=True))
    with torch.no_grad():
        net[2].weight.copy_(dense_kernel(random_kernel(out=8, in_=8, rank=3)))
        net[1].running_mean.normal_()
    return net


def video_network(rank: int = 3, temporal: bool = True) -> nn.Sequential:
    net = image_network()
    factorize_(net, rank, fit=False)
    if temporal:
        transduct_(net, 3, frame_axis=FrameAxis())
    return net


def test_dense_weights_are_decomposed_and_everything_is_accounted_for():
    source, video = image_network(), video_network()
    report = load_image_weights_(video, source.state_dict(), source="a test")
    assert report.complete
    assert report.transducted == ["2.factors.t"]
    assert list(report.decomposed) == ["2"]
    flat = video[2].kernel()
    middle = dense_kernel(flat)[:, :, 1]
    assert relative_error(middle, source[2].weight) == pytest.approx(report.decomposed["2"], abs=1e-5)
    assert torch.equal(video[1].running_mean, source[1].running_mean)
    assert torch.equal(video[2].bias, source[2].bias)
    filled = (
        set(report.copied)
        | set(report.transducted)
        | {"2.weights"}
        | {f"2.factors.{m}" for m in ("out", "in", "h", "w")}
    )
    assert filled == set(video.state_dict())


def test_cp_weights_are_copied_and_the_temporal_factor_keeps_its_delta():
    static, video = video_network(temporal=False), video_network()
    report = load_image_weights_(video, static.state_dict(), source="a test")
    assert report.transducted == ["2.factors.t"]
    assert not report.decomposed
    assert torch.equal(video[2].factors["out"], static[2].factors["out"])
    assert video[2].factors["t"].sum(dim=1).tolist() == [0, 3, 0]


def test_a_trained_video_network_loads_its_temporal_factors_too():
    trained, video = video_network(), video_network()
    nn.init.normal_(trained[2].factors["t"])
    report = load_image_weights_(video, trained.state_dict(), source="a test")
    assert not report.transducted
    assert torch.equal(video[2].factors["t"], trained[2].factors["t"])


def in_two_places(part: nn.Module, first: nn.Module) -> nn.Sequential:
    """A network that uses a part twice, as CoaT does: its state dict has the part under two names."""
    return nn.Sequential(first, part, nn.BatchNorm2d(8) if isinstance(first, nn.Conv2d) else nn.BatchNorm3d(8), part)


@pytest.mark.parametrize("groups", [1, 8])
def test_a_part_in_two_places_is_accounted_for_under_both_names(groups):
    image = in_two_places(nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.Conv2d(3, 8, 1)).eval()
    video = copy.deepcopy(image)
    factorize_(video, 4, layers="^1$" if groups == 1 else "^0$", fit=False)
    transduct_(video, 3, frame_axis=FrameAxis(), layers="^1$", motion={"rank": 2})
    report = load_image_weights_(video, image.state_dict(), source="a test")
    assert report.complete
    assert video[1] is video[3]
    assert {name for name in report.added if "motion" in name} == {
        f"{place}.motion.factors.{mode}" for place in (1, 3) for mode in ("in", "t", "out")
    }
    trained = copy.deepcopy(video)
    nn.init.normal_(trained[1].motion.factors["out"])
    assert load_image_weights_(video, trained.state_dict(), source="a test").complete
    assert torch.equal(video[3].motion.factors["out"], trained[1].motion.factors["out"])


@pytest.mark.parametrize("conv", [partial(HOCPConv3d, rank=4), nn.Conv3d])
def test_a_3d_layer_in_two_places_is_filled_once(conv):
    image = in_two_places(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)).double().eval()
    video = in_two_places(conv(8, 8, 3, padding=1), nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1))).double().eval()
    report = load_image_weights_(video, image.state_dict(), source="a test")
    assert report.complete
    with torch.no_grad():
        kernel = video[1].weight if conv is nn.Conv3d else dense_kernel(video[1].kernel())
        image[1].weight.copy_(kernel[:, :, 1])
    clip = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    assert_framewise(video, lambda frame: image(frame[:, :, 0]).unsqueeze(2), clip, 1e-12)


def _without(state, key):
    return {name: tensor for name, tensor in state.items() if name != key}


FAULTS = {
    "a diverged kernel": (
        lambda s: {**s, "2.weight": s["2.weight"] / 0},
        r"must be finite, got NaN or inf in 2.weight",
    ),
    "a missing tensor": (lambda s: _without(s, "1.running_var"), r"1 missing \(1.running_var\)"),
    "a missing kernel": (lambda s: _without(s, "2.weight"), r"5 missing \(2.weights, "),
    "a kernel of another shape": (
        lambda s: {**s, "2.weight": torch.ones(8, 8, 5, 5)},
        r"2.weight: \(8, 8, 5, 5\) instead of \(8, 8, 3, 3\)",
    ),
    "a tensor of another shape": (lambda s: {**s, "1.bias": torch.ones(4)}, r"1.bias: \(4,\) instead of \(8,\)"),
    "an unexpected tensor": (lambda s: {**s, "fc.weight": torch.ones(4)}, r"1 unexpected \(fc.weight\)"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_an_incomplete_transfer_is_refused_and_leaves_the_model_alone(case):
    damage, message = FAULTS[case]
    video = video_network()
    before = copy.deepcopy(video.state_dict())
    with pytest.raises(CheckpointError, match=message) as caught:
        load_image_weights_(video, damage(image_network().state_dict()), source="some/file.pth")
    assert "some/file.pth" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in video.state_dict().items())


def test_allow_missing_loads_what_fits_and_still_tells():
    source, video = image_network(), video_network()
    state = {**_without(source.state_dict(), "1.weight"), "2.weight": torch.ones(8, 8, 5, 5)}
    kernel = dense_kernel(video[2].kernel()).detach().clone()
    report = load_image_weights_(video, state, source="a test", allow_missing=True)
    assert report.missing == ["1.weight"]
    assert len(report.mismatched) == 1
    assert torch.equal(video[0].weight, source[0].weight)
    assert torch.equal(dense_kernel(video[2].kernel()), kernel)


def _renamed(state):
    return {f"encoder.{name}": tensor for name, tensor in state.items()}


def _widened(state):
    """All names, no shape; but counters of batch norms, which have no shape, fit."""
    return {name: tensor if tensor.ndim == 0 else torch.ones(7, *tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("allow_missing", [False, True])
@pytest.mark.parametrize("strange", [None, _renamed, _widened], ids=["empty", "renamed", "widened"])
def test_what_holds_no_weight_for_the_model_is_refused_and_nobody_is_told_to_load_what_fits(strange, allow_missing):
    state = {} if strange is None else strange(image_network().state_dict())
    video = video_network()
    before = copy.deepcopy(video.state_dict())
    with pytest.raises(CheckpointError, match="not one weight fits") as caught:
        load_image_weights_(video, state, source="a test", allow_missing=allow_missing)
    assert "allow_missing" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in video.state_dict().items())


def test_one_weight_that_fits_is_enough_to_be_told_of_allow_missing():
    state = {"1.weight": torch.full((8,), 3.0)}
    with pytest.raises(CheckpointError, match="pass allow_missing=True"):
        load_image_weights_(video_network(), state, source="a test")
    video = video_network()
    assert load_image_weights_(video, state, source="a test", allow_missing=True).copied == ["1.weight"]
    assert torch.equal(video[1].weight, state["1.weight"])


def test_layers_that_were_cut_off_are_told_from_the_classifier():
    state = {**image_network().state_dict(), "fc.weight": torch.ones(4), "fc.norm.weight": torch.ones(4)}
    report = load_image_weights_(video_network(), state, source="a test", classifier=["fc"], cut_off=["fc.norm.weight"])
    assert (report.classifier, report.cut_off) == (["fc.weight"], ["fc.norm.weight"])
    assert report.complete
    assert "cut off: fc.norm.weight" in str(report)


def test_a_classifier_is_left_out_on_purpose():
    state = {**image_network().state_dict(), "fc.weight": torch.ones(4), "fcn.weight": torch.ones(4)}
    with pytest.raises(CheckpointError, match=r"1 unexpected \(fcn.weight\)"):
        load_image_weights_(video_network(), state, source="a test", classifier=["fc"])
    del state["fcn.weight"]
    assert load_image_weights_(video_network(), state, source="a test", classifier=["fc"]).classifier == ["fc.weight"]


def test_a_report_reads_as_an_account():
    report = LoadReport(
        "timm 'x'", copied=["a"] * 40, decomposed={"l.0": 0.04, "l.1": 0.21}, transducted=["t"] * 2, unexpected=["u"]
    )
    text = str(report)
    assert "40 tensors copied, 2 kernels decomposed (relative error 0.040 to 0.210)" in text
    assert "2 temporal factors and 0 tensors of identity modules added, 0 missing, 0 mismatched, 1 unexpected" in text
    assert "l.1: relative error 0.2100" in text
    assert "unexpected: u" in text


def image_layers(bias: bool = True) -> nn.Sequential:
    """A stem, a 1x1, a strided and a grouped convolution: dense, in float64, so that laws hold to the last digits."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        nn.Conv2d(8, 8, 1, bias=bias),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=bias),
        nn.Conv2d(12, 8, 3, padding=1, groups=2, bias=bias),
    )
    return net.double()


def clip_layers(conv, taps: int = 3, bias: bool = True) -> nn.Sequential:
    """The same with ``taps`` frames per kernel, the 1x1 included; made of ``conv``."""

    def layer(inputs, outputs, size, stride=1, groups=1):
        return conv(
            inputs, outputs, (taps, size, size), stride=(1, stride, stride),
            padding=(taps // 2, size // 2, size // 2), groups=groups, bias=bias,
        )  # fmt: skip

    net = nn.Sequential(layer(3, 8, 3), layer(8, 8, 1), layer(8, 12, 3, stride=2), layer(12, 8, 3, groups=2))
    return net.double()


@pytest.mark.parametrize("taps", [1, 3, 5])
def test_dense_3d_layers_are_inflated_to_the_image_network_on_every_frame(taps):
    image, video = image_layers(), clip_layers(nn.Conv3d, taps)
    report = load_image_weights_(video, image.state_dict(), source="a test")
    assert report.inflated == ["0", "1", "2", "3"]
    assert report.complete
    assert not report.transducted
    clip = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    assert_framewise(video, lambda frame: image(frame[:, :, 0]).unsqueeze(2), clip, 1e-14)


@pytest.mark.parametrize("taps", [1, 3, 5])
def test_fresh_3d_cp_layers_become_the_fitted_image_network_on_every_frame(taps):
    image, video = image_layers(), clip_layers(partial(HOCPConv3d, rank=4), taps)
    report = load_image_weights_(video, image.state_dict(), source="a test")
    assert report.complete
    assert report.transducted == [f"{i}.factors.t" for i in range(4)]
    for i, layer in enumerate(image):
        with torch.no_grad():
            fitted = dense_kernel(video[i].kernel())
            assert relative_error(fitted[:, :, taps // 2], layer.weight) == pytest.approx(report.decomposed[str(i)])
            assert fitted.abs().sum(dim=(0, 1, 3, 4)).nonzero().tolist() == [[taps // 2]], "a frame but the present one"
            layer.weight.copy_(fitted[:, :, taps // 2])
    clip = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    assert_framewise(video, lambda frame: image(frame[:, :, 0]).unsqueeze(2), clip, 1e-12)


def test_cp_weights_of_an_image_network_fill_fresh_3d_cp_layers():
    image, video = image_layers(), clip_layers(partial(HOCPConv3d, rank=4))
    factorize_(image, 4, layers=".", fit=False)
    report = load_image_weights_(video, image.state_dict(), source="a test")
    assert report.complete
    assert not report.decomposed
    assert report.transducted == [f"{i}.factors.t" for i in range(4)]
    clip = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    assert_framewise(video, lambda frame: image(frame[:, :, 0]).unsqueeze(2), clip, 1e-12)


def test_a_trained_temporal_factor_of_a_3d_layer_is_copied():
    trained, video = clip_layers(partial(HOCPConv3d, rank=4)), clip_layers(partial(HOCPConv3d, rank=4))
    report = load_image_weights_(video, trained.state_dict(), source="a test")
    assert set(report.copied) == set(trained.state_dict())
    assert torch.equal(video[0].factors["t"], trained[0].factors["t"])


def test_a_dense_3d_kernel_is_decomposed_with_its_temporal_mode():
    dense, video = nn.Conv3d(6, 6, 3), HOCPConv3d(6, 6, 3, rank=3)
    with torch.no_grad():
        dense.weight.copy_(dense_kernel(random_kernel(out=6, in_=6, taps=(3, 3, 3), rank=3)))
    report = load_image_weights_(video, dense.state_dict(), source="a test")
    assert report.complete
    assert not report.transducted
    assert relative_error(dense_kernel(video.kernel()), dense.weight) == pytest.approx(report.decomposed[""], abs=1e-5)


def test_uniform_inflation_averages_frames_and_loses_a_third_at_the_borders():
    image = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    clip = torch.randn(1, 3, 1, 6, 6).expand(-1, -1, 5, -1, -1)  # a still one
    for video in (nn.Conv3d(3, 4, 3, padding=1, bias=False), HOCPConv3d(3, 4, 3, padding=1, bias=False, rank=27)):
        load_image_weights_(video, image.state_dict(), source="a test", temporal_init="uniform")
        with torch.no_grad():
            # Of the fitted kernel, which need not be that of the image.
            still = video(clip)[:, :, 2]
            assert_close(video(clip)[:, :, 1], still, 1e-5, "inner frame")
            for border in (0, 4):
                assert_close(video(clip)[:, :, border], still * 2 / 3, 1e-5, f"frame {border}")
    with pytest.raises(ValueError, match=r"temporal_init must be one of \('central', 'uniform'\), got 'last'"):
        load_image_weights_(video, image.state_dict(), source="a test", temporal_init="last")


def test_weight_standardised_kernels_are_decomposed_as_they_are_used():
    image = nn.Sequential(ScaledStdConv2d(6, 6, 3, padding=1))
    with torch.no_grad():
        image[0].gain.uniform_(0.5, 2)
        impulses = torch.zeros(6, 6, 5, 5)
        impulses[range(6), range(6), 2, 2] = 1
        used = (image(impulses) - image[0].bias.reshape(-1, 1, 1))[:, :, 1:4, 1:4].flip(2, 3).transpose(0, 1)
    twin = copy.deepcopy(image)
    factorize_(twin, 20, fit=False)
    report = load_image_weights_(twin, image.state_dict(), source="a test")
    assert report.complete
    error = relative_error(dense_kernel(twin[0].kernel()), used)
    assert error == pytest.approx(report.decomposed["0"], abs=1e-5)
    assert error < 0.5
    with pytest.raises(CheckpointError, match=r"1 missing \(0\.gain\)"):
        load_image_weights_(twin, _without(image.state_dict(), "0.gain"), source="a test")
    with pytest.raises(CheckpointError, match=r"0\.gain: \(4,\) instead of 6 values"):
        load_image_weights_(twin, {**image.state_dict(), "0.gain": torch.ones(4)}, source="a test")


def test_what_is_kept_stays_and_is_listed():
    source, video = image_network(), video_network()
    before = copy.deepcopy(video.state_dict())
    # The source's stem is for one channel; its norm is there, and unwanted.
    state = {**source.state_dict(), "0.weight": torch.ones(8, 1, 3, 3)}
    report = load_image_weights_(video, state, source="a test", keep=[r"^0\.", r"^1\.running_mean$"])
    assert report.complete
    assert report.kept == ["0.weight", "0.bias", "1.running_mean"]
    assert all(torch.equal(before[name], video.state_dict()[name]) for name in report.kept)
    assert "kept: 0.weight, 0.bias, 1.running_mean" in str(report)


@pytest.mark.parametrize("network", [video_network, lambda: clip_layers(partial(HOCPConv3d, rank=2))])
def test_a_cp_layer_can_be_kept_whole_but_not_in_part(network):
    video = network()
    state = image_network().state_dict() if len(video) == 3 else image_layers().state_dict()
    before = copy.deepcopy(video.state_dict())
    report = load_image_weights_(video, state, source="a test", keep=r"^2\.")
    assert "2" not in report.decomposed
    assert set(report.kept) == {name for name in before if name.startswith("2.")}
    assert all(torch.equal(before[name], video.state_dict()[name]) for name in report.kept)
    with pytest.raises(CheckpointError, match=r"2\.weight: keep must name all factors of a kernel or none"):
        load_image_weights_(video, state, source="a test", keep=r"^2\.factors\.out$")


def test_a_temporal_factor_can_be_kept_while_the_kernel_is_loaded():
    video = clip_layers(partial(HOCPConv3d, rank=2))
    before = copy.deepcopy(video.state_dict())
    report = load_image_weights_(video, image_layers().state_dict(), source="a test", keep=r"factors\.t$")
    assert not report.transducted
    assert len(report.decomposed) == len(report.kept) == 4
    assert all(torch.equal(before[name], video.state_dict()[name]) for name in report.kept)
    assert not torch.equal(before["0.factors.h"], video.state_dict()["0.factors.h"])


def even_taps(conv):
    return nn.Sequential(conv(3, 4, (2, 3, 3))), nn.Sequential(nn.Conv2d(3, 4, 3))


REFUSALS = {
    "an even dense kernel": (
        *even_taps(nn.Conv3d), {}, r"0\.weight: a central delta needs an odd number of taps, got 2",
    ),
    "an even CP kernel": (
        *even_taps(HOCPConv3d), {}, r"0\.factors\.t: a central delta needs an odd number of taps, got 2",
    ),
    "a pattern that keeps nothing": (
        *even_taps(nn.Conv3d), {"keep": ["0", "con1"]}, r"keep must match a tensor of the model, got 'con1' \(a file\)",
    ),
    "a dense kernel of other channels": (
        nn.Sequential(nn.Conv3d(3, 4, 3)), nn.Sequential(nn.Conv2d(2, 4, 3)), {},
        r"0\.weight: \(4, 2, 3, 3\) instead of \(4, 3, 3, 3\)",
    ),
    "a CP kernel of other sizes": (
        nn.Sequential(HOCPConv3d(3, 4, 3)), nn.Sequential(nn.Conv2d(3, 4, 5)), {},
        r"0\.weight: \(4, 3, 5, 5\) instead of \(4, 3, 3, 3\)",
    ),
    "Psi": (
        nn.Sequential(HOCPConv3d(3, 4, 3, inner_act_cfg={"type": "ReLU"})), nn.Sequential(nn.Conv2d(3, 4, 3)), {},
        r"0\.weight: Psi must be off",
    ),
    "nothing for a fresh layer": (
        nn.Sequential(HOCPConv3d(3, 4, 3)), nn.Sequential(), {}, r"7 missing \(0\.weights, 0\.bias, .*factors\.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_3d_receivers_refuse_what_does_not_fit_and_stay_as_they_were(case):
    video, image, options, message = REFUSALS[case]
    before = copy.deepcopy(video.state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_image_weights_(video, image.state_dict(), source="a file", **options)
    assert all(torch.equal(before[name], tensor) for name, tensor in video.state_dict().items())


def test_even_kernels_can_be_inflated_uniformly():
    image = nn.Sequential(nn.Conv2d(3, 4, 3))
    for conv in (nn.Conv3d, HOCPConv3d):
        video = nn.Sequential(conv(3, 4, (2, 3, 3)))
        assert load_image_weights_(video, image.state_dict(), source="a test", temporal_init="uniform").complete


def test_layers_of_one_mode_are_decomposed_too():
    dense, twin = nn.Sequential(nn.Conv1d(6, 6, 3)), nn.Sequential(HOCPConv1d(6, 6, 3, rank=18))
    report = load_image_weights_(twin, dense.state_dict(), source="a test")
    assert relative_error(dense_kernel(twin[0].kernel()), dense[0].weight) == pytest.approx(
        report.decomposed["0"], abs=1e-5
    )


def test_nothing_is_written_when_a_decomposition_fails():
    class Broken:
        def decompose(self, dense, rank, *, groups=1, seed=0):
            raise OSError("disk full")

    video = video_network()
    before = copy.deepcopy(video.state_dict())
    with pytest.raises(OSError, match="disk full"):
        load_image_weights_(video, image_network().state_dict(), source="a test", cache=Broken())
    assert all(torch.equal(before[name], tensor) for name, tensor in video.state_dict().items())


def test_a_cache_is_asked_for_every_kernel_with_rank_groups_and_seed():
    asked = []

    class Cache:
        def decompose(self, dense, rank, *, groups=1, seed=0):
            asked.append((tuple(dense.shape), rank, groups, seed))
            return decompose(dense, rank, groups=groups, seed=seed)

    video, plain = clip_layers(partial(HOCPConv3d, rank=4)), clip_layers(partial(HOCPConv3d, rank=4))
    state = image_layers().state_dict()
    report = load_image_weights_(video, state, source="a test", cache=Cache(), seed=7)
    assert asked == [(tuple(state[f"{i}.weight"].shape), 4, 2 if i == 3 else 1, 7) for i in range(4)]
    assert report == load_image_weights_(plain, state, source="a test", seed=7)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in video.state_dict().items())


def test_half_precision_weights_are_fitted_in_the_precision_of_the_layer():
    image, video = image_layers(), clip_layers(partial(HOCPConv3d, rank=4))
    half = {name: tensor.half() for name, tensor in image.state_dict().items()}
    report = load_image_weights_(video, half, source="a test")
    exact = load_image_weights_(video, {n: t.double() for n, t in half.items()}, source="a test")
    assert report.decomposed == exact.decomposed


def test_every_tensor_of_a_timm_network_is_accounted_for_once():
    image = timm.create_model("test_resnet", num_classes=0)
    video = copy.deepcopy(image)
    factorize_(video, 2, fit=False)
    transduct_(video, 3, frame_axis=FrameAxis())
    report = load_image_weights_(video, image.state_dict(), source="a test", keep="^bn1")
    fitted = [
        name for name in state_shapes(video)
        if any(name.startswith((f"{layer}.weights", f"{layer}.factors")) for layer in report.decomposed)
        and not name.endswith("factors.t")
    ]  # fmt: skip
    assert sorted([*report.copied, *report.transducted, *report.kept, *fitted]) == sorted(state_shapes(video))
