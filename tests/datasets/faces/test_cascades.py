"""Faces of single frames by scikit-image's cascade and by OpenCV's."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import make_detector
from hocp_mm.datasets.faces.cascades import CascadeDetector, detect_faces, square_to_landmark_box
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from tests.material.tiny_configs import noise, portrait, portrait_box


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    common = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return common / (areas[0] + areas[1] - common)


def test_large_pictures_are_looked_at_small():
    shift, scale = (100.0, -40.0), 3.2
    square = detect_faces(portrait(shift, scale, (1280, 960)))
    assert overlap(square_to_landmark_box(square), portrait_box(shift, scale)[None])[0] > 0.55


def test_a_video_smaller_than_any_face_has_none():
    assert detect_faces(noise(1, (20, 20))[0]).shape == (0, 4)


def test_the_detector_gives_landmark_boxes_of_score_one():
    found = pickle.loads(pickle.dumps(CascadeDetector()))(portrait((-40, -20)))
    assert overlap(found.boxes, portrait_box((-40, -20))[None]).min() > 0.55
    assert (found.boxes.dtype, found.scores.dtype, found.scores.tolist()) == (np.float32, np.float32, [1.0])


class Classifier:
    """Stands in for OpenCV's class, which not every build has: the brightest pixel is the corner of a face."""

    def load(self, model: str) -> bool:
        return Path(model).read_bytes() == b"<cascade>"

    def detectMultiScale(self, grey, scaleFactor, minNeighbors, minSize):  # noqa: N802, N803 - OpenCV's names
        y, x = np.unravel_index(grey.argmax(), grey.shape)
        return [(x, y, 60, 60)] if grey[y, x] > 100 else ()


@pytest.fixture
def haar_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cv2, "CascadeClassifier", Classifier, raising=False)
    monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path))
    path = tmp_path / "haarcascade_frontalface_default.xml"
    path.write_bytes(b"<cascade>")
    return path


def test_haar_squares_come_back_in_pixels_of_the_frame(haar_file: Path):
    frame = np.zeros((480, 640, 3), dtype=np.uint8)  # looked at half as large
    frame[100:104, 200:204] = 255
    detector = pickle.loads(pickle.dumps(make_detector("haar")))
    expected = square_to_landmark_box(np.array([[200, 100, 320, 220]]))
    np.testing.assert_allclose(detector(frame).boxes, expected, atol=2.1)
    assert detector(np.zeros_like(frame)).boxes.shape == (0, 4)


def test_haar_needs_a_file_that_is_a_cascade(haar_file: Path, tmp_path: Path):
    (tmp_path / "other.xml").write_bytes(b"<other>")
    with pytest.raises(DataError, match=r"other\.xml must be an XML cascade"):
        make_detector("haar", tmp_path / "other.xml")
    with pytest.raises(MissingDataError, match=r"no such cascade file: .*none\.xml"):
        make_detector("haar", tmp_path / "none.xml")
    haar_file.unlink()
    with pytest.raises(HOCPError, match=r"OpenCV must bring haarcascade_frontalface_default\.xml, but"):
        make_detector("haar")


def test_haar_is_refused_where_opencv_has_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)
    with pytest.raises(HOCPError, match=r"must have cv2\.CascadeClassifier, but .* does not; install OpenCV 4"):
        make_detector("haar")
