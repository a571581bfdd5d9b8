"""The settings that training and inference share."""

import numpy as np
import pytest

from hocp_mm.datasets.transforms import LoadFaceClip
from hocp_mm.errors import CheckpointError
from hocp_mm.launch import ClipRule
from tests.material.tiny_configs import tiny_config


def test_settings_come_from_the_test_pipeline():
    assert ClipRule.from_config(tiny_config(8, 3, 2, 48), "c") == ClipRule(48, 1.3, 5, 8, 2, 3)


def test_what_the_config_leaves_out_has_the_default_of_the_transform():
    pipeline = [{"type": "SampleClip", "clip_len": 6}, {"type": LoadFaceClip, "size": 32, "cache_mb": 5}]
    cfg = {"test_dataloader": None, "val_dataloader": {"dataset": {"dataset": {"pipeline": pipeline}}}}
    default = LoadFaceClip(32)
    assert ClipRule.from_config(cfg, "c") == ClipRule(32, default.margin, default.smooth, 6, 1, 3)


def test_an_average_of_ten_seconds_is_taken():
    pipeline = [{"type": "SampleClip", "clip_len": 6}, {"type": "LoadFaceClip", "size": 32, "smooth": 250}]
    assert ClipRule.from_config({"test_dataloader": {"dataset": {"pipeline": pipeline}}}, "c").smooth == 250


def config(*steps: dict) -> dict:
    pipeline = [{"type": "SampleClip", "clip_len": 6}, {"type": "LoadFaceClip", "size": 32}, *steps]
    return {"test_dataloader": {"dataset": {"pipeline": pipeline}}}


def test_steps_after_the_crop_are_repeated():
    resize, center = ClipRule.from_config(
        config({"type": "hocp_mm.ResizeClip", "size": 30}, {"type": "CenterCropClip", "size": 24}), "c"
    ).after
    assert center(resize({"imgs": np.zeros((2, 32, 32, 3), np.uint8)}))["imgs"].shape == (2, 24, 24, 3)


def test_a_step_that_inference_cannot_repeat_is_refused():
    with pytest.raises(CheckpointError, match=r"my\.pth: the test pipeline may have .*, got 'hocp_mm.ClipFlip'"):
        ClipRule.from_config(config({"type": "hocp_mm.ClipFlip"}), "my.pth")


@pytest.mark.parametrize("name", ["none", "half", "train only"])
def test_a_config_without_the_transforms_is_refused(name: str):
    half = {"dataset": {"pipeline": [{"type": "LoadFaceClip", "size": 9}]}}
    cfg = {
        "none": {},
        "half": {"test_dataloader": half},
        "train only": {"train_dataloader": config()["test_dataloader"]},
    }
    with pytest.raises(
        CheckpointError, match=r"my\.pth: the config must have a data loader with LoadFaceClip and SampleClip"
    ):
        ClipRule.from_config(cfg[name], "my.pth")


def test_the_rate_of_training_and_the_slowest_video_it_showed_are_known():
    train = {"dataset": {"pipeline": [{"type": "hocp_mm.SampleClip", "clip_len": 6, "hold": [2, 4]}]}}
    test = [{"type": "SampleClip", "clip_len": 6, "fps": 24}, {"type": "LoadFaceClip", "size": 32}]
    cfg = {"train_dataloader": train, "test_dataloader": {"dataset": {"pipeline": test}}}
    rule = ClipRule.from_config(cfg, "c")
    assert (rule.fps, rule.slowest) == (24, 6)
    rule = ClipRule.from_config({"test_dataloader": cfg["test_dataloader"]}, "c")
    assert (rule.fps, rule.slowest) == (24, 24)
    assert ClipRule.from_config(config(), "c").fps is None


@pytest.mark.parametrize("factors", [3, "x", None, [0, -1], [2.5], [10**9], {}])
def test_odd_factors_of_a_stranger_are_passed_over(factors):
    train = {"dataset": {"pipeline": [{"type": "SampleClip", "hold": factors}]}}
    test = [{"type": "SampleClip", "clip_len": 6, "fps": 24}, {"type": "LoadFaceClip", "size": 32}]
    rule = ClipRule.from_config({"train_dataloader": train, "test_dataloader": {"dataset": {"pipeline": test}}}, "c")
    assert rule.slowest == 24


ODD_PIPELINES = {
    "few pixels in very many frames": {"clip_len": 2**27, "size": 1},
    "large after the crop": {"after": 30_000},
    "a margin that is no number": {"margin": float("nan")},
    "a margin without an end": {"margin": float("inf")},
    "a wide margin": {"margin": 1e6},
    "half a frame": {"clip_len": 6.5},
    "half a pixel": {"size": 32.5},
    "a huge interval": {"frame_interval": 2**62},
    "a huge average": {"smooth": 2**70},
    "an average of eleven seconds": {"smooth": 11 * 25},
    "no rate": {"fps": 0},
    "a rate without an end": {"fps": float("inf")},
    "a rate that is no number": {"fps": float("nan")},
    "text for a rate": {"fps": "25"},
    "an absurd rate": {"fps": 1e9},
    "a slow rate": {"fps": 1e-9},
    "a window of hours": {"fps": 1e-3},
    "a window of hours without a rate": {"frame_interval": 1 << 16},
    "no stride": {"windows": {"stride": 0}},
    "text for a stride": {"windows": {"stride": "1"}},
    "text for windows": {"windows": "abc"},
    "text for a size": {"size": "32"},
}


@pytest.mark.parametrize("name", ODD_PIPELINES)
def test_numbers_that_no_clip_has_are_refused(name: str):
    odd = dict(ODD_PIPELINES[name])
    windows, after = odd.pop("windows", {}), odd.pop("after", 16)
    sample = {"type": "SampleClip", "clip_len": 6} | {
        k: odd.pop(k) for k in ("clip_len", "frame_interval", "fps") if k in odd
    }
    pipeline = [sample, {"type": "LoadFaceClip", "size": 32, **odd}, {"type": "ResizeClip", "size": after}]
    with pytest.raises(CheckpointError, match=r"^my\.pth: "):
        ClipRule.from_config({"test_dataloader": {"dataset": {"pipeline": pipeline, "windows": windows}}}, "my.pth")


@pytest.mark.parametrize(
    "size", [float("nan"), float("inf"), 3.7, 16.0, True, 0, -5, "16", None, [16], (16, 16), 1e400]
)
@pytest.mark.parametrize("place", ["LoadFaceClip", "ResizeClip", "CenterCropClip"])
def test_no_step_may_have_a_size_that_is_no_whole_number(place: str, size: object):
    """Not the largest alone: what lies below another one is used as well."""
    steps = {"LoadFaceClip": 32, "ResizeClip": 24, "CenterCropClip": 16} | {place: size}
    pipeline = [{"type": "SampleClip", "clip_len": 6}, *({"type": name, "size": side} for name, side in steps.items())]
    with pytest.raises(CheckpointError, match=r"^my\.pth: .*(size must be a whole number from 1|cannot be built)"):
        ClipRule.from_config({"test_dataloader": {"dataset": {"pipeline": pipeline}}}, "my.pth")


def test_a_crop_from_the_centre_fits_in_what_is_shown_to_it():
    with pytest.raises(CheckpointError, match=r"^my\.pth: a crop of 33 pixels must fit in frames of 32\.$"):
        ClipRule.from_config(config({"type": "CenterCropClip", "size": 33}), "my.pth")
    resize = {"type": "ResizeClip", "size": 24}
    assert ClipRule.from_config(config(resize, {"type": "CenterCropClip", "size": 24}), "c").after
    with pytest.raises(CheckpointError, match="25 pixels must fit in frames of 24"):
        ClipRule.from_config(config(resize, {"type": "CenterCropClip", "size": 25}), "c")
