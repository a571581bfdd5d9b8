"""AffectNetDataset: both releases to one record, what is dropped counted, what is broken named."""

import logging
import shutil

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset
from mmengine.logging import MMLogger

from hocp_mm.datasets import AffectNetDataset
from hocp_mm.datasets.transforms import PackAffectInputs, SampleClip
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS
from tests.material.affectnet_files import HEADER, marks_text, row, write_2017, write_2021, write_picture

LINES = [
    row("1/a.jpg", 1, 0.5, -0.25),
    row("1/b.JPG", 7, -0.5, 0.125, face_width=-1),
    row("2/c.png", 8, 0.1, 0.2),
    row("2/d.jpg", 10, -2, -2, face_x="NULL", facial_landmarks="NULL"),
    row("2/a.jpg", 0, 0.0, 0.0),
    row("1/a.jpg", 4, -0.75, 1, face_x=20),
]
WINDOWS = {"clip_len": 1, "stride": 1}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return write_2017(tmp_path / "AffectNet", LINES)


@pytest.fixture
def report():
    """What is logged."""
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append((record.levelname, record.getMessage()))

    handler, logger = Keep(), MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def paint(results):
    """Stand in for the loading of pictures: a clip of one grey frame."""
    results["imgs"] = np.full((1, 4, 4, 3), len(results["frame_files"]), np.uint8)
    return results


def test_a_record_of_2017_is_a_video_of_one_frame(root):
    dataset = AffectNetDataset(root)
    assert len(dataset) == 3
    record = dataset[0]
    path = str(root / "Manually_Annotated/Manually_Annotated_Images/1/a.jpg")
    assert {name: record[name] for name in record if name not in ("affect", "valid", "boxes", "face_found")} == {
        "video": "1/a.jpg",
        "filename": path,
        "frame_files": [path],
        "num_frames": 1,
        "fps": 0.0,
        "subject": "",
        "expression": 1,
        "sample_idx": 0,
    }
    assert (record["affect"].tolist(), record["affect"].dtype) == ([[0.5, -0.25]], np.float32)
    assert (record["valid"].tolist(), record["face_found"].tolist()) == ([True], [True])
    assert (record["boxes"].tolist(), record["boxes"].dtype) == ([[8, 6, 48, 42]], np.float32)


def test_two_faces_of_one_image_are_two_records_with_two_names(root):
    dataset = AffectNetDataset(root)
    assert [dataset[n]["video"] for n in range(3)] == ["1/a.jpg", "2/a.jpg", "1/a.jpg#2"]
    assert [dataset[n]["expression"] for n in range(3)] == [1, 0, 4]
    assert dataset[2]["frame_files"] == dataset[0]["frame_files"]
    assert dataset[2]["boxes"].tolist() == [[20, 6, 60, 42]]


def test_what_was_found_and_what_was_dropped_is_reported(root, report):
    AffectNetDataset(root)
    assert report[-1] == (
        "INFO",
        "AffectNetDataset(2017 train): 3 of 6 rows kept (neutral 1, happy 1, fear 1); dropped: class 8 (none) 1, "
        "class 10 (occluded or no face) 1, no face box 1; faults left out: 0; valence -0.75 to 0.50, "
        "arousal -0.25 to 1.00; scaled from (-1.0, 1.0); faces: box; 1 rows share their image with another",
    )


@pytest.mark.parametrize(
    ("faces", "count", "box"),
    [
        ("box", 3, [8, 6, 48, 42]),
        ("landmarks", 4, [20, 10.25, 53.5, 43.75]),
        ("inner", 4, [28.5, 18.75, 53.5, 43.75]),
        ("frame", 4, None),
    ],
)
def test_faces_are_what_is_cropped(root, faces, count, box):
    dataset = AffectNetDataset(root, faces=faces)
    assert len(dataset) == count
    boxes = dataset[0]["boxes"]
    assert (None if boxes is None else boxes[0].tolist()) == box


@pytest.mark.parametrize(
    ("classes", "expressions", "names"),
    [(8, [1, 0, 4], 8), (7, [1, 0, 4], 7), ("emonet5", [1, 0], 5), ("va_only", [-1, -1, -1, -1], 0)],
)
def test_classes_are_a_choice_that_the_set_names(root, classes, expressions, names):
    dataset = AffectNetDataset(root, classes=classes)
    assert [dataset[n]["expression"] for n in range(len(dataset))] == expressions
    assert len(dataset.facts["expressions"]) == names
    assert dataset.metainfo["dims"] == ("valence", "arousal")


def test_a_record_of_2021_has_strings_as_numbers_and_no_box(tmp_path, report):
    images = {"5": ("6", "-0.5", "0.25"), "6": (0, "-2", 0.1), "7": (1, 0.5, 0.5)}
    root = write_2021(tmp_path / "set", images)
    dataset = AffectNetDataset(root, release="2021")
    assert [dataset[n]["video"] for n in range(len(dataset))] == ["5.jpg", "7.jpg"]
    record = dataset[0]
    assert (record["affect"].tolist(), record["expression"], record["boxes"]) == ([[-0.5, 0.25]], 6, None)
    assert record["frame_files"] == [str(root / "train_set/images/5.jpg")]
    assert report[-1][1].startswith(
        "AffectNetDataset(2021 train): 2 of 3 rows kept (happy 1, anger 1); dropped: valence or arousal -2 or NULL 1;"
    )
    boxes = AffectNetDataset(root, release="2021", faces="inner")[0]["boxes"]
    assert boxes.tolist() == [[28.5, 18.75, 53.5, 43.75]]


def test_labels_reach_the_model_as_fraction_and_class(root):
    dataset = AffectNetDataset(root, pipeline=[SampleClip(1), paint, PackAffectInputs()])
    packed = dataset[2]
    assert packed["inputs"].shape == (3, 1, 4, 4)
    sample = packed["data_samples"]
    assert sample.gt_affect.tolist() == [[-0.75, 1.0]]
    assert (sample.gt_expression.tolist(), sample.gt_expression.dtype) == ([4], torch.int64)
    assert (sample.fps, sample.num_frames, sample.frame_inds) == (0.0, 1, [0])


def test_test_mode_gives_every_image_once(root):
    write_2017(root, LINES, "validation")
    pipeline = [SampleClip(1, mode="window"), paint, PackAffectInputs()]
    dataset = AffectNetDataset(root, "val", pipeline=pipeline, test_mode=True, windows=WINDOWS)
    assert [dataset[n]["data_samples"].video for n in range(len(dataset))] == ["1/a.jpg", "2/a.jpg", "1/a.jpg#2"]
    assert [record["video"] for record in dataset.load_videos()] == ["1/a.jpg", "2/a.jpg", "1/a.jpg#2"]


def test_rare_expressions_can_be_repeated(tmp_path):
    lines = [row(f"1/{n}.jpg", 1) for n in range(15)] + [row("1/x.jpg", 7)]
    dataset = AffectNetDataset(write_2017(tmp_path, lines))
    assert [dataset.get_cat_ids(n) for n in (0, 15)] == [[1], [7]]
    balanced = ClassBalancedDataset(dataset, oversample_thr=0.25)  # repeats by sqrt(0.25 / (1 / 16)) = 2
    assert [balanced[n]["expression"] for n in range(len(balanced))] == [1] * 15 + [7, 7]


def test_expressions_are_known_before_a_lazy_set_is_asked_for_anything_else(root):
    assert AffectNetDataset(root, lazy_init=True).get_cat_ids(0) == AffectNetDataset(root).get_cat_ids(0)


def test_subsets_and_scopes_work_as_in_mmengine(root):
    dataset = DATASETS.build({"type": "hocp_mm.AffectNetDataset", "data_root": str(root), "indices": 2})
    assert len(dataset) == 2
    assert dataset.get_subset([1])[0]["video"] == "2/a.jpg"


def test_another_scale_is_mapped_and_invalid_stays_invalid(root):
    lines = [row("1/a.jpg", 1, -2, 0), row("1/a.jpg", 1, 5, -10)]
    dataset = AffectNetDataset(write_2017(root, lines), label_range=(-10, 10))
    assert [dataset[n]["affect"].tolist() for n in range(len(dataset))] == [[[0.5, -1.0]]]


def _layout(root, csv, images):
    source = root / "Manually_Annotated"
    target = root.parent / "other"
    (target / csv).mkdir(parents=True, exist_ok=True)
    shutil.move(source / "training.csv", target / csv / "training.csv")
    (target / images).mkdir(parents=True, exist_ok=True)
    shutil.move(source / "Manually_Annotated_Images", target / images / "Manually_Annotated_Images")
    return target


@pytest.mark.parametrize(
    ("csv", "images"),
    [
        ("", ""),
        ("Manually_Annotated", "Manually_Annotated"),
        ("Manually_Annotated", "Manually_Annotated/Manually_Annotated"),
        ("Manually_Annotated_file_lists", "Manually_Annotated_compressed"),
        ("", "Manually_Annotated"),
    ],
)
def test_the_layouts_of_public_loaders_are_found(root, csv, images):
    target = _layout(root, csv, images)
    record = AffectNetDataset(target)[0]
    assert record["filename"] == str(target / images / "Manually_Annotated_Images/1/a.jpg")


def test_files_can_be_named(root, tmp_path):
    shutil.move(root / "Manually_Annotated/training.csv", tmp_path / "mine.csv")
    shutil.move(root / "Manually_Annotated/Manually_Annotated_Images", root / "pictures")
    dataset = AffectNetDataset(root, labels_file=str(tmp_path / "mine.csv"), image_folder="pictures")
    assert dataset[0]["filename"] == str(root / "pictures/1/a.jpg")
    with pytest.raises(MissingDataError, match=r"labels_file '.*none\.csv' does not exist"):
        AffectNetDataset(root, labels_file="none.csv")


def test_two_places_for_one_file_are_no_guess(root):
    (root / "training.csv").write_text(HEADER)
    with pytest.raises(DataError, match=r"there must be one training\.csv of the release of 2017, got .*; name one by"):
        AffectNetDataset(root)


def test_what_is_missing_is_named_with_where_to_get_it(root, tmp_path):
    with pytest.raises(MissingDataError, match=r"data_root '.*none' does not exist \(config key `data_root`") as caught:
        AffectNetDataset(tmp_path / "none")
    assert "http://mohammadmahoor.com/affectnet" in str(caught.value)
    with pytest.raises(MissingDataError, match=r"holds no validation\.csv of the release of 2017 .*`labels_file`"):
        AffectNetDataset(root, "val")
    with pytest.raises(MissingDataError, match="holds no folder train_set of the release of 2021"):
        AffectNetDataset(root, release="2021")
    shutil.rmtree(root / "Manually_Annotated/Manually_Annotated_Images")
    with pytest.raises(MissingDataError, match=r"holds no folder Manually_Annotated_Images .*`image_folder`"):
        AffectNetDataset(root)


def _image(root, name):
    return root / "Manually_Annotated/Manually_Annotated_Images" / name


def _cut(path):
    path.write_bytes(path.read_bytes()[:-40])


FAULTS = {
    "a missing image": (
        lambda root: _image(root, "2/a.jpg").unlink(),
        r"Images/2/a\.jpg: no such image file \(.*training\.csv: line 6\)\.",
    ),
    "valence above 1": (
        lambda root: write_2017(root, [*LINES, row("1/z.jpg", 1, 1.5, 0)]),
        r"training\.csv: line 8: valence must lie in label_range \(-1, 1\) or be -2 \(invalid\), got 1\.5\.",
    ),
    "arousal below -1": (
        lambda root: write_2017(root, [*LINES, row("1/z.jpg", 1, 0, -1.25)]),
        r"line 8: arousal must lie in label_range \(-1, 1\) or be -2 \(invalid\), got -1\.25\.",
    ),
    "a word": (
        lambda root: write_2017(root, [*LINES, row("1/z.jpg", 1, "x", 0)]),
        r"line 8: valence must be a finite number or NULL, got 'x'\.",
    ),
    "a cut image": (lambda root: _cut(_image(root, "2/a.jpg")), r"2/a\.jpg: the JPEG is cut"),
    "an empty image": (
        lambda root: _image(root, "2/a.jpg").write_bytes(b""),
        r"2/a\.jpg: an image file must hold a picture, got 0 bytes",
    ),
    "a face outside": (
        lambda root: write_2017(root, [*LINES, row("1/z.jpg", 1, face_x=64)]),
        r"line 8: the face must lie in the 64x48 image .*1/z\.jpg, got the box \[64\.0, 6\.0, 104\.0, 42\.0\]\.",
    ),
}


@pytest.mark.parametrize(("damage", "text"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_refused_or_left_out_and_named(root, report, damage, text):
    damage(root)
    with pytest.raises(
        DataError, match=rf"^AffectNetDataset\(2017 train\): the data must be .* got 1 fault:\n.*{text}"
    ):
        AffectNetDataset(root, verify_images=True)
    left = len(AffectNetDataset(root, verify_images=True, on_fault="skip"))
    assert left == (3 if "line 8" in text else 2)
    warning = next(text for level, text in report if level == "WARNING")
    assert warning.startswith("AffectNetDataset(2017 train): on_fault='skip', 1 fault skipped: 1 ")
    assert "faults left out: 1;" in report[-1][1]


def test_ten_faults_are_shown_and_all_counted(tmp_path):
    root = write_2017(tmp_path, [row("1/a.jpg", 1), *(row(f"1/{n}.jpg", 12) for n in range(13))])
    with pytest.raises(DataError, match=r"got 13 faults:\n") as caught:
        AffectNetDataset(root)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert "line 3: expression must be a class from 0 to 11, got '12'." in lines[1]
    assert lines[11] == "  … and 3 more"


def test_a_set_of_nothing_is_refused(tmp_path):
    root = write_2017(tmp_path, [row("1/a.jpg", 9, -2, -2), row("1/b.jpg", 1, -2, 0.5)])
    message = r"at least one row must be of use, got none of 2 \(class 9 \(uncertain\) 1, valence or arousal -2 or N"
    with pytest.raises(DataError, match=message):
        AffectNetDataset(root)


def test_images_of_a_test_set_are_checked_at_the_start_and_those_of_a_training_set_when_asked_for(root):
    write_2017(root, LINES, "validation")
    _cut(_image(root, "2/a.jpg"))
    assert len(AffectNetDataset(root)) == 3
    with pytest.raises(DataError, match=r"2/a\.jpg: the JPEG is cut"):
        AffectNetDataset(root, "val", test_mode=True, windows=WINDOWS)
    assert len(AffectNetDataset(root, "val", test_mode=True, windows=WINDOWS, on_fault="skip")) == 2


def test_an_image_that_breaks_in_training_is_replaced_and_named_or_ends_the_run(root, report):
    def load(results):
        if results["video"] == "2/a.jpg":
            raise DataError(f"{results['filename']}: the JPEG is cut.")
        return paint(results)

    dataset = AffectNetDataset(root, pipeline=[load], on_fault="skip")
    assert dataset[1]["video"] != "2/a.jpg"
    assert dataset[1]["video"] != "2/a.jpg"
    warnings = [text for level, text in report if level == "WARNING"]
    assert len(warnings) == 1, "named once"
    assert warnings[0].startswith("AffectNetDataset: clip 1 replaced by another: ")
    assert warnings[0].endswith("2/a.jpg: the JPEG is cut.")
    with pytest.raises(DataError, match="the JPEG is cut"):
        AffectNetDataset(root, pipeline=[load])[1]


def test_only_labels_that_agree_are_left_by_emonets_rules(root):
    dataset = AffectNetDataset(root, emonet_clean=True)
    assert [dataset[n]["video"] for n in range(len(dataset))] == ["1/a.jpg", "2/a.jpg", "1/a.jpg#2"]
    lines = [*LINES, row("1/z.jpg", 1, -0.5, 0.5), row("1/y.jpg", 5, -0.25, 0)]
    assert len(AffectNetDataset(write_2017(root, lines))) == 5
    assert len(AffectNetDataset(root, emonet_clean=True)) == 3


def test_names_in_any_script_are_found_on_disk(tmp_path):
    dataset = AffectNetDataset(write_2017(tmp_path, [row("12/ü 笑.png", 1)]), verify_images=True)
    assert dataset[0]["video"] == "12/ü 笑.png"


def test_a_folder_of_images_that_is_a_circle_of_links_is_missing(root):
    shutil.rmtree(_image(root, "2"))
    _image(root, "2").symlink_to(_image(root, "2"))
    with pytest.raises(DataError, match=r"2/a\.jpg: no such image file"):
        AffectNetDataset(root)


def test_landmarks_are_read_with_the_separator_of_the_file(tmp_path):
    root = write_2017(tmp_path, [row("1/a.jpg", 1, facial_landmarks=marks_text(" "))])
    assert AffectNetDataset(root, faces="landmarks")[0]["boxes"].tolist() == [[20, 10.25, 53.5, 43.75]]


BAD_OPTIONS = {
    "release": ({"release": "2019"}, "release must be one of '2017', '2021', got '2019'"),
    "split": ({"split": "test"}, "split must be one of 'train', 'val', got 'test'"),
    "classes": ({"classes": 5}, "classes must be one of 8, 7, 'emonet5', 'va_only', got 5"),
    "faces": ({"faces": "yes"}, "faces must be one of 'box', 'landmarks', 'inner', 'frame', got 'yes'"),
    "fault": ({"on_fault": "warn"}, "on_fault must be one of error, skip, got 'warn'"),
    "no boxes": ({"release": "2021", "faces": "box"}, "faces='box' needs release='2017'"),
    "no csv": ({"release": "2021", "labels_file": "a"}, "labels_file and image_folder belong to release='2017'"),
    "clean on another scale": (
        {"emonet_clean": True, "label_range": (-10, 10)},
        r"emonet_clean=True has rules for label_range \(-1, 1\), got another one",
    ),
    "range": ({"label_range": (1, -1)}, r"label_range must be \(lowest, highest\), got \(1, -1\)"),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_are_checked_before_any_file(options, message):
    with pytest.raises(ValueError, match=f"AffectNetDataset: {message}"):
        AffectNetDataset("nowhere", **options)


def test_pictures_in_2021_may_be_of_another_kind(tmp_path):
    root = write_2021(tmp_path, {"1": (1, 0.5, 0.5)})
    (root / "train_set/images/1.jpg").unlink()
    write_picture(root / "train_set/images/1.PNG")
    assert AffectNetDataset(root, release="2021", verify_images=True)[0]["video"] == "1.PNG"
