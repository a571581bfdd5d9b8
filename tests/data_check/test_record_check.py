"""The record contract, broken rule by rule."""

import re

import numpy as np
import pytest

from hocp_mm.data_check.reading import check_record
from hocp_mm.datasets.records.record import Record


def record(**changes):
    """A record of five frames that keeps every rule, with changes."""
    boxes = np.tile(np.array([10, 10, 50, 60], np.float32), (5, 1))
    boxes[3] = np.nan
    kept = {
        "video": "a",
        "filename": "set/a.avi",
        "num_frames": 5,
        "fps": 25.0,
        "subject": "S1",
        "affect": np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2),
        "valid": np.array([True, True, True, True, False]),
        "boxes": boxes,
        "face_found": np.array([True, True, True, False, True]),
        "expression": 4,
    }
    return kept | changes


def changed(name, index, value):
    array = record()[name].copy()
    array[index] = value
    return {name: array}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"boxes": None},
        {"expression": None},
        {"expression": np.array([0, -1, 7, 0, 0])},
        {"frame_files": ["1.png", "2.png", "3.png", "4.png", ""]},
        changed("affect", 4, np.nan),  # not valid, so nobody reads it
    ],
)
def test_what_keeps_the_rules_has_no_fault(changes):
    assert check_record(Record.from_results(record(**changes)), num_classes=8) == []


BROKEN = {
    "no frame": ({"num_frames": 0}, "record", "num_frames must be 1 or more, got 0"),
    "integer labels": ({"affect": np.zeros((5, 2), int)}, "record", r"affect must be float32 \[5, 2\], got int64"),
    "short mask": ({"valid": np.ones(4, bool)}, "record", r"valid must be bool\w* \[5\], got bool \[4\]"),
    "no file of a frame": ({"frame_files": ["a.png"] * 4}, "record", "must name 5 files, one per frame, got 4"),
    "NaN": (changed("affect", (2, 1), np.nan), "labels", "finite and in .* but frame 2 has"),
    "beyond the scale": (changed("affect", (1, 0), 1.5), "labels", r"frame 1 has \[1.5, .*\(1 such frames\)"),
    "nothing valid": ({"valid": np.zeros(5, bool)}, "labels", "at least one frame must have a label that counts"),
    "valid without picture": (
        {"frame_files": ["", *"bcde"]},
        "labels",
        "without a picture must not be valid.* frame 0",
    ),
    "face without box": ({"face_found": np.ones(5, bool)}, "faces", "a face must have a box, but frame 3 has none"),
    "no face at all": ({"boxes": None, "face_found": np.zeros(5, bool)}, "faces", "at least one frame, got none of 5"),
    "box without area": (changed("boxes", 2, (50, 10, 10, 60)), "faces", "with an area, got .* in frame 2"),
    "unknown class": ({"expression": 8}, "expression", "must be -1 to 7, got 8"),
}


@pytest.mark.parametrize(("changes", "kind", "text"), BROKEN.values(), ids=BROKEN)
def test_each_broken_rule_is_one_fault_that_names_the_file(changes, kind, text):
    (fault,) = check_record(Record.from_results(record(**changes)), num_classes=8)
    assert fault.kind == kind
    assert fault.file == "set/a.avi"
    assert re.search(text, fault)
