"""Checks of AffectNet's rows beyond their own cells; each names what is wrong and drops the rows in place."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.affectnet_files import AffectNetRows
from hocp_mm.datasets.faults import Fault, attempt
from hocp_mm.datasets.image_frames import check_image

_THREADS = 8


def drop_out_of_range(rows: AffectNetRows, keep: NDArray[np.bool_], label_range: tuple[float, float]) -> list[Fault]:
    """Name kept rows whose labels lie outside the scale.

    Args:
        rows: All rows.
        keep: Kept rows, bool ``[N]``; changed.
        label_range: Lowest and highest value.

    Returns:
        One text per label.
    """
    low, high = label_range
    outside = keep[:, None] & ((rows.affect < low) | (rows.affect > high))
    faults: list[Fault] = []
    for row, column in np.argwhere(outside).tolist():
        name = ("valence", "arousal")[column]
        text = (
            f"{rows.where(row)}: {name} must lie in label_range ({low:g}, {high:g}) or be -2 (invalid), "
            f"got {rows.affect[row, column]:g}."
        )
        faults.append(Fault(text, "labels"))
    keep &= ~outside.any(axis=1)
    return faults


def drop_missing_files(rows: AffectNetRows, keep: NDArray[np.bool_]) -> list[Fault]:
    """Name kept rows without an image file; lists each folder once instead of asking for each file.

    Args:
        rows: All rows.
        keep: Kept rows, bool ``[N]``; changed.

    Returns:
        One text per row.
    """
    folders: dict[str, list[int]] = {}
    for row in np.flatnonzero(keep).tolist():
        folders.setdefault(rows.files[row].rpartition("/")[0], []).append(row)
    faults: list[Fault] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        listings = pool.map(lambda folder: _names(rows.images / folder), folders)
        for own, names in zip(folders.values(), listings, strict=True):
            for row in own:
                if rows.files[row].rpartition("/")[2] not in names:
                    text = f"{rows.images / rows.files[row]}: no such image file ({rows.where(row)})."
                    faults.append(Fault(text, "image missing"))
                    keep[row] = False
    return faults


def drop_damaged_images(rows: AffectNetRows, keep: NDArray[np.bool_], box: str | None) -> list[Fault]:
    """Check the image files of kept rows from the first byte to the last, and that faces lie in them.

    Args:
        rows: All rows.
        keep: Kept rows, bool ``[N]``; changed.
        box: Key of the boxes that images are cropped by, or None.

    Returns:
        One text per row.
    """
    kept = np.flatnonzero(keep).tolist()
    faults: list[Fault] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for row, found in zip(kept, pool.map(lambda row: _check_image(rows, row, box), kept), strict=True):
            faults += found
            keep[row] = not found
    return faults


def _check_image(rows: AffectNetRows, row: int, box: str | None) -> list[Fault]:
    faults: list[Fault] = []
    path = rows.images / rows.files[row]
    info = attempt(faults, "image", check_image, path)
    if info is None or box is None:
        return faults
    x1, y1, x2, y2 = rows.boxes[box][row].tolist()
    if x1 >= info.width or y1 >= info.height or x2 <= 0 or y2 <= 0:
        text = (
            f"{rows.where(row)}: the face must lie in the {info.width}x{info.height} image {path}, "
            f"got the box {[round(side, 1) for side in (x1, y1, x2, y2)]}."
        )
        faults.append(Fault(text, "faces"))
    return faults


def _names(folder: Path) -> frozenset[str]:
    """Return the names in a folder; none if it is missing or cannot be read, so that its files are missing."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()
