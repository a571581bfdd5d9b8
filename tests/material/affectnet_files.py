"""Tiny AffectNet sets: pictures that show their number, csv and npy files byte by byte."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
SIZE = (64, 48)
MARKS = [(10 if i % 2 else 20) + 0.25 * i for i in range(136)]


def marks_text(separator: str = ";", values: Sequence[float] = MARKS) -> str:
    return separator.join(f"{value:g}" for value in values)


def row(file: str, expression: object = 0, valence: object = "0.1", arousal: object = "-0.2", **cells: object) -> str:
    """One line of a csv file; other cells by the names of their columns."""
    values = {
        "subDirectory_filePath": file,
        "face_x": "8.0",
        "face_y": "6",
        "face_width": 40,
        "face_height": 36,
        "facial_landmarks": marks_text(),
        "expression": expression,
        "valence": valence,
        "arousal": arousal,
        **cells,
    }
    return ",".join(str(values[name]) for name in HEADER.split(","))


def write_picture(path: Path, grey: int = 100, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size, (grey, grey, grey))
    picture.save(path, format="PNG" if path.suffix.lower() == ".png" else "JPEG")


def write_2017(root: Path, lines: Sequence[str], part: str = "training", header: str | None = HEADER) -> Path:
    """Write a csv file in EMOCA's layout, and a picture for every line."""
    folder = root / "Manually_Annotated"
    for line in lines:
        file = line.partition(",")[0]
        if not (folder / "Manually_Annotated_Images" / file).exists():
            write_picture(folder / "Manually_Annotated_Images" / file)
    (folder / f"{part}.csv").write_text("\n".join([*([header] if header else []), *lines]) + "\n")
    return root


def write_2021(root: Path, images: Mapping[str, tuple[object, object, object]], part: str = "train_set") -> Path:
    """Write npy files of (expression, valence, arousal), strings or numbers, and a picture for each."""
    annotations = root / part / "annotations"
    annotations.mkdir(parents=True)
    for name, values in images.items():
        write_picture(root / part / "images" / f"{name}.jpg", size=(224, 224))
        for kind, value in zip(("exp", "val", "aro"), values, strict=True):
            np.save(annotations / f"{name}_{kind}.npy", np.array(value))
        np.save(annotations / f"{name}_lnd.npy", np.array(MARKS))
    return root
