"""Boxes of a JSON file, and whether boxes belong to frames of this size."""

import numpy as np
import pytest

from hocp_mm.datasets.faces.given_boxes import check_boxes_inside, expand_boxes, read_boxes_file
from hocp_mm.errors import DataError


def _read(tmp_path, text):
    path = tmp_path / "boxes.json"
    path.write_text(text, encoding="utf-8")
    return path, read_boxes_file(path)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"a": [1, 2, 3, 4], "a": [1, 2, 3, 5]}', "key 'a' is given twice"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "must map keys to boxes, got a list"),
        ('{"a": ', "not readable as JSON"),
    ],
)
def test_what_is_no_map_of_boxes_is_told(tmp_path, text, rule):
    with pytest.raises(DataError, match=rf"boxes\.json: .*{rule}"):
        _read(tmp_path, text)


@pytest.mark.parametrize("number", ["9" * 400, "true", "NaN", '"4"', "null"])
def test_a_side_must_be_a_number(tmp_path, number):
    path, boxes = _read(tmp_path, f'{{"a": [1, 2, 3, {number}]}}')
    with pytest.raises(DataError, match=r"'a' must have a box"):
        expand_boxes(path, "a", boxes["a"], 1)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path, boxes = _read(tmp_path, '\ufeff{"a": [1, 2, 3, 4.5]}')
    np.testing.assert_array_equal(expand_boxes(path, "a", boxes["a"], 2), [[1, 2, 3, 4.5]] * 2)


def test_a_face_may_leave_the_frame_now_and_then_but_not_most_of_the_time():
    inside, half_out, far = [10, 10, 50, 50], [80, 10, 130, 50], [120, 10, 160, 50]
    faceless = [np.nan] * 4
    check_boxes_inside(np.array([inside, inside, half_out, faceless], np.float32), 100, 60, "x.zip", "a")
    check_boxes_inside(np.array([faceless], np.float32), 100, 60, "x.zip", "a")
    with pytest.raises(DataError, match=r"x\.zip: faces must lie in the 100x60 frame, but a frame 1 has the box \[120"):
        check_boxes_inside(np.array([inside, far], np.float32), 100, 60, "x.zip", "a")
    with pytest.raises(DataError, match=r"x\.zip: at least half of the face .* of a .*frame 1 .*made smaller\?"):
        check_boxes_inside(np.array([inside, half_out, half_out], np.float32), 100, 60, "x.zip", "a")
