"""Make one pack: what every worker process does, resumable at any moment.

A pack is done when ``<name>.npz`` lies beside ``<name>.avi``: it is written after the pack and taken away before a new
one replaces it. So whatever a killed process leaves is either done, or made again from its beginning.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import usual_rate
from hocp_mm.datasets.faces.crops import CropSettings, check_face, crop_frame, squares_of
from hocp_mm.datasets.faces.detection import FaceDetector, track_detections
from hocp_mm.datasets.media.pack import PackTable, write_pack
from hocp_mm.datasets.records.faults import Fault, fault_of
from hocp_mm.datasets.records.record import Record
from hocp_mm.datasets.store.index import DAMAGE, FRAME_COLUMNS, check_kinds, check_unpacked
from hocp_mm.errors import DataError, HOCPError, NoFaceError
from hocp_mm.system.files import replacing, writing
from hocp_mm.system.reading import check_file

_PER_FRAME: dict[str, tuple[Any, ...]] = {
    **{name: FRAME_COLUMNS[name] for name in ("offsets", "sizes", "checksums", "face_found")},
    "boxes": (np.float32, 4),
}
_ONCE: dict[str, tuple[Any, tuple[int, ...]]] = {
    "fingerprint": ("<U64", ()),
    "length": (np.int64, ()),
    "complete": (np.bool_, ()),
}
_VERSION = 2  # raise it when the same files and settings give other pictures


@dataclass(frozen=True)
class PackJob:
    """One pack to make: a video, or some images one after another.

    Attributes:
        name: Name of the pack, without suffix.
        records: Its records in order.
    """

    name: str
    records: tuple[Record, ...]


class UnusableSourceError(Exception):
    """A record that cannot be prepared.

    Attributes:
        fault: What the report says about it.
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)  # so that it can be pickled
        self.fault = fault


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
    for record in job.records:
        own_aspect = [] if record.pixel_aspect == settings.pixel_aspect else [record.pixel_aspect]
        mark.update(json.dumps([record.key, record.num_frames, record.fps, *own_aspect]).encode())
        for file in record.frame_files or (record.filename,):
            mark.update(_file_state(file).encode(errors="surrogateescape"))
        boxes = record.boxes
        for array in (record.face_found, np.zeros(0) if boxes is None else np.ascontiguousarray(boxes, np.float32)):
            mark.update(f"{array.shape}".encode())
            mark.update(array.tobytes())
    return mark.hexdigest()


def _frames_of(record: Record, faults: list[Fault]) -> Iterator[NDArray[np.uint8] | None]:
    """Yield the frames of a record in order; what is wrong with single images goes to ``faults``.

    Raises:
        UnusableSourceError: If a video cannot be decoded up to its last frame.
    """
    try:
        yield from record.frames().every(lambda file, error: faults.append(fault_of(error, "image", file)))
    except HOCPError as error:
        raise UnusableSourceError(fault_of(error, "video", record.filename)) from error


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


@dataclass(frozen=True)
class DetectorChoice:
    """A detector and what it is called in fingerprints.

    Attributes:
        detector: Finds faces; can be pickled.
        description: Its name and a hash of its file: what decides its boxes.
    """

    detector: FaceDetector
    description: str


@dataclass
class PackResult:
    """What became of a pack.

    Attributes:
        made: It was made now, not found ready.
        usable: There is a pack.
        faults: What was wrong with its files.
    """

    made: bool = True
    usable: bool = True
    faults: list[Fault] = field(default_factory=list)


def make_pack(folder: Path, job: PackJob, settings: CropSettings, choice: DetectorChoice | None) -> PackResult:
    """Make a pack, unless it is done.

    Args:
        folder: Folder of the packs.
        job: What to make.
        settings: How.
        choice: Finds the faces; None takes the boxes of the records.

    Returns:
        What became of it.

    Raises:
        DataError: If it cannot be written.
    """
    path, facts_file = folder / f"{job.name}.avi", folder / f"{job.name}.npz"
    mark = fingerprint(job, settings, "" if choice is None else choice.description)
    if _is_done(path, facts_file, mark):
        return PackResult(made=False)
    crops = _Crops(job, settings, choice)
    with writing(folder):
        facts_file.unlink(missing_ok=True)
        try:
            fps = job.records[0].fps
            table = write_pack(path, crops, settings.size, fps, settings.codec, settings.quality)
        except UnusableSourceError as error:
            path.unlink(missing_ok=True)
            return PackResult(usable=False, faults=[*crops.faults, error.fault])
        facts: dict[str, Any] = {
            "offsets": table.offsets,
            "sizes": table.sizes,
            "checksums": table.checksums,
            "boxes": np.concatenate(crops.boxes),
            "face_found": np.concatenate(crops.face_found) & (table.sizes > 0),
            "fingerprint": np.array(mark),
            "length": np.array(path.stat().st_size, np.int64),
            "complete": np.array(not crops.faults),
        }
        with replacing(facts_file, follow=False) as draft:
            np.savez(draft, **facts)
    return PackResult(faults=crops.faults)


def read_facts(file: Path) -> dict[str, NDArray[Any]]:
    """Read what is known about a pack.

    Args:
        file: ``<name>.npz``.

    Returns:
        For each frame of all its records the columns of a `PackTable`, ``boxes`` float32 ``[F, 4]`` in pixels of the
        files (NaN rows without one) and ``face_found`` bool ``[F]``; ``fingerprint`` (see `fingerprint`), ``length``
        (bytes of the pack) and ``complete`` (no file had a fault; other packs are made again each time, as a file may
        have been repaired).

    Raises:
        DataError: If the file is missing or damaged.
    """
    size = check_file(file, "file of facts about a pack").st_size
    try:
        with file.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as kept:
            check_unpacked(kept, size)
            facts = {name: kept[name] for name in (*_PER_FRAME, *_ONCE)}
        _check_facts(facts)
    except DAMAGE as error:
        raise DataError(f"{file}: the facts about a pack cannot be read ({error}).") from error
    return facts


def _check_facts(facts: dict[str, NDArray[Any]]) -> None:
    """Refuse columns that describe no pack.

    Raises:
        ValueError: Says which.
    """
    frames = facts["sizes"].shape[:1]
    check_kinds(facts, _ONCE | {name: (kind, (*frames, *axes)) for name, (kind, *axes) in _PER_FRAME.items()})
    if (facts["sizes"] < 0).any() or (facts["offsets"] < 0).any():
        raise ValueError("offsets and sizes must not be negative")


class _Crops:
    """The crops of all records of a pack, and what is learnt on the way.

    Attributes:
        faults: What was wrong with single files.
        boxes: Of each record.
        face_found: Of each record.
        pictures: Number of crops.
    """

    def __init__(self, job: PackJob, settings: CropSettings, choice: DetectorChoice | None) -> None:
        self._job, self._settings, self._choice = job, settings, choice
        self.faults: list[Fault] = []
        self.boxes: list[NDArray[np.float32]] = []
        self.face_found: list[NDArray[np.bool_]] = []
        self.pictures = 0

    def __iter__(self) -> Iterator[NDArray[np.uint8] | None]:
        """Yield a crop per frame, None for a frame without a picture.

        Raises:
            UnusableSourceError: If the only record of the pack cannot be used, or none has a picture.
        """
        for record in self._job.records:
            try:
                boxes, found = self._faces(record)
            except UnusableSourceError as error:
                if len(self._job.records) == 1:
                    raise
                self.faults.append(error.fault)
                boxes, found = None, np.zeros(record.num_frames, np.bool_)
                yield from (None for _ in range(record.num_frames))
            else:
                yield from self._crops_of(record, boxes)
            nothing = np.full((record.num_frames, 4), np.nan, np.float32)
            self.boxes.append(nothing if boxes is None else boxes)
            self.face_found.append(found)
        if self.faults and not self.pictures:
            raise UnusableSourceError(self.faults.pop())

    def _crops_of(self, record: Record, boxes: NDArray[np.float32] | None) -> Iterator[NDArray[np.uint8] | None]:
        crop, aspect = self._settings, record.pixel_aspect
        squares = squares_of(boxes, aspect, crop.margin, crop.smooth, usual_rate(record.fps, record.times))
        for index, frame in enumerate(_frames_of(record, self.faults)):
            if frame is None or not self._shows_face(record, frame, boxes, index):
                yield None
                continue
            self.pictures += 1
            yield crop_frame(frame, squares, index, aspect, crop.size)

    def _shows_face(
        self, record: Record, frame: NDArray[np.uint8], boxes: NDArray[np.float32] | None, index: int
    ) -> bool:
        """Tell whether the face lies in the frame; if not, say so in the report."""
        file = record.frames().file_of(index)
        try:
            check_face(frame, boxes, index, file)
        except DataError as error:
            self.faults.append(fault_of(error, "faces", file))
            return False
        return True

    def _faces(self, record: Record) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_]]:
        """Return the boxes of a record, and where they show a face."""
        if self._choice is None:
            return record.boxes, record.face_found
        damaged: list[Fault] = []  # told here only where no crop is made
        frames, detector, aspect = _frames_of(record, damaged), self._choice.detector, record.pixel_aspect
        try:
            return track_detections(
                frames, record.num_frames, record.fps, detector, source=record.filename, pixel_aspect=aspect
            )
        except NoFaceError as error:
            self.faults += damaged
            raise UnusableSourceError(fault_of(error, "faces", record.filename)) from error


def _is_done(path: Path, facts_file: Path, mark: str) -> bool:
    try:
        facts = read_facts(facts_file)
        same = (
            facts["complete"] and facts["fingerprint"] == mark and facts["length"] == check_file(path, "pack").st_size
        )
        return bool(same) and _is_sound(path, PackTable(facts["offsets"], facts["sizes"], facts["checksums"]))
    except (OSError, DataError):
        return False


def _is_sound(path: Path, table: PackTable) -> bool:
    """Compare every picture with its checksum: who is told of a damaged pack prepares the store again."""
    places = zip(table.offsets.tolist(), table.sizes.tolist(), table.checksums.tolist(), strict=True)
    with path.open("rb") as file:
        for offset, size, checksum in places:
            file.seek(offset)
            if zlib.crc32(file.read(size)) != checksum:
                return False
    return True
