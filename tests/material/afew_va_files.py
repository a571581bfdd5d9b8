"""Tiny AFEW-VA folders whose frames carry their number and whose labels repeat it.

The pictures of `tests.material.sewa_files` (320x240, the number as blocks in the central square) are squeezed to
240x240: pixels of 4/3, as in the release. The 68 landmarks span just the square, in squeezed pixels.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hocp_mm.datasets.splits import make_folds, write_fold_files
from tests.material.sewa_files import HEIGHT, SQUARE, draw_number

WIDTH = 240
SQUEEZED = (SQUARE[0] * 0.75, SQUARE[1], SQUARE[2] * 0.75, SQUARE[3])
ACTORS = ("Ann Ash", "Bob Birch", "Cleo Cedar", "Dan Dogwood", "Eve Elm", "Finn Fir")


def squeezed_number(number: int) -> NDArray[np.uint8]:
    """Return the picture of a frame, ``[240, 240, 3]``."""
    return np.asarray(cv2.resize(draw_number(number), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def landmarks(box: tuple[float, float, float, float] = SQUEEZED) -> list[list[float]]:
    """Return 68 points with just this bounding box."""
    inner = np.random.default_rng(0).uniform(0.2, 0.8, (68, 2))
    inner[:2] = [[0, 0], [1, 1]]
    low, high = np.array(box[:2]), np.array(box[2:])
    return (low + inner * (high - low)).tolist()


def labels_of(number: int) -> tuple[int, int]:
    """Return (valence, arousal) of a frame: whole numbers, never equal."""
    return number % 21 - 10, (number + 7) % 21 - 10


def frame_of(number: int, **changes: Any) -> dict[str, Any]:
    """Return the JSON object of one frame; None as a change removes the key."""
    valence, arousal = labels_of(number)
    frame = {"valence": valence, "arousal": arousal, "landmarks": landmarks(), **changes}
    return {key: value for key, value in frame.items() if value is not None}


def write_json(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write the JSON of a clip."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{folder.name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_clip(root: Path, name: str, actor: str, ids: Iterable[int] = range(6), first_number: int = 0) -> Path:
    """Write the folder of one clip: frame ``id`` shows ``first_number + id``."""
    ids = list(ids)
    folder = root / name
    frames = {f"{number:05d}": frame_of(first_number + number) for number in ids}
    write_json(folder, {"actor": actor, "frames": frames, "video_id": name})
    for number in ids:
        Image.fromarray(squeezed_number(first_number + number)).save(folder / f"{number:05d}.png")
    return folder


def write_afew_va(root: Path, num_folds: int = 3) -> Path:
    """Write two clips of six actors each with folds; clip ``00k`` shows numbers from 20 k."""
    for number in range(12):
        write_clip(root, f"{number + 1:03d}", ACTORS[number % 6], range(6), 20 * (number + 1))
    names = [f"{number + 1:03d}" for number in range(12)]
    folds = make_folds(names, [ACTORS[number % 6] for number in range(12)], num_folds, seed=0)
    write_fold_files(root, folds, seed=0, grouped_by="actor")
    return root


def edit_json(folder: Path, change: Any) -> None:
    """Apply ``change`` to the content of a clip's JSON."""
    path = folder / f"{folder.name}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
