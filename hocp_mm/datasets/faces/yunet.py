"""Faces by YuNet, OpenCV's small detection network, which also sees turned, tilted and small faces.

OpenCV brings the code (``cv2.FaceDetectorYN``, versions 4.8 and 5) but not the weights: the file
``face_detection_yunet_2023mar.onnx`` of OpenCV's model zoo must be given.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.datasets.faces.opencv_files import DetectorFile, read_yunet
from hocp_mm.errors import HOCPError, MissingDataError

YUNET_SOURCE = "OpenCV's model zoo has it (face_detection_yunet_2023mar.onnx)"
_LONGEST_SIDE = 640  # pixels; the size that the network was exported with
_POINTS = slice(4, 14)  # columns of a detection: x, y, width, height, five points (x, y), score

# Eyes and mouth corners of a mean face, and its outline of brows and lower lip: across in distances of the eyes, down
# in distances from the eyes to the mouth's corners.
_KNOWN = np.array([(-0.5, 0), (0.5, 0), (-0.446, 1), (0.446, 1)])
_HALF = [(-0.926, -0.194), (-0.784, -0.314), (-0.584, -0.350), (-0.377, -0.322), (-0.287, 1.150), (-0.126, 1.216)]
_OUTLINE = np.array([*_HALF, *((-x, y) for x, y in _HALF), (0, 1.229)])


def _ones(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([points, np.ones(len(points))])


# Carries eyes and mouth corners to the outline: the affine map that fits them best, applied to it, [13, 4].
_TO_OUTLINE = _ones(_OUTLINE) @ np.linalg.pinv(_ones(_KNOWN))


class YuNetDetector:
    """OpenCV's ``FaceDetectorYN`` with an onnx file of the user, in a process of its own.

    Args:
        model: The onnx file.

    Raises:
        HOCPError: If this build of OpenCV has no ``cv2.FaceDetectorYN``.
        MissingDataError: If there is no such file.
        DataError: If the file is not a YuNet that this OpenCV can run; pictures may show it later than a first try.
    """

    needs = f"it sees faces of 10 pixels or more where the longer side has at most {_LONGEST_SIDE}"

    def __init__(self, model: str | Path) -> None:
        if not hasattr(cv2, "FaceDetectorYN"):
            raise HOCPError(
                f"yunet: OpenCV must have cv2.FaceDetectorYN, but {cv2.__version__} does not; install OpenCV 4.8 or "
                "newer, or use the detector 'cascade'."
            )
        self.model = str(model)
        if not Path(model).is_file():
            raise MissingDataError(f"yunet: no such onnx file: {model}; {YUNET_SOURCE}.")
        self._find = DetectorFile(read_yunet, self.model, f"yunet: {model} must be a YuNet onnx file")

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Find the faces of one RGB frame ``[H, W, 3]``."""
        scale = min(1.0, _LONGEST_SIDE / max(frame.shape[:2]))
        picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if scale < 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        rows = self._find(np.asarray(picture, dtype=np.uint8))
        boxes = points_to_landmark_box(rows[:, _POINTS].reshape(-1, 5, 2) / scale)
        # Five points on one spot are no face; an infinite one comes from a network that overflowed.
        real = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return Detections(boxes[real], np.clip(rows[real, 14], 0, 1).astype(np.float32))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes by name; they have processes of their own."""
        return YuNetDetector, (self.model,)


def points_to_landmark_box(points: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the box that 49 landmarks would have around a face with these five points.

    The network's own box runs from the forehead to the chin, and how much of either it takes differs from face to face;
    the points are landmarks. So brows and lower lip of dlib's mean face (the shape that its face chips are aligned
    to) are carried to the face by the affine map that fits eyes and mouth corners best, and the box is tight
    around them and the five points. A tilted head tilts them, a turned one narrows them, in profile the nose counts.

    From the true points of 120 frames of 12 synthetic faces the boxes had 1.03 of the width and 0.98 of the height of
    those around all 49 landmarks (medians); the longer side, which decides the crop, was 0.88 to 1.22 of theirs in
    single frames (open mouths, raised brows and faces unlike the mean), and no centre was more than 10 % of it away.

    Args:
        points: Right eye, left eye, nose tip, right and left corner of the mouth, of the person, (x, y) in pixels,
            ``[D, 5, 2]``.

    Returns:
        (x1, y1, x2, y2), float32 ``[D, 4]``.
    """
    outline = _TO_OUTLINE @ points[:, [0, 1, 3, 4]]
    around = np.concatenate([outline, points], axis=1)  # [D, 18, 2]
    return np.concatenate([around.min(axis=1), around.max(axis=1)], axis=1).astype(np.float32)
