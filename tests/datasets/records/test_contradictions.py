"""A record that contradicts itself is a fault of its own clip: in a table it would shift the labels of all others."""

from dataclasses import replace

import numpy as np
import pytest

from hocp_mm.datasets import AffectDataset, Record, Scan
from hocp_mm.datasets.records.record import RecordTable
from hocp_mm.errors import DataError

KEYS = ("a", "b", "c")
FRAMES = 4
LONGER = FRAMES + 1
BREAKS = {
    "labels too many": ({"affect": np.zeros((LONGER, 2), np.float32)}, r"affect must have one row per frame, \[4, 2\]"),
    "labels too few": ({"affect": np.zeros((FRAMES - 1, 2), np.float32)}, r"got \[3, 2\]"),
    "one dimension": ({"affect": np.zeros(FRAMES, np.float32)}, r"got \[4\]"),
    "a longer mask": ({"valid": np.ones(LONGER, np.bool_)}, "valid must have one row per frame"),
    "more faces": ({"face_found": np.ones(LONGER, np.bool_)}, "face_found must have one row per frame"),
    "more boxes": ({"boxes": np.ones((LONGER, 4), np.float32)}, "boxes must have one row per frame"),
    "no box in any frame": ({"boxes": np.full((FRAMES, 4), np.nan, np.float32)}, "at least one frame must have a box"),
    "half a box": (
        {"boxes": np.array([[1, 1, np.nan, 2]] * FRAMES, np.float32)},
        "at least one frame must have a box, got none of 4",
    ),
    "a subject that is no text": ({"subject": "\ud800"}, r"text that can be written, got 'b' and '\\ud800'"),
}


def make_record(key):
    labels = np.full((FRAMES, 2), KEYS.index(key) / 10, np.float32)
    every = np.ones(FRAMES, np.bool_)
    return Record(key, f"{key}.avi", FRAMES, 25.0, key, labels, every, None, every)


class Broken(AffectDataset):
    """Three clips, the second of which is changed."""

    def __init__(self, changes, **kwargs):
        self.changes = changes
        super().__init__("folder", **kwargs)

    def keys(self):
        return KEYS

    def scan(self, key):
        record = make_record(key)
        return Scan(replace(record, **self.changes) if key == "b" else record)


@pytest.mark.parametrize(("changes", "text"), BREAKS.values(), ids=BREAKS)
def test_it_is_told_with_its_file(changes, text):
    with pytest.raises(DataError, match=rf"got 1 fault:\n  b\.avi: b: .*{text}"):
        Broken(changes)


@pytest.mark.parametrize("changes", [changes for changes, _ in BREAKS.values()], ids=BREAKS)
def test_it_alone_is_left_out(changes):
    dataset = Broken(changes, on_fault="skip")
    assert [(fault.file, fault.kind) for fault in dataset.faults] == [("b.avi", "record")]
    assert dataset.table.keys == ["a", "c"]
    np.testing.assert_array_equal(dataset.get_data_info(1)["affect"], make_record("c").affect)


def test_a_record_of_another_name_is_refused():
    with pytest.raises(DataError, match=r"b\.avi: b: its key must be 'b', got 'other'"):
        Broken({"key": "other"})


@pytest.mark.parametrize(("changes", "text"), BREAKS.values(), ids=BREAKS)
def test_no_table_takes_it(changes, text):
    with pytest.raises(ValueError, match=text):
        RecordTable.of([make_record("a"), replace(make_record("b"), **changes)])
