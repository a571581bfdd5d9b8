"""OpenCV's network run on a file of the same outputs."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import make_detector
from hocp_mm.datasets.faces.five_points import points_to_landmark_box
from hocp_mm.errors import DataError, HOCPError, MissingDataError
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
