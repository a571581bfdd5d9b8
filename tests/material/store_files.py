"""Small pictures, packs and stores with known content."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets import iter_frames, read_image
from hocp_mm.datasets.faces.crops import crop_frame, squares_of
from hocp_mm.datasets.records.dataset import AffectDataset
from hocp_mm.datasets.records.record import Record
from hocp_mm.datasets.splits import write_split_files
from hocp_mm.datasets.store import (
    CropSettings,
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


def make_record(key: str, table: PackTable, pack: str | None = None, **changes: object) -> Record:
    """Return a record of a store whose labels repeat the frame number."""
    count = len(table)
    numbers = np.arange(count, dtype=np.float32)
    values: dict[str, object] = {
        "key": key,
        "filename": f"{pack or key}.avi",
        "num_frames": count,
        "fps": 25.0,
        "subject": f"person of {key}",
        "affect": np.stack([numbers / 1000, -numbers / 1000], axis=1),
        "valid": table.sizes > 0,
        "face_found": table.sizes > 0,
        "boxes": np.stack([numbers, numbers, numbers + 10, numbers + 20], axis=1),
        "pack": table,
    }
    return Record(**(values | changes))  # pyright: ignore[reportArgumentType]


def write_store(
    folder: Path,
    records: Mapping[str, Sequence[NDArray[np.uint8] | None]],
    crop: CropSettings,
    subjects: Mapping[str, str] | None = None,
    **header: object,
) -> Path:
    """Write a store of given pictures without splits and return it."""
    (folder / "packs").mkdir(parents=True)
    rows: list[Record] = []
    for key, crops in records.items():
        table = write_pack(folder / "packs" / f"{key}.avi", crops, crop.size, 25.0, crop.codec, crop.quality)
        changes: dict[str, object] = {"boxes": None} if crop.margin is None else {}
        rows.append(make_record(key, table, **changes, subject=(subjects or {}).get(key, f"person of {key}")))
    values: dict[str, object] = {
        "dataset": "SEWADataset",
        "metainfo": {"dims": ["valence", "arousal"], "dataset_type": "SEWA"},
        "record_options": {"labels": "V", "label_range": [-1.0, 1.0], "faces": "landmarks"},
        "crop": crop,
        "counts": {"records": len(rows), "frames": sum(row.num_frames for row in rows)},
    }
    write_header(folder, StoreHeader(**(values | header)))  # pyright: ignore[reportArgumentType]
    write_index(folder / "index.npz", rows, [0] * len(rows), crop)
    return folder


def store_of(folder: Path, parts: Mapping[str, AffectDataset], settings: CropSettings) -> Path:
    """Write a store of raw data sets in the simplest way: frame after frame, one pack a record, images in one."""
    (folder / "packs").mkdir(parents=True)
    rows: list[Record] = []
    first_rows: list[int] = []
    for part, dataset in parts.items():
        records = list(dataset.load_records())
        write_split_files(folder / "splits", {part: [record.key for record in records]}, seed=0)
        images = all(record.num_frames == 1 for record in records)
        for name, group in [(part, records)] if images else [(record.key, [record]) for record in records]:
            crops = [crop for record in group for crop in _crops(record, settings)]
            path = folder / "packs" / f"{name}.avi"
            table = write_pack(path, crops, settings.size, 25.0, settings.codec, settings.quality)
            first = 0
            for record in group:
                last = first + record.num_frames
                rows.append(replace(record, filename=str(path), frame_files=None, pack=table.part(first, last)))
                first_rows.append(first)
                first = last
    one = next(iter(parts.values()))
    counts = {"records": len(rows), "frames": sum(row.num_frames for row in rows)}
    metainfo = json.loads(json.dumps({**one.metainfo, **one.facts}))
    write_header(folder, StoreHeader(type(one).__name__, metainfo, one.record_options(), settings, counts))
    write_index(folder / "index.npz", rows, first_rows, settings)
    (folder / "report.csv").write_text("kind,file,text\n")
    return folder


def _crops(record: Record, settings: CropSettings) -> Iterator[NDArray[np.uint8] | None]:
    aspect, files = record.pixel_aspect, record.frame_files
    squares = squares_of(record.boxes, aspect, settings.margin, settings.smooth, record.fps)
    frames = iter_frames(record.filename) if files is None else (read_image(file) if file else None for file in files)
    for index, frame in zip(range(record.num_frames), frames, strict=False):
        yield None if frame is None else crop_frame(frame, squares, index, aspect, settings.size)
