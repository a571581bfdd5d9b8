"""Writing ``index.npz``, the last file of a store."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.packed_strings import PackedStrings
from hocp_mm.datasets.store.index import FRAME_COLUMNS, INDEX_VERSION, RECORD_COLUMNS, STRING_COLUMNS
from hocp_mm.datasets.store.pack import PackTable
from hocp_mm.datasets.store.settings import CropSettings
from hocp_mm.files import replacing

_NO_EXPRESSION = -1


@dataclass(frozen=True)
class IndexRow:
    """One record on its way into an index.

    Attributes:
        key: Name of the record, unique.
        pack: Name of its pack, without folder and suffix.
        first_row: Number of its first frame in the pack.
        fps: Frames per second.
        subject: Whom splits keep together.
        expression: Class of the whole record, -1 for none; None where the data set has no expressions.
        affect: (valence, arousal) in [-1, 1], ``[F, 2]``.
        valid: Frames that count, ``[F]``.
        face_found: Frames with a face, ``[F]``.
        boxes: Tight face boxes in pixels of the source, ``[F, 4]``, NaN rows without a face; None for whole frames.
        table: Where the pictures lie, F rows.
    """

    key: str
    pack: str
    first_row: int
    fps: float
    subject: str
    expression: int | None
    affect: NDArray[np.float32]
    valid: NDArray[np.bool_]
    face_found: NDArray[np.bool_]
    boxes: NDArray[np.float32] | None
    table: PackTable

    def __post_init__(self) -> None:
        """Refuse columns of different lengths.

        Raises:
            ValueError: If the arrays do not have one row per frame.
        """
        arrays = (self.affect, self.valid, self.face_found, self.table, *(() if self.boxes is None else (self.boxes,)))
        lengths = [len(array) for array in arrays]
        if len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(f"IndexRow: {self.key!r} must have one row per frame in every array, got {lengths}.")

    @classmethod
    def from_record(cls, record: Mapping[str, Any], pack: str, first_row: int, table: PackTable) -> "IndexRow":
        """Return the row of a record of a raw data set (see `AffectDataset`).

        Args:
            record: With its boxes and ``face_found`` as they were used.
            pack: Name of the pack.
            first_row: Number of the record's first frame in the pack.
            table: Where the pictures lie, one row per frame of the record.

        Returns:
            The row.
        """
        return cls(
            key=record["video"],
            pack=pack,
            first_row=first_row,
            fps=record["fps"],
            subject=record["subject"],
            expression=record.get("expression"),
            affect=record["affect"],
            valid=record["valid"],
            face_found=record["face_found"],
            boxes=record["boxes"],
            table=table,
        )


def write_index(path: str | Path, rows: Iterable[IndexRow], crop: CropSettings) -> None:
    """Write an index, whole or not at all; the same rows give the same bytes.

    Args:
        path: ``<store>/index.npz``.
        rows: The records.
        crop: How their pictures were cut.

    Raises:
        ValueError: If there is no row, or a key repeats.
    """
    rows = list(rows)
    keys = [row.key for row in rows]
    if not rows or len(set(keys)) < len(keys):
        raise ValueError(f"write_index: keys must differ, got {len(set(keys))} of {len(keys)} ({path}).")
    columns: dict[str, Any] = {
        "format_version": np.array([INDEX_VERSION], dtype=np.int64),
        "crop": np.frombuffer(json.dumps(crop.to_json()).encode(), dtype=np.uint8),
        "has_expressions": np.array([any(row.expression is not None for row in rows)]),
        "first_rows": [row.first_row for row in rows],
        "num_frames": [len(row.table) for row in rows],
        "fps": [row.fps for row in rows],
        "expressions": [_NO_EXPRESSION if row.expression is None else row.expression for row in rows],
        "boxes": _join_boxes(rows),
    }
    for name, strings in zip(
        STRING_COLUMNS, (keys, [row.pack for row in rows], [row.subject for row in rows]), strict=True
    ):
        columns[name], columns[f"{name}_ends"] = PackedStrings(strings).arrays()
    for name in ("affect", "valid", "face_found"):
        columns[name] = np.concatenate([getattr(row, name) for row in rows])
    for name in ("offsets", "sizes", "checksums"):
        columns[name] = np.concatenate([getattr(row.table, name) for row in rows])
    for name, (kind, *_) in {**RECORD_COLUMNS, **FRAME_COLUMNS}.items():
        columns[name] = np.asarray(columns[name], dtype=kind)
    with replacing(path, follow=False) as draft:
        np.savez(draft, **columns)


def _join_boxes(rows: list[IndexRow]) -> NDArray[np.float32]:
    """Return the boxes of all frames, or no row where all records show whole frames."""
    if all(row.boxes is None for row in rows):
        return np.empty((0, 4), dtype=np.float32)
    none = np.full((1, 4), np.nan, dtype=np.float32)
    parts = [np.broadcast_to(none, (len(row.table), 4)) if row.boxes is None else row.boxes for row in rows]
    return np.concatenate(parts).astype(np.float32)
