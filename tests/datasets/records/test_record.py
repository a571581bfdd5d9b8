"""Strings in one array come out as they went in."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from hocp_mm.datasets.records.record import PackedStrings, Record, RecordTable

NAMES = ["1/a.jpg", "", "12/ü笑.png", "x\udce9.jpg"]  # the last one is no UTF-8 on disk


@pytest.mark.parametrize("names", [NAMES, NAMES[:2], [], [""]], ids=["of all kinds", "ASCII", "none", "empty"])
def test_strings_are_those_that_went_in(names):
    packed = pickle.loads(pickle.dumps(PackedStrings(names)))
    assert [packed[index] for index in range(len(packed))] == names
    assert packed.tolist() == names
    places = range(len(names) + 1)
    assert all(packed.part(a, b) == names[a:b] for a in places for b in places if a <= b)
    assert PackedStrings.from_arrays(*packed.arrays()).tolist() == names
    assert packed.nbytes < 80


@pytest.mark.parametrize(
    ("ends", "rule"), [([2, 1, 3], "must not decrease"), ([1, 2], "the last end must be 3"), ([], "3")]
)
def test_ends_that_do_not_divide_the_characters_are_refused(ends, rule):
    with pytest.raises(ValueError, match=rule):
        PackedStrings.from_arrays(np.zeros(3, np.uint8), np.array(ends, np.int64))


def test_the_files_of_a_long_record_are_taken_at_once(monkeypatch):
    """A sample of it is one of thousands: each file by itself made it ten times as slow."""
    files = tuple(f"folder/{frame}.jpg" for frame in range(1000))
    every = np.ones(1000, np.bool_)
    record = Record("a", "folder", 1000, 30.0, "", np.zeros((1000, 2), np.float32), every, None, every, files)
    table = RecordTable.of([record, record])
    asked = []
    one = PackedStrings.__getitem__
    monkeypatch.setattr(PackedStrings, "__getitem__", lambda self, index: asked.append(index) or one(self, index))
    assert table[1].frame_files == files
    assert len(asked) < 10


def test_a_subset_shares_the_table():
    every = np.ones(3, np.bool_)
    table = RecordTable.of([Record("a", "a.avi", 3, 30.0, "", np.zeros((3, 2), np.float32), every, None, every)])
    assert copy.deepcopy({"table": table})["table"] is table


def test_weights_come_back_where_there_are_some():
    every, affect = np.ones(3, np.bool_), np.zeros((3, 2), np.float32)
    plain = Record("a", "a.avi", 3, 30.0, "", affect, every, None, every)
    weight = np.array([0.5, 0, 1], np.float32)
    weighted = replace(plain, key="b", weight=weight)
    table = RecordTable.of([plain, weighted])
    assert table[0].weight is None
    assert table[1].weight.tolist() == [0.5, 0, 1]
    assert "weight" not in table[0].results()
    assert Record.from_results(table[1].results()).weight.tolist() == [0.5, 0, 1]
    assert "weight" not in RecordTable.of([plain]).columns
    other = RecordTable.of([plain, replace(weighted, weight=weight[::-1])])
    assert other.identity != table.identity


@pytest.mark.parametrize("weight", [[1.0, 1.0], [1.0, -0.5, 1.0], [1.0, np.nan, 1.0], [np.inf, 1.0, 1.0]])
def test_weights_that_are_none_are_refused(weight):
    every = np.ones(3, np.bool_)
    record = Record("a", "a.avi", 3, 30.0, "", np.zeros((3, 2), np.float32), every, None, every)
    with pytest.raises(ValueError, match="weight must"):
        RecordTable.of([replace(record, weight=np.array(weight, np.float32))])
