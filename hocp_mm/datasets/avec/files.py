"""Label files of the AVEC 2017, 2018 and 2019 challenges: chats of SEWA, rated ten times a second.

``labels/<Partition>[_<culture>]_<number>.csv`` with one row per label, all editions read by one reader:

    name;timestamp;arousal;valence;liking          (2019 has this header, 2017 and 2018 do not)
    'Devel_DE_01';0.000000;0.000000;0.000000;0.000000

**Arousal stands before valence.** Everything here returns (valence, arousal).
"""

import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.system.reading import parse_number, read_text

PARTITIONS = ("Train", "Devel", "Test")
HOP = 0.1
"""Seconds from one label to the next."""

Join = Literal["linear", "hold"]

_NAME = re.compile(r"(Train|Devel|Test)(?:_([A-Z]{2}))?_(\d+)")
_COLUMNS = ("name", "timestamp", "arousal", "valence", "liking")
# Times are printed with six decimals; half of the last one must not decide which label a frame gets.
_TIME_SLACK = 1e-6


class AVECName(NamedTuple):
    """Parts of the name of a recording.

    Attributes:
        partition: ``Train``, ``Devel`` or ``Test``.
        culture: ``DE``, ``HU`` or ``CN``; AVEC 2017 names none and is German only.
        number: Number within partition and culture.
    """

    partition: str
    culture: str
    number: int


def parse_avec_name(name: str) -> AVECName:
    """Return the parts of the name of a recording.

    Raises:
        DataError: If it has another form.

    Example:
        >>> parse_avec_name("Devel_HU_07"), parse_avec_name("Train_01").culture
        (AVECName(partition='Devel', culture='HU', number=7), 'DE')
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(f"AVEC: a name must read like Devel_DE_01 or, in 2017, Devel_01, got {name!r}.")
    partition, culture, number = match.groups()
    return AVECName(partition, culture or "DE", int(number))


def read_avec_csv(path: str | Path, hop: float | None = HOP) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Read the labels of one recording.

    Args:
        path: Label file, named as the recording.
        hop: Seconds from one label to the next, to a hundredth of it; None only asks that times increase.

    Returns:
        Times in seconds, float64 ``[R]``; (valence, arousal) in the units of the file, float64 ``[R, 2]``; and the
        line number of the first of them.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file holds no row, its columns are not those of AVEC, a cell is no finite number, a row
            bears the name of another recording, or the times do not follow ``hop``.
    """
    path = Path(path)
    header, rows, first_line = _read_rows(path)
    times, affect = np.empty(len(rows)), np.empty((len(rows), 2))
    columns = [header.index(name) for name in ("timestamp", "valence", "arousal")]
    for row, cells in enumerate(rows):
        line = first_line + row
        if len(cells) != len(header):
            raise DataError(
                f"{path}: line {line} must have {len(header)} cells ({';'.join(header)}), got {len(cells)}."
            )
        if cells[0] != path.stem:
            raise DataError(f"{path}: rows must bear the name of the file, but line {line} has {cells[0]!r}.")
        times[row], *affect[row] = (_to_number(path, line, header[column], cells[column]) for column in columns)
    _check_times(path, times, first_line, hop)
    return times, affect, first_line


def labels_at(
    times: NDArray[np.float64], affect: NDArray[np.floating], frame_times: NDArray[np.float64], join: Join = "linear"
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Give each frame the label of its time.

    ``"linear"`` interpolates between the labels before and after a frame; frames before the first or after the last
    label have none. ``"hold"`` takes the latest label up to the frame (sample and hold); a label holds until the
    next, the last one for as long as the one before it did.

    Args:
        times: Times of the labels in seconds, increasing, ``[R]``.
        affect: Labels ``[R, 2]``.
        frame_times: Times of the frames in seconds, ``[F]``.
        join: The rule.

    Returns:
        Labels of the frames, float32 ``[F, 2]``, 0 where there is none, and whether there is one, bool ``[F]``.

    Raises:
        ValueError: If the rule is unknown.

    Example:
        >>> labels, valid = labels_at(np.array([0.0, 0.1]), np.array([[0.0, 1.0], [0.5, 0.0]]), np.array([0.04, 0.12]))
        >>> labels.round(3).tolist()[0], valid.tolist()
        ([0.20000000298023224, 0.6000000238418579], [True, False])
    """
    if join not in ("linear", "hold"):
        raise ValueError(f"labels_at: join must be 'linear' or 'hold', got {join!r}.")
    latest = np.searchsorted(times, frame_times + _TIME_SLACK, side="right") - 1
    if join == "linear":
        valid = (latest >= 0) & (frame_times <= times[-1] + _TIME_SLACK)
        values = np.stack([np.interp(frame_times, times, column) for column in affect.T], axis=1)
    else:
        last_hold = times[-1] - times[-2] if len(times) > 1 else 0.0
        valid = (latest >= 0) & (frame_times < times[-1] + last_hold - _TIME_SLACK)
        valid |= np.abs(frame_times - times[-1]) <= _TIME_SLACK
        values = np.asarray(affect)[np.maximum(latest, 0)]
    return np.where(valid[:, None], values, 0).astype(np.float32), valid


def _read_rows(path: Path) -> tuple[list[str], list[list[str]], int]:
    """Return the names of the columns, the rows of cells without quotes and the line number of the first row."""
    lines = read_text(path, "label file").rstrip().splitlines()
    rows = [[cell.strip().strip("'\"") for cell in line.split(";")] for line in lines]
    has_header = bool(rows) and rows[0][0].lower() == "name"
    names: list[str] = [cell.lower() for cell in rows[0]] if has_header else list(_COLUMNS)
    rows = rows[1:] if has_header else rows
    if not rows:
        raise DataError(f"{path}: a label file must hold at least one row, got none.")
    if not has_header and len(rows[0]) == len(_COLUMNS) - 1:
        names = names[:-1]  # some copies leave liking out
    missing = [name for name in _COLUMNS[:4] if names.count(name) != 1]
    if missing or (not has_header and len(rows[0]) != len(names)):
        raise DataError(f"{path}: columns must be {';'.join(_COLUMNS)}, got {lines[0][:120]!r}.")
    return names, rows, 2 if has_header else 1


def _to_number(path: Path, line: int, column: str, cell: str) -> float:
    value = parse_number(cell)
    if not np.isfinite(value):
        what = "is empty" if not cell else f"is {cell!r}"
        raise DataError(f"{path}: cells must be finite numbers, but {column} in line {line} {what}.")
    return value


def _check_times(path: Path, times: NDArray[np.float64], first_line: int, hop: float | None) -> None:
    steps = np.diff(times)
    wrong = (steps <= 0) if hop is None else (np.abs(steps - hop) > hop / 100)
    if wrong.any():
        row = 1 + int(np.argmax(wrong))
        rule = "increase" if hop is None else f"lie {hop:g} s apart"
        raise DataError(
            f"{path}: labels must {rule}, but line {first_line + row} is at {times[row]:g} s "
            f"after {times[row - 1]:g} s."
        )
    if times[0] < 0:
        raise DataError(f"{path}: times must start at 0 or later, got {times[0]:g}.")
