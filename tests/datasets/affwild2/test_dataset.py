"""AffWild2Dataset: labels and pictures joined by number, and nothing lost in silence."""

import shutil

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import AffWild2Dataset
from hocp_mm.datasets.affwild2 import dataset as affwild2
from hocp_mm.datasets.affwild2.files import write_va_file
from hocp_mm.datasets.records import dataset as records
from hocp_mm.datasets.transforms import CompensateLabelDelay, SampleClip, window_starts
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS
from tests.material.affwild2_files import TRACK, label_lines, write_affwild2, write_crops
from tests.material.sewa_files import arousal_of, read_number, valence_of, write_numbered_avi

BOTH = ("cropped_aligned", "cropped_aligned_new_50_vids")


@pytest.fixture(scope="module")
def affwild2_root(tmp_path_factory):
    return write_affwild2(tmp_path_factory.mktemp("affwild2") / "Aff-Wild2")


@pytest.fixture
def root(affwild2_root, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(affwild2_root, tmp_path / "Aff-Wild2")


@pytest.fixture
def told(monkeypatch):
    """What the data set logs."""
    texts = []
    for module in (affwild2, records):
        monkeypatch.setattr(module, "print_log", lambda text, **options: texts.append(text))
    return texts


def test_every_label_meets_the_picture_of_its_number(affwild2_root):
    first = {"1-30-1280x720": 0, "video5_left": 100, "video5_right": 200}
    dataset = AffWild2Dataset(str(affwild2_root))
    assert [dataset[index]["video"] for index in range(3)] == list(first)
    for index in range(3):
        record = dataset[index]
        for frame in np.flatnonzero(record["valid"]):
            number = read_number(cv2.imread(record["frame_files"][frame]))
            assert number == first[record["video"]] + frame
            assert record["affect"][frame].tolist() == [
                np.float32(valence_of(number)), np.float32(arousal_of(number))
            ]  # fmt: skip


def test_a_record_keeps_the_contract(affwild2_root):
    record = AffWild2Dataset(str(affwild2_root), fps=25)[0]
    assert set(record) == {
        "video", "filename", "frame_files", "num_frames", "fps", "subject", "affect", "valid", "boxes", "face_found",
        "sample_idx",
    }  # fmt: skip
    assert (record["num_frames"], len(record["frame_files"]), record["fps"]) == (20, 20, 25.0)
    assert (record["affect"].shape, record["affect"].dtype) == ((20, 2), np.float32)
    assert (record["valid"].dtype, record["face_found"].dtype, record["boxes"]) == (np.bool_, np.bool_, None)


def test_marks_and_missing_pictures_do_not_count_but_keep_their_place(affwild2_root):
    record = AffWild2Dataset(str(affwild2_root))[0]
    assert np.flatnonzero(~record["valid"]).tolist() == [0, 3, 4, 7]
    assert [frame for frame, file in enumerate(record["frame_files"]) if not file] == [0, 7]
    assert np.flatnonzero(~record["face_found"]).tolist() == [0, 7]
    assert record["affect"][[3, 4]].tolist() == [[0, 0]] * 2  # -5 never enters the numbers


def test_what_does_not_count_is_told(affwild2_root, told):
    AffWild2Dataset(str(affwild2_root))
    assert told == [
        "AffWild2Dataset(train): 3 label files, 2 videos, 44 frames, 40 of them valid (2 marked, 0 marked otherwise "
        "than by -5, 2 without picture, 0 empty pictures, 0 pictures beyond the labels), valence -0.50 to -0.29, "
        "arousal -0.05 to 0.37"
    ]


def test_other_marks_and_empty_pictures_are_counted(root, told):
    path = root / TRACK / "Train_Set/1-30-1280x720.txt"
    path.write_text(path.read_text().replace("-5,-5", "-2,0", 1))
    (root / "cropped_aligned/1-30-1280x720/00002.jpg").write_bytes(b"")
    dataset = AffWild2Dataset(str(root))
    assert np.flatnonzero(~dataset[0]["valid"]).tolist() == [0, 1, 3, 4, 7]
    assert "2 marked, 1 marked otherwise than by -5, 3 without picture, 1 empty pictures" in told[0]


def test_two_people_are_one_subject_and_have_their_own_pictures(affwild2_root):
    left, right = (AffWild2Dataset(str(affwild2_root))[index] for index in (1, 2))
    assert left["subject"] == right["subject"] == "video5"
    assert left["frame_files"][0] != right["frame_files"][0]


def test_two_people_may_share_the_pictures_of_their_video_with_a_warning(root, told):
    crops = root / "cropped_aligned"
    (crops / "video5_left").rename(crops / "video5")
    shutil.rmtree(crops / "video5_right")
    left, right = (AffWild2Dataset(str(root))[index] for index in (1, 2))
    assert left["frame_files"] == right["frame_files"]
    assert told[1].startswith("AffWild2Dataset(train): 1 folders of crops serve several people")
    assert "video5_left and video5_right" in told[1]


def test_the_official_validation_part_takes_its_pictures_from_several_roots(affwild2_root):
    record = AffWild2Dataset(str(affwild2_root), "val", images=BOTH)[0]
    assert record["video"] == "9-15-1920x1080"
    assert read_number(cv2.imread(record["frame_files"][9])) == 309


def test_windows_cover_every_frame_of_every_person(affwild2_root):
    windows = {"clip_len": 8, "stride": 5}
    pipeline = [SampleClip(8, mode="window")]
    dataset = AffWild2Dataset(str(affwild2_root), windows=windows, test_mode=True, pipeline=pipeline)
    seen: dict[str, set[int]] = {}
    for index in range(len(dataset)):
        record = dataset[index]
        seen.setdefault(record["video"], set()).update(record["frame_inds"][record["frame_inds"] >= 0].tolist())
    assert seen == {"1-30-1280x720": set(range(20)), "video5_left": set(range(12)), "video5_right": set(range(12))}
    assert len(dataset) == len(window_starts(20, 8, 5)) + 2 * len(window_starts(12, 8, 5))


def test_a_submission_made_of_windows_has_every_frame(affwild2_root, tmp_path):
    """Predict the truth where there is a picture: holes come back from their neighbours."""
    record = AffWild2Dataset(str(affwild2_root))[0]
    seen = np.flatnonzero(record["face_found"])
    path = write_va_file(tmp_path / f"{record['video']}.txt", seen, record["affect"][seen], record["num_frames"])
    lines = path.read_text().splitlines()
    assert (lines[0], len(lines)) == ("valence,arousal", 21)
    assert lines[1] == lines[2]  # the first frame has no picture
    assert lines[1 + 7] == f"{(valence_of(6) + valence_of(8)) / 2:.6f},{(arousal_of(6) + arousal_of(8)) / 2:.6f}"


def test_the_videos_give_rate_and_length_where_they_are_there(root):
    for name, count in (("1-30-1280x720", 20), ("video5", 12)):
        write_numbered_avi(root / "batch1" / f"{name}.avi", range(count))
    assert AffWild2Dataset(str(root), videos="batch1")[0]["fps"] == 25.0
    write_numbered_avi(root / "batch1/video5.avi", range(11))
    with pytest.raises(DataError, match=r"video5\.avi: 11 frames must match .* got 12 in .*_left\.txt"):
        AffWild2Dataset(str(root), videos="batch1")
    record = AffWild2Dataset(str(root), videos="batch1", length_tolerance=1)[1]
    assert np.flatnonzero(~record["valid"]).tolist() == [11]  # a label beyond the end of the video


def test_a_label_delay_shifts_marks_along(affwild2_root):
    pipeline = [CompensateLabelDelay(0.1)]  # three frames at 30 per second
    record = AffWild2Dataset(str(affwild2_root), pipeline=pipeline)[0]
    assert np.flatnonzero(~record["valid"]).tolist() == [0, 1, 4, 17, 18, 19]
    np.testing.assert_array_equal(record["affect"][5], np.float32([valence_of(8), arousal_of(8)]))


def test_it_builds_from_a_config(affwild2_root):
    config = {"type": "hocp_mm.AffWild2Dataset", "data_root": str(affwild2_root), "split": "val", "images": BOTH[1]}
    assert len(DATASETS.build(config)) == 1


def _labels(root, name="1-30-1280x720"):
    return root / TRACK / "Train_Set" / f"{name}.txt"


def _truncated_labels(root):
    _labels(root).write_text(label_lines(15))


def _zero_based(root):
    folder = root / "cropped_aligned/video5_left"
    for number in range(1, 13):
        (folder / f"{number:05d}.jpg").rename(folder / f"{number - 1:05d}.jpg")


def _leak(root):
    (root / TRACK / "Validation_Set/video5.txt").write_text(label_lines(3))


def _nothing_usable(root):
    _labels(root).write_text(label_lines(20, marked=range(20)))


DAMAGES = {
    "truncated labels": (
        _truncated_labels,
        r"1-30-1280x720: pictures must not exceed the 15 labels in .*\.txt by more than length_tolerance=0, got 5 bey",
    ),
    "zero-based pictures": (_zero_based, r"video5_left/00000\.jpg: pictures must be numbered from 1"),
    "leak": (
        _leak,
        r"VA_Estimation_Challenge: split: no group may be in two parts, but group 'video5' is in Train_Set",
    ),
    "no crops": (
        lambda root: shutil.rmtree(root / "cropped_aligned/video5_left"),
        r"cropped_aligned/video5_left: no such folder of crops \(config key `images`",
    ),
    "swapped header": (
        lambda root: _labels(root).write_text("arousal,valence\n0,0\n"),
        r"1-30-1280x720\.txt: the first line must be 'valence,arousal', got 'arousal,valence'",
    ),
    "out of range": (
        lambda root: _labels(root).write_text(label_lines(19) + "0.5,1.5\n"),
        r"1-30-1280x720\.txt: labels must lie in label_range \(-1, 1\), but line 21 has 1\.5",
    ),
    "nothing usable": (
        _nothing_usable,
        r"at least one frame must have a label and a picture, got 0 labels and 18 pict",
    ),
    "no crop root": (lambda root: shutil.rmtree(root / "cropped_aligned"), r"cropped_aligned: no such folder \(config"),
    "no labels": (lambda root: shutil.rmtree(root / TRACK / "Train_Set"), r"Train_Set: no such folder of label files"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_each_fault_is_one_clear_error(root, damage, message):
    damage(root)
    with pytest.raises((DataError, MissingDataError), match=message) as caught:
        AffWild2Dataset(str(root))
    assert "2 faults" not in str(caught.value)


def test_faults_of_several_videos_are_reported_together(root):
    _truncated_labels(root)
    _zero_based(root)
    with pytest.raises(DataError, match=r"^AffWild2Dataset\(train\): the data must be complete, got 2 faults:\n"):
        AffWild2Dataset(str(root))


def test_a_few_pictures_beyond_the_labels_pass_if_allowed(root):
    _truncated_labels(root)
    record = AffWild2Dataset(str(root), length_tolerance=5)[0]
    assert len(record["frame_files"]) == record["num_frames"] == 15


def test_no_data_root_says_where_to_get_it(tmp_path):
    with pytest.raises(MissingDataError, match=r"data_root '.*none' does not exist .*ibug\.doc\.ic\.ac\.uk"):
        AffWild2Dataset(str(tmp_path / "none"))


def test_one_video_in_two_crop_roots_is_refused(root):
    write_crops(root / "cropped_aligned_new_50_vids/video5_left", range(3))
    with pytest.raises(DataError, match=r"new_50_vids/video5_left: a video may have one folder of crops"):
        AffWild2Dataset(str(root), images=BOTH)


BAD_OPTIONS = {
    "split": ({"split": "test"}, "split must be one of train, val, got 'test'"),
    "fps": ({"fps": 0}, "fps must be positive and length_tolerance 0 or more, got 0 and 0"),
    "tolerance": ({"length_tolerance": -1}, "fps must be positive and length_tolerance 0 or more, got 30.0 and -1"),
    "scale": ({"label_range": (-1000, 1000)}, r"label_range must be \(-1, 1\), as marks .* got \(-1000, 1000\)"),
    "images": ({"images": ()}, "images must name at least one folder of crops, got none"),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_are_checked_before_any_file(options, message):
    with pytest.raises(ValueError, match=f"AffWild2Dataset: {message}"):
        AffWild2Dataset("nowhere", **options)
