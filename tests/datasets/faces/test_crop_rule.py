"""One rule for crops, whoever applies it."""

import numpy as np
import pytest

from hocp_mm.datasets.faces.boxes import crop_faces, face_track
from hocp_mm.datasets.faces.crops import check_face, crop_frame, squares_of
from hocp_mm.errors import DataError


def frame_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_whole_frame_is_extended_to_a_square_by_its_edges():
    frame = frame_of(20, 40)
    padded = np.pad(frame, ((10, 10), (0, 0), (0, 0)), mode="edge")
    assert np.array_equal(crop_frame(frame, None, 0, 1.0, 40), padded)


def test_a_face_is_cut_from_square_pixels():
    """Pixels twice as wide as high: the frame is stretched, and the box with it."""
    frame, boxes = frame_of(40, 30), np.array([[5, 10, 15, 30], [6, 10, 16, 30]], np.float32)
    squares = squares_of(boxes, 2.0, 1.0, 1, 25.0)
    assert squares is not None
    assert squares.tolist() == [[10, 10, 30, 30], [12, 10, 32, 30]]
    stretched = crop_frame(frame, None, 0, 2.0, 60)[10:50]  # the whole frame, 60 x 40, between its repeated edges
    assert np.array_equal(crop_frame(frame, squares, 1, 2.0, 20), stretched[10:30, 12:32])


def test_squares_follow_the_whole_track():
    boxes = np.array([[0, 0, 10, 20], [np.nan] * 4, [20, 0, 30, 20]], np.float32)
    assert np.array_equal(squares_of(boxes, 1.0, 1.5, 3, 25.0), face_track(boxes, 1.5, 3))


@pytest.mark.parametrize(("boxes", "margin"), [(None, 1.5), (np.zeros((2, 4), np.float32), None)])
def test_without_boxes_or_margin_the_frame_is_whole(boxes, margin):
    assert squares_of(boxes, 1.0, margin, 25, 25.0) is None


def test_the_crop_is_that_of_crop_faces():
    frame, squares = frame_of(30, 30), np.array([[3.25, 4.5, 20.75, 22.0]], np.float32)
    assert np.array_equal(crop_frame(frame, squares, 0, 1.0, 16), crop_faces(frame[None], squares, 16)[0])


@pytest.mark.parametrize("box", [[40, 0, 50, 9], [0, 20, 9, 30], [-9, 0, 0, 9], [0, -9, 9, 0]])
def test_a_face_beside_its_frame_is_refused(box):
    with pytest.raises(DataError, match=r"a\.jpg: the face must lie in the 40x20 frame, got the box"):
        check_face(frame_of(20, 40), np.array([box], np.float32), 0, "a.jpg")


@pytest.mark.parametrize("box", [[39, 0, 50, 9], [-9, -9, 1, 1], [np.nan] * 4])
def test_a_face_that_leaves_the_frame_or_is_not_there_is_none(box):
    check_face(frame_of(20, 40), np.array([box], np.float32), 0, "a.jpg")
    check_face(frame_of(20, 40), None, 0, "a.jpg")
