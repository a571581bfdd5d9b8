"""Stores as data sets: their parts, what they must agree with, and how little they weigh."""

import logging
import pickle
from dataclasses import replace

import numpy as np
import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

from hocp_mm.datasets import FaceCropDataset
from hocp_mm.datasets.records.record import Record
from hocp_mm.datasets.splits import write_fold_files, write_split_files
from hocp_mm.datasets.store import CropSettings, PackTable, StoreHeader, write_header, write_index
from hocp_mm.datasets.store.header import read_header
from hocp_mm.errors import DataError, MissingDataError
from tests.material.store_files import SIZE, picture, write_store

KEYS = ("a", "b", "c", "d")
LENGTHS = {"a": 7, "b": 5, "c": 3, "d": 4}
SPLITS = {"train": ["b", "a"], "val": ["c"], "test": ["d"]}
CROP = CropSettings(size=SIZE, codec="png")
LOAD = {"type": "LoadFaceClip", "size": SIZE}


def make_store(folder, splits=SPLITS, report=(), **changes):
    records = {key: [picture(10 * place + frame) for frame in range(LENGTHS[key])] for place, key in enumerate(KEYS)}
    write_store(folder, records, changes.pop("crop", CROP), **changes)
    write_split_files(folder / "splits", splits, seed=0)
    (folder / "report.csv").write_text("\n".join(["kind,file,text", *report]) + "\n")
    return folder


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


@pytest.fixture
def log():
    """Return a function that tells what has been logged so far."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lambda: "\n".join(lines)
    logger.removeHandler(handler)


def windows(clip_len=4, mode="window"):
    sample = {"type": "SampleClip", "clip_len": clip_len, "mode": mode}
    return {"pipeline": [sample, LOAD], "windows": {"clip_len": clip_len, "stride": 2}, "test_mode": True}


def test_records_come_in_the_order_of_the_split(store):
    dataset = FaceCropDataset(store, clips_per_video=2)
    assert [dataset.get_data_info(index)["video"] for index in range(len(dataset))] == ["b", "b", "a", "a"]
    assert [record["video"] for record in dataset.load_videos()] == ["b", "a"]
    assert dataset.facts["dataset_type"] == "SEWA"
    assert dataset.facts["fold"] is None
    assert dataset.record_options()["labels"] == "V"


def test_windows_cover_every_frame_with_its_picture_and_label(store):
    dataset = FaceCropDataset(store, "train", **windows())
    seen = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        for place, frame in enumerate(sample["frame_inds"].tolist()):
            number = 10 * KEYS.index(sample["video"]) + frame
            np.testing.assert_array_equal(sample["imgs"][place], picture(number))
            assert sample["affect"][frame].tolist() == [np.float32(frame / 1000), np.float32(-frame / 1000)]
            seen.setdefault(sample["video"], set()).add(frame)
    assert seen == {"a": set(range(7)), "b": set(range(5))}


def test_a_process_that_finds_another_index_does_not_take_its_rows(tmp_path):
    """As a data loader's worker does that starts after the store was prepared again."""
    dataset = FaceCropDataset(make_store(tmp_path / "store"))
    packed = pickle.dumps(dataset)
    assert pickle.loads(packed).get_data_info(0)["video"] == "b"
    (tmp_path / "store").rename(tmp_path / "before")
    records = {key: [picture(frame) for frame in range(LENGTHS[key])] for key in reversed(KEYS)}
    write_store(tmp_path / "store", records, CROP)  # as many records and frames
    with pytest.raises(DataError, match="the store was prepared again while it was in use"):
        pickle.loads(packed).get_data_info(0)


@pytest.mark.parametrize(
    ("dataset", "groups"),
    [
        ("AVECDataset", {"culture": "HU"}),
        ("SomebodysDataset", {}),
        ("mmaction.VideoDataset", {}),
        ("FaceCropDataset", {}),
    ],
)
def test_groups_are_those_that_the_raw_set_reads_from_a_key(tmp_path, dataset, groups):
    """A class that is not there, or is none of ours, knows none; and nothing is imported for its name."""
    store = make_store(tmp_path / "store")
    header = read_header(store)
    write_header(store, replace(header, dataset=dataset))
    assert FaceCropDataset(store).raw_class.groups_of("Devel_HU_07") == groups


def test_the_registry_knows_it(store):
    dataset = DATASETS.build({"type": "hocp_mm.FaceCropDataset", "data_root": str(store), "split": "val"})
    assert [record["video"] for record in dataset.load_videos()] == ["c"]


def test_what_the_header_says_is_never_taken_for_a_file(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = FaceCropDataset(store).header.metainfo["dataset_type"]
    (tmp_path / name).write_text("a line\n")
    assert FaceCropDataset(store).facts["dataset_type"] == name


def test_a_part_of_the_samples_can_be_taken(store):
    assert len(FaceCropDataset(store, indices=1)) == 1
    assert [FaceCropDataset(store, indices=[1]).get_data_info(0)["video"]] == ["a"]


# Parts.


def test_a_file_of_keys_is_a_part(store, tmp_path):
    (store / "mine.txt").write_text("d\na\n")
    for split in ("mine.txt", str(store / "mine.txt")):
        assert [record["video"] for record in FaceCropDataset(store, split).load_videos()] == ["d", "a"]


def test_folds_are_those_of_the_store(store):
    parts = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    write_fold_files(store, [parts, {**parts, "val": ["d"], "test": ["c"]}], seed=0, grouped_by="S")
    dataset = FaceCropDataset(store, "test", fold=1)
    assert [record["video"] for record in dataset.load_videos()] == ["c"]
    assert dataset.facts["fold"] == 1
    with pytest.raises(MissingDataError, match=r"fold_2: no such fold .*holds 2 folds, 0 to 1"):
        FaceCropDataset(store, fold=2)


def test_a_part_that_the_store_lacks_is_named_with_those_it_has(store):
    (store / "splits" / "test.txt").unlink()
    with pytest.raises(MissingDataError, match=r"splits/test\.txt does not exist \(the store has splits train, val\)"):
        FaceCropDataset(store, "test")
    for file in (store / "splits").iterdir():
        file.unlink()
    with pytest.raises(MissingDataError, match="the store has no splits"):
        FaceCropDataset(store)
    write_fold_files(store, [SPLITS], seed=0, grouped_by="S")
    with pytest.raises(MissingDataError, match=r"the store has folds 0 to 0, chosen with fold=K"):
        FaceCropDataset(store)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"split": "mine.txt", "fold": 0}, "split='mine.txt' is no part of a fold"),
        ({"fold": -1}, "fold must be a number, 0 or more, got -1"),
        ({"fold": True}, "fold must be a number, 0 or more, got True"),
        ({"label_range": (-10, 10)}, "label_range belongs to the raw data set"),
        ({"on_fault": "ignore"}, "on_fault must be one of error, skip"),
    ],
)
def test_options_that_mean_nothing_are_refused(store, options, rule):
    with pytest.raises(ValueError, match=rf"FaceCropDataset: {rule}"):
        FaceCropDataset(store, **options)


@pytest.mark.parametrize("subjects", [{"a": "S1", "d": "S1"}, {"a": "Tom  HANKS", "d": "tom hanks"}])
def test_a_subject_in_two_parts_is_a_leak(tmp_path, subjects):
    store = make_store(tmp_path / "store", subjects=subjects)
    with pytest.raises(
        DataError, match=r"splits: split: no group may be in two parts, but group .* is in train and test"
    ):
        FaceCropDataset(store)
    (store / "mine.txt").write_text("d\na\n")
    assert len(FaceCropDataset(store, "mine.txt")) == 2  # one part alone leaks nothing


def test_subjects_that_nobody_knows_are_no_leak(tmp_path):
    store = make_store(tmp_path / "store", subjects=dict.fromkeys(KEYS, ""))
    assert len(FaceCropDataset(store)) == 2


def test_records_that_preparation_left_out_are_counted_and_named(tmp_path, log):
    report = ["record left out,gone,a split names it", "video,/raw/gone/gone.avi,the file ends early"]
    store = make_store(tmp_path / "store", {**SPLITS, "train": ["a", "gone", "b"]}, report)
    assert len(FaceCropDataset(store)) == 2
    assert "1 records of the split were left out of the store (gone; see report.csv)" in log()


@pytest.mark.parametrize(
    ("keys", "report", "rule"),
    [
        (["a", "stranger", "b"], (), "'stranger' and 0 others are neither in it nor in its report.csv"),
        (["gone"], ("record left out,gone,x",), "at least one record must be in the store, got none of 1"),
    ],
)
def test_records_that_nobody_knows_are_refused(tmp_path, keys, report, rule):
    store = make_store(tmp_path / "store", {**SPLITS, "train": keys}, report)
    with pytest.raises(DataError, match=rf"train\.txt: .*{rule}"):
        FaceCropDataset(store)


# What a config expects.

PREPARED = {
    "dataset": "AFEWVADataset",
    "record_options": {"label_range": [-10.0, 10.0], "fps": 25.0},
    "crop": CropSettings(size=SIZE, codec="png", pixel_aspect=4 / 3),
}


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"label_range": (-10, 10), "pixel_aspect": 4 / 3, "faces": "landmarks", "dataset": "AFEWVADataset"},
        {"label_range": None, "faces": None},
        {"check_images": False, "boxes_file": "boxes.json"},
    ],
    ids=["nothing", "the same", "anything", "options that leave no trace"],
)
def test_a_store_that_was_prepared_so_is_accepted(tmp_path, expected):
    assert len(FaceCropDataset(make_store(tmp_path / "store", **PREPARED), expected=expected)) == 2


@pytest.mark.parametrize(
    ("expected", "rule"),
    [
        ({"label_range": (-1, 1)}, r"label_range=\[-10\.0, 10\.0\] instead of \[-1, 1\]"),
        ({"pixel_aspect": 1.0}, r"pixel_aspect=1\.3333333333333333 instead of 1\.0"),
        ({"faces": "frame"}, "faces='landmarks' instead of 'frame'"),
        ({"dataset": "SEWADataset", "fps": 30.0}, "fps=25.0 instead of 30.0, dataset='AFEWVADataset' instead of 'SEWA"),
    ],
)
def test_a_store_that_was_prepared_otherwise_is_refused(tmp_path, expected, rule):
    store = make_store(tmp_path / "store", **PREPARED)
    with pytest.raises(DataError, match=rf"store: the store must have been prepared as the config .* with .*{rule}"):
        FaceCropDataset(store, expected=expected)


def test_faces_of_a_detector_stand_for_those_of_the_set(tmp_path):
    crop = CropSettings(size=SIZE, codec="png", faces="cascade")
    store = make_store(tmp_path / "store", crop=crop, metainfo={"face_detector": "cascade"})
    assert len(FaceCropDataset(store, expected={"faces": "landmarks"})) == 2
    with pytest.raises(DataError, match="faces='cascade' instead of 'frame'"):
        FaceCropDataset(store, expected={"faces": "frame"})


# Damage.


def test_folders_that_are_no_store_and_unfinished_stores_say_so(store, tmp_path):
    with pytest.raises(MissingDataError, match=r"store\.json: no such file, so .* is no store of face crops"):
        FaceCropDataset(tmp_path)
    (store / "index.npz").unlink()
    with pytest.raises(MissingDataError, match="so the store is not finished"):
        FaceCropDataset(store)


@pytest.mark.parametrize("other", [{"crop": CropSettings(size=SIZE, codec="png", margin=1.2)}, {"counts": {}}])
def test_the_header_of_another_store_is_refused(store, tmp_path, other):
    make_store(tmp_path / "other", **other)
    (tmp_path / "other" / "store.json").replace(store / "store.json")
    with pytest.raises(DataError, match=r"index\.npz: must belong to .*store\.json.*copy the store as a whole"):
        FaceCropDataset(store)


def test_a_damaged_pack_is_replaced_in_training_only_where_asked_for(store, log):
    (store / "packs" / "a.avi").write_bytes(b"RIFF")
    pipeline = [{"type": "SampleClip", "clip_len": 2}, LOAD]
    with pytest.raises(DataError, match=r"a\.avi: the pack must hold"):
        FaceCropDataset(store, pipeline=pipeline)[1]
    assert FaceCropDataset(store, pipeline=pipeline, on_fault="skip")[1]["video"] == "b"
    assert "clip 1 replaced by another" in log()
    test = FaceCropDataset(store, on_fault="skip", **windows())
    with pytest.raises(DataError, match=r"a\.avi: the pack must hold \d+ bytes or more, but it ends after 4; copy it"):
        [test[index] for index in range(len(test))]


# Weight.


@pytest.mark.parametrize("count", [20_000, pytest.param(300_000, marks=pytest.mark.slow)])
def test_hundreds_of_thousands_of_images_weigh_little(tmp_path, count):
    """Counted, not timed: some 150 bytes an image in arrays, 4 of which travel to another process."""
    store, keys = many_images(tmp_path / "store", count)
    assert (store / "index.npz").stat().st_size < 160 * count
    dataset = FaceCropDataset(store)
    assert len(dataset) == count
    sent = pickle.dumps(dataset)
    assert len(sent) < 4 * count + 5000
    for found in (dataset, pickle.loads(sent)):
        for sample in (0, 12_345, count - 1):
            record = found.get_data_info(sample)
            assert (record["video"], record["num_frames"], record["subject"]) == (keys[sample], 1, "")
            assert record["affect"].tolist() == [[np.float32(sample / count), 0.0]]
            assert int(record["pack"].offsets[0]) == sample
            assert record["filename"].endswith(f"images_{sample // 1000:03d}.avi")
            assert found.get_cat_ids(sample) == [record["expression"]] == [sample % 8]


def many_images(folder, count):
    """Write a store of images whose packs nobody reads."""
    folder.mkdir()
    keys = [f"{number % 997}/{number:032x}.jpg" for number in range(count)]
    affect = np.stack([np.arange(count) / count, np.zeros(count)], axis=1).astype(np.float32)
    yes, sums, boxes = np.ones(1, np.bool_), np.ones(1, np.uint32), np.ones((1, 4), np.float32)
    offsets, sizes = np.arange(count), np.ones(1, np.int32)
    rows = [
        Record(
            keys[n],
            f"images_{n // 1000:03d}.avi",
            1,
            0.0,
            "",
            affect[n : n + 1],
            yes,
            boxes,
            yes,
            expression=n % 8,
            pack=PackTable(offsets[n : n + 1], sizes, sums),
        )
        for n in range(count)
    ]
    write_index(folder / "index.npz", rows, [n % 1000 for n in range(count)], CROP)
    write_header(folder, StoreHeader("AffectNetDataset", {}, {}, CROP, {"records": count, "frames": count}))
    write_split_files(folder / "splits", {"train": keys}, seed=0)
    return folder, keys
