"""OpenCV's network run on a file of the same outputs, and five points turned into the box of 49 landmarks."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import landmark_boxes, make_detector
from hocp_mm.datasets.faces.yunet import points_to_landmark_box
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.synthetic.clip import SyntheticClip
from tests.material.tiny_yunet import red_faces, true_points, write_tiny_yunet


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_yunet(tmp_path_factory.mktemp("yunet") / "tiny.onnx")


def test_faces_are_found_where_they_are_in_frames_of_any_size(model: Path):
    detector = make_detector("yunet", model)
    for size, cells in {(320, 240): [(4, 5)], (200, 104): [(3, 2), (15, 8)], (640, 480): [(60, 40), (9, 9)]}.items():
        found = detector(red_faces(size, cells))
        expected = points_to_landmark_box(np.array([true_points(cell) for cell in cells]))
        order = np.argsort(found.boxes[:, 0])
        np.testing.assert_allclose(found.boxes[order], expected[np.argsort(expected[:, 0])], atol=1e-3)
        np.testing.assert_allclose(found.scores, 1, atol=1e-3)


def test_colours_arrive_in_the_order_of_the_network(model: Path):
    frame = red_faces((320, 240), [(4, 5)])
    assert make_detector("yunet", model)(frame[..., ::-1].copy()).boxes.shape == (0, 4)


def test_large_frames_are_looked_at_small_and_answered_in_their_own_pixels(model: Path):
    found = make_detector("yunet", model)(red_faces((1920, 1080), [(20, 11)], scale=3))
    np.testing.assert_allclose(found.boxes, points_to_landmark_box(true_points((20, 11), scale=3)[None]), atol=1e-2)


def test_a_detector_travels_to_other_processes(model: Path):
    detector = make_detector("yunet", model)
    frame = red_faces((320, 240), [(4, 5)])
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again(frame).boxes, detector(frame).boxes)


def test_files_that_are_no_yunet_are_refused(tmp_path: Path):
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"not a network")
    other = write_tiny_yunet(tmp_path / "other.onnx", outputs=("cls", "obj"))
    for path in (junk, other):
        with pytest.raises(DataError, match=rf"{path.name} must be a YuNet onnx file"):
            make_detector("yunet", path)
    with pytest.raises(MissingDataError, match=r"no such onnx file: .*none\.onnx"):
        make_detector("yunet", tmp_path / "none.onnx")
    with pytest.raises(MissingDataError, match="the onnx file must be given, got none; OpenCV's model zoo has it"):
        make_detector("yunet")


def test_an_opencv_without_the_class_is_named(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(cv2, "FaceDetectorYN")
    with pytest.raises(HOCPError, match=r"must have cv2\.FaceDetectorYN, but .* does not"):
        make_detector("yunet", model)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Return eyes, nose tip and mouth corners of 49 landmarks."""
    return np.stack(
        [landmarks[19:25].mean(0), landmarks[25:31].mean(0), landmarks[[13, 31, 37]][0], *landmarks[[31, 37]]]
    )


def test_boxes_from_five_points_are_those_of_all_landmarks_on_average():
    landmarks = np.stack([SyntheticClip(0, subject, frames=1)[0].landmarks for subject in range(8)])
    truth = landmark_boxes(landmarks)
    boxes = points_to_landmark_box(np.stack([five_points(points) for points in landmarks]))
    sides, true_sides = boxes[:, 2:] - boxes[:, :2], truth[:, 2:] - truth[:, :2]
    assert np.abs(np.median(sides / true_sides, axis=0) - 1).max() < 0.08
    assert (np.abs((boxes - truth).reshape(-1, 2, 2).mean(axis=1)) < 0.1 * true_sides.max(axis=1)[:, None]).all()


def test_boxes_move_grow_and_turn_with_the_points():
    points = true_points((4, 5))[None]
    box = points_to_landmark_box(points)
    np.testing.assert_allclose(points_to_landmark_box(3 * points + [7, -2]), 3 * box + [7, -2, 7, -2], rtol=1e-5)
    quarter = points_to_landmark_box(points[..., ::-1] * [-1, 1])  # turned by 90 degrees: the sides change places
    np.testing.assert_allclose(quarter[0, 2:] - quarter[0, :2], (box[0, 2:] - box[0, :2])[::-1], rtol=1e-5)


def test_in_profile_the_nose_counts():
    profile = np.array([[[50, 40], [50, 40], [70, 60], [52, 80], [52, 80]]], dtype=float)
    box = points_to_landmark_box(profile)[0]
    assert box[2] == 70
    assert box[3] - box[1] > 40
