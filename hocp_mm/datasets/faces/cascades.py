"""Frontal faces by a cascade: scikit-image's, which is always there, or OpenCV 4's.

A cascade frames the face from the hairline to the chin in a square; what leaves this module is the box that training
crops from, tight around the 49 inner landmarks (brows, eyes, nose, mouth). Cascades work offline on any platform, find
upright frontal faces, and give neither landmarks nor a score that could be compared.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.opencv_files import DetectorFile, Find, read_haar, smallest_face
from hocp_mm.errors import HOCPError, MissingDataError

# The landmark box is narrower than the cascade's square and much lower.
# Fractions of the side of the square; `square_to_landmark_box` says where they were measured.
_WIDTH, _HEIGHT, _DOWN = 0.67, 0.64, 0.035
_DETECTION_SIDE = 240  # pixels of the shorter side that the cascade looks at
_HAAR_FILE = "haarcascade_frontalface_default.xml"


class Detections(NamedTuple):
    """Faces of one frame.

    Attributes:
        boxes: (x1, y1, x2, y2) in pixels, tight around the inner landmarks, float32 ``[D, 4]``.
        scores: Trust in each, in (0, 1], float32 ``[D]``; only compared between boxes of one detector.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


class CascadeDetector:
    """scikit-image's LBP frontal face cascade on a small grey picture; every face has the score 1."""

    needs = "it sees upright frontal faces of at least a sixth of the picture"

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Find the faces of one RGB frame ``[H, W, 3]``."""
        return _from_squares(detect_faces(frame))


class HaarDetector:
    """OpenCV's frontal face cascade of Haar features; every face has the score 1.

    A file that is given runs in a process of its own.

    OpenCV 4 brings class and file. OpenCV 5 moved the class to its contrib builds and ships no file.

    Args:
        model: XML file of the cascade; by default the ``haarcascade_frontalface_default.xml`` that OpenCV 4 brings.

    Raises:
        HOCPError: If this build of OpenCV has no ``cv2.CascadeClassifier``, or brings no file and none was given.
        MissingDataError: If there is no such file.
        DataError: If the file is no cascade.
    """

    needs = "it sees upright frontal faces of at least a sixth of the picture"

    def __init__(self, model: str | Path | None = None) -> None:
        if not hasattr(cv2, "CascadeClassifier"):
            raise HOCPError(
                f"haar: OpenCV must have cv2.CascadeClassifier, but {cv2.__version__} does not; install OpenCV 4, or "
                "use the detector 'cascade'."
            )
        self.model = None if model is None else str(model)
        if self.model is None:
            self._find: Find = read_haar(str(_haar_file()))
            return
        if not Path(self.model).is_file():
            raise MissingDataError(f"haar: no such cascade file: {model}.")
        self._find = DetectorFile(read_haar, self.model, f"haar: {model} must be an XML cascade")

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Find the faces of one RGB frame ``[H, W, 3]``."""
        grey, scale = _small_grey(frame)
        found = self._find(grey)
        squares = found[:, [0, 1, 0, 1]] + found[:, 2:3] * (0, 0, 1, 1)
        return _from_squares((squares / scale).astype(np.float32))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes by name; OpenCV's object cannot be pickled."""
        return HaarDetector, (self.model,)


def detect_faces(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the cascade's squares in one RGB frame, (x1, y1, x2, y2) in its pixels, float32 ``[D, 4]``."""
    grey, scale = _small_grey(frame)
    limit, smallest = min(grey.shape[:2]), smallest_face(grey)
    if smallest >= limit:
        return np.zeros((0, 4), dtype=np.float32)
    found = _cascade().detect_multi_scale(
        img=grey, scale_factor=1.1, step_ratio=1.5, min_size=(smallest, smallest), max_size=(limit, limit)
    )
    squares = [(f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in found]
    return (np.array(squares).reshape(-1, 4) / scale).astype(np.float32)


def square_to_landmark_box(square: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Convert squares of a cascade to landmark boxes.

    The landmark box is 0.67 x 0.64 of the side of the square, its centre moved down by 0.035 of the side. Measured for
    scikit-image's cascade (width, height, right, down; medians): 0.72, 0.61, 0.00, 0.03 on 59 shifted, scaled, turned
    and mirrored views of the portrait in scikit-image, landmarks marked by hand; 0.62, 0.66, -0.01, 0.04 on 120 frames
    of 12 synthetic faces, whose landmarks are known. After smoothing, the crops of 13 synthetic videos had sides of
    0.91 to 1.12 (mean 1.01) times those from landmarks, steady within a video to 2 %, with centres on average within
    1 % and never more than 6 % of the side away. Where a network must see exactly its training crop, give landmarks.

    OpenCV's Haar cascade frames faces alike: 0.73, 0.61, 0.00, 0.05 on 60 shifted, scaled and mirrored views of that
    portrait, 0.61, 0.63, 0.00, 0.05 on 118 of the 120 synthetic frames (OpenCV 4.14); it shares the numbers.

    Args:
        square: (x1, y1, x2, y2), ``[..., 4]``.

    Returns:
        Boxes, float32 ``[..., 4]``.
    """
    side = square[..., 2] - square[..., 0]
    x = (square[..., 0] + square[..., 2]) / 2
    y = (square[..., 1] + square[..., 3]) / 2 + _DOWN * side
    half_width, half_height = _WIDTH * side / 2, _HEIGHT * side / 2
    corners = (x - half_width, y - half_height, x + half_width, y + half_height)
    return np.stack(corners, axis=-1).astype(np.float32)


def _from_squares(squares: NDArray[np.float32]) -> Detections:
    return Detections(square_to_landmark_box(squares), np.ones(len(squares), dtype=np.float32))


def _small_grey(frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Return the grey picture that a cascade looks at, and its scale."""
    scale = min(1.0, _DETECTION_SIDE / min(frame.shape[:2]))
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, dtype=np.uint8), scale


@lru_cache(maxsize=1)
def _cascade() -> Any:
    # Imported here: scikit-image takes a second to load, and only this detector needs it.
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())


def _haar_file() -> Path:
    data = getattr(cv2, "data", None)  # only the wheels have it
    file = Path(data.haarcascades if data else "") / _HAAR_FILE
    if not file.is_file():
        raise HOCPError(
            f"haar: OpenCV must bring {_HAAR_FILE}, but {cv2.__version__} does not; give the file, install OpenCV 4, "
            "or use the detector 'cascade'."
        )
    return file
