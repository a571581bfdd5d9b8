"""Faces of single frames by scikit-image's cascade and by OpenCV's."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import make_detector
from hocp_mm.datasets.faces import cascades
from hocp_mm.datasets.faces.cascades import (
    CascadeDetector,
    HaarDetector,
    detect_faces,
    group_windows,
    square_to_landmark_box,
)
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from tests.material.tiny_configs import noise, portrait, portrait_box


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    common = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return common / (areas[0] + areas[1] - common)


def test_large_pictures_are_looked_at_small():
    shift, scale = (100.0, -40.0), 3.2
    squares, windows = detect_faces(portrait(shift, scale, (1280, 960)))
    assert overlap(square_to_landmark_box(squares[windows > 5]), portrait_box(shift, scale)[None])[0] > 0.55


def test_a_video_smaller_than_any_face_has_none():
    assert detect_faces(noise(1, (20, 20))[0])[0].shape == (0, 4)


def test_windows_are_grouped_as_the_cascade_groups_them():
    """scikit-image returns the groups of so many windows or more, and never says how many there are."""
    frames = [portrait((-40, -20)), portrait((10, -60), 0.6), portrait((-90, -10), 1.1), *noise(2, (320, 240))]
    for frame in frames:
        squares, windows = detect_faces(frame)
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        for least in (1, 2, 4, 7):
            found = cascades._cascade().detect_multi_scale(
                grey,
                scale_factor=1.1,
                step_ratio=1.5,
                min_size=(40, 40),
                max_size=(240, 240),
                min_neighbor_number=least,
            )
            corners = [(f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in found]
            expected = np.array(corners, dtype=float).reshape(-1, 4)
            ours = squares[windows >= least]
            assert len(ours) == len(expected)
            # It cuts means to whole pixels.
            np.testing.assert_allclose(ours[np.lexsort(ours.T)], expected[np.lexsort(expected.T)], atol=2)


def test_groups_of_windows_are_their_means_and_numbers():
    squares, windows = group_windows(np.array([[0, 0, 10, 10], [50, 50, 70, 70], [1, 1, 11, 11], [2, 2, 12, 12.0]]))
    assert squares.tolist() == [[1, 1, 11, 11], [50, 50, 70, 70]]
    assert windows.tolist() == [3, 1]
    assert [part.shape for part in group_windows(np.zeros((0, 4)))] == [(0, 4), (0,)]


def test_the_more_windows_agree_the_surer_is_a_face(monkeypatch: pytest.MonkeyPatch):
    squares = np.array([[0, 0, 50, 50], [60, 60, 100, 100], [10, 10, 99, 99.0]])
    monkeypatch.setattr(cascades, "detect_faces", lambda frame: (squares, np.array([6.0, 5, 18])))
    found = CascadeDetector()(np.zeros((120, 120, 3), dtype=np.uint8))
    np.testing.assert_array_equal(found.boxes, square_to_landmark_box(squares[[0, 2]]))
    assert found.scores.tolist() == [0.5, 0.75]
    assert len(CascadeDetector(least=0.4)(np.zeros((120, 120, 3), dtype=np.uint8)).boxes) == 3


def test_the_detector_gives_landmark_boxes_and_a_trust():
    found = pickle.loads(pickle.dumps(CascadeDetector()))(portrait((-40, -20)))
    assert overlap(found.boxes, portrait_box((-40, -20))[None]).min() > 0.55
    assert (found.boxes.dtype, found.scores.dtype, found.scores.shape) == (np.float32, np.float32, (1,))
    assert 0.5 <= found.scores[0] < 1


class Classifier:
    """Stands in for OpenCV's class, which not every build has.

    The brightest pixel is the corner of a face, and as many tenths of its brightness as are above 0 are windows.
    """

    def load(self, model: str) -> bool:
        return Path(model).read_bytes() == b"<cascade>"

    def detectMultiScale2(self, grey, scaleFactor, minNeighbors, minSize):  # noqa: N802, N803 - OpenCV's names
        y, x = np.unravel_index(grey.argmax(), grey.shape)
        return ([(x, y, 60, 60)], [grey[y, x] // 10]) if grey[y, x] > 100 else ((), ())


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
    windows = cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).max() // 10
    assert detector(frame).scores == pytest.approx(windows / (windows + 10))
    assert len(pickle.loads(pickle.dumps(HaarDetector(least=0.9)))(frame).boxes) == 0


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
