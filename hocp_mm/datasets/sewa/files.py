"""Names, label csvs and ``metadata.ini`` of SEWA DB v0.2, one folder per segment.

- ``<root>/<KEY>/`` has ``<KEY>.avi``, ``<KEY>_{Valence,Arousal}_{A,V,AV}_Aligned.csv``, mostly ``<KEY>_Landmarks.zip``
- ``KEY`` is ``<segment>_C<culture>_S<conversation>_P<person>_VC1_<first frame>_<last frame>``
- ``metadata.ini`` is an index of the folder, with category, conversation, subject and demographics
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.media.files import parse_number, read_bytes, read_text
from hocp_mm.errors import DataError, MissingDataError

_KEY = re.compile(r"([A-Z]+)_C(\w+?)_S(\d+)_P(\d+)_VC\d+_(\d+)_(\d+)")
_COUNTED, _TIMED = ("frame",), ("time", "sec")


class SEWAKey(NamedTuple):
    """Parts of the name of a segment.

    Attributes:
        segment: SAH/SAL arousal, SVH/SVL valence (high/low), SSL/SSD like/dislike.
        culture: Free text, ``C1`` to ``C6`` in the release.
        conversation: The pair of people that talk, ``S055``. Splits keep it together.
        person: One of the two, ``P109``.
        first: First frame of the segment in the full recording.
        last: Last frame of it.
    """

    segment: str
    culture: str
    conversation: str
    person: str
    first: int
    last: int


def parse_sewa_key(key: str) -> SEWAKey:
    """Return the parts of the name of a segment.

    Args:
        key: Name of its folder.

    Returns:
        The parts.

    Raises:
        DataError: If it has another form.

    Example:
        >>> parse_sewa_key("SSL_C2_S055_P109_VC1_004803_005542").conversation
        'S055'
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise DataError(
            f"SEWA: a key must read like SSL_C2_S055_P109_VC1_004803_005542 (segment, culture, conversation, person, "
            f"recording, first and last frame), got {key!r}."
        )
    segment, culture, conversation, person, first, last = match.groups()
    return SEWAKey(segment, f"C{culture}", f"S{conversation}", f"P{person}", int(first), int(last))


def find_sewa_keys(root: str | Path) -> list[str]:
    """Return the sorted names of all segment folders below ``root``.

    Raises:
        MissingDataError: If ``root`` is no folder.
        DataError: If it holds no segment.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingDataError(f"{root}: no such folder.")
    keys = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and _KEY.fullmatch(folder.name))
    if not keys:
        raise DataError(f"{root}: must hold folders named like SSL_C2_S055_P109_VC1_004803_005542, got none.")
    return keys


def read_affect_csv(path: str | Path, dimension: str, first_frame: int = 0) -> tuple[NDArray[np.float64], int]:
    """Read the trace of one dimension, one value per frame.

    Commas or semicolons, LF or CRLF, byte order mark or not. A header is a first row with a cell that is no
    number. The column named like the dimension counts; without one, the mean of all columns after the first
    (files with one column per annotator). A column named like the *other* dimension is refused.

    Args:
        path: ``<KEY>_<Dimension>_<A|V|AV>_Aligned.csv``.
        dimension: ``"valence"`` or ``"arousal"``.
        first_frame: Number that the first row may bear instead of 0 (segments of a longer recording).

    Returns:
        Values in the units of the file, float64 ``[F]``, and the line number of the first one.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file holds no row, a row has another number of cells than the first, a cell is
            empty, no number or not finite, or the rows are not numbered 0, 1, 2, …
    """
    header, cells, first_line = _read_cells(Path(path))
    columns = _value_columns(path, header, len(cells[0]), dimension)
    table = np.empty((len(cells), len(cells[0])))
    for line, row in enumerate(cells, start=first_line):
        if len(row) != table.shape[1]:
            raise DataError(f"{path}: line {line} must have {table.shape[1]} cells, got {len(row)}.")
        for column, cell in enumerate(row):
            table[line - first_line, column] = _to_number(path, line, column, cell)
    _check_numbering(path, header[0] if header else "frame", table[:, 0], first_line, first_frame)
    return table[:, columns].mean(axis=1) if len(columns) > 1 else table[:, columns[0]], first_line


def _read_cells(path: Path) -> tuple[list[str], list[list[str]], int]:
    """Return header (empty if there is none), rows of stripped cells and the line number of the first row."""
    lines = read_text(path, "label file").rstrip().splitlines()
    separator = ";" if lines and ";" in lines[0] else ","
    rows = [[cell.strip() for cell in line.split(separator)] for line in lines]
    header = [cell.strip("'\"").lower() for cell in rows[0]] if rows and any(map(_is_word, rows[0])) else []
    rows = rows[1:] if header else rows
    if not rows:
        raise DataError(f"{path}: a label file must hold one row per frame, got none.")
    if header and len(header) != len(rows[0]):
        raise DataError(
            f"{path}: rows must have the {len(header)} cells of the header, but line 2 has {len(rows[0])}: are the "
            "decimals written with a comma?"
        )
    if len(rows[0]) < 2:
        raise DataError(f"{path}: rows must hold a frame number and a value, got {lines[0]!r}.")
    return header, rows, 2 if header else 1


def _value_columns(path: str | Path, header: list[str], width: int, dimension: str) -> list[int]:
    if dimension in header:
        return [header.index(dimension)]
    others = [name for name in ("valence", "arousal", "liking") if name in header]
    if others:
        raise DataError(f"{path}: a column must be named {dimension!r}, got {others[0]!r}: are two files swapped?")
    return list(range(1, width))


def _check_numbering(
    path: str | Path, name: str, numbers: NDArray[np.float64], first_line: int, first_frame: int
) -> None:
    steps = np.diff(numbers)
    if any(word in name for word in _TIMED) and not any(word in name for word in _COUNTED):
        if (steps <= 0).any():
            line = first_line + 1 + int(np.argmax(steps <= 0))
            raise DataError(f"{path}: times must increase, but line {line} does not.")
        return
    if (steps != 1).any():
        row = 1 + int(np.argmax(steps != 1))
        raise DataError(
            f"{path}: frames must be numbered without gaps, but line {first_line + row} has frame {numbers[row]:g} "
            f"after {numbers[row - 1]:g}."
        )
    if numbers[0] not in (0, first_frame):
        hint = " Is the file one-based? Which picture its first row belongs to is not known." if numbers[0] == 1 else ""
        allowed = f"0 or {first_frame}" if first_frame else "0"
        raise DataError(f"{path}: frames must be numbered from {allowed}, got {numbers[0]:g}.{hint}")


def _is_word(cell: str) -> bool:
    """Tell whether a cell is no number, not even ``nan`` or ``inf``."""
    try:
        float(cell)
    except ValueError:
        return True
    return False


def _to_number(path: str | Path, line: int, column: int, cell: str) -> float:
    value = parse_number(cell)
    if math.isnan(value):
        what = "is empty" if not cell else f"is {cell!r}"
        raise DataError(f"{path}: cells must be finite numbers, but line {line}, column {column + 1} {what}.")
    return value


class SEWAMetadata(NamedTuple):
    """What ``metadata.ini`` says of a segment.

    Attributes:
        category: Folder category, ``SAH`` and the like; empty if it does not say.
        conversation: Number of the conversation, None if it does not say.
        person: Number of the subject, None if it does not say.
        values: Everything, by lower-case ``(section, name)``; the section is empty above the first one.
    """

    category: str
    conversation: int | None
    person: int | None
    values: dict[tuple[str, str], str]


def read_sewa_metadata(path: str | Path) -> SEWAMetadata:
    """Read the ``metadata.ini`` of a segment.

    Only the line ``Category=…`` is known from a public reader of the real files, so little is asked of the rest:
    lines ``name=value`` (or ``name: value``) with or without ``[sections]``, repeated or not, and comments. Sections
    and names are not told apart by case.

    Args:
        path: The file.

    Returns:
        Category, numbers where they are stated as such, and all values.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no text, or holds no ``name=value`` line.
    """
    raw = read_bytes(path, "metadata file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # demographics may hold names of places; every byte has a meaning there
    values: dict[tuple[str, str], str] = {}
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip().lower()
        elif line and line[0] not in "#;" and (match := re.match(r"([^=:]+)[=:](.*)", line)):
            # The first of a repeated name counts, as a later one often is another episode's.
            values.setdefault((section, match.group(1).strip().lower()), match.group(2).strip().strip("\"'"))
    if not values or "\0" in text:
        raise DataError(f"{path}: must hold lines name=value, got {text[:40]!r}.")

    def find(*names: str) -> str:
        return next((value for (_, name), value in values.items() if name in names and value), "")

    conversation, person = (find(name, f"{name} number", f"{name}number") for name in ("conversation", "subject"))
    return SEWAMetadata(find("category"), _to_count(conversation), _to_count(person), values)


def _to_count(text: str) -> int | None:
    """Return the number in ``55``, ``S055`` or ``P109``, None where there is something else."""
    match = re.fullmatch(r"[SP]?0*(\d{1,18})", text, flags=re.IGNORECASE)
    return int(match.group(1)) if match else None


def contradictions(folder: Path, parts: SEWAKey) -> str:
    """Return what ``metadata.ini`` says otherwise than the name of the folder, as far as both can be compared.

    Meant for a warning, not for a fault: which of its numbers are those of the name is not verified on real files.

    Args:
        folder: Folder of a segment; it need not have the file.
        parts: Parts of its name.

    Returns:
        One line, empty if nothing contradicts.
    """
    try:
        metadata = read_sewa_metadata(folder / "metadata.ini")
    except MissingDataError:
        return ""
    except DataError as error:
        return str(error)
    told = []
    if metadata.category and metadata.category.upper() not in (parts.segment, parts.segment[1:]):  # SAH or AH
        told.append(f"category {metadata.category}, named {parts.segment}")
    for what, said, named in (
        ("conversation", metadata.conversation, parts.conversation),
        ("subject", metadata.person, parts.person),
    ):
        if said not in (None, int(named[1:])):
            told.append(f"{what} {said}, named {named}")
    return f"{folder.name} ({'; '.join(told)})" if told else ""
