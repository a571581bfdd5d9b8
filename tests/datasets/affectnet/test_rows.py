"""Which rows of AffectNet are kept, and how they are named and held."""

from pathlib import Path

import numpy as np
import pytest

from hocp_mm.datasets.affectnet.rows import (
    AffectNetRows,
    emonet_rules,
    expression_names,
    image_keys,
    renumber,
    select_rows,
)
from hocp_mm.datasets.records.record import RecordTable

NAN = float("nan")


def rows_of(*rows, box=(0, 0, 1, 1)):
    """Rows of (class, valence, arousal); all with one box."""
    count = len(rows)
    return AffectNetRows(
        source=Path("a.csv"),
        images=Path("images"),
        files=[f"{n}.jpg" for n in range(count)],
        lines=np.arange(2, count + 2),
        expression=np.array([row[0] for row in rows], np.int16),
        affect=np.array([row[1:] for row in rows], float),
        boxes={"box": np.tile(np.float32(box), (count, 1))},
    )


ALL = [(number, 0.5, 0.5) for number in range(-1, 12)]
CHOICES = {
    8: ([0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]),
    7: ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]),
    "emonet5": ([0, 1, 2, 3, 6], [0, 1, 2, 3, 4]),
    "va_only": ([-1, 0, 1, 2, 3, 4, 5, 6, 7, 8], [-1] * 10),
}


@pytest.mark.parametrize("classes", CHOICES)
def test_a_choice_keeps_its_classes_and_numbers_them(classes):
    rows = rows_of(*ALL)
    keep, dropped = select_rows(rows, classes, "box", False)
    kept, numbers = CHOICES[classes]
    assert rows.expression[keep].tolist() == kept
    assert renumber(rows.expression[keep], classes).tolist() == numbers
    assert sum(dropped.values()) == len(ALL) - len(kept)
    assert len(expression_names(classes)) == len(set(numbers) - {-1})


def test_dropped_rows_are_counted_by_the_first_reason():
    rows = rows_of(
        (0, 0.1, 0.1),
        (1, -2, 0.5),  # either is enough
        (1, 0.5, -2),
        (2, NAN, 0.5),
        (7, 0.1, 0.1),
        (8, 0.3, 0.3),
        (9, -2, -2),
        (10, -2, -2),
        (11, -2, -2),
        (-1, 0.1, 0.1),
        (3, 0.5, 0.5),
        (1, -0.5, 0.5),
    )
    rows.boxes["box"][10] = np.nan
    keep, dropped = select_rows(rows, 7, "box", True)
    assert np.flatnonzero(keep).tolist() == [0]
    assert dropped == {
        "class 7 (contempt)": 1,
        "class 8 (none)": 1,
        "class 9 (uncertain)": 1,
        "class 10 (occluded or no face)": 1,
        "class 11 (xxx)": 1,
        "expression NULL": 1,
        "valence or arousal -2 or NULL": 3,
        "no face box": 1,
        "not in EmoNet's cleaned set": 1,
    }
    assert select_rows(rows, 8, None, False)[0][10], "whole frames need no box"


EMONET = {
    "neutral is weak": (0, [(0.1, 0.1), (0, 0)], [(0.2, 0), (0.15, 0.15)]),
    "happy is pleasant": (1, [(0.3, -0.9)], [(-0.3, 0.5), (0.1, 0.1), (0, 0.5)]),
    "sad is unpleasant": (2, [(-0.3, 0.9)], [(0.3, -0.5), (-0.1, 0.1), (0, -0.5)]),
    "surprise is aroused": (3, [(-0.9, 0.1), (0.9, 0.1)], [(0.9, 0), (0.1, 0.1)]),
    "fear is aroused and unpleasant, zeros included": (4, [(0, 0.5), (-0.5, 0)], [(0.1, 0.5), (-0.5, -0.1)]),
    "disgust is strong": (5, [(-0.31, 0)], [(-0.3, 0), (-0.25, 0.1), (0.5, 0.5)]),
    "anger is aroused": (6, [(0.5, 0.1), (-0.5, 0.1)], [(-0.5, 0), (0.1, 0.1)]),
    "contempt is unpleasant": (7, [(-0.3, 0)], [(0.3, 0), (-0.1, -0.1)]),
    "no other class": (8, [], [(0.1, 0.1), (-0.9, 0.9)]),
}


@pytest.mark.parametrize("case", EMONET)
def test_emonet_keeps_labels_that_agree(case):
    number, passing, failing = EMONET[case]
    affect = np.array([*passing, *failing])
    expected = [True] * len(passing) + [False] * len(failing)
    assert emonet_rules(np.full(len(affect), number), affect).tolist() == expected


def test_a_row_keeps_its_name_whatever_else_is_dropped():
    files = ["a", "b", "a", "a", "b"]
    assert image_keys(files, np.arange(5)) == ["a", "b", "a#2", "a#3", "b#2"]
    assert image_keys(files, np.array([3, 4])) == ["a#3", "b#2"]
    assert image_keys(["a", "a", "a#2"], np.arange(3)) == ["a", "a#2#", "a#2"]  # nor shares it


def test_a_hundred_bytes_hold_a_record():
    count = 1000
    table = RecordTable.of_images(
        Path("/data"),
        [f"{n % 10}/{n:056x}.jpg" for n in range(count)],
        [f"{n % 10}/{n:056x}.jpg" for n in range(count)],
        np.zeros((count, 2), np.float32),
        np.zeros(count, np.int8),
        np.zeros((count, 4), np.float32),
    )
    assert table.nbytes / count < 100
    record = table[3]
    record.affect[:] = 9
    record.boxes[:] = 9
    assert table.affect.max() == table.columns["boxes"].max() == 0
