"""The release of 2017: one csv file per part, and images by relative path.

    subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal
    689/737db2….jpg,134,134,899,899,181.64;530.91;…;,1,0.785714,-0.055556

The header may be absent. Paths may have backslashes, as in a file made on Windows. Cells may hold the text NULL;
``face_width`` is below 0 where there is no face; landmarks are 136 numbers (x, y of 68 points) whose separator is found
in the first row that has some; one image may have several rows, one for each face.
"""

import csv
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.affectnet.index import FILES, file_state, index_file, load_index, pack, save_index, unpack
from hocp_mm.datasets.affectnet.rows import (
    BOX_LAYOUT,
    LAST_CLASS,
    NO_EXPRESSION,
    NUM_LANDMARKS,
    AffectNetRows,
    box_columns,
)
from hocp_mm.datasets.records.faults import Fault
from hocp_mm.errors import DataError
from hocp_mm.system.reading import check_file, parse_number

COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
"""Columns of a file without header, in this order."""

_FILE, _LANDMARKS = COLUMNS[0], COLUMNS[5]
_NUMBERS = tuple(name for name in COLUMNS if name not in (_FILE, _LANDMARKS))
_LAYOUT = dict.fromkeys(_NUMBERS, ("float64", ())) | {"line": ("int64", ())}
_NULLS = frozenset(("NULL", "null", "Null", ""))
_NUL = "\udc00"  # stands for a zero byte; no UTF-8 text holds it
_CHUNK = 2048  # rows in memory at a time; the landmarks of a whole file are 400 MB of text
_LONGEST_LINE = 1 << 22  # characters
_MOST_FAULTS = 100_000
_NUMBERS_PER_ROW = 2 * NUM_LANDMARKS


def read_affectnet_csv(path: Path, images: Path, landmarks: bool, cache: bool = True) -> AffectNetRows:
    """Read a csv file, checking every cell.

    Args:
        path: ``training.csv`` or ``validation.csv``.
        images: Folder that its paths are relative to.
        landmarks: Also read the landmarks; only counted otherwise.
        cache: Keep what was read, and look for it: half a gigabyte of text takes some ten seconds. Only a reading
            without faults is kept.

    Returns:
        All rows without a fault.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is no such csv at all: no text, no row, a header without one of the columns.
    """
    check_file(path, "csv file")
    store = index_file(path, "landmarks" if landmarks else "boxes") if cache else None
    state = file_state(path) if store else ""
    known = None if store is None else load_index(store, state, _LAYOUT | (BOX_LAYOUT if landmarks else {}))
    if known is not None:
        return _rows(path, images, unpack(known[FILES]), known, [])
    parser = _Parser(path, landmarks)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for lines, table in _chunks(path, csv.reader(_lines(file), strict=True), parser.faults):
                parser.parse(lines, table)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a csv file must be UTF-8 text ({error.reason} at byte {error.start}).") from error
    except (csv.Error, OSError) as error:  # strict: a quote that is never closed would swallow the rest of the file
        raise DataError(f"{path}: not a readable csv file ({error}).") from error
    columns = parser.joined()
    if store is not None and not parser.faults:
        save_index(store, state, {**columns, FILES: pack(parser.files)})
    return _rows(path, images, parser.files, columns, parser.faults)


def _lines(file: TextIO) -> Iterator[str]:
    """Yield lines; one without an end would fill the memory, and at a zero byte Python 3.10's csv module would end."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise csv.Error(f"a line of {_LONGEST_LINE} characters or more")
        yield line if sys.version_info >= (3, 11) else line.replace("\0", _NUL)


def _chunks(path: Path, reader: Any, faults: list[Fault]) -> Iterator[tuple[list[int], dict[str, Sequence[str]]]]:
    """Yield line numbers and columns by name; rows with another number of cells are faults."""
    first = next((row for row in reader if row), None)
    if first is None:
        raise DataError(f"{path}: a csv file must hold one row per face, got none.")
    header = _header(path, first)
    names = header or list(COLUMNS)
    numbered = [] if header else [(reader.line_num, first)]
    numbered += [(reader.line_num, row) for row in islice(reader, _CHUNK)]
    if not numbered:
        raise DataError(f"{path}: a csv file must hold one row per face, got the header alone.")
    while numbered:
        if len(faults) > _MOST_FAULTS:
            raise DataError(f"{path}: must be a csv file of AffectNet, got more than {_MOST_FAULTS} odd lines.")
        good = []
        for line, row in numbered:
            if len(row) == len(names):
                good.append((line, row))
            elif row:  # an empty line is none
                text = f"{path}: line {line} must have {len(names)} cells, got {len(row)}."
                faults.append(Fault(path, text, "labels"))
        if good:
            lines, rows = zip(*good, strict=True)
            yield list(lines), dict(zip(names, zip(*rows, strict=True), strict=True))
        numbered = [(reader.line_num, row) for row in islice(reader, _CHUNK)]


def _header(path: Path, row: list[str]) -> list[str]:
    """Return the names of the columns if the row is a header, in the spelling of `COLUMNS`."""
    known = {name.lower(): name for name in COLUMNS}
    names = [known.get(cell.strip().lower(), cell.strip()) for cell in row]
    if not set(names) & set(COLUMNS):
        return []
    missing = [name for name in COLUMNS if name not in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if missing or twice:
        what = f"{', '.join(missing)} is missing" if missing else f"{', '.join(twice)} occurs twice"
        raise DataError(f"{path}: the header must name the columns {', '.join(COLUMNS)} once, but {what}.")
    return names


class _Parser:
    """Collect the columns of all chunks."""

    def __init__(self, path: Path, landmarks: bool) -> None:
        self.path = path
        self.landmarks = landmarks
        self.faults: list[Fault] = []
        self.files: list[str] = []
        self.separator: str | None = None
        self.columns: dict[str, list[NDArray[Any]]] = {}

    def parse(self, lines: list[int], table: dict[str, Sequence[str]]) -> None:
        """Take in one chunk."""
        good = np.ones(len(lines), dtype=np.bool_)
        values = {name: self._numbers(name, table[name], lines, good) for name in _NUMBERS}
        self._check_classes(values["expression"], table["expression"], lines, good)
        files = [file.strip().replace("\\", "/") for file in table[_FILE]]
        for row in np.flatnonzero([_leaves(file) for file in files]).tolist():
            file = str(table[_FILE][row]).replace(_NUL, "\0")
            self._fault(good, row, f"line {lines[row]}: a path must lie below the images, got {file!r}")
        points = self._landmarks(table[_LANDMARKS], lines, good)
        chunk = {**values, "line": np.array(lines, dtype=np.int64)}
        if points is not None:
            chunk |= box_columns(points.reshape(-1, NUM_LANDMARKS, 2))
        for name, column in chunk.items():
            self.columns.setdefault(name, []).append(column[good])
        self.files += [file for file, kept in zip(files, good, strict=True) if kept]

    def joined(self) -> dict[str, NDArray[Any]]:
        """Return the columns of all chunks."""
        if self.columns:
            return {name: np.concatenate(parts) for name, parts in self.columns.items()}
        empty: dict[str, NDArray[Any]] = {name: np.zeros(0) for name in (*_NUMBERS, "line")}
        return empty | (box_columns(np.zeros((0, NUM_LANDMARKS, 2))) if self.landmarks else {})

    def _fault(self, good: NDArray[np.bool_], row: int, text: str) -> None:
        """Name a fault; a row is named once."""
        if good[row]:
            self.faults.append(Fault(self.path, f"{self.path}: {text}.", "labels"))
            good[row] = False

    def _numbers(
        self, name: str, cells: Sequence[str], lines: list[int], good: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return a column; NULL is NaN, anything else that is no finite number is a fault."""
        null = np.fromiter((cell.strip() in _NULLS for cell in cells), np.bool_, len(cells))
        texts = ["nan" if empty else cell for cell, empty in zip(cells, null, strict=True)]
        values = _to_numbers(texts)
        for row in np.flatnonzero(~np.isfinite(values) & ~null).tolist():
            text = f"line {lines[row]}: {name} must be a finite number or NULL, got {cells[row]!r}"
            self._fault(good, row, text)
        return values

    def _check_classes(
        self, values: NDArray[np.float64], cells: Sequence[str], lines: list[int], good: NDArray[np.bool_]
    ) -> None:
        wrong = ~np.isnan(values) & ((values != np.round(values)) | (values < 0) | (values > LAST_CLASS))
        for row in np.flatnonzero(wrong).tolist():
            text = f"line {lines[row]}: expression must be a class from 0 to {LAST_CLASS}, got {cells[row]!r}"
            self._fault(good, row, text)

    def _landmarks(self, cells: Sequence[str], lines: list[int], good: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """Count the landmarks of every row and, if asked for, return them, ``[n, 136]``, NaN without any."""
        texts = [cell.strip(" \t;,|") for cell in cells]
        given = np.fromiter((text not in _NULLS for text in texts), np.bool_, len(texts))
        if self.separator is None and given.any():
            found = re.search(r"\s*([;,|])|\s", texts[int(np.argmax(given))])
            self.separator = (found[1] or " ") if found else ";"
        separator = self.separator or ";"
        counts = [len(text.split()) if separator == " " else text.count(separator) + 1 for text in texts]
        for row in np.flatnonzero(given & (np.array(counts) != _NUMBERS_PER_ROW)).tolist():
            rule = f"facial_landmarks must be {_NUMBERS_PER_ROW} numbers with {separator!r} between them or NULL"
            self._fault(good, row, f"line {lines[row]}: {rule}, got {counts[row]}")
            given[row] = False
        if not self.landmarks:
            return None
        points = np.full((len(texts), _NUMBERS_PER_ROW), np.nan)
        used = np.flatnonzero(given).tolist()
        numbers = {row: texts[row].split(None if separator == " " else separator) for row in used}
        values = _to_numbers([number for row in numbers.values() for number in row]).reshape(-1, _NUMBERS_PER_ROW)
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1))
        for row, point, good_point in zip(used, values, finite, strict=True):
            if good_point:
                points[row] = point
            else:
                bad = numbers[row][int(np.argmax(~np.isfinite(point)))]
                self._fault(good, row, f"line {lines[row]}: landmarks must be finite numbers, got {bad!r}")
        return points


def _rows(
    path: Path, images: Path, files: list[str], columns: Mapping[str, NDArray[Any]], faults: list[Fault]
) -> AffectNetRows:
    """Bring the columns into the form that both releases share."""
    x, y, width, height = (columns[f"face_{name}"] for name in ("x", "y", "width", "height"))
    box = np.stack([x, y, x + width, y + height], axis=1).astype(np.float32)
    box[~((width > 0) & (height > 0)) | np.isnan(box).any(axis=1)] = np.nan
    return AffectNetRows(
        source=path,
        images=images,
        files=files,
        lines=columns["line"].astype(np.int64),
        expression=np.nan_to_num(columns["expression"], nan=NO_EXPRESSION).astype(np.int16),
        affect=np.stack([columns["valence"], columns["arousal"]], axis=1),
        boxes={"box": box, **{name: columns[name] for name in ("landmarks", "inner") if name in columns}},
        faults=faults,
    )


def _leaves(file: str) -> bool:
    """Tell whether a path is empty, absolute (a drive of Windows, too), climbs out, or cannot be one (NUL)."""
    if ".." not in file and "\0" not in file and _NUL not in file and file[:1].isalnum() and file[1:2] != ":":
        return False
    path = PurePosixPath(file)
    return (
        not path.parts or path.is_absolute() or file[1:2] == ":" or ".." in path.parts or "\0" in file or _NUL in file
    )


def _to_numbers(texts: list[str]) -> NDArray[np.float64]:
    """Return numbers, NaN for anything else; all at once where they are plain, as there are 50 million of them."""
    joined = "".join(texts)
    if joined.isascii() and "_" not in joined:
        try:
            return np.array(texts, dtype=np.float64)
        except ValueError:
            return np.array([parse_number(text) for text in texts])
    return np.array([parse_number(text) for text in texts])
