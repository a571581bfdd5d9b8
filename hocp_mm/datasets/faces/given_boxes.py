"""Face boxes that a user gives in a JSON file, for videos without landmarks."""

import reprlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.system.reading import read_json

_SEEN = 0.5


def read_boxes_file(path: Path) -> dict[str, Any]:
    """Read ``{KEY: box or list of boxes}`` without looking at the boxes yet.

    Args:
        path: JSON file.

    Returns:
        What the file holds for each key.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no JSON object, or names a key twice.
    """
    boxes = read_json(path, "boxes file", _to_int)
    if not isinstance(boxes, dict):
        raise DataError(f"{path}: boxes_file must map keys to boxes, got a {type(boxes).__name__}.")
    return boxes


def _to_int(digits: str) -> float:
    """Keep whole numbers whole, but for those that no array could take."""
    return int(digits) if len(digits) < 16 else float(digits)


def expand_boxes(path: Path, key: str, given: Any, num_frames: int) -> NDArray[np.float32]:
    """Return one box per frame, NaN rows where the file says null.

    Args:
        path: File that the boxes come from, for the message.
        key: Name of the video, for the message.
        given: ``[x1, y1, x2, y2]`` for all frames, or one such list (or None) per frame.
        num_frames: Frames of the video.

    Returns:
        Boxes in pixels, float32 ``[num_frames, 4]``.

    Raises:
        DataError: If ``given`` is neither, or a box has no area.
    """
    rule = f"{path}: {key!r} must have a box [x1, y1, x2, y2] with x1 < x2 and y1 < y2, or one (or null) per frame"
    if not isinstance(given, list) or not given:
        raise DataError(f"{rule}, got {reprlib.repr(given)}.")
    rows = given if isinstance(given[0], list) or given[0] is None else [given] * num_frames
    if len(rows) != num_frames:
        raise DataError(f"{rule}, got {len(rows)} for {num_frames} frames.")
    boxes = np.full((num_frames, 4), np.nan, dtype=np.float32)
    for frame, row in enumerate(rows):
        if row is None:
            continue
        numbers = isinstance(row, list) and len(row) == 4 and all(type(x) in (int, float) for x in row)
        if not numbers or not np.isfinite(row).all() or not (row[0] < row[2] and row[1] < row[3]):
            raise DataError(f"{rule}, got {reprlib.repr(row)} at frame {frame}.")
        boxes[frame] = row
    return boxes


def check_boxes_inside(boxes: NDArray[np.float32], width: int, height: int, source: str | Path, name: str) -> None:
    """Refuse boxes that lie beside the frame, or for the most part outside of it in most frames.

    A face may leave the picture now and then; where it seems to be outside all the time, landmarks and frames are not
    of one size: a video was made smaller, its landmarks were not.

    Args:
        boxes: ``[F, 4]`` in pixels, NaN rows without a face.
        width: Pixels of a frame.
        height: Pixels of a frame.
        source: File that they come from, for the message.
        name: Name of the video, for the message.

    Raises:
        DataError: Names the first frame.
    """
    size = np.array([width, height], dtype=np.float64)
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    seen = np.prod(np.clip(high, 0, size) - np.clip(low, 0, size), axis=1)
    beside = (low >= size).any(axis=1) | (high <= 0).any(axis=1)
    if beside.any():
        frame = int(np.argmax(beside))
        raise DataError(
            f"{source}: faces must lie in the {width}x{height} frame, but {name} frame {frame} has the box "
            f"{boxes[frame].tolist()}."
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        share = seen / np.prod(high - low, axis=1)
    known = np.isfinite(share)
    if known.any() and float(np.median(share[known])) < _SEEN:
        frame = int(np.argmax(known & (share < _SEEN)))
        raise DataError(
            f"{source}: at least half of the face must lie in the {width}x{height} frame, but in most frames of {name} "
            f"it does not (frame {frame} has the box {boxes[frame].tolist()}); was the video made smaller?"
        )
