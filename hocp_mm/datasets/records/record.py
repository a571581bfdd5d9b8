"""What is known about one clip, a `Record`, and about all clips of a data set, a `RecordTable`."""

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.crops import CropSettings
from hocp_mm.datasets.media.frames import Frames, frames_of
from hocp_mm.datasets.media.pack import PackTable
from hocp_mm.datasets.media.video import Decoder


@dataclass(frozen=True, eq=False)
class Record:
    """One clip of F frames: a video, a row of images, a single image, or pictures in a store.

    In a pipeline it is a dict of the same names (`results`, `from_results`), but for ``key``, which is ``video`` there.

    Attributes:
        key: Name, unique in the data set.
        filename: Video, folder of images, image, or pack of a store.
        num_frames: F, 1 or more.
        fps: Frames per second, on average where they do not come evenly; 0 for an image.
        subject: Whom splits keep together, empty if that is not known.
        affect: (valence, arousal) in [-1, 1], float32 ``[F, 2]``.
        valid: Frames whose labels count, bool ``[F]``.
        boxes: Tight face boxes (x1, y1, x2, y2) in pixels of the files, float32 ``[F, 4]``, NaN rows without a face;
            None for whole frames.
        face_found: Frames in which a face is known, bool ``[F]``.
        frame_files: Image of each frame, empty where there is none (that frame is not valid); None for a video.
        pixel_aspect: Width of a pixel over its height.
        expression: Class of the whole record, -1 for none; None where the set has no expressions.
        pack: Where the pictures lie in the pack of a store, F rows; None for the files themselves.
        crop: How those pictures were cut.
        times: When each frame is shown, in seconds after the first, float64 ``[F]``; None if they come evenly.
        weight: How much each label counts in training, 0 or more, float32 ``[F]``; None for all alike.
    """

    key: str
    filename: str
    num_frames: int
    fps: float
    subject: str
    affect: NDArray[np.float32]
    valid: NDArray[np.bool_]
    boxes: NDArray[np.float32] | None
    face_found: NDArray[np.bool_]
    frame_files: tuple[str, ...] | None = None
    pixel_aspect: float = 1.0
    expression: int | None = None
    pack: PackTable | None = None
    crop: CropSettings | None = None
    times: NDArray[np.float64] | None = None
    weight: NDArray[np.float32] | None = None

    def contradiction(self) -> str:
        """Return what is wrong with the record itself, empty if nothing is.

        A table, in which one record follows another, would give the rows that are too many to the next one, and take
        boxes without a face for no boxes.
        """
        count, boxes = self.num_frames, self.boxes
        shapes = {
            "affect": (count, 2),
            "valid": (count,),
            "face_found": (count,),
            "boxes": (count, 4),
            "times": (count,),
            "weight": (count,),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and np.shape(array) != shape:
                return f"{name} must have one row per frame, {list(shape)}, got {list(np.shape(array))}"
        if self.times is not None and not (np.isfinite(self.times).all() and (np.diff(self.times) > 0).all()):
            return "times must be finite and increase from frame to frame"
        if self.weight is not None and not (np.isfinite(self.weight).all() and (self.weight >= 0).all()):
            return "weight must be finite and 0 or more"
        if boxes is not None and not np.isfinite(boxes).all(axis=1).any():
            return f"at least one frame must have a box, got none of {count}; boxes=None stands for whole frames"
        try:
            os.fsencode(f"{self.key}{self.filename}{self.subject}")
        except UnicodeEncodeError:
            return f"key and subject must be text that can be written, got {self.key!r} and {self.subject!r}"
        return ""

    def frames(self, decoder: Decoder = "auto") -> Frames:
        """Return the frames, read by ``decoder`` where they are those of a video (see `read_frames`)."""
        side = None if self.crop is None else self.crop.size
        return frames_of(self.filename, self.num_frames, self.frame_files, self.pack, side, decoder)

    def results(self) -> dict[str, Any]:
        """Return what enters a pipeline; what the record has not (None, or square pixels) is no key of it."""
        found: dict[str, Any] = {"video": self.key} | {name: getattr(self, name) for name in _NAMES[1:]}
        if self.frame_files is not None:
            found["frame_files"] = list(self.frame_files)
        if self.pixel_aspect == 1:
            del found["pixel_aspect"]
        return {name: value for name, value in found.items() if value is not None or name == "boxes"}

    @classmethod
    def from_results(cls, results: Mapping[str, Any]) -> "Record":
        """Return the record that is in a pipeline's dict."""
        found = {name: results[name] for name in _NAMES[1:] if name in results}
        if found.get("frame_files") is not None:
            found["frame_files"] = tuple(found["frame_files"])
        return cls(results["video"], **found)


_NAMES = tuple(field.name for field in fields(Record))


class PackedStrings:
    """Strings in one array of bytes: no object each, so that processes share the memory as long as they only read.

    Example:
        >>> names = PackedStrings(["a", "", "ü"])
        >>> len(names), names[2]
        (3, 'ü')
    """

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [os.fsencode(string) for string in strings]
        self._ends = np.cumsum([len(raw) for raw in encoded], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    @classmethod
    def from_arrays(cls, characters: NDArray[np.uint8], ends: NDArray[np.int64]) -> "PackedStrings":
        """Return the strings that `arrays` took apart.

        Raises:
            ValueError: If the ends do not divide the characters.
        """
        if len(ends) and ((np.diff(ends) < 0).any() or ends[0] < 0):
            raise ValueError("PackedStrings: ends must not decrease.")
        if (int(ends[-1]) if len(ends) else 0) != len(characters):
            raise ValueError(f"PackedStrings: the last end must be {len(characters)}, the number of characters.")
        strings = cls(())
        strings._bytes, strings._ends = characters, ends
        return strings

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return all characters, and where each string ends in them."""
        return self._bytes, self._ends

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """Return one string."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[start : int(self._ends[index])].tobytes())

    def part(self, start: int, stop: int) -> list[str]:
        """Return the strings from ``start`` to before ``stop``, far faster than one by one."""
        first = int(self._ends[start - 1]) if start else 0
        ends = (self._ends[start:stop] - first).tolist()
        raw = self._bytes[first : first + (ends[-1] if ends else 0)].tobytes()
        starts = [0, *ends][: len(ends)]
        if raw.isascii():
            text = raw.decode("ascii")
            return [text[start:end] for start, end in zip(starts, ends, strict=True)]
        return [os.fsdecode(raw[start:end]) for start, end in zip(starts, ends, strict=True)]

    def tolist(self) -> list[str]:
        """Return all strings."""
        return self.part(0, len(self))

    @property
    def nbytes(self) -> int:
        """Memory of all strings."""
        return self._bytes.nbytes + self._ends.nbytes


NO_EXPRESSIONS = np.int16(np.iinfo(np.int16).min)
"""Stands for an expression that is None."""
_NO_FILES = -1
_PLACES = ("offsets", "sizes", "checksums")


class RecordTable(Sequence[Record]):
    """Records as columns: no object for each, so that 300,000 images load at once.

    Processes that are forked share the memory, as nothing in an array is written by reading it; others get the arrays
    in one pickle. A record is made when it is asked for, with arrays of its own.

    Args:
        columns: Per record ``keys``, ``filenames`` and ``subjects`` (`PackedStrings`), ``num_frames`` int64, ``fps``
            and ``pixel_aspect`` float64, ``expressions`` int16, ``[R]``; per frame ``affect`` float32 ``[N, 2]``,
            ``valid`` and ``face_found`` bool ``[N]``, ``boxes`` float32 ``[N, 4]``, or ``[0, 4]`` where no record has
            any. Where frames do not come evenly ``times`` float64 ``[N]``, NaN in records where they do. Where labels
            do not count alike ``weight`` float32 ``[N]``, NaN in records where they do. Where there are images
            ``frame_files`` (`PackedStrings`; ``num_files`` int64 ``[R]`` says how many of them a record has, -1 for
            none), or the columns of a `PackTable`. The frames of a record are followed by
            those of the next. What is one and the same for all may be left out: subjects (nobody is known),
            ``num_frames`` and ``num_files`` (1), ``fps`` (0), ``pixel_aspect`` (1).
        folder: Put in front of all names of files.
        crop: How the pictures of a store were cut; None for files of a data set.
    """

    def __init__(self, columns: Mapping[str, Any], folder: str = "", crop: CropSettings | None = None) -> None:
        self.columns = dict(columns)
        self.folder = folder
        self.crop = crop
        self._starts = _starts(columns.get("num_frames"))
        self._first_files = _starts(columns.get("num_files"))

    @classmethod
    def of(cls, records: Iterable[Record]) -> "RecordTable":
        """Return a table of records, all of a data set or all of one store.

        Raises:
            ValueError: If a record contradicts itself, or some have a pack and others none.
        """
        records = list(records)
        if wrong := next(((record.key, text) for record in records if (text := record.contradiction())), None):
            raise ValueError(f"RecordTable: {wrong[0]!r}: {wrong[1]}.")
        if len({record.pack is None for record in records}) > 1:
            raise ValueError("RecordTable: all records must have a pack, or none, got both.")
        columns: dict[str, Any] = {
            "keys": PackedStrings([record.key for record in records]),
            "filenames": PackedStrings([record.filename for record in records]),
            "subjects": PackedStrings([record.subject for record in records]),
            "num_frames": np.array([record.num_frames for record in records], np.int64),
            "fps": np.array([record.fps for record in records], np.float64),
            "pixel_aspect": np.array([record.pixel_aspect for record in records], np.float64),
            "expressions": np.array(
                [NO_EXPRESSIONS if record.expression is None else record.expression for record in records], np.int16
            ),
            "affect": _joined([record.affect for record in records], np.float32, 2),
            "valid": _joined([record.valid for record in records], np.bool_),
            "face_found": _joined([record.face_found for record in records], np.bool_),
            "boxes": _joined_boxes(records),
        }
        if any(record.frame_files is not None for record in records):
            counts = [_NO_FILES if record.frame_files is None else len(record.frame_files) for record in records]
            columns["num_files"] = np.array(counts, np.int64)
            columns["frame_files"] = PackedStrings([file for record in records for file in record.frame_files or ()])
        if any(record.times is not None for record in records):
            columns["times"] = _joined_options(records, "times", np.float64)
        if any(record.weight is not None for record in records):
            columns["weight"] = _joined_options(records, "weight", np.float32)
        if packs := [record.pack for record in records if record.pack is not None]:
            columns |= {name: np.concatenate([getattr(pack, name) for pack in packs]) for name in _PLACES}
        return cls(columns, crop=records[0].crop if records else None)

    @classmethod
    def of_images(
        cls,
        folder: str | os.PathLike[str],
        keys: Sequence[str],
        files: Sequence[str],
        affect: NDArray[np.float32],
        expressions: NDArray[np.int8],
        boxes: NDArray[np.float32] | None,
    ) -> "RecordTable":
        """Return a table of single images of unknown people, some 100 bytes each.

        Args:
            folder: Folder that ``files`` lie in.
            keys: Name of each record, unique.
            files: Image of each record, relative to ``folder``.
            affect: Valence and arousal in [-1, 1], ``[R, 2]``.
            expressions: Classes, ``[R]``, -1 for none.
            boxes: Face boxes ``[R, 4]``, or None for whole images.

        Returns:
            The table.
        """
        count = len(keys)
        names = PackedStrings(files)
        columns: dict[str, Any] = {
            "keys": names if list(keys) == list(files) else PackedStrings(keys),
            "filenames": names,
            "frame_files": names,
            "expressions": expressions.astype(np.int16),
            "affect": affect,
            "valid": np.ones(count, np.bool_),
            "face_found": np.ones(count, np.bool_),
            "boxes": np.empty((0, 4), np.float32) if boxes is None else boxes,
        }
        return cls(columns, folder=f"{Path(folder).absolute()}{os.sep}")

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.columns["keys"])

    def __deepcopy__(self, memo: dict[int, Any]) -> "RecordTable":
        """Return the table itself, which nobody changes: a subset of a data set (`get_subset`) shares it."""
        del memo
        return self

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Return one record, or for a slice those in it."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]  # counts from the end, and refuses what is not there
        columns = self.columns
        frames = _part(self._starts, row)
        boxes = columns["boxes"][frames]
        expression = int(columns["expressions"][row])
        return Record(
            key=columns["keys"][row],
            filename=self.folder + columns["filenames"][row],
            num_frames=frames.stop - frames.start,
            fps=float(columns["fps"][row]) if "fps" in columns else 0.0,
            subject=columns["subjects"][row] if "subjects" in columns else "",
            affect=columns["affect"][frames].copy(),
            valid=columns["valid"][frames].copy(),
            boxes=boxes.copy() if np.isfinite(boxes).any() else None,
            face_found=columns["face_found"][frames].copy(),
            frame_files=self._files_of(row),
            pixel_aspect=float(columns["pixel_aspect"][row]) if "pixel_aspect" in columns else 1.0,
            expression=None if expression == NO_EXPRESSIONS else expression,
            pack=PackTable(*(columns[name][frames].copy() for name in _PLACES)) if "offsets" in columns else None,
            crop=self.crop,
            times=self._option_of("times", frames),
            weight=self._option_of("weight", frames),
        )

    def _option_of(self, name: str, frames: slice) -> NDArray[Any] | None:
        if name not in self.columns or np.isnan(self.columns[name][frames]).any():
            return None
        return self.columns[name][frames].copy()

    def _files_of(self, row: int) -> tuple[str, ...] | None:
        files = self.columns.get("frame_files")
        if files is None or ("num_files" in self.columns and self.columns["num_files"][row] == _NO_FILES):
            return None
        part = _part(self._first_files, row)
        names = files.part(part.start, part.stop)
        return tuple(self.folder + name if name else "" for name in names) if self.folder else tuple(names)

    @property
    def keys(self) -> list[str]:
        """Name of each record."""
        return self.columns["keys"].tolist()

    @property
    def subjects(self) -> list[str]:
        """Whom splits keep together, for each record."""
        return self.columns["subjects"].tolist() if "subjects" in self.columns else [""] * len(self)

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """Length of each record, ``[R]``."""
        return np.ones(len(self), np.int64) if self._starts is None else np.diff(self._starts)

    @property
    def expressions(self) -> NDArray[np.int16]:
        """Class of each record, negative for none, ``[R]``."""
        return self.columns["expressions"]

    @property
    def affect(self) -> NDArray[np.float32]:
        """Labels of all frames, one record after another, ``[N, 2]``."""
        return self.columns["affect"]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Frames of all records whose labels count, ``[N]``."""
        return self.columns["valid"]

    @property
    def face_found(self) -> NDArray[np.bool_]:
        """Frames of all records in which a face is known, ``[N]``."""
        return self.columns["face_found"]

    @property
    def identity(self) -> int:
        """A checksum of keys, lengths, labels and pictures: two tables that agree in it give the same samples."""
        mark = zlib.crc32(self.columns["keys"].arrays()[0].tobytes())
        optional = (self.columns[name] for name in ("checksums", "weight") if name in self.columns)
        for column in (self.num_frames, self.affect, self.valid, *optional):
            mark = zlib.crc32(np.ascontiguousarray(column).tobytes(), mark)
        return mark

    @property
    def nbytes(self) -> int:
        """Memory of all columns."""
        return sum({id(column): column.nbytes for column in self.columns.values()}.values())


def _starts(counts: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    """Return where the frames or files of each record start, and where the last end; None for one each."""
    return None if counts is None else np.concatenate([[0], np.cumsum(np.maximum(counts, 0), dtype=np.int64)])


def _part(starts: NDArray[np.int64] | None, row: int) -> slice:
    return slice(row, row + 1) if starts is None else slice(int(starts[row]), int(starts[row + 1]))


def _joined(arrays: Sequence[NDArray[Any]], kind: Any, *axes: int) -> NDArray[Any]:
    return np.concatenate(arrays).astype(kind, copy=False) if arrays else np.empty((0, *axes), kind)


def _joined_options(records: Sequence[Record], name: str, kind: Any) -> NDArray[Any]:
    """Return one number for each frame of all records, NaN for those of records that have none."""
    given = [(getattr(record, name), record.num_frames) for record in records]
    return np.concatenate([np.full(count, np.nan) if own is None else own for own, count in given]).astype(kind)


def _joined_boxes(records: Sequence[Record]) -> NDArray[np.float32]:
    """Return the boxes of all frames, or no row where all records show whole frames."""
    if all(record.boxes is None for record in records):
        return np.empty((0, 4), np.float32)
    none = np.full((1, 4), np.nan, np.float32)
    parts = [
        np.broadcast_to(none, (record.num_frames, 4)) if record.boxes is None else record.boxes for record in records
    ]
    return np.concatenate(parts).astype(np.float32, copy=False)
