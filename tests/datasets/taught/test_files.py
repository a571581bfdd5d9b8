"""Labels come back as they were written, or are refused with their line."""

import csv

import numpy as np
import pytest

from hocp_mm.datasets import read_taught_csv, write_taught_csv
from hocp_mm.datasets.taught import files
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.structures import AffectTimeline
from tests.material.taught_files import make_labels


@pytest.mark.parametrize("boxed", [True, False])
def test_labels_come_back_bit_for_bit(tmp_path, boxed):
    labels = make_labels(boxed=boxed)
    write_taught_csv(tmp_path / "new" / "a.mp4.csv", labels)
    back = read_taught_csv(tmp_path / "new" / "a.mp4.csv")
    for name, ours, theirs in zip(labels._fields, labels, back, strict=True):
        if ours is None:
            assert theirs is None
        else:
            assert ours.dtype == theirs.dtype, name
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_they_are_a_timeline_too(tmp_path):
    labels = make_labels()
    write_taught_csv(tmp_path / "a.mp4.csv", labels)
    timeline = AffectTimeline.from_csv(tmp_path / "a.mp4.csv")
    np.testing.assert_array_equal(timeline.pred, labels.affect)
    assert timeline.fps == 25
    assert np.flatnonzero(~timeline.seen).tolist() == [4, 5]


WRONG = {
    "no column": (0, "confidence", "sureness", "the columns must be"),
    "a row left out": (3, None, None, "line 4: frame must count from 0"),
    "frames shifted by one": (2, "1,", "2,", "line 3: frame must count from 0"),
    "time that stands": (3, "0.08", "0.04", "line 4: time_s must be a number above"),
    "too high": (
        2,
        None,
        "1,0.04,1.5,0.0,1,0.5,1,1,2,2",
        "line 3: valence and arousal must be two numbers from -1 to 1",
    ),
    "one value": (2, None, "1,0.04,,0.0,1,0.5,1,1,2,2", "line 3: valence and arousal must be two numbers from -1 to 1"),
    "a word": (2, None, "1,0.04,nan,nan,1,0.0,,,,", "line 3: valence and arousal must be two numbers from -1 to 1"),
    "too sure": (2, None, "1,0.04,0.1,0.0,1,1.5,1,1,2,2", "line 3: confidence must be a number from 0 to 1"),
    "sure of nothing": (5, None, "4,0.16,,,0,0.5,,,,", "line 6: confidence must be .* 0 without a label"),
    "seen by halves": (2, None, "1,0.04,0.1,0.0,0.5,0.5,1,1,2,2", "line 3: face_found must be 0 or 1"),
    "a box of no size": (2, None, "1,0.04,0.1,0.0,1,0.5,1,1,1,2", "line 3: a box must be x1 < x2"),
    "a label without a box": (2, None, "1,0.04,0.1,0.0,1,0.5,,,,", "line 3: a box must be x1 < x2"),
    "half a box": (5, None, "4,0.16,,,0,0.0,1,2,,", "line 6: a box must be x1 < x2"),
    "too few cells": (2, None, "1,0.04", "line 3: must have 10 cells, got 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_breaks_a_rule_is_refused_with_its_line(tmp_path, case):
    place, old, new, text = WRONG[case]
    path = tmp_path / "a.mp4.csv"
    write_taught_csv(path, make_labels())
    lines = path.read_text().splitlines()
    changed = lines[place].replace(old, new, 1) if old else new
    assert changed != lines[place]
    lines[place : place + 1] = [] if changed is None else [changed]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=text) as caught:
        read_taught_csv(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "frame,time_s,valence,arousal,face_found,confidence\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=r"a\.csv: "):
        read_taught_csv(tmp_path / "a.csv")
    with pytest.raises(MissingDataError, match=r"b\.csv: no such label file"):
        read_taught_csv(tmp_path / "b.csv")


HEADER = b"frame,time_s,valence,arousal,face_found,confidence\n"


@pytest.mark.parametrize(
    ("raw", "most"),
    [
        (b"\n" * 5000, 1),
        (b"a,b\n" * 5000, 1),
        (HEADER + b",,,,,\n,\n" + b",,,,,\n" * 5000, 3),
        (HEADER + b",,,,,\n" * 50_000, 0),
    ],
    ids=["empty lines", "other columns", "a short row", "more frames than a film has"],
)
def test_no_more_lines_are_taken_apart_than_are_needed(tmp_path, raw, most, monkeypatch):
    """Each takes a hundred times its bytes."""
    (tmp_path / "a.mp4.csv").write_bytes(raw)
    taken, reader = [], csv.reader
    monkeypatch.setattr(files, "_MOST_FRAMES", 20_000)
    monkeypatch.setattr(files.csv, "reader", lambda lines: reader(taken.append(line) or line for line in lines))
    with pytest.raises(DataError, match=r"a\.mp4\.csv(, line 3)?: "):
        read_taught_csv(tmp_path / "a.mp4.csv")
    assert len(taken) == most
