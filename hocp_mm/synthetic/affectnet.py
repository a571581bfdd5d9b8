"""A whole synthetic set in AffectNet's layout, of the release of 2017 or of 2021.

The expression is a rule on the valence v and the arousal a that were drawn, so that it can be learned and so that it
agrees with EmoNet's rules (`hocp_mm.datasets.affectnet.rows.emonet_rules`) but for weak disgust:

    strength sqrt(v^2 + a^2) < 0.2           neutral
    else by the angle of (v, a) in degrees   -90 to 60 happy · 60 to 100 surprise · 100 to 125 fear · 125 to 150 anger
                                             150 to 180 disgust · 180 to 215 contempt · 215 to 270 sad

Nobody is in both parts. In the layout of 2017 every twentieth picture more shows no face, or has no usable expression,
with the cells that the real files have there: NULL, widths of -1, -2, classes 8 to 10.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from hocp_mm.datasets.faces.boxes import crop_faces, landmark_boxes, square_boxes
from hocp_mm.synthetic.clip import FPS, SyntheticClip
from hocp_mm.synthetic.landmarks68 import landmarks68
from hocp_mm.synthetic.scene import sample_scene
from hocp_mm.synthetic.staging import write_staged
from hocp_mm.system.parallel import Progress, run_tasks

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


_VERSION = 1  # raise it when the same numbers give other pictures
_IMAGES = "Manually_Annotated/Manually_Annotated_Images"
_CSV = {"train": "training.csv", "val": "validation.csv"}
_PIECE = "Manually_Annotated/{}.rows"
_PARTS = ("train", "val")
_APART = 2 * FPS  # frames between two pictures of a person
_USELESS = (10, 9, 8)  # classes of the extra pictures of 2017, in turn
_ONE_IN = 20
_SCENERY = 200  # marks the writer's own random numbers; the clip uses smaller marks


@dataclass(frozen=True)
class SyntheticAffectNetSpec:
    """The numbers that define a synthetic set.

    Attributes:
        release: Layout, ``"2017"`` or ``"2021"``.
        people: People in train and val.
        images_per_person: Pictures of each person.
        seed: Seed of everything.
    """

    release: Literal["2017", "2021"] = "2017"
    people: tuple[int, int] = (120, 24)
    images_per_person: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is out of range.
        """
        where = "SyntheticAffectNetSpec"
        if self.release not in ("2017", "2021"):
            raise ValueError(f"{where}: release must be '2017' or '2021', got {self.release!r}.")
        if len(self.people) != len(_PARTS) or min(self.people) < 1:
            raise ValueError(f"{where}: people must be two counts of 1 or more, got {self.people}.")
        for what, value, low in (("images_per_person", self.images_per_person, 1), ("seed", self.seed, 0)):
            if value < low:
                raise ValueError(f"{where}: {what} must be at least {low}, got {value}.")


def write_synthetic_affectnet(
    root: str | Path,
    spec: SyntheticAffectNetSpec | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> bool:
    """Write a synthetic set in AffectNet's layout, or do nothing if it is already there.

    Its bytes depend on the numbers alone, not on ``workers``. Call it under ``if __name__ == "__main__":`` where
    ``workers`` is not 1, as processes are started.

    Args:
        root: Folder of the set.
        spec: The numbers; None takes their defaults.
        workers: Processes; ``None`` = one per CPU core, 1 = this process.
        progress: Called with the number of finished people and of all people.
        overwrite: Replace a synthetic set made with other numbers. Other folders are never replaced.

    Returns:
        Whether the set was written; ``False`` = it was already there with the same numbers.
    """
    numbers = spec or SyntheticAffectNetSpec()
    layout = {"layout": f"affectnet-{numbers.release}", "version": _VERSION, **asdict(numbers)}
    manifest = json.dumps(layout, indent=2) + "\n"
    return write_staged(Path(root), manifest, lambda draft: _write(draft, numbers, workers, progress), overwrite)


def _write(root: Path, spec: SyntheticAffectNetSpec, workers: int | None, progress: Progress | None) -> None:
    """Render everybody, then write what lists them."""
    parts = _people(spec)
    run_tasks(
        _write_person, [(root, spec, part, who) for part, people in parts.items() for who in people], workers, progress
    )
    if spec.release == "2017":
        for part, people in parts.items():
            pieces = [root / _PIECE.format(person) for person in people]
            text = "".join(piece.read_text(encoding="utf-8") for piece in pieces)
            (root / "Manually_Annotated" / _CSV[part]).write_text(f"{HEADER}\n{text}", encoding="utf-8")
            for piece in pieces:
                piece.unlink()


def _people(spec: SyntheticAffectNetSpec) -> dict[str, range]:
    train, val = spec.people
    return {"train": range(1, train + 1), "val": range(train + 1, train + val + 1)}


def _write_person(root: Path, spec: SyntheticAffectNetSpec, part: str, person: int) -> None:
    """Write all pictures of one person and, for the layout of 2017, a piece of the csv file."""
    count = spec.images_per_person
    clip = SyntheticClip(spec.seed, person, 0, 1 + (count - 1) * _APART, motion_share=0.0)
    rows: list[list[object]] = []
    for number in range(count):
        face = render_face(clip, number * _APART)
        serial = (person - 1) * count + number
        if spec.release == "2021":
            write_crop(root / f"{part}_set", str(serial), face)
            continue
        file = f"{person}/{serial:056x}.jpg"  # as long as the hashes that name the real ones
        write_image(root / _IMAGES / file, face.image)
        rows.append(face_row(file, face))
        if serial % _ONE_IN == _ONE_IN - 1:
            kind = _USELESS[serial // _ONE_IN % len(_USELESS)]
            file = f"{person}/{serial:055x}f.jpg"
            empty = sample_scene(np.random.default_rng([spec.seed, _SCENERY, serial]), clip.identity).background
            write_image(root / _IMAGES / file, face.image if kind == 8 else empty)
            rows.append(face_row(file, face, kind) if kind == 8 else faceless_row(file, kind))
    if rows:
        (root / _PIECE.format(person)).write_text(csv_text(rows), encoding="utf-8")
