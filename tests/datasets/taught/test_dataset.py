"""Videos with the labels of a network are a data set like any other."""

import shutil

import numpy as np
import pytest
from mmengine.registry import DATASETS

from hocp_mm.data_check import check_data
from hocp_mm.datasets import read_taught_csv, write_taught_csv
from hocp_mm.errors import DataError, MissingDataError
from tests.material.data_configs import dataset_config, loaders
from tests.material.taught_files import make_labels, write_taught


@pytest.fixture
def root(tmp_path):
    return write_taught(tmp_path)


def config(root, **options):
    return dataset_config("TaughtVideoDataset", root / "videos", labels_root=str(root / "labels"), **options)


def build(root, **options):
    return DATASETS.build(config(root, **options))


def test_records_are_the_labels_of_each_frame(root):
    dataset = build(root)
    assert dataset.table.keys == ["a.mp4", "show/b.avi"]
    for number, record in enumerate(dataset.table):
        labels = make_labels(seed=number)
        assert np.flatnonzero(~record.valid).tolist() == [4, 5]
        np.testing.assert_array_equal(record.affect[record.valid], labels.affect[record.valid])
        np.testing.assert_array_equal(record.weight, labels.confidence)
        np.testing.assert_array_equal(record.boxes, labels.boxes)
        np.testing.assert_array_equal(record.face_found, labels.face_found)
    sample = dataset[0]["data_samples"]
    labels = make_labels()
    for row, frame in enumerate(sample.frame_inds):
        assert sample.gt_weight[row] == (0 if frame in (-1, 4, 5) else labels.confidence[frame])


def test_labels_below_the_least_confidence_do_not_count(root):
    labels = make_labels()
    record = build(root, min_confidence=0.5).table[0]
    assert record.valid.tolist() == (labels.confidence >= 0.5).tolist()
    assert (record.weight[~record.valid] == 0).all()
    assert build(root, weighted=False).table[0].weight is None
    with pytest.raises(DataError, match=r"a\.mp4\.csv: a label must be confident enough .*got 0\.9 at most"):
        build(root, min_confidence=0.95)


def edit(root, change):
    path = root / "labels" / "a.mp4.csv"
    write_taught_csv(path, change(read_taught_csv(path)))


CHANGES = {
    "shifted by a frame": (
        lambda own: own._replace(times=own.times + 0.04),
        "line 2: time_s must be when .*of another",
    ),
    "of another rate": (lambda own: own._replace(times=own.times * 25 / 24), "line 8: time_s must be when"),
    "too short": (lambda own: type(own)(*(part[:-1] for part in own)), "must have the 12 rows of .*got 11"),
    "too long": (lambda own: make_labels(13), "must have the 12 rows of .*got 13"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_labels_of_another_video_are_refused(root, case):
    change, text = CHANGES[case]
    edit(root, change)
    with pytest.raises(DataError, match=text):
        build(root)
    assert build(root, on_fault="skip").table.keys == ["show/b.avi"]


def test_copied_labels_are_found(root):
    shutil.copy(root / "labels/a.mp4.csv", root / "labels/show/b.avi.csv")
    with pytest.raises(DataError, match="two recordings must not have the same content"):
        build(root)


def test_a_file_of_names_chooses(root):
    names = root / "some.txt"
    names.write_text("show/b.avi\n")
    assert build(root, split=str(names)).table.keys == ["show/b.avi"]
    names.write_text("c.avi\n")
    with pytest.raises(DataError, match=r"c\.avi"):
        build(root, split=str(names))


def test_what_is_missing_is_named_with_the_way_to_get_it(root):
    with pytest.raises(MissingDataError, match=r"no such folder .*`labels_root`.*label_videos\.py .*--checkpoint"):
        DATASETS.build(config(root) | {"labels_root": "nowhere"})
    shutil.rmtree(root / "labels")
    (root / "labels").mkdir()
    with pytest.raises(MissingDataError, match=r"must hold <name of a video>\.csv"):
        build(root)


@pytest.mark.parametrize("options", [{"min_confidence": 1.5}, {"min_confidence": -0.1}, {"label_range": (-10, 10)}])
def test_options_out_of_their_range_are_refused(root, options):
    with pytest.raises(ValueError, match=f"TaughtVideoDataset: {next(iter(options))}"):
        build(root, **options)


def test_the_check_reads_the_set(root):
    report = check_data(loaders(train=config(root)), splits=["train"], workers=0)
    assert report.ok, report.faults
    edit(root, CHANGES["shifted by a frame"][0])
    report = check_data(loaders(train=config(root)), splits=["train"], workers=0)
    assert not report.ok
