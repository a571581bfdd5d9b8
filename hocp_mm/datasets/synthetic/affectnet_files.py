"""Write synthetic faces as AffectNet stores them, in the layout of either release.

The expression is a rule on the valence v and the arousal a that were drawn, so that it can be learned and so that it
agrees with EmoNet's rules (`hocp_mm.datasets.affectnet_files.emonet_rules`) but for weak disgust:

    strength sqrt(v^2 + a^2) < 0.2           neutral
    else by the angle of (v, a) in degrees   -90 to 60 happy · 60 to 100 surprise · 100 to 125 fear · 125 to 150 anger
                                             150 to 180 disgust · 180 to 215 contempt · 215 to 270 sad
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hocp_mm.datasets.faces import crop_faces, landmark_boxes, square_boxes
from hocp_mm.datasets.synthetic.clip import SyntheticClip
from hocp_mm.datasets.synthetic.landmarks68 import landmarks68

Floats = npt.NDArray[np.float64]

CROP = 224
"""Side of the images of the release of 2021, pixels."""

HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
"""First line of a csv file of the release of 2017."""

_BOX_MARGIN = 1.25  # side of AffectNet's face boxes over that of the landmarks, about
_ANGLES = ((60, 1), (100, 3), (125, 4), (150, 6), (180, 5), (215, 7), (270, 2))  # upper end of each class's sector
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 92]


@dataclass(frozen=True)
class Face:
    """One picture with its labels.

    Attributes:
        image: RGB ``[H, W, 3]``.
        landmarks: 68 points in pixels, ``[68, 2]``.
        valence: Valence in (-1, 1).
        arousal: Arousal in (-1, 1).
        expression: Class from 0 to 7.
    """

    image: npt.NDArray[np.uint8]
    landmarks: Floats
    valence: float
    arousal: float
    expression: int


def expression_of(valence: float, arousal: float) -> int:
    """Return the class of the rule above.

    Example:
        >>> [expression_of(v, a) for v, a in ((0.1, 0.1), (0.8, 0.1), (0.0, 0.7), (-0.6, 0.4), (-0.5, -0.6))]
        [0, 1, 3, 6, 2]
    """
    if math.hypot(valence, arousal) < 0.2:
        return 0
    angle = math.degrees(math.atan2(arousal, valence))
    angle += 360 if angle < -90 else 0
    return next(number for end, number in _ANGLES if angle < end or end == _ANGLES[-1][0])


def render_face(clip: SyntheticClip, frame: int) -> Face:
    """Render one frame of a clip, whose arousal must show in still pictures (``motion_share=0``)."""
    shown = clip[frame]
    return Face(
        image=shown.image,
        landmarks=landmarks68(clip, frame, shown),
        valence=shown.valence,
        arousal=shown.arousal,
        expression=expression_of(shown.valence, shown.arousal),
    )


def write_image(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write RGB pixels as JPEG.

    Raises:
        OSError: If the picture cannot be encoded.
    """
    done, raw = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _QUALITY)
    if not done:
        raise OSError(f"{path}: the picture cannot be encoded as JPEG.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw.tobytes())


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as text of a csv file, without a header."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def face_row(file: str, face: Face, expression: int | None = None) -> list[object]:
    """Return the cells of a picture with a face; another class than its own where one is given."""
    box = square_boxes(landmark_boxes(face.landmarks[None]), _BOX_MARGIN)[0]
    x, y, side = round(float(box[0])), round(float(box[1])), round(float(box[2] - box[0]))
    marks = ";".join(f"{value:.2f}" for value in face.landmarks.ravel())
    kind = face.expression if expression is None else expression
    return [file, x, y, side, side, marks, kind, f"{face.valence:.6g}", f"{face.arousal:.6g}"]


def faceless_row(file: str, expression: int) -> list[object]:
    """Return the cells of a picture without a face, as the release has them: NULL, a negative width, -2."""
    return [file, "NULL", "NULL", -1, -1, "NULL", expression, -2, -2]


def write_crop(part: Path, name: str, face: Face) -> None:
    """Write one picture of the release of 2021: the crop, and four npy files that hold strings and numbers."""
    box = square_boxes(landmark_boxes(face.landmarks[None]), _BOX_MARGIN)
    crop = crop_faces(face.image[None], box, CROP)[0]
    write_image(part / "images" / f"{name}.jpg", crop)
    marks = (face.landmarks - box[0, :2]) * (CROP / float(box[0, 2] - box[0, 0]))
    values = {"exp": str(face.expression), "val": f"{face.valence:.6g}", "aro": f"{face.arousal:.6g}"}
    folder = part / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in values.items():
        np.save(folder / f"{name}_{kind}.npy", np.array(text))
    np.save(folder / f"{name}_lnd.npy", marks.ravel())
