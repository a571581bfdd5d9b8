"""What packs are made of: frames of a record, one at a time, and what was wrong with them."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.image_frames import check_same_size, read_image
from hocp_mm.datasets.store.report import ReportRow
from hocp_mm.datasets.store.settings import CropSettings
from hocp_mm.datasets.video import iter_frames
from hocp_mm.errors import DataError, HOCPError, MissingDataError

_VERSION = 1  # raise it when the same files and settings give other pictures


@dataclass(frozen=True)
class Source:
    """The part of a record that decides its pictures.

    Attributes:
        key: Name of the record, unique in the store.
        filename: Video, or folder of images.
        frame_files: Image of each frame, '' where there is none; None for a video.
        num_frames: Frames of the record.
        fps: Frames per second, 0 for an image.
        boxes: Face boxes float32 ``[F, 4]`` in pixels of the files, or None for whole frames.
        face_found: Where a face is known, bool ``[F]``.
    """

    key: str
    filename: str
    frame_files: tuple[str, ...] | None
    num_frames: int
    fps: float
    boxes: NDArray[np.float32] | None
    face_found: NDArray[np.bool_]

    @classmethod
    def of(cls, key: str, record: dict[str, Any]) -> "Source":
        """Return what a record says (see `AffectDataset`)."""
        files = record.get("frame_files")
        return cls(
            key,
            record["filename"],
            None if files is None else tuple(files),
            record["num_frames"],
            float(record["fps"]),
            record["boxes"],
            record["face_found"],
        )


@dataclass(frozen=True)
class PackJob:
    """One pack to make: a video, or some images one after another.

    Attributes:
        name: Name of the pack, without suffix.
        sources: Its records in order.
    """

    name: str
    sources: tuple[Source, ...]


class UnusableSourceError(Exception):
    """A record that cannot be prepared.

    Attributes:
        row: What the report says about it.
    """

    def __init__(self, row: ReportRow) -> None:
        super().__init__(row)  # so that it can be pickled
        self.row = row


def fault_row(kind: str, file: str, error: HOCPError) -> ReportRow:
    """Return the line of the report for an error, in the words of the data sets' own faults."""
    return ReportRow(f"{kind} missing" if isinstance(error, MissingDataError) else kind, file, str(error))


def fingerprint(job: PackJob, settings: CropSettings, detector: str) -> str:
    """Return a hash of everything that decides the pictures of a pack: settings, boxes, sizes and times of the files.

    Where the files lie does not count, so that a data set may be moved.

    Args:
        job: The pack.
        settings: How it is cut and written.
        detector: Description of the detector, '' for none.

    Returns:
        64 hexadecimal digits.
    """
    mark = hashlib.sha256(json.dumps([_VERSION, settings.to_json(), detector], sort_keys=True).encode())
    for source in job.sources:
        mark.update(json.dumps([source.key, source.num_frames, source.fps]).encode())
        for file in (source.filename,) if source.frame_files is None else source.frame_files:
            mark.update(_file_state(file).encode(errors="surrogateescape"))
        boxes = source.boxes
        for array in (source.face_found, np.zeros(0) if boxes is None else np.ascontiguousarray(boxes, np.float32)):
            mark.update(f"{array.shape}".encode())
            mark.update(array.tobytes())
    return mark.hexdigest()


def frames_of(source: Source, rows: list[ReportRow]) -> Iterator[NDArray[np.uint8] | None]:
    """Yield the frames of a record in order, one in memory at a time.

    Args:
        source: The record.
        rows: Takes what is wrong with single images.

    Yields:
        RGB, uint8 ``[H, W, 3]``; None for a frame without an image, or with one that cannot be used.

    Raises:
        UnusableSourceError: If a video cannot be decoded up to its last frame.
    """
    if source.frame_files is not None:
        yield from _images(source.frame_files, rows)
        return
    try:
        yield from _video(source)
    except HOCPError as error:
        raise UnusableSourceError(fault_row("video", source.filename, error)) from error


def _video(source: Source) -> Iterator[NDArray[np.uint8]]:
    count = 0
    for count, frame in enumerate(iter_frames(source.filename), start=1):
        yield frame
        if count == source.num_frames:
            return
    raise DataError(
        f"{source.filename}: must have {source.num_frames} frames, but the stream ends after {count} of them."
    )


def _images(files: Sequence[str], rows: list[ReportRow]) -> Iterator[NDArray[np.uint8] | None]:
    first: tuple[str, tuple[int, ...]] | None = None
    for file in files:
        if not file:
            yield None
            continue
        try:
            frame = read_image(file)
            first = first or (file, frame.shape)
            check_same_size(file, frame.shape, *first)
        except HOCPError as error:
            rows.append(fault_row("image", file, error))
            yield None
        else:
            yield frame


def _file_state(file: str) -> str:
    """Return the name, size and time of a file; a missing one differs from every file."""
    if not file:
        return "\0-"
    name = os.path.basename(file)  # noqa: PTH119 - millions of them: a Path each takes ten times as long
    try:
        state = os.stat(file)  # noqa: PTH116
    except OSError:
        return f"\0{name}\0missing"
    return f"\0{name}\0{state.st_size}\0{state.st_mtime_ns}"
