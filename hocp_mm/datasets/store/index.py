"""``index.npz``: all records of a store as columns.

A few arrays instead of a dict for each record: 300,000 images load at once, and forked data loader workers share them,
as nothing in an array is written by reading it. It is the last file of a store to be written.
"""

import json
import os
import re
import reprlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.crops import CropSettings
from hocp_mm.datasets.records.record import NO_EXPRESSIONS, PackedStrings, Record, RecordTable
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.files import replacing
from hocp_mm.system.reading import check_file

INDEX_NAME = "index.npz"
PACKS = "packs"
INDEX_VERSION = 1
_PACK_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # as `pack_name` makes them
STRING_COLUMNS = ("keys", "packs", "subjects")
RECORD_COLUMNS: dict[str, tuple[Any, ...]] = {
    "first_rows": (np.int64,),
    "num_frames": (np.int64,),
    "fps": (np.float64,),
    "expressions": (np.int16,),
}
FRAME_COLUMNS: dict[str, tuple[Any, ...]] = {  # kind, then the sizes of further axes
    "affect": (np.float32, 2),
    "valid": (np.bool_,),
    "face_found": (np.bool_,),
    "offsets": (np.int64,),
    "sizes": (np.int32,),
    "checksums": (np.uint32,),
}
OPTIONAL_COLUMNS: dict[str, tuple[Any, ...]] = {
    "times": (np.float64,),  # where frames of a video do not come evenly
    "weight": (np.float32,),  # where labels do not count alike
}
# What zipfile and numpy raise on a file with a changed byte.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
)


def read_index(path: str | Path) -> RecordTable:
    """Read an index; every byte of its arrays is checked against a CRC-32.

    Args:
        path: ``<store>/index.npz``.

    Returns:
        The records, whose files are the packs of the store.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is damaged, or its columns do not belong together.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(
            f"{path}: no such file, so the store is not finished; the command that prepares it completes it."
        )
    check_file(path, "index")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            check_unpacked(file, path.stat().st_size)
            columns = {name: file[name] for name in file.files}
        _check(columns)
        crop = CropSettings.from_json(json.loads(columns["crop"].tobytes()), str(path))
        return _table(path.parent, crop, columns)
    except DAMAGE as error:
        raise DataError(
            f"{path}: the index is damaged ({error}); copy it again, or prepare the store again."
        ) from error


def _table(store: Path, crop: CropSettings, columns: Mapping[str, NDArray[Any]]) -> RecordTable:
    keys, packs, subjects = (
        PackedStrings.from_arrays(columns[name], columns[f"{name}_ends"]) for name in STRING_COLUMNS
    )
    expressions = columns["expressions"]
    if not columns["has_expressions"][0]:
        expressions = np.full(len(expressions), NO_EXPRESSIONS)
    own = {
        "keys": keys,
        "filenames": PackedStrings([f"{name}.avi" for name in packs.tolist()]),
        "subjects": subjects,
        "expressions": expressions,
    }
    kept = ("num_frames", "fps", "boxes", *FRAME_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in columns))
    return RecordTable({**{name: columns[name] for name in kept}, **own}, f"{store / PACKS}{os.sep}", crop)


def check_unpacked(file: Any, size: int) -> None:
    """Refuse arrays that are larger than their file: we store them as they are, and packed zeros fill any memory.

    Raises:
        ValueError: Says how large.
    """
    total = sum(member.file_size for member in file.zip.infolist())
    if total > size:
        raise ValueError(f"its arrays must be stored as they are, got {total} bytes in a file of {size}")


def check_kinds(columns: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[Any, tuple[int, ...]]]) -> None:
    """Refuse arrays of another kind or shape.

    Args:
        columns: Arrays by name.
        expected: Kind and shape of each.

    Raises:
        ValueError: Says which.
    """
    for name, (kind, shape) in expected.items():
        if columns[name].dtype != kind or columns[name].shape != shape:
            got = f"{columns[name].dtype} {columns[name].shape}"
            raise ValueError(f"{name} must be {np.dtype(kind)} {shape}, got {got}")


def _check(columns: Mapping[str, NDArray[Any]]) -> None:
    """Refuse columns that do not belong together.

    Raises:
        ValueError: Says which.
    """
    strings = [name for text in STRING_COLUMNS for name in (text, f"{text}_ends")]
    names = {"format_version", "crop", "has_expressions", "boxes", *strings, *RECORD_COLUMNS, *FRAME_COLUMNS}
    if set(columns) - set(OPTIONAL_COLUMNS) != names:
        raise ValueError(f"columns must be {sorted(names)}, got {sorted(columns)}")
    if columns["format_version"].shape != (1,) or columns["format_version"].tolist() != [INDEX_VERSION]:
        raise ValueError(f"format_version must be {INDEX_VERSION}, got {reprlib.repr(columns['format_version'])}")
    count, frames = len(columns["num_frames"]), sum(columns["num_frames"].tolist())  # whole numbers do not overflow
    expected = {name: (kind, (count,)) for name, (kind,) in RECORD_COLUMNS.items()}
    expected |= {name: (kind, (frames, *axes)) for name, (kind, *axes) in FRAME_COLUMNS.items()}
    expected |= {f"{name}_ends": (np.int64, (count,)) for name in STRING_COLUMNS}
    expected |= {
        "boxes": (np.float32, (frames if len(columns["boxes"]) else 0, 4)),
        "has_expressions": (np.bool_, (1,)),
    }
    expected |= {name: (kind, (frames,)) for name, (kind,) in OPTIONAL_COLUMNS.items() if name in columns}
    check_kinds(columns, expected)
    if "times" in columns and not _increase(columns["times"], columns["num_frames"]):
        raise ValueError("times of a record must be finite and increase, or NaN where they are those of its rate")
    if (
        "weight" in columns
        and not (np.isnan(weight := columns["weight"]) | (np.isfinite(weight) & (weight >= 0))).all()
    ):
        raise ValueError("weight must be finite and 0 or more, or NaN in records whose labels count alike")
    if count == 0 or columns["num_frames"].min() < 1 or columns["sizes"].min() < 0 or columns["offsets"].min() < 0:
        raise ValueError("a record must have at least one frame, and offsets and sizes must not be negative")
    packs = PackedStrings.from_arrays(columns["packs"], columns["packs_ends"]).tolist()
    if odd := next((name for name in set(packs) if not _PACK_NAME.fullmatch(name)), None):
        raise ValueError(f"a pack must have the name of a file in {PACKS}, got {odd!r:.100}")


def _increase(times: NDArray[np.float64], num_frames: NDArray[np.int64]) -> bool:
    """Tell whether the times of each record increase from frame to frame; those of even frames are NaN."""
    within = np.ones(max(0, len(times) - 1), np.bool_)
    within[np.cumsum(num_frames)[:-1] - 1] = False
    even = np.isnan(times)
    step = (np.diff(times, prepend=-np.inf)[1:] > 0) | (even[1:] & even[:-1])
    return bool((step | ~within).all() and (even | np.isfinite(times)).all())


def write_index(path: str | Path, records: Iterable[Record], first_rows: Iterable[int], crop: CropSettings) -> None:
    """Write an index, whole or not at all; the same records give the same bytes.

    Args:
        path: ``<store>/index.npz``.
        records: The records, with ``pack``, and ``filename`` the pack.
        first_rows: Number of each record's first frame in its pack.
        crop: How their pictures were cut.

    Raises:
        ValueError: If there is no record, a key repeats, or arrays of a record have not one row per frame.
    """
    records = list(records)
    keys = [record.key for record in records]
    if not records or len(set(keys)) < len(keys):
        raise ValueError(f"write_index: keys must differ, got {len(set(keys))} of {len(keys)} ({path}).")
    for record in records:
        arrays = (record.affect, record.valid, record.face_found, record.pack or (), record.boxes)
        lengths = [record.num_frames, *(len(array) for array in arrays if array is not None)]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"write_index: {record.key!r} must have one row per frame in every array, got {lengths} ({path})."
            )
    table = RecordTable.of(records).columns
    columns: dict[str, Any] = {
        "format_version": np.array([INDEX_VERSION], dtype=np.int64),
        "crop": np.frombuffer(json.dumps(crop.to_json()).encode(), dtype=np.uint8),
        "has_expressions": np.array([any(record.expression is not None for record in records)]),
        "first_rows": list(first_rows),
        "num_frames": table["num_frames"],
        "fps": table["fps"],
        "expressions": np.maximum(table["expressions"], -1),
        "boxes": table["boxes"],
    }
    packs = PackedStrings([Path(record.filename).stem for record in records])
    for name, strings in zip(STRING_COLUMNS, (table["keys"], packs, table["subjects"]), strict=True):
        columns[name], columns[f"{name}_ends"] = strings.arrays()
    columns |= {name: table[name] for name in (*FRAME_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in table))}
    for name, (kind, *_) in {**RECORD_COLUMNS, **FRAME_COLUMNS}.items():
        columns[name] = np.asarray(columns[name], dtype=kind)
    with replacing(path, follow=False) as draft:
        np.savez(draft, **columns)
