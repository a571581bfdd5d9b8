"""Face boxes that a user gives in a JSON file, for videos without landmarks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError, MissingDataError


def read_boxes_file(path: Path) -> dict[str, Any]:
    """Read ``{KEY: box or list of boxes}`` without looking at the boxes yet.

    Args:
        path: JSON file.

    Returns:
        What the file holds for each key.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no JSON object.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such boxes file.")
    try:
        boxes = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}).") from error
    if not isinstance(boxes, dict):
        raise DataError(f"{path}: boxes_file must map keys to boxes, got a {type(boxes).__name__}.")
    return boxes


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
        raise DataError(f"{rule}, got {given!r}.")
    rows = given if isinstance(given[0], list) or given[0] is None else [given] * num_frames
    if len(rows) != num_frames:
        raise DataError(f"{rule}, got {len(rows)} for {num_frames} frames.")
    boxes = np.full((num_frames, 4), np.nan, dtype=np.float32)
    for frame, row in enumerate(rows):
        if row is None:
            continue
        numbers = isinstance(row, list) and len(row) == 4 and all(isinstance(x, int | float) for x in row)
        if not numbers or not np.isfinite(row).all() or not (row[0] < row[2] and row[1] < row[3]):
            raise DataError(f"{rule}, got {row!r} at frame {frame}.")
        boxes[frame] = row
    return boxes
