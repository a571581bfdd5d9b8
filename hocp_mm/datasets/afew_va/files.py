"""The files of AFEW-VA: one folder of PNG frames per clip and one JSON with labels and 68 landmarks.

<root>/001/00000.png, 00001.png, …    <root>/001/001.json
{"actor": "…", "video_id": "001", "frames": {"00000": {"valence": -2, "arousal": 3, "landmarks": [[x, y] * 68]}}}
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.reading import read_json

NUM_LANDMARKS = 68
AFEW_VA_RANGE = (-10.0, 10.0)
"""Scale of the release: whole numbers from -10 to 10."""

_CLIP = re.compile(r"[0-9]{3}")
_FRAME = re.compile(r"[0-9]{5}")
_DIMENSIONS = ("valence", "arousal")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass
class AFEWVAClip:
    """What the JSON of one clip says, by frame id.

    Attributes:
        actor: The person, spaces tidied.
        affect: (valence, arousal) in units of the file.
        landmarks: Points in PNG pixels, float32 ``[68, 2]``; None where the list is empty.
        faults: Why a frame cannot be used; such a frame is in neither of the two above.
    """

    actor: str
    affect: dict[int, tuple[float, float]] = field(default_factory=dict)
    landmarks: dict[int, NDArray[np.float32] | None] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)


def find_afew_va_clips(root: str | Path) -> list[str]:
    """Return the sorted names of all clip folders: three digits. Others, as ``001_cropped``, are passed over.

    Args:
        root: Folder of the set.

    Returns:
        Names, ``"001"`` …

    Raises:
        MissingDataError: If ``root`` is no folder.
        DataError: If it holds no clip.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder.")
    clips = sorted(folder.name for folder in root.iterdir() if _CLIP.fullmatch(folder.name) and folder.is_dir())
    if not clips:
        raise DataError(
            f"{root}: must hold folders named by three digits, as 001/001.json and 001/00000.png, got none."
        )
    return clips


def find_frame_images(folder: str | Path) -> dict[int, str]:
    """Return the paths of a clip's frames, ``<five digits>.png``, by frame id; other files are passed over.

    Args:
        folder: Folder of the clip.

    Returns:
        Absolute path by id.

    Raises:
        DataError: If the folder cannot be read.
    """
    folder = Path(folder).absolute()
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError as error:
        raise DataError(f"{folder}: the folder of a clip cannot be read ({error.strerror or error}).") from error
    stems = {name.removesuffix(".png"): name for name in names if name.endswith(".png")}
    return {int(stem): str(folder / name) for stem, name in sorted(stems.items()) if _FRAME.fullmatch(stem)}


def read_afew_va_actor(path: str | Path) -> str:
    """Read the actor of one clip, the only thing that a split needs.

    Args:
        path: ``<clip>/<clip>.json``.

    Returns:
        The name, spaces tidied.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is no JSON object of this clip, or names no actor.
    """
    return _actor(Path(path), _read_object(Path(path)))


def read_afew_va_json(path: str | Path, label_range: tuple[float, float] = AFEW_VA_RANGE) -> AFEWVAClip:
    """Read the JSON of one clip. Frames are told apart by their id, whatever the order in the file.

    Args:
        path: ``<clip>/<clip>.json``.
        label_range: Lowest and highest label. On the scale of the release labels must be whole numbers too: labels
            that somebody has divided by ten lie inside it and would train a network on a tenth of its range.

    Returns:
        Labels, landmarks and faults of single frames.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file as a whole breaks a rule: no JSON, another clip's ``video_id``, no actor, ``frames``
            not a dict keyed by five-digit ids, or a key given twice.
    """
    path = Path(path)
    content = _read_object(path)
    clip = AFEWVAClip(_actor(path, content))
    frames = content.get("frames")
    if not isinstance(frames, dict) or not frames:
        got = f"a {type(frames).__name__}" if not isinstance(frames, dict) else "no frame"
        raise DataError(f"{path}: 'frames' must be a dict keyed by frame id ('00000': {{…}}), got {got}.")
    wrong = sorted(key for key in frames if not _FRAME.fullmatch(key))
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataError(f"{path}: frame ids must be five digits, got {wrong[0]!r}{more}.")
    for key in sorted(frames):
        number = int(key)
        try:
            affect = _affect(frames[key], label_range)
            points = _landmarks(frames[key])
        except DataError as error:
            clip.faults[number] = f"{path}: frame {key!r}: {error}"
            continue
        clip.affect[number], clip.landmarks[number] = affect, points
    return clip


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object, checked to belong to the folder that it lies in."""
    content = read_json(path, "label file")
    if not isinstance(content, dict):
        raise DataError(f"{path}: a clip's JSON must be an object with actor, frames, video_id, got {_kind(content)}.")
    if content.get("video_id") != path.parent.name:
        raise DataError(
            f"{path}: video_id must be the name of the folder, {path.parent.name!r}, got {content.get('video_id')!r}."
        )
    return content


def _actor(path: Path, content: dict[str, Any]) -> str:
    actor = content.get("actor")
    if not isinstance(actor, str) or not actor.strip():
        raise DataError(f"{path}: 'actor' must name the person, the only subject id of the set, got {actor!r}.")
    return " ".join(actor.split())


def _affect(frame: Any, label_range: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(frame, dict):
        raise DataError(f"must be an object with valence, arousal and landmarks, got {_kind(frame)}.")
    low, high = label_range
    values = []
    for name in _DIMENSIONS:
        value = frame.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _fits(value):
            raise DataError(f"{name} must be a number, got {value!r}.")
        if not low <= value <= high:
            raise DataError(f"{name} must lie in label_range ({low:g}, {high:g}), got {value!r}.")
        if tuple(label_range) == AFEW_VA_RANGE and value != int(value):
            raise DataError(
                f"{name} must be a whole number on the scale of -10 to 10, got {value!r} (labels on another scale "
                "need their own label_range)."
            )
        values.append(float(value))
    return values[0], values[1]


def _landmarks(frame: dict[str, Any]) -> NDArray[np.float32] | None:
    points = frame.get("landmarks")
    if points == []:
        return None
    if not isinstance(points, list) or len(points) != NUM_LANDMARKS:
        got = f"{len(points)} points" if isinstance(points, list) else _kind(points)
        raise DataError(f"landmarks must be {NUM_LANDMARKS} points [x, y] or an empty list, got {got}.")
    for point in points:
        pair = isinstance(point, list) and len(point) == 2
        if not pair or not all(type(x) in (int, float) and _fits(x) for x in point):
            raise DataError(f"landmarks must be finite points [x, y], got {point!r}.")
    return np.array(points, dtype=np.float32)


def _fits(value: float) -> bool:
    """Tell whether a number is finite in float32; NaN and whole numbers of hundreds of digits are not."""
    return -_LARGEST <= value <= _LARGEST


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
