"""Augmentations: one draw per clip, colours that do not wrap, and nothing but ``imgs`` changed."""

import random

import numpy as np
import pytest

from hocp_mm.datasets.transforms import (
    CenterCropClip,
    ClipColorJitter,
    ClipFlip,
    RandomResizedClipCrop,
    ResizeClip,
)

RANDOM = {
    "crop": RandomResizedClipCrop(24, scale=(0.3, 0.8)),
    "flip": ClipFlip(),
    "colour": ClipColorJitter(0.5, 0.5, 0.5),
}
FIXED = {"resize": ResizeClip(20), "centre": CenterCropClip(20)}


def _picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("transform", (RANDOM | FIXED).values(), ids=RANDOM | FIXED)
def test_all_frames_of_a_clip_get_the_same(transform):
    still = np.repeat(_picture()[None], 5, axis=0)
    imgs = transform({"imgs": still})["imgs"]
    assert imgs.dtype == np.uint8
    for img in imgs[1:]:
        np.testing.assert_array_equal(img, imgs[0])


@pytest.mark.parametrize("transform", RANDOM.values(), ids=RANDOM)
def test_clips_differ_and_the_seed_repeats_them(transform):
    def draw(seed):
        random.seed(seed)
        return [transform({"imgs": _picture()[None].copy()})["imgs"].tobytes() for _ in range(8)]

    assert draw(0) == draw(0)
    assert len(set(draw(0))) > 1


def test_crop_contains_only_what_was_there_and_has_the_size():
    ramp = np.repeat(np.arange(40, dtype=np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    for _ in range(50):
        img = RandomResizedClipCrop(24, scale=(0.2, 1.0))({"imgs": ramp[None]})["imgs"][0]
        assert img.shape == (24, 24, 3)
        assert (np.diff(img[0, :, 0].astype(int)) >= 0).all()  # neither mirrored nor shuffled


def test_the_whole_frame_at_its_size_stays_the_same():
    picture = _picture()[:, :32]
    img = RandomResizedClipCrop(32, scale=(1, 1), ratio=(1, 1))({"imgs": picture[None]})["imgs"][0]
    np.testing.assert_array_equal(img, picture)
    np.testing.assert_array_equal(ResizeClip(32)({"imgs": picture[None]})["imgs"][0], picture)


def test_flip_mirrors_columns_or_does_nothing():
    picture = _picture()
    np.testing.assert_array_equal(ClipFlip(1.0)({"imgs": picture[None]})["imgs"][0], picture[:, ::-1])
    np.testing.assert_array_equal(ClipFlip(0.0)({"imgs": picture[None]})["imgs"][0], picture)


def test_centre_crop_takes_the_centre():
    picture = _picture()
    np.testing.assert_array_equal(CenterCropClip(20)({"imgs": picture[None]})["imgs"][0], picture[6:26, 10:30])
    with pytest.raises(ValueError, match="must be 33 or more wide and high, got 40x32"):
        CenterCropClip(33)({"imgs": picture[None]})


class _Factors:
    """Stand-in for ``random`` that gives chosen factors."""

    def __init__(self, *factors):
        self._factors = iter(factors)

    def uniform(self, low, high):
        return next(self._factors)


def _reference(imgs, bright, contrast, saturate):
    """Write the definition out: brightness, contrast about the mean luma of the clip, saturation."""
    luma = np.array([0.299, 0.587, 0.114])
    out = imgs.astype(float) * bright
    mean = (out @ luma).mean()
    out = mean + contrast * (out - mean)
    grey = (out @ luma)[..., None]
    return np.clip(np.round(grey + saturate * (out - grey)), 0, 255)


@pytest.mark.parametrize("factors", [(1, 1, 1), (1.5, 1, 1), (1, 0.4, 1), (1, 1, 0), (1.4, 1.6, 1.7), (0.3, 0.5, 0.2)])
def test_colours_follow_the_definition_and_never_wrap(factors, monkeypatch):
    monkeypatch.setattr("hocp_mm.datasets.transforms.augment.random", _Factors(*factors))
    imgs = np.stack([_picture(0), _picture(1)])
    changed = ClipColorJitter()({"imgs": imgs.copy()})["imgs"]
    np.testing.assert_allclose(changed, _reference(imgs, *factors), atol=1)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="reaches must be 0 or more, got -1"):
        ClipColorJitter(-1)
    with pytest.raises(ValueError, match=r"scale must be bounds in \(0, 1\]"):
        RandomResizedClipCrop(8, scale=(0.5, 1.5))
