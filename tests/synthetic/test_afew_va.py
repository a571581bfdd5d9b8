"""A whole set in AFEW-VA's layout."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hocp_mm.datasets import AFEWVADataset, read_fold
from hocp_mm.datasets.splits import check_folds
from hocp_mm.datasets.transforms import LoadFaceClip
from hocp_mm.errors import DataError
from hocp_mm.synthetic import SyntheticAfewVaSpec, SyntheticClip, write_synthetic_afew_va
from hocp_mm.synthetic import afew_va as afew_va_writer
from hocp_mm.synthetic.afew_va import squeeze, squeeze_points
from hocp_mm.synthetic.landmarks68 import landmarks68

SPEC = SyntheticAfewVaSpec(actors=6, clips_per_actor=2, frames=4, height=96, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "afew_va"
    assert write_synthetic_afew_va(folder, SPEC, workers=1)
    return folder


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def clips(root):
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(root.glob("???/???.json"))}


def test_folders_hold_the_files_of_the_real_layout(root):
    assert list(clips(root)) == [f"{number:03d}" for number in range(1, 13)]
    for name in clips(root):
        expected = {f"{name}.json", *(f"{frame:05d}.png" for frame in range(4))}
        assert {path.name for path in (root / name).iterdir()} == expected
        with Image.open(root / name / "00000.png") as image:
            assert (image.size, image.mode) == ((120, 96), "RGB")


def test_labels_are_the_true_ones_in_tenths(root):
    for name, (actor, number) in SPEC.clips.items():
        clip = SyntheticClip(SPEC.seed, actor, number, SPEC.frames)
        frames = clips(root)[name]["frames"]
        for index in range(SPEC.frames):
            frame = frames[f"{index:05d}"]
            assert isinstance(frame["valence"], int)
            assert isinstance(frame["arousal"], int)
            assert abs(frame["valence"] / 10 - clip[index].valence) <= 0.05 + 1e-9
            assert abs(frame["arousal"] / 10 - clip[index].arousal) <= 0.05 + 1e-9
            assert len(frame["landmarks"]) == 68


def test_actors_have_several_scattered_clips(root):
    actors = [clip["actor"] for clip in clips(root).values()]
    assert set(Counter(actors).values()) == {2}
    assert len(set(actors)) == 6
    assert actors != sorted(actors)  # a split by number would leak


def test_folds_are_written_and_whole(root):
    actors = {name: clip["actor"] for name, clip in clips(root).items()}
    folds = [read_fold(root, fold) for fold in range(5)]
    check_folds(folds, actors.__getitem__)
    assert {key for parts in folds for key in parts["test"]} == set(actors)
    assert "grouped by actor" in (root / "folds/fold_0/test.txt").read_text()


def test_dataset_of_the_real_layout_reads_the_set(root):
    for part in ("train", "val", "test"):
        dataset = AFEWVADataset(str(root), part, fold=2)
        assert len(dataset) == len(read_fold(root, 2)[part])
        for index in range(len(dataset)):
            record = dataset[index]
            assert record["valid"].all()
            assert record["face_found"].all()
            labels = clips(root)[record["video"]]["frames"]["00001"]
            np.testing.assert_allclose(record["affect"][1] * 10, [labels["valence"], labels["arousal"]], atol=1e-5)


def test_the_face_is_found_where_it_was_drawn_and_as_wide(root):
    """With the aspect undone, the crop is that of the rendered frame with square pixels."""
    dataset = AFEWVADataset(str(root), "train", fold=0)
    record = dataset[0]
    crop = LoadFaceClip(48, smooth=1)({**record, "frame_inds": np.array([1])})["imgs"][0]
    actor, number = SPEC.clips[record["video"]]
    clip = SyntheticClip(SPEC.seed, actor, number, SPEC.frames)
    points = landmarks68(clip, 1, clip[1])
    box = np.float32([[*points.min(axis=0), *points.max(axis=0)]])
    scene = {"filename": "", "num_frames": 1, "frame_inds": np.array([0]), "boxes": box}
    file = root.parent / "scene.png"
    Image.fromarray(clip[1].image).save(file)
    expected = LoadFaceClip(48)({**scene, "frame_files": [str(file)]})["imgs"][0]
    error = np.abs(crop.astype(int) - expected).mean()
    assert error < 8
    narrow = LoadFaceClip(48, smooth=1)({**record, "pixel_aspect": 1.0, "frame_inds": np.array([1])})["imgs"][0]
    assert np.abs(narrow.astype(int) - expected).mean() > 2 * error


@pytest.mark.parametrize(("height", "width"), [(576, 720), (240, 300), (96, 120)])
def test_points_and_pixels_are_squeezed_alike(height, width):
    image = np.zeros((240, 320, 3), np.uint8)
    image[96:144, 200:264] = 255
    small = squeeze(image, height)
    assert small.shape == (height, width, 3)
    rows, columns = np.nonzero(small[..., 0] > 127)
    (left, top), (right, bottom) = squeeze_points(np.array([[200.0, 96.0], [264.0, 144.0]]), height)
    np.testing.assert_allclose([columns.min(), columns.max() + 1], [left, right], atol=1)
    np.testing.assert_allclose([rows.min(), rows.max() + 1], [top, bottom], atol=1)
    assert (right - left) / (bottom - top) == pytest.approx(64 / 48 * 3 / 4)  # a wide thing, three quarters as wide


def test_the_jaw_lies_around_the_face(root):
    clip = SyntheticClip(0, 1, 0, 3)
    frame = clip[1]
    points = landmarks68(clip, 1, frame)
    inner = points[17:]
    np.testing.assert_array_equal(points[[*range(17, 60), 61, 62, 63, 65, 66, 67]], frame.landmarks)
    assert points[0, 0] < inner[:, 0].min()
    assert points[16, 0] > inner[:, 0].max()
    assert points[8, 1] > inner[:, 1].max() + 5  # the chin
    mouth = points[48:60]
    assert (np.abs(points[[60, 64]] - points[[48, 54]]) < 8).all()
    assert mouth[:, 0].min() < points[60, 0] < points[64, 0] < mouth[:, 0].max()


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    spec = SyntheticAfewVaSpec(actors=5, clips_per_actor=1, frames=2, height=48)
    write_synthetic_afew_va(tmp_path / "one", spec, workers=1)
    write_synthetic_afew_va(tmp_path / "two", spec, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_second_run_with_the_same_numbers_does_nothing(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert not write_synthetic_afew_va(root, SPEC, workers=1)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_numbers_and_foreign_folders_are_not_replaced(tmp_path):
    spec = SyntheticAfewVaSpec(actors=5, clips_per_actor=1, frames=2, height=48)
    other = SyntheticAfewVaSpec(actors=5, clips_per_actor=1, frames=2, height=48, seed=1)
    assert write_synthetic_afew_va(tmp_path / "set", spec, workers=1)
    before = content(tmp_path / "set")
    with pytest.raises(DataError, match="made with other numbers"):
        write_synthetic_afew_va(tmp_path / "set", other, workers=1)
    assert content(tmp_path / "set") == before
    assert write_synthetic_afew_va(tmp_path / "set", other, workers=1, overwrite=True)
    assert content(tmp_path / "set") != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.png").write_bytes(b"real data")
    with pytest.raises(DataError, match="new or empty folder"):
        write_synthetic_afew_va(tmp_path / "mine", spec, workers=1, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "set"]


def test_failure_leaves_neither_a_set_nor_a_draft(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(afew_va_writer, "landmarks68", fail)
    with pytest.raises(OSError, match="disk full"):
        write_synthetic_afew_va(tmp_path / "set", SPEC, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ({"actors": 4}, "actors must be at least 5, got 4"),
        ({"clips_per_actor": 0}, "clips must be at least 1"),
        ({"actors": 500, "clips_per_actor": 2}, "at most 999, got 1000"),
        ({"frames": 1}, "frames must be at least 2"),
        ({"frames": 100_000}, "named by five digits, got 100000"),
        ({"height": 31}, "height must be at least 32"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"motion_share": 1.5}, "motion_share must lie in"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, rule):
    with pytest.raises(ValueError, match=rule):
        SyntheticAfewVaSpec(**numbers)
