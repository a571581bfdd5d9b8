"""AFEWVADataset: exact pairs of frame and label by id, every trap of the layout, one clear error for every fault."""

import itertools
import json
import logging
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from hocp_mm.datasets import AFEWVADataset
from hocp_mm.datasets.affectnet.rows import box_columns
from hocp_mm.datasets.splits import read_fold, write_split_files
from hocp_mm.datasets.transforms import LoadFaceClip, PackAffectInputs, SampleClip
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS
from tests.material.afew_va_files import (
    SQUEEZED,
    edit_json,
    frame_of,
    labels_of,
    landmarks,
    squeezed_number,
    write_afew_va,
    write_clip,
)
from tests.material.sewa_files import read_number

FOLDS = 3
PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Twelve clips of six frames, six actors, three folds; read only."""
    return write_afew_va(tmp_path_factory.mktemp("afew") / "AFEW-VA", FOLDS)


@pytest.fixture
def root(whole, tmp_path):
    """A copy that a test may damage, with a split of one clip."""
    copy = shutil.copytree(whole, tmp_path / "AFEW-VA")
    (copy / "one.txt").write_text("001\n")
    return copy


@pytest.fixture
def log(monkeypatch):
    """What the data set says: lines that begin with their level."""
    lines = []

    def collect(text, logger=None, level=logging.INFO):
        lines.append(f"{logging.getLevelName(level)} {text}\n")

    monkeypatch.setattr("hocp_mm.datasets.afew_va.dataset.print_log", collect)
    monkeypatch.setattr("hocp_mm.datasets.records.dataset.print_log", collect)
    return lines


def pipeline(clip_len=4, mode="random"):
    return [SampleClip(clip_len, 1, mode), LoadFaceClip(size=48, margin=1.0, smooth=1), PackAffectInputs()]


def every_frame(root, split="one.txt", clip_len=6, **options):
    """Return the packed clips that cover every frame once."""
    windows = {"clip_len": clip_len, "stride": clip_len}
    options = {"test_mode": True, "windows": windows, "pipeline": pipeline(clip_len, "window"), **options}
    return AFEWVADataset(str(root), split, **options)


def assert_pairs_are_exact(sample):
    """Every valid frame must show its own number and bear the labels of that number, divided by ten."""
    data = sample["data_samples"]
    first = 20 * int(data.video)
    for row, index in enumerate(data.frame_inds):
        if data.gt_valid[row]:
            assert read_number(sample["inputs"][:, row].permute(1, 2, 0).numpy()) == first + index
            expected = np.float32(labels_of(first + index)) / np.float32(10)
            np.testing.assert_allclose(data.gt_affect[row].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("fold", "part"), list(itertools.product(range(FOLDS), PARTS)))
def test_each_part_of_each_fold_pairs_every_frame_with_its_label(whole, fold, part):
    dataset = every_frame(whole, part, fold=fold)
    assert {dataset.get_data_info(i)["video"] for i in range(len(dataset))} == set(read_fold(whole, fold)[part])
    for index in range(len(dataset)):
        assert_pairs_are_exact(dataset[index])
        assert dataset[index]["data_samples"].gt_valid.all()


def test_random_clips_pair_too(whole):
    dataset = AFEWVADataset(str(whole), "train", fold=0, pipeline=pipeline(), clips_per_video=4)
    for index in range(len(dataset)):
        assert_pairs_are_exact(dataset[index])


def test_every_clip_is_tested_in_one_fold(whole):
    tested = []
    for fold in range(FOLDS):
        dataset = AFEWVADataset(str(whole), "test", fold=fold)
        tested += [dataset.get_data_info(i)["video"] for i in range(len(dataset))]
    assert sorted(tested) == [f"{number:03d}" for number in range(1, 13)]


def test_a_record_keeps_the_contract(root):
    record = AFEWVADataset(str(root), "one.txt")[0]
    assert set(record) == {
        "video", "filename", "frame_files", "pixel_aspect", "num_frames", "fps", "subject", "affect", "valid", "boxes",
        "face_found", "sample_idx",
    }  # fmt: skip
    assert (record["video"], record["num_frames"], record["fps"], record["subject"]) == ("001", 6, 25.0, "Ann Ash")
    assert record["filename"] == str(root / "001")
    assert record["frame_files"] == [str(root / "001" / f"{k:05d}.png") for k in range(6)]
    assert record["pixel_aspect"] == 4 / 3
    assert (record["affect"].shape, record["affect"].dtype) == ((6, 2), np.float32)
    assert (record["valid"].dtype, record["face_found"].dtype) == (np.bool_, np.bool_)
    np.testing.assert_allclose(record["boxes"], np.tile(SQUEEZED, (6, 1)), atol=1e-3)


def test_the_range_is_minus_ten_to_ten_and_recorded(root):
    dataset = AFEWVADataset(str(root), "test", fold=1)
    assert dataset.facts["label_range"] == (-10.0, 10.0)
    assert (dataset.facts["fold"], dataset.facts["pixel_aspect"]) == (1, 4 / 3)
    edit_json(root / "001", lambda clip: clip["frames"]["00003"].update(valence=-10, arousal=10))
    np.testing.assert_array_equal(AFEWVADataset(str(root), "one.txt")[0]["affect"][3], [-1, 1])
    half = AFEWVADataset(str(root), "one.txt", label_range=(-20, 20))
    np.testing.assert_array_equal(half[0]["affect"][3], [-0.5, 0.5])


def test_it_builds_from_a_config(root):
    config = {"type": "hocp_mm.AFEWVADataset", "data_root": str(root), "split": "val", "fold": 2}
    assert len(DATASETS.build(config)) == len(read_fold(root, 2)["val"])


def test_what_was_found_is_logged(root, log):
    AFEWVADataset(str(root), "test", fold=0)
    text = "".join(log)
    assert "INFO AFEWVADataset(fold 0, test): 4 clips, 2 actors, 24 valid frames, valence " in text
    assert "(scaled from (-10.0, 10.0)), face in 100.0 % of them, frames of 240x240, pixel_aspect 1.333" in text
    assert (
        "WARNING AFEWVADataset(fold 0, test): pixel_aspect=1.333 belongs to frames shaped as 720x576" in text
    )  # these are square
    assert re.search(r"240x240: \d{3}, \d{3}, \d{3}, \d{3}\)", text)


# Traps that are no faults.


def test_ids_with_gaps_keep_their_place(tmp_path):
    write_clip(tmp_path, "001", "Ann", ids=[2, 3, 7, 8, 11], first_number=20)
    (tmp_path / "one.txt").write_text("001")
    dataset = every_frame(tmp_path, clip_len=12)
    record, sample = dataset.get_data_info(0), dataset[0]
    assert record["num_frames"] == 12
    assert np.flatnonzero(record["valid"]).tolist() == [2, 3, 7, 8, 11]
    assert [bool(file) for file in record["frame_files"]] == record["valid"].tolist()
    assert_pairs_are_exact(sample)
    shown = [read_number(frame) - 20 for frame in sample["inputs"].permute(1, 2, 3, 0).numpy()]
    assert shown == [2, 2, 2, 3, 3, 3, 3, 7, 8, 8, 8, 11]


def test_the_order_of_ids_and_keys_in_the_file_means_nothing(root):
    expected = AFEWVADataset(str(root), "one.txt")[0]

    def turn(clip):
        clip["frames"] = {key: dict(reversed(frame.items())) for key, frame in reversed(clip["frames"].items())}

    edit_json(root / "001", turn)
    record = AFEWVADataset(str(root), "one.txt")[0]
    np.testing.assert_array_equal(record["affect"], expected["affect"])
    assert record["frame_files"] == expected["frame_files"]


def test_inner_boxes_leave_the_jaw_line_out_and_are_those_of_affectnet(root):
    points = np.array(landmarks((60, 40, 160, 140)))
    points[17:] = 80 + 0.4 * (points[17:] - 60)
    file = root / "001/001.json"
    content = json.loads(file.read_text())
    for frame in content["frames"].values():
        frame["landmarks"] = points.tolist()
    file.write_text(json.dumps(content))
    (record,) = AFEWVADataset(str(root), "one.txt", faces="inner").load_videos()
    expected = [*points[17:].min(axis=0), *points[17:].max(axis=0)]
    np.testing.assert_allclose(record["boxes"], np.tile(expected, (len(record["boxes"]), 1)), rtol=1e-6)
    np.testing.assert_array_equal(record["boxes"][0], box_columns(points[None])["inner"][0])
    (whole,) = AFEWVADataset(str(root), "one.txt").load_videos()
    assert (whole["boxes"][:, 2] - whole["boxes"][:, 0] > 60).all()


def test_frames_without_landmarks_hold_the_box_of_their_neighbours(root):
    def lose(clip):
        for key in ("00000", "00003", "00005"):
            clip["frames"][key]["landmarks"] = []

    edit_json(root / "001", lose)
    dataset = every_frame(root)
    record = dataset.get_data_info(0)
    assert record["valid"].all()
    assert np.flatnonzero(~record["face_found"]).tolist() == [0, 3, 5]
    assert np.isnan(record["boxes"][[0, 3, 5]]).all()
    assert_pairs_are_exact(dataset[0])  # the crop is still the square


def test_a_label_without_png_is_not_valid_counted_and_named(root, log):
    for number in (0, 2, 3):
        (root / "001" / f"{number:05d}.png").unlink()
    (root / "002" / "00005.png").unlink()
    (root / "two.txt").write_text("001\n002\n")
    dataset = every_frame(root, "two.txt")
    assert "4 labels without PNG, these frames are not valid (001: 00000, 00002-00003; 002: 00005)" in "".join(log)
    record = dataset.get_data_info(0)
    assert record["valid"].tolist() == record["face_found"].tolist() == [False, True, False, False, True, True]
    assert record["frame_files"][2] == ""
    assert_pairs_are_exact(dataset[0])
    assert dataset[0]["data_samples"].gt_valid.tolist() == record["valid"].tolist()


def test_a_png_without_label_is_not_valid_counted_and_named(root, log):
    edit_json(root / "001", lambda clip: clip["frames"].pop("00004"))
    Image.fromarray(squeezed_number(26)).save(root / "001" / "00006.png")
    dataset = every_frame(root, clip_len=7)
    assert "2 PNG without label, these frames are not valid (001: 00004, 00006)" in "".join(log)
    record = dataset.get_data_info(0)
    assert record["valid"].tolist() == [True, True, True, True, False, True, False]
    assert all(record["frame_files"])  # they are shown all the same
    assert_pairs_are_exact(dataset[0])


def test_cropped_siblings_and_other_files_are_passed_over(root):
    shutil.copytree(root / "001", root / "001_cropped")
    (root / "001" / "notes.txt").write_text("x")
    Image.fromarray(squeezed_number(1)).save(root / "001" / "00001_face.png")
    assert AFEWVADataset(str(root), "one.txt")[0]["num_frames"] == 6


def test_uncorrected_pixels_are_left_as_they_are_on_demand(root):
    record = AFEWVADataset(str(root), "one.txt", pixel_aspect=1, faces="frame")[0]
    assert (record.get("pixel_aspect", 1.0), record["boxes"]) == (1.0, None)
    assert record["face_found"].all()


def test_squeezed_faces_come_out_as_wide_as_they_are(root):
    """The square is 180 of 240 stored pixels wide: corrected, its crop is the square itself."""
    frames = AFEWVADataset(str(root), "one.txt", pipeline=[SampleClip(6), LoadFaceClip(96, 1.0, 1)])[0]["imgs"]
    narrow = AFEWVADataset(str(root), "one.txt", pixel_aspect=1, pipeline=[SampleClip(6), LoadFaceClip(96, 1.0, 1)])[0][
        "imgs"
    ]
    assert [read_number(frame) for frame in frames] == [20, 21, 22, 23, 24, 25]
    grey = np.abs(frames.astype(int) - 128).max(axis=-1) < 20  # what lies beside the square
    assert grey.mean() < 0.02
    beside = np.abs(narrow.astype(int) - 128).max(axis=-1) < 20
    assert beside.mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("size", "warned"), [((300, 240), False), ((192, 240), True), ((240, 240), True)])
def test_frames_of_another_shape_than_the_release_are_named_where_their_pixels_are_stretched(root, log, size, warned):
    for file in (root / "001").glob("*.png"):
        Image.fromarray(squeezed_number(20)).resize(size).save(file)
    AFEWVADataset(str(root), "one.txt")
    text = f"these are not, look whether their faces are too wide now ({size[0]}x{size[1]}: 001)"
    assert any(text in line for line in log if line.startswith("WARNING")) == warned
    log.clear()
    AFEWVADataset(str(root), "one.txt", pixel_aspect=1)
    assert not [line for line in log if line.startswith("WARNING")]


# Bad input: what is done to the set, and what the error must say.


def _frame(**changes):
    return lambda root: edit_json(root / "001", lambda clip: clip["frames"].update({"00002": frame_of(22, **changes)}))


def _resize(root):
    Image.fromarray(squeezed_number(22)).resize((120, 240)).save(root / "001/00002.png")


def _cut(root, size=300):
    os.truncate(root / "001/00002.png", size)


def _flip(root):
    path = root / "001/00002.png"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


FRAME_FAULTS = {
    "zero bytes": (lambda root: _cut(root, 0), r"00002\.png: an image file must hold a picture, got 0 bytes"),
    "cut PNG": (_cut, r"00002\.png: the PNG is cut"),
    "flipped bit": (_flip, r"00002\.png: the PNG is damaged: the checksum"),
    "text": (lambda root: (root / "001/00002.png").write_text("404"), r"00002\.png: not a readable image"),
    "folder": (
        lambda root: ((root / "001/00002.png").unlink(), (root / "001/00002.png").mkdir()),
        r"00002\.png: the image file cannot be read \(Is a directory\)",
    ),
    "link to itself": (
        lambda root: ((root / "001/00002.png").unlink(), (root / "001/00002.png").symlink_to("00002.png")),
        r"00002\.png: the image file cannot be read \(Too many levels",
    ),
    "dead link": (
        lambda root: ((root / "001/00002.png").unlink(), (root / "001/00002.png").symlink_to("none")),
        r"00002\.png: no such image file",
    ),
    "other size": (_resize, r"00002\.png: all frames of a clip must have one size, got 120x240 among 240x240"),
    "label outside": (
        _frame(valence=12),
        r"001\.json: frame '00002': valence must lie in label_range \(-10, 10\), got 12",
    ),
    "label with a fraction": (_frame(arousal=0.5), "frame '00002': arousal must be a whole number"),
    "label missing": (_frame(valence=None), "frame '00002': valence must be a number, got None"),
    "49 points": (_frame(landmarks=landmarks()[:49]), "frame '00002': landmarks must be 68 points .* got 49 points"),
    "face outside": (
        _frame(landmarks=landmarks((300, 10, 400, 90))),
        r"frame '00002': landmarks must span a face in the 240x240 frame, got \[300\.0, 10\.0\] to \[400\.0, 90\.0\]",
    ),
    "face in a point": (_frame(landmarks=[[5, 5]] * 68), r"landmarks must span a face .* got \[5\.0, 5\.0\] to \[5\.0"),
}


@pytest.mark.parametrize(("damage", "message"), FRAME_FAULTS.values(), ids=FRAME_FAULTS)
def test_a_faulty_frame_is_one_clear_error_before_training(root, damage, message):
    damage(root)
    with pytest.raises(DataError, match=rf"got 1 fault:\n.*{message}"):
        AFEWVADataset(str(root), "one.txt")


@pytest.mark.parametrize(("damage", "message"), FRAME_FAULTS.values(), ids=FRAME_FAULTS)
def test_with_skip_a_faulty_frame_is_not_valid_counted_and_named(root, damage, message, log):
    damage(root)
    dataset = every_frame(root, on_fault="skip")
    assert re.search(rf"on_fault='skip', 1 fault skipped: 1 [a-z ]+:\n.*{message}", "".join(log))
    sample = dataset[0]
    assert sample["data_samples"].gt_valid.tolist() == [True, True, False, True, True, True]
    assert_pairs_are_exact(sample)


def test_a_first_frame_of_another_size_is_the_odd_one_and_not_all_the_others(root):
    Image.fromarray(squeezed_number(20)).resize((120, 240)).save(root / "001/00000.png")
    dataset = AFEWVADataset(str(root), "one.txt", on_fault="skip")
    assert dataset[0]["valid"].tolist() == [False, True, True, True, True, True]
    assert len(dataset.faults) == 1


def _json(change):
    return lambda root: edit_json(root / "001", change)


CLIP_FAULTS = {
    "no folder": (lambda root: shutil.rmtree(root / "001"), r"001: the split names this clip, but there is no such"),
    "no JSON": (lambda root: (root / "001/001.json").unlink(), r"001\.json: no such label file"),
    "cut JSON": (lambda root: os.truncate(root / "001/001.json", 99), r"001\.json: not readable as JSON"),
    "JSON of another clip": (
        lambda root: (root / "001/001.json").write_bytes((root / "002/002.json").read_bytes()),
        r"001\.json: video_id must be the name of the folder, '001', got '002'",
    ),
    "no actor": (_json(lambda clip: clip.pop("actor")), r"001\.json: 'actor' must name the person"),
    "no PNG at all": (
        lambda root: [file.unlink() for file in (root / "001").glob("*.png")],
        r"001: a clip must have a frame with both label and usable PNG, got none",
    ),
    "never a face": (
        _json(lambda clip: [frame.update(landmarks=[]) for frame in clip["frames"].values()]),
        r"001\.json: a clip must have landmarks in at least one frame, got none",
    ),
}


@pytest.mark.parametrize(("damage", "message"), CLIP_FAULTS.values(), ids=CLIP_FAULTS)
def test_a_faulty_clip_is_refused_or_left_out_and_named(root, damage, message, log):
    damage(root)
    (root / "two.txt").write_text("001\n002\n")
    with pytest.raises(DataError, match=rf"got 1 fault:\n.*{message}"):
        AFEWVADataset(str(root), "two.txt")
    dataset = every_frame(root, "two.txt", on_fault="skip")
    assert [dataset.get_data_info(i)["video"] for i in range(len(dataset))] == ["002"]
    assert re.search(rf"1 fault skipped: 1 [a-z ]+, 1 left out \(001\):\n.*{message}", "".join(log))
    with pytest.raises(DataError, match="no video can be used"):
        AFEWVADataset(str(root), "one.txt", on_fault="skip")


def test_all_faults_are_counted_and_ten_are_shown(root):
    for number in range(1, 13):
        (root / f"{number:03d}/00000.png").write_bytes(b"")
    (root / "all.txt").write_text("".join(f"{number:03d}\n" for number in range(1, 13)))
    with pytest.raises(DataError, match=r"^AFEWVADataset\(all\.txt\): .* got 12 faults:\n") as caught:
        AFEWVADataset(str(root), "all.txt")
    lines = str(caught.value).splitlines()
    assert [f"{number:03d}/00000.png" in line for number, line in enumerate(lines[1:11], 1)] == [True] * 10
    assert lines[11:] == ["  … and 2 more"]


def test_unchecked_images_are_still_never_shown_damaged(root):
    _cut(root)
    dataset = every_frame(root, check_images=False)
    with pytest.raises(DataError, match=r"00002\.png: the PNG is cut"):
        dataset[0]


def test_an_actor_in_two_parts_is_a_leak_whatever_the_spelling(root):
    parts = read_fold(root, 0)
    actor = json.loads((root / parts["test"][0] / f"{parts['test'][0]}.json").read_text())["actor"]
    edit_json(root / parts["train"][0], lambda clip: clip.update(actor=f" {actor.upper()} "))
    with pytest.raises(
        DataError, match=r"fold_0: split: no group may be in two parts, but group '.*' is in train and test"
    ):
        AFEWVADataset(str(root), "val", fold=0)


def test_a_clip_in_two_parts_is_a_leak(root):
    parts = read_fold(root, 0)
    parts["train"].append(parts["test"][0])
    write_split_files(root / "folds/fold_0", parts, seed=0, grouped_by="actor")
    with pytest.raises(DataError, match="no video may be in two parts"):
        AFEWVADataset(str(root), "test", fold=0)


def test_missing_folders_say_where_to_get_them(root, tmp_path):
    with pytest.raises(MissingDataError, match=r"data_root '.*none' does not exist \(config key `data_root`") as caught:
        AFEWVADataset(str(tmp_path / "none"), "train", fold=0)
    for hint in ("https://ibug.doc.ic.ac.uk", "split_afew_va.py", "synthetic.py afew_va data/synthetic_afew_va"):
        assert hint in str(caught.value)
    with pytest.raises(MissingDataError, match=r"fold_7: no such fold \(.*holds 3 folds, 0 to 2\)"):
        AFEWVADataset(str(root), "train", fold=7)
    shutil.rmtree(root / "folds")
    with pytest.raises(
        MissingDataError, match=r"holds no folds; `python tools/prepare/split_afew_va\.py .*` writes them"
    ):
        AFEWVADataset(str(root), "train", fold=0)
    with pytest.raises(MissingDataError, match=r"mine\.txt: no such split file"):
        AFEWVADataset(str(root), "mine.txt")
    for name in ("./001", "001/", "../set/001"):
        (root / "mine.txt").write_text(f"001\n{name}\n")  # would be two clips of one name
        with pytest.raises(DataError, match=rf"mine\.txt: a clip must be the name of a folder, got '{name}'"):
            AFEWVADataset(str(root), "mine.txt")


BAD_OPTIONS = {
    "faces": ({"faces": "yes"}, "faces must be one of landmarks, inner, frame, got 'yes'"),
    "on_fault": ({"on_fault": "ignore"}, "on_fault must be one of error, skip, got 'ignore'"),
    "no fold": ({"fold": None}, "split='train' needs the number of a fold, 0 or more, got fold=None"),
    "negative fold": ({"fold": -1}, "got fold=-1"),
    "text fold": ({"fold": "1"}, "got fold='1'"),
    "fold of a file": (
        {"split": "mine.txt"},
        r"split='mine.txt' is no part of a fold \(train, val, test\), got fold=0",
    ),
    "fps": ({"fps": 0}, "fps must be positive, got 0"),
    "range": ({"label_range": (1, -1)}, r"label_range must be \(lowest, highest\), got \(1, -1\)"),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_are_checked_before_any_file(options, message):
    with pytest.raises(ValueError, match=f"AFEWVADataset: .*{message}"):
        AFEWVADataset("nowhere", **{"split": "train", "fold": 0, **options})


def test_an_impossible_aspect_is_refused_before_any_file():
    with pytest.raises(ValueError, match=r"pixel_aspect must be positive, got -1\.0"):
        AFEWVADataset("nowhere", fold=0, pixel_aspect=-1.0)
