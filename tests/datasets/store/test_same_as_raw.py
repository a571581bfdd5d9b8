"""The law of stores: without loss, a store gives what its raw folder gives, pixel by pixel and label by label."""

import numpy as np
import pytest
import torch
from PIL import Image

from hocp_mm.datasets import (
    AFEWVADataset,
    AffectNetDataset,
    AffWild2Dataset,
    FaceCropDataset,
    SEWADataset,
)
from hocp_mm.datasets.store import CropSettings
from tests.material.afew_va_files import write_afew_va
from tests.material.affectnet_files import row, write_2017, write_2021
from tests.material.affwild2_files import write_affwild2
from tests.material.store_files import picture, store_of

WINDOWS = {"clip_len": 5, "stride": 4}


def _sewa(root, sewa_root):
    return SEWADataset(sewa_root, **_options())


def _afew_va(root, sewa_root):
    return AFEWVADataset(write_afew_va(root), split="test", fold=1, **_options())


def _affectnet_2017(root, sewa_root):
    lines = [row(f"{number}/{number}.png", number % 7, number / 10, face_x=f"{number}.0") for number in range(4)]
    _paint(write_2017(root, [*lines, lines[1]]))  # two rows of one image
    return AffectNetDataset(root, **_options())


def _affectnet_2021(root, sewa_root):
    _paint(write_2021(root, {str(number): (str(number), "0.25", "-0.5") for number in range(3)}))
    return AffectNetDataset(root, release="2021", **_options())


def _affwild2(root, sewa_root):
    images = ("cropped_aligned", "cropped_aligned_new_50_vids")
    return AffWild2Dataset(write_affwild2(root), images=images, **_options())


def _options():
    load = {"type": "LoadFaceClip", "size": 48, "margin": 1.3, "smooth": 3}
    steps = [{"type": "SampleClip", "clip_len": 5, "mode": "window"}, load, {"type": "PackAffectInputs"}]
    return {"pipeline": steps, "windows": WINDOWS, "test_mode": True}


def _paint(root):
    """Give every picture of a tiny AffectNet colours of its own."""
    for number, path in enumerate(sorted([*root.rglob("*.png"), *root.rglob("*.jpg")])):
        with Image.open(path) as old:
            size = old.size
        Image.fromarray(picture(number, max(size))[: size[1], : size[0]]).save(path)
    return root


SETS = {
    "SEWA": (_sewa, 1.3),
    "AFEW-VA": (_afew_va, 1.3),
    "AffectNet 2017": (_affectnet_2017, 1.3),
    "AffectNet 2021": (_affectnet_2021, None),
    "Aff-Wild2": (_affwild2, None),
}


@pytest.mark.parametrize("name", SETS)
def test_every_window_is_the_same(name, tmp_path, sewa_root):
    make, margin = SETS[name]
    raw = make(tmp_path / "raw", sewa_root)
    crop = CropSettings(size=48, margin=margin, smooth=3, codec="png", pixel_aspect=raw.facts.get("pixel_aspect", 1))
    store = store_of(tmp_path / "store", {"train": raw}, crop)
    stored = FaceCropDataset(store, expected={"dataset": type(raw).__name__}, **_options())
    assert len(raw) == len(stored) > 0
    assert {**raw.facts, "fold": None} == {**stored.facts, "fold": None}
    assert raw.metainfo == stored.metainfo
    for index in range(len(raw)):
        ours, theirs = stored[index], raw[index]
        assert torch.equal(ours["inputs"], theirs["inputs"])
        assert ours["data_samples"].metainfo == theirs["data_samples"].metainfo
        assert set(ours["data_samples"].keys()) == set(theirs["data_samples"].keys())
        for key, value in theirs["data_samples"].items():
            assert str(ours["data_samples"].get(key)) == str(value)
    assert len({dataset["inputs"].numpy().tobytes() for dataset in map(raw.__getitem__, range(len(raw)))}) > 1


def test_records_tell_the_same(tmp_path, sewa_root):
    raw = SEWADataset(sewa_root)
    stored = FaceCropDataset(store_of(tmp_path / "store", {"train": raw}, CropSettings(size=32, codec="png")))
    for ours, theirs in zip(stored.load_videos(), raw.load_videos(), strict=True):
        assert set(theirs) - set(ours) == set()
        for name in set(theirs) - {"filename"}:
            np.testing.assert_array_equal(ours[name], theirs[name])
