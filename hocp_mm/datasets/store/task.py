"""Make one pack: what every worker process does, resumable at any moment.

A pack is done when ``<name>.npz`` lies beside ``<name>.avi``: it is written after the pack and taken away before a new
one replaces it. So whatever a killed process leaves is either done, or made again from its beginning.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.crop_rule import check_face, crop_frame, squares_of
from hocp_mm.datasets.face_detection import FaceDetector, track_detections
from hocp_mm.datasets.image_frames import square_pixels, square_scale
from hocp_mm.datasets.source_files import check_file
from hocp_mm.datasets.store.index import DAMAGE, FRAME_COLUMNS, check_kinds, check_unpacked
from hocp_mm.datasets.store.pack import PackTable, write_pack
from hocp_mm.datasets.store.report import ReportRow
from hocp_mm.datasets.store.settings import CropSettings
from hocp_mm.datasets.store.sources import (
    PackJob,
    Source,
    UnusableSourceError,
    fault_row,
    fingerprint,
    frames_of,
)
from hocp_mm.errors import DataError, NoFaceError
from hocp_mm.files import replacing, writing

_PER_FRAME: dict[str, tuple[Any, ...]] = {
    **{name: FRAME_COLUMNS[name] for name in ("offsets", "sizes", "checksums", "face_found")},
    "boxes": (np.float32, 4),
}
_ONCE: dict[str, tuple[Any, tuple[int, ...]]] = {
    "fingerprint": ("<U64", ()),
    "length": (np.int64, ()),
    "complete": (np.bool_, ()),
}


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
        rows: What was wrong with its files.
    """

    made: bool = True
    usable: bool = True
    rows: list[ReportRow] = field(default_factory=list)


@dataclass(frozen=True)
class PackFacts:
    """What ``<name>.npz`` says about a pack, one row per frame of all its records.

    Attributes:
        table: Where the pictures lie.
        boxes: Face boxes float32 ``[F, 4]`` in pixels of the files, NaN rows without one.
        face_found: Where a face is known, bool ``[F]``.
        fingerprint: See `hocp_mm.datasets.store.sources.fingerprint`.
        length: Bytes of the pack.
        complete: No file had a fault; other packs are made again each time, as a file may have been repaired.
    """

    table: PackTable
    boxes: NDArray[np.float32]
    face_found: NDArray[np.bool_]
    fingerprint: str
    length: int
    complete: bool


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
            fps = job.sources[0].fps
            table = write_pack(path, crops, settings.size, fps, settings.codec, settings.quality)
        except UnusableSourceError as error:
            path.unlink(missing_ok=True)
            return PackResult(usable=False, rows=[*crops.rows, error.row])
        found = np.concatenate(crops.face_found) & (table.sizes > 0)
        length = path.stat().st_size
        _write_facts(
            facts_file, PackFacts(table, np.concatenate(crops.boxes), found, mark, length, complete=not crops.rows)
        )
    return PackResult(rows=crops.rows)


def read_facts(file: Path) -> PackFacts:
    """Read what is known about a pack.

    Args:
        file: ``<name>.npz``.

    Returns:
        The facts.

    Raises:
        DataError: If the file is missing or damaged.
    """
    size = check_file(file, "file of facts about a pack").st_size
    try:
        with file.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as kept:
            check_unpacked(kept, size)
            columns = {name: kept[name] for name in (*_PER_FRAME, *_ONCE)}
        _check_facts(columns)
        return PackFacts(
            PackTable(columns["offsets"], columns["sizes"], columns["checksums"]),
            columns["boxes"],
            columns["face_found"],
            str(columns["fingerprint"]),
            int(columns["length"]),
            bool(columns["complete"]),
        )
    except DAMAGE as error:
        raise DataError(f"{file}: the facts about a pack cannot be read ({error}).") from error


def _check_facts(columns: dict[str, Any]) -> None:
    """Refuse columns that describe no pack.

    Raises:
        ValueError: Says which.
    """
    frames = columns["sizes"].shape[:1]
    check_kinds(columns, _ONCE | {name: (kind, (*frames, *axes)) for name, (kind, *axes) in _PER_FRAME.items()})
    if (columns["sizes"] < 0).any() or (columns["offsets"] < 0).any():
        raise ValueError("offsets and sizes must not be negative")


class _Crops:
    """The crops of all records of a pack, and what is learnt on the way.

    Attributes:
        rows: What was wrong with single files.
        boxes: Of each record.
        face_found: Of each record.
        pictures: Number of crops.
    """

    def __init__(self, job: PackJob, settings: CropSettings, choice: DetectorChoice | None) -> None:
        self._job, self._settings, self._choice = job, settings, choice
        self.rows: list[ReportRow] = []
        self.boxes: list[NDArray[np.float32]] = []
        self.face_found: list[NDArray[np.bool_]] = []
        self.pictures = 0

    def __iter__(self) -> Iterator[NDArray[np.uint8] | None]:
        """Yield a crop per frame, None for a frame without a picture.

        Raises:
            UnusableSourceError: If the only record of the pack cannot be used, or none has a picture.
        """
        for source in self._job.sources:
            try:
                boxes, found = self._faces(source)
            except UnusableSourceError as error:
                if len(self._job.sources) == 1:
                    raise
                self.rows.append(error.row)
                boxes, found = None, np.zeros(source.num_frames, np.bool_)
                yield from (None for _ in range(source.num_frames))
            else:
                yield from self._crops_of(source, boxes)
            nothing = np.full((source.num_frames, 4), np.nan, np.float32)
            self.boxes.append(nothing if boxes is None else boxes)
            self.face_found.append(found)
        if self.rows and not self.pictures:
            raise UnusableSourceError(self.rows.pop())

    def _crops_of(self, source: Source, boxes: NDArray[np.float32] | None) -> Iterator[NDArray[np.uint8] | None]:
        crop = self._settings
        squares = squares_of(boxes, crop.pixel_aspect, crop.margin, crop.smooth)
        for index, frame in enumerate(frames_of(source, self.rows)):
            if frame is None or not self._shows_face(source, frame, boxes, index):
                yield None
                continue
            self.pictures += 1
            yield crop_frame(frame, squares, index, crop.pixel_aspect, crop.size)

    def _shows_face(
        self, source: Source, frame: NDArray[np.uint8], boxes: NDArray[np.float32] | None, index: int
    ) -> bool:
        """Tell whether the face lies in the frame; if not, say so in the report."""
        file = source.filename if source.frame_files is None else source.frame_files[index]
        try:
            check_face(frame, boxes, index, file)
        except DataError as error:
            self.rows.append(fault_row("faces", file, error))
            return False
        return True

    def _faces(self, source: Source) -> tuple[NDArray[np.float32] | None, NDArray[np.bool_]]:
        """Return the boxes of a record, and where they show a face."""
        if self._choice is None:
            return source.boxes, source.face_found
        aspect = self._settings.pixel_aspect
        damaged: list[ReportRow] = []  # told here only where no crop is made
        # Detectors know faces of natural width.
        frames = (None if frame is None else square_pixels(frame, aspect) for frame in frames_of(source, damaged))
        try:
            track = track_detections(
                frames, source.num_frames, source.fps, self._choice.detector, source=source.filename
            )
        except NoFaceError as error:
            self.rows += damaged
            raise UnusableSourceError(fault_row("faces", source.filename, error)) from error
        if track.boxes is None:  # the detector takes the whole frame for the crop
            return None, track.face_found
        return (track.boxes / (2 * square_scale(aspect))).astype(np.float32), track.face_found


def _is_done(path: Path, facts_file: Path, mark: str) -> bool:
    try:
        facts = read_facts(facts_file)
        same = facts.complete and facts.fingerprint == mark and facts.length == check_file(path, "pack").st_size
        return same and _is_sound(path, facts.table)
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


def _write_facts(file: Path, facts: PackFacts) -> None:
    values: dict[str, Any] = {
        "offsets": facts.table.offsets,
        "sizes": facts.table.sizes,
        "checksums": facts.table.checksums,
        "boxes": facts.boxes,
        "face_found": facts.face_found,
        "fingerprint": np.array(facts.fingerprint),
        "length": np.array(facts.length, np.int64),
        "complete": np.array(facts.complete),
    }
    with replacing(file, follow=False) as draft:
        np.savez(draft, **values)
