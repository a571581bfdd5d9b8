"""``index.npz``: all records of a store as columns.

A few arrays instead of a dict for each record: 300,000 images load at once, and forked data loader workers share them,
as nothing in an array is written by reading it.
"""

import json
import re
import reprlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.packed_strings import PackedStrings
from hocp_mm.datasets.source_files import check_file
from hocp_mm.datasets.store.pack import PackTable
from hocp_mm.datasets.store.settings import CropSettings
from hocp_mm.errors import DataError, MissingDataError

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
    SyntaxError,
    struct.error,
    tokenize.TokenError,
)


class StoreIndex:
    """The records of a store; `read_index` makes it.

    Args:
        folder: Folder of the store.
        crop: How the pictures were cut.
        columns: Arrays as in the file.
    """

    def __init__(self, folder: Path, crop: CropSettings, columns: dict[str, NDArray[Any]]) -> None:
        self.folder = folder
        self.crop = crop
        strings = (PackedStrings.from_arrays(columns[name], columns[f"{name}_ends"]) for name in STRING_COLUMNS)
        self._keys, self._packs, self._subjects = strings
        self._columns = {name: columns[name] for name in (*RECORD_COLUMNS, *FRAME_COLUMNS, "boxes")}
        self._has_expressions = bool(columns["has_expressions"][0])
        self._starts = np.concatenate([[0], np.cumsum(columns["num_frames"])])

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._keys)

    @property
    def total_frames(self) -> int:
        """Frames of all records."""
        return int(self._starts[-1])

    @property
    def expressions(self) -> NDArray[np.int16]:
        """Class of each record, -1 for none, int16 ``[R]``."""
        return self._columns["expressions"]

    def keys(self) -> list[str]:
        """Return the name of each record, as new strings."""
        return self._keys.tolist()

    @property
    def identity(self) -> int:
        """A checksum of keys, lengths, labels and pictures: two indices that agree in it give the same samples."""
        mark = zlib.crc32(self._keys.arrays()[0].tobytes())
        for name in ("num_frames", "affect", "valid", "checksums"):
            mark = zlib.crc32(np.ascontiguousarray(self._columns[name]).tobytes(), mark)
        return mark

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """Length of each record, int64 ``[R]``."""
        return self._columns["num_frames"]

    def subjects(self) -> list[str]:
        """Return whom splits keep together, for each record, as new strings."""
        return self._subjects.tolist()

    def record(self, row: int) -> dict[str, Any]:
        """Return a fresh record as it enters a pipeline.

        Args:
            row: Number of the record.

        Returns:
            The keys of `AffectDataset`'s records, with ``filename`` the pack, and besides ``pack``, the `PackTable`
            of the record's frames, and ``crop``, the `CropSettings` of the store.
        """
        frames = slice(int(self._starts[row]), int(self._starts[row + 1]))
        part = {name: self._columns[name][frames].copy() for name in FRAME_COLUMNS}
        boxes = self._columns["boxes"][frames]
        record = {
            "video": self._keys[row],
            "filename": str(self.folder / PACKS / f"{self._packs[row]}.avi"),
            "num_frames": frames.stop - frames.start,
            "fps": float(self._columns["fps"][row]),
            "subject": self._subjects[row],
            "affect": part["affect"],
            "valid": part["valid"],
            "boxes": boxes.copy() if np.isfinite(boxes).any() else None,
            "face_found": part["face_found"],
            "pack": PackTable(part["offsets"], part["sizes"], part["checksums"]),
            "crop": self.crop,
        }
        return record | ({"expression": int(self.expressions[row])} if self._has_expressions else {})


def read_index(path: str | Path) -> StoreIndex:
    """Read an index; every byte of its arrays is checked against a CRC-32.

    Args:
        path: ``<store>/index.npz``.

    Returns:
        The index.

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
        return StoreIndex(path.parent, crop, columns)
    except DAMAGE as error:
        raise DataError(
            f"{path}: the index is damaged ({error}); copy it again, or prepare the store again."
        ) from error


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
    if set(columns) != names:
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
    check_kinds(columns, expected)
    if count == 0 or columns["num_frames"].min() < 1 or columns["sizes"].min() < 0 or columns["offsets"].min() < 0:
        raise ValueError("a record must have at least one frame, and offsets and sizes must not be negative")
    packs = PackedStrings.from_arrays(columns["packs"], columns["packs_ends"]).tolist()
    if odd := next((name for name in set(packs) if not _PACK_NAME.fullmatch(name)), None):
        raise ValueError(f"a pack must have the name of a file in {PACKS}, got {odd!r:.100}")
