"""Labels that a network gave to a video: the one home of their format.

``<name of the video>.csv``, such as ``a.mp4.csv``, has a row for every frame::

    frame,time_s,valence,arousal,face_found,confidence[,x1,y1,x2,y2]

Valence and arousal are empty, and confidence is 0, where nobody is seen; boxes, in pixels around the inner landmarks,
are empty there, too, and absent where the whole frame is the face. It is a timeline with more columns, so that
whatever draws one (`AffectTimeline.from_csv`) draws it.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.system.files import write_rows
from hocp_mm.system.reading import parse_number, read_text

COLUMNS = ("frame", "time_s", "valence", "arousal", "face_found", "confidence")
BOX = ("x1", "y1", "x2", "y2")
_MOST_FRAMES = 1 << 21  # of a video: a day of 24 a second


class TaughtLabels(NamedTuple):
    """What a network says of one person at a time in a video of F frames.

    Attributes:
        times: When each frame is shown, in seconds, float64 ``[F]``.
        affect: Valence and arousal in [-1, 1], float32 ``[F, 2]``, NaN rows where nobody is seen.
        face_found: Where a face was seen, not held or interpolated, bool ``[F]``.
        confidence: How far the label can be believed, in [0, 1], float32 ``[F]``, 0 where there is none.
        boxes: Where the face is, in pixels of the file, float32 ``[F, 4]``, NaN rows without one; None: whole frames.
    """

    times: NDArray[np.float64]
    affect: NDArray[np.float32]
    face_found: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    boxes: NDArray[np.float32] | None


def write_taught_csv(path: str | Path, labels: TaughtLabels) -> None:
    """Write the labels of a video; the file appears complete or not at all, in the place of a link, too.

    Args:
        path: CSV file; its folder is made.
        labels: What to write; numbers read back to the same ones.
    """
    affect, boxes = labels.affect, labels.boxes
    rows: list[list[str]] = [[*COLUMNS, *(() if boxes is None else BOX)]]
    for frame, time in enumerate(labels.times.tolist()):
        row = [str(frame), str(time), *_cells(affect[frame]), str(int(labels.face_found[frame]))]
        rows.append([*row, str(labels.confidence[frame]), *(() if boxes is None else _cells(boxes[frame]))])
    write_rows(path, rows, follow=False)


def _cells(numbers: NDArray[np.float32]) -> list[str]:
    return list(map(str, numbers)) if np.isfinite(numbers).all() else [""] * len(numbers)


def _read_rows(path: str | Path) -> list[list[str]]:
    """Read what is below the header; what is wrong ends it at once, as rows take a hundred times their bytes."""
    lines = read_text(path, "label file").removesuffix("\n").split("\n", _MOST_FRAMES + 1)
    if len(lines) > _MOST_FRAMES + 1:
        raise DataError(f"{path}: the label file must have at most {_MOST_FRAMES} rows, got more.")
    rows: list[list[str]] = []
    try:
        reader = csv.reader(lines)
        header = next(reader, [])
        if tuple(header) not in (COLUMNS, (*COLUMNS, *BOX)):
            raise DataError(
                f"{path}: the columns must be {','.join(COLUMNS)}[,{','.join(BOX)}], got {','.join(header):.100}."
            )
        for line, row in enumerate(reader, start=2):
            if len(row) != len(header):
                raise DataError(f"{path}, line {line}: must have {len(header)} cells, got {len(row)}.")
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}: the label file must be a CSV file ({error}).") from error
    if not rows:
        raise DataError(f"{path}: there must be a row for every frame, got none.")
    return rows


def read_taught_csv(path: str | Path) -> TaughtLabels:
    """Read the labels of a video.

    Args:
        path: CSV file.

    Returns:
        What `write_taught_csv` wrote.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If a column is missing, a frame is left out, or a cell is not what it must be; names the line.
    """
    rows = _read_rows(path)
    boxed = len(rows[0]) > len(COLUMNS)
    cells = np.array([[parse_number(cell) for cell in row] for row in rows])
    empty = np.array([[not cell for cell in row] for row in rows])
    frames, times, affect, found, confidence = cells[:, 0], cells[:, 1], cells[:, 2:4], cells[:, 4], cells[:, 5]
    unseen = np.isnan(affect)
    no_box = np.isnan(cells[:, 6:]) if boxed else unseen[:, :0]
    known = ~unseen.any(axis=1)
    rules = {
        "frame must count from 0": frames == np.arange(len(rows)),
        "time_s must be a number above that of the line before": np.diff(times, prepend=-np.inf) > 0,
        "valence and arousal must be two numbers from -1 to 1, or both empty": np.where(
            known, (np.abs(affect) <= 1).all(axis=1), empty[:, 2:4].all(axis=1)
        ),
        "face_found must be 0 or 1": np.isin(found, (0, 1)),
        "confidence must be a number from 0 to 1, and 0 without a label": (confidence >= 0)
        & (confidence <= known.astype(np.float64)),
        "a box must be x1 < x2 and y1 < y2, or four empty cells where there is no label": np.where(
            no_box.any(axis=1),
            empty[:, 6:].all(axis=1) & ~known,
            (cells[:, 6:8] < cells[:, 8:10]).all(axis=1) if boxed else True,
        ),
    }
    for rule, holds in rules.items():
        if not holds.all():
            line = int(np.argmin(holds)) + 2
            raise DataError(f"{path}, line {line}: {rule}, got {','.join(rows[line - 2]):.100}.")
    boxes = cells[:, 6:].astype(np.float32) if boxed else None
    return TaughtLabels(times, affect.astype(np.float32), found.astype(np.bool_), confidence.astype(np.float32), boxes)
