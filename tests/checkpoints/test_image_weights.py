import copy

import pytest
import torch
from torch import nn

from hocp_mm.checkpoints import LoadReport, load_image_weights_
from hocp_mm.errors import CheckpointError
from hocp_mm.functional import dense_kernel
from hocp_mm.layers import FrameAxis, factorize_, transduct_
from tests.laws import random_kernel, relative_error


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
