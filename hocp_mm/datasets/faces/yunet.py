"""Faces by YuNet, OpenCV's small detection network, which also sees turned, tilted and small faces.

OpenCV brings the code (``cv2.FaceDetectorYN``, versions 4.8 and 5) but not the weights: the file
``face_detection_yunet_2023mar.onnx`` of OpenCV's model zoo must be given.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.cascades import NOBODY, Detections, is_strip
from hocp_mm.datasets.faces.five_points import point_detections
from hocp_mm.datasets.faces.opencv_files import POINTS, SCORE, YUNET_LEAST, DetectorFile, read_yunet
from hocp_mm.errors import HOCPError, MissingDataError

YUNET_SOURCE = "OpenCV's model zoo has it (face_detection_yunet_2023mar.onnx)"
_LONGEST_SIDE = 640  # pixels; the size that the network was exported with


class YuNetDetector:
    """OpenCV's ``FaceDetectorYN`` with an onnx file of the user, in a process of its own.

    Args:
        model: The onnx file.

    Raises:
        HOCPError: If this build of OpenCV has no ``cv2.FaceDetectorYN``.
        MissingDataError: If there is no such file.
        DataError: If the file is not a YuNet that this OpenCV can run; pictures may show it later than a first try.
    """

    least = YUNET_LEAST
    """Score in (0, 1] below which there is no face."""
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
        if is_strip(frame):
            return NOBODY
        scale = min(1.0, _LONGEST_SIDE / max(frame.shape[:2]))
        picture = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if scale < 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        rows = self._find(np.asarray(picture, dtype=np.uint8))
        return point_detections(rows[:, POINTS].reshape(-1, 5, 2) / scale, rows[:, SCORE])

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes by name; they have processes of their own."""
        return YuNetDetector, (self.model,)
