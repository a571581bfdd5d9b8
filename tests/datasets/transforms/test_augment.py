"""Augmentations: one draw per clip, colours that do not wrap, and nothing but ``imgs`` changed."""

import copy
import random

import cv2
import numpy as np
import pytest
import torch

from hocp_mm.datasets.transforms import (
    CenterCropClip,
    ClipColorJitter,
    ClipFlip,
    RandomResizedClipCrop,
    ResizeClip,
    augment,
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


@pytest.mark.parametrize("transform", [RANDOM["crop"], RANDOM["flip"], *FIXED.values()], ids=["crop", "flip", *FIXED])
def test_a_moving_clip_is_changed_as_each_of_its_frames_alone_with_the_same_draw(transform):
    clip = np.stack([_picture(seed) for seed in range(4)])
    for seed in range(6):
        random.seed(seed)
        changed = transform({"imgs": clip.copy()})["imgs"]
        for frame, expected in zip(clip, changed, strict=True):
            random.seed(seed)
            np.testing.assert_array_equal(transform({"imgs": frame[None].copy()})["imgs"][0], expected)


@pytest.mark.parametrize("transform", (RANDOM | FIXED).values(), ids=RANDOM | FIXED)
def test_labels_stay_and_the_pixels_that_came_in_are_not_written_into(transform):
    clip = np.stack([_picture(seed) for seed in range(3)])
    record = {
        "affect": np.array([[0.37, -0.82], [0.1, 0.2], [0.3, 0.4]], np.float32),
        "valid": np.array([True, False, True]),
        "frame_inds": np.array([4, 5, -1]),
        "boxes": np.arange(12, dtype=np.float32).reshape(3, 4),
        "expression": 3,
        "video": "a",
    }
    before = copy.deepcopy(record)
    for _ in range(4):
        clip.flags.writeable = False  # pixels may belong to a cache
        results = transform({"imgs": clip, **record})
        assert set(results) == {"imgs", *before}
        for name, value in before.items():
            assert results[name] is record[name]
            np.testing.assert_array_equal(results[name], value)
    np.testing.assert_array_equal(clip, np.stack([_picture(seed) for seed in range(3)]))


def test_all_draws_of_a_pipeline_come_from_pythons_generator():
    """Workers seed it; a draw from elsewhere would be the same in each of them, or differ from run to run."""

    def run():
        random.seed(3)
        results = {"imgs": _picture()[None].copy()}
        for transform in RANDOM.values():
            results = transform(results)
        return results["imgs"], random.random()

    first = run()
    np.random.seed(99)  # noqa: NPY002 - the generator that must not matter
    torch.manual_seed(99)
    cv2.setRNGSeed(99)
    again = run()
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]


def test_crops_reach_every_edge_and_never_beyond():
    """Pixels tell where they come from: without resizing a crop is a rectangle, whose corner can be read."""
    places = np.stack(np.meshgrid(np.arange(20), np.arange(24), indexing="ij"), axis=2).astype(np.uint8)  # y, x
    picture = np.concatenate([places, np.zeros_like(places[..., :1])], axis=2)
    crop = RandomResizedClipCrop(10, scale=(100 / 480, 100 / 480), ratio=(1, 1))
    corners = set()
    for _ in range(600):
        img = crop({"imgs": picture[None]})["imgs"][0]
        top, left = (int(value) for value in img[0, 0, :2])
        np.testing.assert_array_equal(img, picture[top : top + 10, left : left + 10])
        corners.add((top, left))
    assert {top for top, _ in corners} == set(range(11))
    assert {left for _, left in corners} == set(range(15))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (200, 3), (7, 5)])
def test_crops_of_odd_pictures_have_the_size(height, width):
    picture = np.full((2, height, width, 3), 7, np.uint8)
    for _ in range(20):
        img = RandomResizedClipCrop(6, scale=(0.01, 1.0), ratio=(0.5, 2.0))({"imgs": picture})["imgs"]
        assert img.shape == (2, 6, 6, 3)
        assert (img == 7).all()


def test_the_share_of_the_area_keeps_to_its_bounds(monkeypatch):
    seen = []
    monkeypatch.setattr(augment, "resize_clip", lambda imgs, size: seen.append(imgs.shape[1:3]) or imgs)
    for _ in range(300):
        RandomResizedClipCrop(8, scale=(0.3, 0.6), ratio=(0.9, 1.1))({"imgs": np.zeros((1, 100, 100, 3), np.uint8)})
    shares = [height * width / 1e4 for height, width in seen]
    ratios = [width / height for height, width in seen]
    assert (0.29 < min(shares) < 0.32, 0.58 < max(shares) < 0.61) == (True, True)
    assert (0.88 < min(ratios) < 0.92, 1.08 < max(ratios) < 1.12) == (True, True)


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
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got 1.5"):
        ClipFlip(1.5)


@pytest.mark.parametrize("kind", [ResizeClip, CenterCropClip, RandomResizedClipCrop])
def test_a_picture_without_pixels_is_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: size must be 1 or more, got 0"):
        kind(0)
