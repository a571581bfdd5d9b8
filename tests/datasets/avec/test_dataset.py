"""AVECDataset: labels at ten a second meet frames at twenty-five, by time."""

import shutil

import numpy as np
import pytest

from hocp_mm.datasets import AVECDataset
from hocp_mm.datasets.transforms import LoadFaceClip, PackAffectInputs, SampleClip
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS
from tests.material.avec_files import arousal_at, label_text, valence_at, write_avec
from tests.material.odd_videos import write_video
from tests.material.sewa_files import read_number


@pytest.fixture(scope="module")
def avec_root(tmp_path_factory):
    return write_avec(tmp_path_factory.mktemp("avec") / "AVEC2019")


@pytest.fixture
def root(avec_root, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(avec_root, tmp_path / "AVEC2019")


def test_every_frame_gets_the_label_of_its_time_in_our_order(avec_root):
    record = AVECDataset(str(avec_root), max_unlabelled=1)[0]
    assert (record["video"], record["num_frames"], record["fps"], record["subject"]) == (
        "Train_DE_01", 50, 25.0, "Train_DE_01"
    )  # fmt: skip
    seconds = np.arange(50) / 25
    expected = np.stack([valence_at(seconds), arousal_at(seconds)], axis=1)
    np.testing.assert_allclose(record["affect"], expected, atol=2e-6)
    assert record["valid"].all()  # 21 labels end at 2.0 s, the last frame is shown at 1.96 s
    assert (record["affect"].dtype, record["boxes"]) == (np.float32, None)


def test_hold_takes_the_label_before(avec_root):
    record = AVECDataset(str(avec_root), join="hold")[0]
    latest = np.floor(np.arange(50) / 25 * 10 + 1e-6) / 10
    np.testing.assert_allclose(record["affect"][:, 0], valence_at(latest), atol=2e-6)


def test_frames_beyond_the_last_label_do_not_count(root):
    (root / "labels/Train_DE_01.csv").write_text(label_text("Train_DE_01", 14))  # up to 1.3 s
    record = AVECDataset(str(root), max_unlabelled=1)[0]
    assert np.flatnonzero(~record["valid"]).tolist() == list(range(33, 50))  # frame 32 is shown at 1.28 s
    assert record["num_frames"] == 50
    held = AVECDataset(str(root), join="hold")[0]
    assert np.flatnonzero(~held["valid"]).tolist() == list(range(35, 50))  # the last label holds until 1.4 s


def test_a_variable_frame_rate_is_joined_by_time_and_not_by_number(root):
    times = [0, 40, 80, 120, 900, 940, 1500, 1533, 1800, 1950]
    (root / "videos/Train_DE_01.avi").unlink()
    write_video(root / "videos/Train_DE_01.mp4", "libx264", 10, milliseconds=times)
    record = AVECDataset(str(root))[0]
    assert record["filename"].endswith("Train_DE_01.mp4")
    np.testing.assert_allclose(record["affect"][:, 0], valence_at(np.array(times) / 1000), atol=1e-4)


def test_clips_pair_each_picture_with_its_label(avec_root):
    pipeline = [SampleClip(8), LoadFaceClip(size=320), PackAffectInputs()]
    dataset = AVECDataset(str(avec_root), pipeline=pipeline, clips_per_video=6)
    first = {"Train_DE_01": 0, "Train_HU_01": 100}
    for index in range(len(dataset)):
        sample = dataset[index]
        data = sample["data_samples"]
        assert data.groups == {"culture": data.video.split("_")[1]}
        frames = sample["inputs"].permute(1, 2, 3, 0).numpy()[:, 40:280]  # the square is 320; the picture, 240 high
        numbers = [read_number(frame) - first[data.video] for frame in frames]
        assert numbers == data.frame_inds
        np.testing.assert_allclose(data.gt_affect[:, 0], valence_at(np.array(numbers) / 25), atol=2e-6)


def test_partitions_and_cultures_choose_the_recordings(avec_root):
    def names(**options):
        dataset = AVECDataset(str(avec_root), **options)
        return [dataset.get_data_info(index)["video"] for index in range(len(dataset))]

    assert names() == ["Train_DE_01", "Train_HU_01"]
    assert names(cultures=("HU",)) == ["Train_HU_01"]
    assert names(split="val") == ["Devel_DE_01"]


def test_names_of_2017_are_german(tmp_path):
    root = write_avec(tmp_path, names=["Train_01"])
    assert AVECDataset(str(root), cultures=("DE",))[0]["video"] == "Train_01"


def test_given_boxes_crop_the_faces(root):
    boxes = {name: [40, 0, 280, 240] for name in ("Train_DE_01", "Train_HU_01")}
    (root / "boxes.json").write_text(str(boxes).replace("'", '"'))
    record = AVECDataset(str(root), faces="given", boxes_file="boxes.json")[0]
    assert record["boxes"].tolist() == [[40, 0, 280, 240]] * 50


def test_it_builds_from_a_config(avec_root):
    assert len(DATASETS.build({"type": "hocp_mm.AVECDataset", "data_root": str(avec_root), "split": "val"})) == 1


def _no_videos(root):
    shutil.rmtree(root / "videos")


def _other_chat(root):
    (root / "labels/Train_DE_01.csv").write_text(label_text("Train_DE_01", 60))


def _twice(root):
    shutil.copy(root / "videos/Train_DE_01.avi", root / "videos/Train_DE_01.mp4")


def _out_of_range(root):
    path = root / "labels/Train_DE_01.csv"
    path.write_text(path.read_text().replace("-0.304000", "-3.040000"))


DAMAGES = {
    "no label folder": (lambda root: shutil.rmtree(root / "labels"), r"labels: no such folder .*db\.sewaproject\.eu"),
    "no video folder": (
        _no_videos,
        r"videos: no such folder of recordings .*AVEC gives out labels and features but no",
    ),
    "no recording": (
        lambda root: (root / "videos/Train_DE_01.avi").unlink(),
        r"Train_DE_01\.avi: no such recording \(nor \.mp4, .*the chat is in the SEWA data base",
    ),
    "two recordings": (_twice, r"Train_DE_01\.mp4: a recording must be one file, got another at .*\.avi"),
    "another chat": (_other_chat, r"must end within max_unlabelled=1 s, got a last frame at 1\.96 s .* at 5\.90 s"),
    "out of range": (
        _out_of_range,
        r"Train_DE_01\.csv: labels must lie in label_range \(-1, 1\), but line 4 has -3\.04",
    ),
    "foreign name": (lambda root: (root / "labels/Train_x.csv").write_text(""), "a name must read like .* 'Train_x'"),
    "no row": (lambda root: (root / "labels/Train_DE_01.csv").write_text(""), "must hold at least one row"),
    "broken video": (lambda root: (root / "videos/Train_DE_01.avi").write_bytes(b"x" * 999), "not a readable video"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_each_fault_is_one_clear_error(root, damage, message):
    damage(root)
    with pytest.raises((DataError, MissingDataError), match=message):
        AVECDataset(str(root))


def test_a_fault_is_told_by_its_kind(avec_root):
    _out_of_range(avec_root)
    dataset = AVECDataset(str(avec_root), on_fault="skip")
    assert [(fault.kind, fault.file) for fault in dataset.faults] == [
        ("labels", str(avec_root / "labels/Train_DE_01.csv"))
    ]
    assert [dataset[n]["video"] for n in range(len(dataset))] == ["Train_HU_01"]


def test_missing_parts_say_what_is_there(avec_root):
    with pytest.raises(MissingDataError, match=r"Train must have labels of CN, got DE, HU\."):
        AVECDataset(str(avec_root), cultures=("CN",))
    with pytest.raises(MissingDataError, match=r"Test_\*\.csv: no label file .*kept the labels of the test part"):
        AVECDataset(str(avec_root), split="test")


BAD_OPTIONS = {
    "split": ({"split": "devel"}, "split must be one of train, val, test, got 'devel'"),
    "join": ({"join": "nearest"}, "join must be one of linear, hold, got 'nearest'"),
    "faces": ({"faces": "landmarks"}, "faces must be one of given, frame, got 'landmarks'"),
    "boxes without faces": ({"boxes_file": "b.json"}, "faces='given' and boxes_file go together, got 'frame' and"),
    "slack": ({"max_unlabelled": -1}, "max_unlabelled must be 0 or more, got -1"),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_are_checked_before_any_file(options, message):
    with pytest.raises(ValueError, match=f"AVECDataset: {message}"):
        AVECDataset("nowhere", **options)
