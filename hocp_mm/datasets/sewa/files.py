"""Names, label csvs, ``metadata.ini`` and landmarks of SEWA DB v0.2, one folder per segment.

- ``<root>/<KEY>/`` has ``<KEY>.avi``, ``<KEY>_{Valence,Arousal}_{A,V,AV}_Aligned.csv``, mostly ``<KEY>_Landmarks.zip``
- ``KEY`` is ``<segment>_C<culture>_S<conversation>_P<person>_VC1_<first frame>_<last frame>``
- ``metadata.ini`` is an index of the folder, with category, conversation, subject and demographics
- the zip holds 49 points per frame, one text file each
"""

import codecs
import io
import math
import re
import reprlib
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.reading import parse_number, read_bytes, read_text

_KEY = re.compile(r"([A-Z]+)_C(\w+?)_S(\d+)_P(\d+)_VC\d+_(\d+)_(\d+)")
_COUNTED, _TIMED = ("frame",), ("time", "sec")
# Words in the name of a column that is no annotator's; "second" may be the second annotator.
_NO_VALUES = {"frame", "frames", "time", "times", "timestamp", "timestamps", "sec", "secs", "seconds"}


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
    (files with one column per annotator) but those of times and frames. A column named like the *other* dimension is
    refused, as are two of one name.

    Args:
        path: ``<KEY>_<Dimension>_<A|V|AV>_Aligned.csv``.
        dimension: ``"valence"`` or ``"arousal"``.
        first_frame: Number that the first row may bear instead of 0 (segments of a longer recording).

    Returns:
        Values in the units of the file, float64 ``[F]``, and the line number of the first one.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file holds no row, a row has another number of cells than the first, a cell is
            empty, no number or not finite, the rows are not numbered 0, 1, 2, …, or no column is known to hold values.
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
    twice = [name for place, name in enumerate(header) if name and name in header[:place]]
    if twice:
        raise DataError(f"{path}: columns must have names of their own, got {reprlib.repr(twice[0])} more than once.")
    if dimension in header:
        return [header.index(dimension)]
    others = [name for name in ("valence", "arousal", "liking") if name in header]
    if others:
        raise DataError(f"{path}: a column must be named {dimension!r}, got {others[0]!r}: are two files swapped?")
    columns = [
        column
        for column in range(1, width)
        if not header or _NO_VALUES.isdisjoint(re.findall("[a-z]+", header[column]))
    ]
    if not columns:
        raise DataError(f"{path}: a column must be named {dimension!r}, got {reprlib.repr(header)}.")
    return columns


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


NUM_LANDMARKS = 49
_LARGEST_MEMBER = 1 << 16  # a frame takes 2 kB; a member that unpacks to gigabytes is damage, or an attack
_MOST_BYTES = 1 << 14  # of a frame in the mean of all: a zip may be a thousandth of what it unpacks to
_MOST_LINES = 1024  # of a frame; with head pose and eyes there are a hundred
_FARTHEST = 1e6  # pixels
_LEFTOVER = re.compile(r"(^|/)(__MACOSX/|\.[^/]*$)")  # what systems add when they pack a folder
_FRAME_NUMBER = re.compile(r"(\d+)[^\d./\\]*(?:\.\w+)?$")  # the last digits of the name before its suffix
_LONGEST_NAME = 1024  # in a zip it may have 65,535 characters, and the search above takes the square of its digits


def read_landmarks_zip(path: str | Path, num_frames: int, tolerance: int = 0) -> NDArray[np.float32]:
    """Read the 49 landmarks of every frame from a SEWA ``<KEY>_Landmarks.zip``.

    The bytes of the real files are not verified, so the reader asks for little: one text file per frame whose
    name ends in the frame number (zero-based; one-based where no file is numbered 0 and the last is numbered
    ``num_frames``), and in it one line of exactly 98 numbers x1 y1 … x49 y49, or else 49 lines of two
    numbers. Other lines (head pose, eyes) are passed over. A missing or empty file is a frame without a face,
    as are points that are not finite, or farther out than any picture is large.

    Args:
        path: Zip file.
        num_frames: Frames of the video.
        tolerance: Files beyond the end of the video that are passed over.

    Returns:
        Points in pixels, float32 ``[num_frames, 49, 2]``; NaN where there is no face.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no zip, a file in it has no number or no landmarks, two share a number, a number lies
            beyond the video, or there is more text than frames have.
    """
    raw = read_bytes(path, "landmarks file")
    landmarks = np.full((num_frames, 2 * NUM_LANDMARKS), np.nan, dtype=np.float32)
    left = _LARGEST_MEMBER + _MOST_BYTES * num_frames
    try:
        # From memory: a set has hundreds of thousands of members, and seeking in the file costs as much as parsing.
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for frame, name in _number_members(path, archive, num_frames, tolerance).items():
                content = _unpack(f"{path}:{name}", archive, name)
                left -= len(content)
                if left < 0:
                    raise DataError(f"{path}: frames must unpack to at most {_MOST_BYTES} bytes in the mean, got more.")
                points = _parse_landmarks(f"{path}:{name}", content)
                if points is not None:
                    landmarks[frame] = points
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted
        raise DataError(f"{path}: not a readable zip file ({error}).") from error
    landmarks[~(np.abs(landmarks) < _FARTHEST).all(axis=1)] = np.nan  # nor where one is NaN
    return landmarks.reshape(num_frames, NUM_LANDMARKS, 2)


def _number_members(path: str | Path, archive: zipfile.ZipFile, num_frames: int, tolerance: int) -> dict[int, str]:
    """Map zero-based frame numbers to the names of the files in the zip."""
    members: dict[int, str] = {}
    for name in archive.namelist():
        if name.endswith("/") or _LEFTOVER.search(name):
            continue
        match = None if len(name) > _LONGEST_NAME else _FRAME_NUMBER.search(name)
        if match is None:
            raise DataError(f"{path}: names in it must end in the frame number, got {reprlib.repr(name)}.")
        number = int(match.group(1))
        if number in members:
            raise DataError(f"{path}: frame {number} has two files, {members[number]!r} and {name!r}.")
        members[number] = name
    if members and 0 not in members and max(members) == num_frames:
        members = {number - 1: name for number, name in members.items()}
    if members and max(members) >= num_frames + tolerance:
        raise DataError(
            f"{path}: frame numbers must lie in the video of {num_frames} frames, got {members[max(members)]!r}."
        )
    return {number: name for number, name in members.items() if number < num_frames}


def _unpack(where: str, archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the content of a member, of which no more is unpacked than a frame may have."""
    with archive.open(name) as member:
        content = member.read(_LARGEST_MEMBER + 1)
    if len(content) > _LARGEST_MEMBER:
        raise DataError(f"{where}: a frame must unpack to at most {_LARGEST_MEMBER} bytes, got more.")
    return content


def _parse_landmarks(where: str, raw: bytes) -> list[float] | None:
    """Return x1 y1 … x49 y49, or None where the file is empty."""
    plain = raw.removeprefix(codecs.BOM_UTF8).replace(b",", b" ").replace(b";", b" ")
    lines = [cells for line in plain.splitlines() if (cells := line.split())]
    if len(lines) > _MOST_LINES:
        raise DataError(f"{where}: a frame must have at most {_MOST_LINES} lines, got {len(lines)}.")
    if not lines:
        return None
    rows = [row for cells in lines if len(cells) == 2 * NUM_LANDMARKS and (row := _numbers(cells))]
    pairs = [] if rows else [pair for cells in lines if len(cells) == 2 and (pair := _numbers(cells))]
    if len(rows) == 1:
        return rows[0]
    if not rows and len(pairs) == NUM_LANDMARKS:
        return [value for pair in pairs for value in pair]
    raise DataError(
        f"{where}: a frame must have one line of {2 * NUM_LANDMARKS} numbers or {NUM_LANDMARKS} lines of 2, "
        f"got {len(rows)} and {len(pairs)}."
    )


def _numbers(cells: list[bytes]) -> list[float] | None:
    """Return the numbers of a line, or None where it holds something else."""
    try:
        return list(map(float, cells))
    except ValueError:
        return None
