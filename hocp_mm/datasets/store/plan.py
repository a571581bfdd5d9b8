"""Which packs a store has, what they are called, and what its index says about their records."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hocp_mm.datasets.faces.crops import CropSettings
from hocp_mm.datasets.media.pack import PackTable
from hocp_mm.datasets.records.record import Record
from hocp_mm.datasets.store.task import PackJob, PackResult, read_facts
from hocp_mm.errors import DataError

# Names in which no two different keys can meet, not even where a file system takes "a" for "A".
_PLAIN = re.compile(r"[A-Z0-9_-]{1,100}")
_READABLE = 60
_HASH = 16


def pack_name(key: str) -> str:
    """Return the name of the pack of a record, without suffix.

    A key of capitals, digits, ``_`` and ``-`` is its own name. Any other one is followed by a hash of it, and what
    files may not hold is replaced by ``_``.

    Args:
        key: Name of a record.

    Returns:
        A name of ASCII letters, digits, ``_``, ``-`` and ``.`` that depends on the key alone.

    Example:
        >>> pack_name("SAH_C2_S047_P093_VC1_000538_001078")
        'SAH_C2_S047_P093_VC1_000538_001078'
        >>> pack_name("video/5 left")
        'video_5_left.5add531645713bb1'
    """
    if _PLAIN.fullmatch(key):
        return key
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:_HASH]
    return f"{re.sub('[^A-Za-z0-9_-]', '_', key)[:_READABLE]}.{digest}"


def part_name(part: str, number: int) -> str:
    """Return the name of a pack of images, without suffix.

    Args:
        part: Name of the part, ``train`` or ``val``.
        number: Number of the pack in it, from 0.

    Returns:
        The name; no key of a record gives the same one.

    Example:
        >>> part_name("train", 3)
        'train.00003'
    """
    return f"{part}.{number:05d}"


def with_unique_keys(parts: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """Return records whose keys differ over all parts: as they are, or where two share one, all as ``<part>/<key>``.

    Args:
        parts: Records by part.

    Returns:
        Records by part, in the same order.

    Raises:
        DataError: If a part has a key twice.
    """
    for part, records in parts.items():
        for key, count in Counter(record.key for record in records).items():
            if count > 1:
                raise DataError(f"{part}: a record may be there once, got {key!r} more than once.")
    keys = {record.key for records in parts.values() for record in records}
    if len(keys) == sum(map(len, parts.values())):
        return {part: list(records) for part, records in parts.items()}
    return {part: [replace(record, key=f"{part}/{record.key}") for record in parts[part]] for part in parts}


def plan_packs(parts: Mapping[str, Sequence[Record]], images_per_pack: int) -> list[PackJob]:
    """Divide records into packs: a pack for a video, one for every so many images of a part.

    Args:
        parts: Records by part, with keys that differ (see `with_unique_keys`).
        images_per_pack: Images in a pack, at most.

    Returns:
        Packs of different names, in the order of the parts.
    """
    jobs: list[PackJob] = []
    for part, records in parts.items():
        images = [record for record in records if _is_image(record)]
        for number, start in enumerate(range(0, len(images), images_per_pack)):
            jobs.append(PackJob(part_name(part, number), tuple(images[start : start + images_per_pack])))
        jobs += [PackJob(pack_name(record.key), (record,)) for record in records if not _is_image(record)]
    return jobs


def check_records(parts: Mapping[str, Sequence[Record]], settings: CropSettings, detected: bool) -> None:
    """Refuse records that the settings do not describe.

    Each record is cut by its own ``pixel_aspect``, which most sets read from each file; a value other than 1 in the
    settings is an option of the whole set, and all records must have it.

    Args:
        parts: Records by part.
        settings: How their crops are cut.
        detected: A detector gives the boxes, not the records.

    Raises:
        ValueError: If boxes meet ``margin=None`` or whole frames a margin, or the pixels have another shape.
    """
    for record in (record for records in parts.values() for record in records):
        if not detected and (record.boxes is None) != (settings.margin is None):
            has = "no boxes" if record.boxes is None else "boxes"
            raise ValueError(f"prepare_store: {record.key!r} has {has}, got margin={settings.margin}.")
        if settings.pixel_aspect not in (1, record.pixel_aspect):
            raise ValueError(
                f"prepare_store: {record.key!r} has pixel_aspect {record.pixel_aspect}, got {settings.pixel_aspect}."
            )


def stored_records(
    folder: Path, jobs: Iterable[PackJob], results: Sequence[PackResult]
) -> Iterator[tuple[Record, int]]:
    """Yield the records that can be used, as they are in the store.

    Args:
        folder: Folder of the packs.
        jobs: All packs.
        results: What became of each.

    Yields:
        Each record with a frame that counts, and the number of its first frame in the pack.

    Raises:
        DataError: If what is known about a pack cannot be read.
    """
    for job, result in zip(jobs, results, strict=True):
        if not result.usable:
            continue
        facts = read_facts(folder / f"{job.name}.npz")
        pictures = PackTable(facts["offsets"], facts["sizes"], facts["checksums"])
        first = 0
        for record in job.records:
            stop = first + record.num_frames
            if stop > len(pictures):
                raise DataError(f"{folder / job.name}.npz: describes {len(pictures)} frames, not {stop} or more.")
            pack, boxes = pictures.part(first, stop), facts["boxes"][first:stop]
            # A label whose picture turned out damaged has nothing to be learnt from.
            valid = record.valid & (pack.sizes > 0)
            if valid.any():
                stored = replace(
                    record,
                    filename=str(folder / f"{job.name}.avi"),
                    frame_files=None,
                    pixel_aspect=1.0,
                    valid=valid,
                    face_found=facts["face_found"][first:stop],
                    boxes=boxes if np.isfinite(boxes).any() else None,
                    pack=pack,
                )
                yield stored, first
            first = stop


def _is_image(record: Record) -> bool:
    return record.num_frames == 1 and record.frame_files is not None
