"""Preparing odd records: strange keys, single images, frames without labels, faces that a detector has to find."""

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hocp_mm.datasets import AFEWVADataset, AffectNetDataset, SEWADataset, iter_frames
from hocp_mm.datasets.faces.crops import crop_frame, squares_of
from hocp_mm.datasets.splits import read_split_file
from hocp_mm.datasets.store import CropSettings, read_header, read_index
from hocp_mm.datasets.store.prepare import prepare_store
from hocp_mm.datasets.store.report import LEFT_OUT
from hocp_mm.datasets.store.task import DetectorChoice
from hocp_mm.errors import DataError
from tests.material.afew_va_files import SQUEEZED, write_clip
from tests.material.affectnet_files import row, write_2017, write_picture
from tests.material.odd_videos import write_video
from tests.material.raw_sets import CROPS, FRAMES, KEYS, SquareDetector, write_talks
from tests.material.sewa_files import SQUARE, draw_number


@pytest.fixture
def own_talks(tmp_path) -> Path:
    return write_talks(tmp_path / "SEWAv02")


def test_keys_that_differ_in_case_or_unsafe_characters_have_packs_of_their_own(tmp_path):
    names = ("ä", "clip:1", "clip?1", "Clip?1", "Ω" * 60)
    for number, name in enumerate(names):
        write_clip(tmp_path / "raw", name, f"Actor {number}", range(3), first_number=50 * number)
    (tmp_path / "all.txt").write_text("\n".join(names), encoding="utf-8")
    folder = tmp_path / "raw/folds/fold_0"
    folder.mkdir(parents=True)
    for part, keys in (("train", names[:3]), ("val", names[3:4]), ("test", names[4:])):
        (folder / f"{part}.txt").write_text("\n".join(keys), encoding="utf-8")
    raw = AFEWVADataset(str(tmp_path / "raw"), str(tmp_path / "all.txt"), on_fault="skip", lazy_init=True)
    crops = CropSettings(size=32, codec="png", pixel_aspect=4 / 3)
    prepare_store(tmp_path / "crops", {"all": raw}, crops, split_folders={"folds/fold_0": folder}, workers=1)
    index = read_index(tmp_path / "crops/index.npz")
    assert index.keys == list(names)
    packs = [Path(index[number].filename) for number in range(len(names))]
    assert len({pack.name.casefold() for pack in packs}) == len(names)
    assert all(pack.is_file() and pack.name.isascii() and len(pack.name) < 100 for pack in packs)
    pictures = {pack.read_bytes() for pack in packs}
    assert len(pictures) == len(names)
    assert read_split_file(tmp_path / "crops/folds/fold_0/train.txt") == list(names[:3])


@pytest.mark.parametrize("faces", ["landmarks", "frame", "square"])
def test_each_record_is_cut_by_its_own_rate_and_the_shape_of_its_own_pixels(own_talks, tmp_path, faces):
    """Videos of one set may differ: a circle must come out round, and a box averaged over as long, from each."""
    ratios = dict(zip(KEYS, (Fraction(1), Fraction(2), Fraction(64, 45), Fraction(1, 2)), strict=True))
    aspects = {key: float(ratio) for key, ratio in ratios.items()}
    rates = dict(zip(KEYS, (25, 50, 20, 30), strict=True))
    for number, (key, ratio) in enumerate(ratios.items()):
        video = own_talks / key / f"{key}.avi"

        def draw(k, number=number):
            return draw_number(40 * number + k)

        stamps = [round(1000 * k / rates[key]) for k in range(FRAMES)]
        file = write_video(
            video.with_suffix(".mkv"), "mpeg4", FRAMES, draw=draw, pixel_aspect=ratio, milliseconds=stamps
        )
        file.replace(video)
    given = "frame" if faces == "square" else faces
    margin = None if faces == "frame" else 1.5
    choice = DetectorChoice(SquareDetector(), "squares") if faces == "square" else None
    raw = {
        part: SEWADataset(str(own_talks), part, on_fault="skip", faces=given, lazy_init=True)
        for part in ("train", "val")
    }
    assert {record.key: record.pixel_aspect for part in raw.values() for record in part.load_records()} == aspects
    crops = CropSettings(size=32, margin=margin, codec="png", faces=faces)
    prepare_store(
        tmp_path / "crops", raw, crops, split_folders={"splits": own_talks / "splits"}, workers=1, detector=choice
    )
    for stored in read_index(tmp_path / "crops/index.npz"):
        assert stored.pixel_aspect == 1
        pictures = list(stored.frames().read(np.arange(FRAMES)))
        video = own_talks / stored.key / f"{stored.key}.avi"
        squares = squares_of(stored.boxes, aspects[stored.key], margin, crops.smooth, stored.fps)
        for index, frame in enumerate(iter_frames(video)):
            expected = crop_frame(frame, squares, index, aspects[stored.key], crops.size)
            np.testing.assert_array_equal(pictures[index], expected)
    again = prepare_store(
        tmp_path / "crops", raw, crops, split_folders={"splits": own_talks / "splits"}, workers=1, detector=choice,
        overwrite=True,
    )  # fmt: skip
    assert again.packs_made == 0


def test_images_share_packs_and_parts_may_share_names(tmp_path):
    root = write_2017(tmp_path / "raw", [row(f"1/{number}.jpg", number) for number in range(5)])
    write_2017(root, [row(f"1/{number}.jpg", number) for number in range(3)], "validation")
    parts = {part: AffectNetDataset(str(root), part, faces="box", lazy_init=True) for part in ("train", "val")}
    crops = CropSettings(size=24, codec="png", faces="box")
    out = tmp_path / "crops"
    summary = prepare_store(out, parts, crops, workers=1, images_per_pack=2)
    assert sorted(file.name for file in out.glob("packs/*.avi")) == [
        "train.00000.avi", "train.00001.avi", "train.00002.avi", "val.00000.avi", "val.00001.avi"
    ]  # fmt: skip
    assert (summary.records, summary.packs_made) == (8, 5)
    assert read_split_file(out / "splits/val.txt") == [f"val/1/{number}.jpg" for number in range(3)]
    index = read_index(out / "index.npz")
    assert [index[number].expression for number in range(8)] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert json.loads((out / "store.json").read_text())["counts"]["frames"] == 8
    image = root / "Manually_Annotated/Manually_Annotated_Images/1/1.jpg"
    os.utime(image, ns=(1, 1))
    assert prepare_store(out, parts, crops, workers=1, images_per_pack=2).packs_made == 2  # in both parts


def test_a_detector_finds_what_the_data_set_does_not_say(own_talks, tmp_path):
    parts = {"val": SEWADataset(str(own_talks), "val", faces="frame", lazy_init=True)}
    crops = CropSettings(size=32, codec="png", faces="square")
    options = {"split_folders": {"splits": own_talks / "splits"}, "workers": 1}
    choice = DetectorChoice(SquareDetector(), "square")
    prepare_store(tmp_path / "crops", parts, crops, detector=choice, **options)
    record = read_index(tmp_path / "crops/index.npz")[0].results()
    assert record["face_found"].all()
    np.testing.assert_allclose(record["boxes"], np.tile(SQUARE, (FRAMES, 1)), atol=3)
    assert read_header(tmp_path / "crops").metainfo["face_detector"] == "square"
    # Another state of its file is another detector.
    with pytest.raises(DataError, match="face_detector 'square', now 'square 2'"):
        prepare_store(
            tmp_path / "crops", parts, crops, detector=DetectorChoice(SquareDetector(), "square 2"), **options
        )
    second = DetectorChoice(SquareDetector(), "square 2")
    assert prepare_store(tmp_path / "crops", parts, crops, detector=second, **options, overwrite=True).packs_made == 1
    with pytest.raises(DataError, match="at least one record must be usable, got none of 4"):
        prepare_store(tmp_path / "none", parts, crops, detector=DetectorChoice(SquareDetector(900), "huge"), **options)
    assert "it sees squares" in (tmp_path / "none/report.csv").read_text()


def test_a_detector_sees_square_pixels_and_answers_in_those_of_the_file(tmp_path):
    write_clip(tmp_path / "raw", "001", "Ann Ash", range(1, 4), first_number=5)
    (tmp_path / "all.txt").write_text("001")
    raw = AFEWVADataset(str(tmp_path / "raw"), str(tmp_path / "all.txt"), faces="frame", lazy_init=True)
    seen: list[tuple[int, ...]] = []

    class Spy(SquareDetector):
        def __call__(self, frame):
            seen.append(frame.shape)
            return super().__call__(frame)

    crops = CropSettings(size=32, codec="png", pixel_aspect=4 / 3, faces="square")
    prepare_store(tmp_path / "crops", {"train": raw}, crops, detector=DetectorChoice(Spy(), "square"), workers=1)
    record = read_index(tmp_path / "crops/index.npz")[0].results()
    assert set(seen) == {(240, 320, 3)}
    np.testing.assert_allclose(record["boxes"][1:], np.tile(SQUEEZED, (3, 1)), atol=3)
    assert record["face_found"].tolist() == [False, True, True, True]  # frame 0 has no picture
    assert record["pack"].sizes[0] == 0


def test_an_image_without_a_face_is_left_out_of_its_pack(tmp_path):
    root = write_2017(tmp_path / "raw", [row("1/0.jpg"), row("1/1.jpg"), row("1/2.jpg")])
    write_picture(root / "Manually_Annotated/Manually_Annotated_Images/1/1.jpg", grey=255)
    raw = AffectNetDataset(str(root), "train", faces="frame", index_cache=False, lazy_init=True)
    crops = CropSettings(size=24, codec="png", faces="square")
    summary = prepare_store(
        tmp_path / "crops", {"train": raw}, crops, detector=DetectorChoice(SquareDetector(), "square"), workers=1
    )
    assert read_index(tmp_path / "crops/index.npz").keys == ["1/1.jpg"]
    assert summary.skipped == {"faces": 2, LEFT_OUT: 2}


def test_an_image_in_which_nothing_can_be_seen_is_named_as_damaged(tmp_path):
    root = write_2017(tmp_path / "raw", [row("1/0.jpg"), row("1/1.jpg")])
    images = root / "Manually_Annotated/Manually_Annotated_Images/1"
    write_picture(images / "0.jpg", grey=255)
    (images / "1.jpg").write_bytes(b"no picture")
    options = {"faces": "frame", "index_cache": False, "verify_images": False, "lazy_init": True}
    raw = AffectNetDataset(str(root), "train", **options)
    crops = CropSettings(size=24, codec="png", faces="square")
    summary = prepare_store(
        tmp_path / "crops", {"train": raw}, crops, detector=DetectorChoice(SquareDetector(), "square"), workers=1
    )
    assert summary.skipped == {"faces": 1, "image": 1, LEFT_OUT: 1}


def test_frames_beyond_the_labels_are_not_in_the_store(own_talks, tmp_path):
    key = KEYS[3]
    for name in ("Valence", "Arousal"):
        file = own_talks / key / f"{key}_{name}_V_Aligned.csv"
        file.write_text("\n".join(file.read_text().splitlines()[:-2]) + "\n")
    parts = {"val": SEWADataset(str(own_talks), "val", length_tolerance=2, lazy_init=True)}
    prepare_store(tmp_path / "crops", parts, CROPS, split_folders={"splits": own_talks / "splits"}, workers=1)
    index = read_index(tmp_path / "crops/index.npz")
    record = index[0].results()
    assert (len(index), record["num_frames"], len(record["pack"])) == (1, FRAMES - 2, FRAMES - 2)


def test_a_key_that_no_split_file_can_hold_is_refused_before_the_work(tmp_path):
    root = write_2017(tmp_path / "raw", [row("#1/0.jpg"), row("1/1.jpg")])
    raw = AffectNetDataset(str(root), "train", faces="box", lazy_init=True)
    with pytest.raises(DataError, match=r"splits/train\.txt: keys must be single lines .* got '#1/0\.jpg'"):
        prepare_store(tmp_path / "crops", {"train": raw}, CropSettings(size=24, faces="box"), workers=1)
    assert not list((tmp_path / "crops/packs").iterdir())
