"""Small pictures, packs and stores with known content."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.store import (
    CropSettings,
    IndexRow,
    PackTable,
    StoreHeader,
    write_header,
    write_index,
    write_pack,
)

SIZE = 32


def picture(number: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Return a smooth picture in which no two pixels, channels or numbers are alike, RGB ``[size, size, 3]``."""
    y, x = np.mgrid[0:size, 0:size] / size
    layers = [x, y, (x + y) / 2]
    waves = [np.sin(2 * np.pi * (layer + number / 7 + place / 3)) for place, layer in enumerate(layers)]
    return np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def make_row(key: str, table: PackTable, pack: str | None = None, **changes: object) -> IndexRow:
    """Return a row whose labels repeat the frame number."""
    count = len(table)
    numbers = np.arange(count, dtype=np.float32)
    values: dict[str, object] = {
        "key": key,
        "pack": pack or key,
        "first_row": 0,
        "fps": 25.0,
        "subject": f"person of {key}",
        "expression": None,
        "affect": np.stack([numbers / 1000, -numbers / 1000], axis=1),
        "valid": table.sizes > 0,
        "face_found": table.sizes > 0,
        "boxes": np.stack([numbers, numbers, numbers + 10, numbers + 20], axis=1),
        "table": table,
    }
    return IndexRow(**(values | changes))  # pyright: ignore[reportArgumentType]


def write_store(
    folder: Path, records: dict[str, list[NDArray[np.uint8] | None]], crop: CropSettings, **header: object
) -> Path:
    """Write a store of given pictures without splits and return it."""
    (folder / "packs").mkdir(parents=True)
    rows = []
    for key, crops in records.items():
        table = write_pack(folder / "packs" / f"{key}.avi", crops, crop.size, 25.0, crop.codec, crop.quality)
        boxes = {"boxes": None} if crop.margin is None else {}
        rows.append(make_row(key, table, **boxes))
    values: dict[str, object] = {
        "dataset": "SEWADataset",
        "metainfo": {"dims": ["valence", "arousal"], "dataset_type": "SEWA"},
        "record_options": {"labels": "V", "label_range": [-1.0, 1.0], "faces": "landmarks"},
        "crop": crop,
        "counts": {"records": len(rows), "frames": sum(len(row.table) for row in rows)},
    }
    write_header(folder, StoreHeader(**(values | header)))  # pyright: ignore[reportArgumentType]
    write_index(folder / "index.npz", rows, crop)
    return folder
