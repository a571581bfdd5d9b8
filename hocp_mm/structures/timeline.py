"""Affect over time: averaging overlapping windows, and the one home of the CSV format.

The metric (`hocp_mm.evaluation`) and the inferencer (`hocp_mm.apis`) both turn windows into one value
per frame with `WindowAverager` and both write `AffectTimeline.to_csv`, so that a score and a picture of
the same network never disagree about what was predicted.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.structures.tables import csv_rows, to_pandas, write_json, write_parquet
from hocp_mm.system.files import write_rows
from hocp_mm.system.reading import check_file

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports]

_PRED = ("valence", "arousal")
_TARGET = ("valence_true", "arousal_true", "valid")
COLUMNS = {
    "face_confidence": ("face_confidence",),
    "boxes": ("x1", "y1", "x2", "y2"),
    "smoothed": ("valence_smoothed", "arousal_smoothed"),
    "expression": ("expression",),
}
"""Columns of what an `AffectTimeline` may do without, by its attribute."""
_LARGEST_BYTES = 1 << 28  # a frame takes less than 100


class WindowAverager:
    """Average the predictions of overlapping windows, frame by frame.

    Sums are kept in float64, so the order of the windows does not matter within float32. Memory grows
    with the highest frame number, 24 bytes a frame for two values.

    Example:
        >>> averager = WindowAverager()
        >>> averager.add([0, 1], [[0.0, 0.5], [0.2, 0.5]])
        >>> averager.add([1, 2, -1], [[0.4, 0.5], [0.6, 0.5], [9.0, 9.0]])
        >>> frames, values = averager.result()
        >>> frames.tolist(), values[:, 0].round(3).tolist()
        ([0, 1, 2], [0.0, 0.30000001192092896, 0.6000000238418579])
    """

    def __init__(self) -> None:
        """Start with no window."""
        self._sums: NDArray[np.float64] = np.zeros((0, 0))
        self._counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def add(self, frame_inds: Sequence[int] | NDArray[Any] | torch.Tensor, values: Any) -> None:
        """Take in one window.

        Args:
            frame_inds: Frame number of each row, ``[T]``, zero-based; ``-1`` marks padding and is ignored.
            values: Array or tensor ``[T, C]`` (any device, any float type); C is fixed by the first window.

        Raises:
            ValueError: If the shapes do not fit each other or the first window, or a frame number is below -1.
        """
        inds = np.asarray(frame_inds.cpu() if isinstance(frame_inds, torch.Tensor) else frame_inds, dtype=np.int64)
        rows = values.detach().double().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values, float)
        if inds.ndim != 1 or rows.ndim != 2 or len(inds) != len(rows):
            raise ValueError(
                f"WindowAverager: frame_inds must be [T] and values [T, C], got shapes {inds.shape} and {rows.shape}."
            )
        if self._sums.shape[1] not in (0, rows.shape[1]):
            raise ValueError(f"WindowAverager: values must have {self._sums.shape[1]} columns, got {rows.shape[1]}.")
        if len(inds) and inds.min() < -1:
            raise ValueError(f"WindowAverager: frame_inds must be -1 (padding) or more, got {inds.min()}.")
        real = inds >= 0
        if real.any():
            self._grow(int(inds.max()) + 1, rows.shape[1])
            # np.add.at also counts a frame that occurs twice in one window.
            np.add.at(self._sums, inds[real], rows[real])
            np.add.at(self._counts, inds[real], 1)

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the covered frame numbers ``[F]`` in increasing order and their means, float32 ``[F, C]``.

        Raises:
            ValueError: If no frame was added.
        """
        frames = np.flatnonzero(self._counts)
        if len(frames) == 0:
            raise ValueError("WindowAverager: no frame was added, so there is nothing to average.")
        means = self._sums[frames] / self._counts[frames, None]
        return frames.astype(np.int64), means.astype(np.float32)

    def _grow(self, length: int, columns: int) -> None:
        if length > len(self._counts):
            capacity = max(length, 2 * len(self._counts))  # doubling keeps a long video linear
            sums, counts = np.zeros((capacity, columns)), np.zeros(capacity, dtype=np.int64)
            sums[: len(self._counts)] = self._sums.reshape(-1, columns)
            counts[: len(self._counts)] = self._counts
            self._sums, self._counts = sums, counts


@dataclass(frozen=True, eq=False)
class AffectTimeline:
    """Valence and arousal of one video, one row per frame; the order is always (valence, arousal).

    Arrays are converted to the types below; ``valid`` becomes all true when there is a target without it.

    Attributes:
        video: Key or name of the video.
        fps: Frames per second, on average where they do not come evenly; ``time_s = frame / fps`` where they do.
        frames: Frame numbers, zero-based, strictly increasing, int64 ``[F]``.
        pred: Predictions, float32 ``[F, 2]``, meant for [-1, 1]; both values of a frame are NaN where nobody is seen.
        target: Ground truth, float32 ``[F, 2]``; may be NaN only where ``valid`` is false.
        valid: True where the target counts, bool ``[F]``.
        face_found: True where a face was seen, not held or interpolated, bool ``[F]``.
        times: When each frame is shown, in seconds, strictly increasing, float64 ``[F]``; None if they come evenly.
        person: Whose face it is, int64 ``[F]``: numbers from 1, 0 for nobody; None where nobody was told from others.
        face_confidence: How sure the detector was of the face, float32 ``[F]``, NaN for nobody.
        boxes: Where the face is, (x1, y1, x2, y2) in pixels of the file, tight around brows, eyes and mouth, float32
            ``[F, 4]``, NaN rows for nobody.
        smoothed: Predictions smoothed over time, float32 ``[F, 2]``, NaN rows where ``pred`` has them.
        expression: Name of the most probable expression, str ``[F]``, ``""`` for nobody.

    Raises:
        ValueError: If a shape, a range or the order of the frames breaks a rule above.
    """

    video: str
    fps: float
    frames: NDArray[np.int64]
    pred: NDArray[np.float32]
    target: NDArray[np.float32] | None = None
    valid: NDArray[np.bool_] | None = None
    face_found: NDArray[np.bool_] | None = None
    times: NDArray[np.float64] | None = None
    person: NDArray[np.int64] | None = None
    face_confidence: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] | None = None
    smoothed: NDArray[np.float32] | None = None
    expression: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        """Convert the arrays and refuse what breaks the rules of the class."""
        here = f"AffectTimeline({self.video})"
        fps, frames = float(self.fps), np.asarray(self.frames)
        if not (np.isfinite(fps) and fps > 0):
            raise ValueError(f"{here}: fps must be positive, got {self.fps!r}.")
        if frames.ndim != 1 or not np.issubdtype(frames.dtype, np.integer) or len(frames) == 0:
            raise ValueError(f"{here}: frames must be integers [F], F > 0, got {frames.dtype} {frames.shape}.")
        if frames[0] < 0 or (np.diff(frames) <= 0).any():
            raise ValueError(f"{here}: frames must start at 0 or later and increase strictly.")
        count = len(frames)
        pred = _column(here, "pred", self.pred, np.float32, (count, 2))
        target = None if self.target is None else _column(here, "target", self.target, np.float32, (count, 2))
        valid = None if self.valid is None else _column(here, "valid", self.valid, np.bool_, (count,))
        found = None if self.face_found is None else _column(here, "face_found", self.face_found, np.bool_, (count,))
        times = None if self.times is None else _column(here, "times", self.times, np.float64, (count,))
        person = None if self.person is None else _column(here, "person", self.person, np.int64, (count,))
        more = {
            name: None if (value := getattr(self, name)) is None else _column(here, name, value, kind, (count, *rest))
            for name, kind, *rest in (
                ("face_confidence", np.float32),
                ("boxes", np.float32, 4),
                ("smoothed", np.float32, 2),
                ("expression", np.str_),
            )
        }
        known = np.isfinite(pred).all(axis=1) | np.isnan(pred).all(axis=1)
        if not known.all():
            bad = int(frames[~known][0])
            raise ValueError(
                f"{here}: pred must be finite, or NaN in both values for nobody, got one NaN or inf at frame {bad}."
            )
        if times is not None and not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
            raise ValueError(f"{here}: times must be finite and increase strictly.")
        if person is not None and person.min() < 0:
            raise ValueError(f"{here}: person must be 0 (nobody) or more, got {person.min()}.")
        if target is None and valid is not None:
            raise ValueError(f"{here}: valid describes a target, but there is no target.")
        if target is not None:
            valid = np.ones(count, dtype=np.bool_) if valid is None else valid
            if not np.isfinite(target[valid]).all():
                raise ValueError(f"{here}: target must be finite where valid is true.")
        converted = {"fps": fps, "frames": frames.astype(np.int64), "pred": pred, "target": target, "valid": valid}
        for name, value in {**converted, "face_found": found, "times": times, "person": person, **more}.items():
            object.__setattr__(self, name, value)  # the usual way to convert a field of a frozen dataclass

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    @property
    def time_s(self) -> NDArray[np.float64]:
        """Time of each frame in seconds, float64 ``[F]``."""
        return self.frames / self.fps if self.times is None else self.times

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Frames with a prediction, bool ``[F]``."""
        return np.asarray(np.isfinite(self.pred).all(axis=1))

    def to_csv(self, path: str | Path, follow: bool = True) -> Path:
        """Write one row per frame; the file appears complete or not at all.

        Columns: ``frame,time_s,valence,arousal[,valence_true,arousal_true,valid][,face_found][,person]``, and of what
        else is known ``face_confidence``, ``x1,y1,x2,y2``, ``valence_smoothed,arousal_smoothed`` and ``expression``.
        Numbers are the shortest text that reads back to the same float, flags are 0 or 1; what nobody is seen in is
        empty.

        Args:
            path: CSV file; its folder is created.
            follow: Write to the file that a link points to; False replaces the link.

        Returns:
            The path written.
        """
        path = Path(path)
        write_rows(path, self._rows(), follow=follow)
        return path

    def to_json(self, path: str | Path, follow: bool = True) -> Path:
        """Write ``{"video": …, "fps": …, "frames": [{"frame": 0, "time_s": 0.0, "valence": …}, …]}``, as `to_csv`.

        Args:
            path: JSON file; its folder is created.
            follow: As in `to_csv`.

        Returns:
            The path written. Numbers are those of the CSV file; what nobody is seen in is null.
        """
        path = Path(path)
        write_json(path, self.columns(), self.facts(), follow)
        return path

    def to_parquet(self, path: str | Path, follow: bool = True) -> Path:
        """Write a Parquet file with the columns of the CSV file and ``video`` and ``fps`` as its metadata.

        Args:
            path: Parquet file; its folder is created.
            follow: As in `to_csv`.

        Returns:
            The path written.

        Raises:
            MissingDataError: If pyarrow is not installed.
        """
        path = Path(path)
        write_parquet(path, self.columns(), self.facts(), follow)
        return path

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a data frame with the columns of the CSV file, and ``video`` and ``fps`` in its ``attrs``.

        Raises:
            MissingDataError: If pandas is not installed.
        """
        return to_pandas(self.columns(), self.facts())

    def facts(self) -> dict[str, Any]:
        """Return what is no column: ``video`` and ``fps``."""
        return {"video": self.video, "fps": self.fps}

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the table by the names of `to_csv`, each ``[F]``; NaN and ``""`` where nobody is seen."""
        table = {"frame": self.frames, "time_s": self.time_s, **_named(_PRED, self.pred)}
        if self.target is not None and self.valid is not None:
            table |= {**_named(_TARGET[:2], self.target), "valid": self.valid}
        table |= {} if self.face_found is None else {"face_found": self.face_found}
        table |= {} if self.person is None else {"person": self.person}
        for name, names in COLUMNS.items():
            if (values := getattr(self, name)) is not None:
                table |= _named(names, values if len(names) > 1 else values[:, None])
        return table

    def _rows(self) -> Iterator[list[str]]:
        return csv_rows(self.columns())

    @classmethod
    def from_csv(cls, path: str | Path, video: str | None = None, fps: float | None = None) -> "AffectTimeline":
        """Read what ``to_csv`` wrote.

        Columns of other names are not read; what `hocp_mm.datasets.write_taught_csv` wrote is a timeline, too.

        The file does not hold the frame rate: it is recovered as the simplest number that gives every
        ``time_s`` back (25, 29.97, 30000/1001, …); where none does, frames do not come evenly.

        Args:
            path: CSV file.
            video: Name of the video; the stem of the file by default.
            fps: Frame rate in the place of the times, needed only where no row is later than frame 0.

        Returns:
            The timeline, equal array for array to the one written.

        Raises:
            MissingDataError: If there is no such file.
            DataError: If a column is missing, a cell is not a number, or a rule of the class is broken.
        """
        path = Path(path)
        header, cells = _read_table(path)
        missing = [name for name in ("frame", "time_s", *_PRED) if name not in header]
        if _TARGET[0] in header:
            missing += [name for name in _TARGET[1:] if name not in header]
        if missing:
            raise DataError(f"timeline: {path} lacks the columns {', '.join(missing)}, got {', '.join(header)}.")
        column = dict(zip(header, cells, strict=True))
        frames, target = _whole(column["frame"], "frame", path), None
        if _TARGET[0] in column:
            target = np.stack([column[name] for name in _TARGET[:2]], axis=1)
        flags: dict[str, Any] = {}
        for name in ("valid", "face_found"):
            if name in column:
                if not np.isin(column[name], (0, 1)).all():
                    raise DataError(f"timeline: {path}: the column {name} must hold 0 or 1.")
                flags[name] = column[name].astype(np.bool_)
        if "person" in column:
            flags["person"] = _whole(column["person"], "person", path)
        for name, names in COLUMNS.items():
            if all(one in column for one in names):
                several = [column[one] for one in names]
                flags[name] = np.stack(several, axis=1) if len(names) > 1 else several[0]
        rate, times = _frame_rate(frames, column["time_s"], path) if fps is None else (fps, None)
        pred = np.stack([column[name] for name in _PRED], axis=1)
        try:
            return cls(path.stem if video is None else video, rate, frames, pred, target, times=times, **flags)
        except ValueError as error:
            raise DataError(f"timeline: {path}: {error}") from error


def _column(here: str, name: str, value: Any, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
    if array.shape != shape:
        raise ValueError(f"{here}: {name} must have shape {shape}, one row per frame, got {array.shape}.")
    return array.astype(dtype)


def _whole(numbers: NDArray[np.float64], name: str, path: Path) -> NDArray[np.int64]:
    if not ((np.abs(numbers) < 2**53) & (np.floor(numbers) == numbers)).all():
        raise DataError(f"timeline: {path}: the column {name} must hold integers.")
    return numbers.astype(np.int64)


def _named(names: Sequence[str], values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return dict(zip(names, values.T, strict=True))


def _read_table(path: Path) -> tuple[list[str], list[NDArray[Any]]]:
    if not path.is_file():
        raise MissingDataError(f"timeline: no such file: {path}.")
    if (size := check_file(path, "timeline").st_size) > _LARGEST_BYTES:
        raise DataError(f"timeline: {path}: the file must have at most {_LARGEST_BYTES} bytes, got {size}.")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"timeline: {path}: must be a CSV file in UTF-8 ({error}).") from error
    if not rows:
        raise DataError(f"timeline: {path} holds no row.")
    if twice := next((name for number, name in enumerate(header) if name in header[:number]), None):
        raise DataError(f"timeline: {path}: each column must be there once, got {twice:.100} twice.")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"timeline: {path}, line {line}: expected {len(header)} cells, got {len(row)}.")
    full = ("frame", "time_s", "valid", "face_found", "person")  # columns without an empty cell
    try:
        return header, [
            np.array(cells)
            if name == "expression"
            else np.array([np.nan if not cell and name not in full else float(cell) for cell in cells])
            for name, cells in zip(header, zip(*rows, strict=True), strict=True)
        ]
    except ValueError as error:
        raise DataError(f"timeline: {path}: every cell must be a number ({error}).") from error


def _frame_rate(
    frames: NDArray[np.int64], times: NDArray[np.float64], path: Path
) -> tuple[float, NDArray[np.float64] | None]:
    """Return the rate, and the times where they are not those of one rate."""
    if frames[-1] <= 0 or times[-1] <= 0:
        raise DataError(f"timeline: {path}: no row later than frame 0, so the frame rate is unknown; pass fps.")
    estimate = float((frames[-1] - frames[0]) / (times[-1] - times[0])) if len(frames) > 1 else 0.0
    if not 0 < (even := float(frames[-1] / times[-1])) < np.inf:
        raise DataError(f"timeline: {path}: time_s must be finite and increase with the frames.")
    simple = float(Fraction(even).limit_denominator(1001))
    for rate in (simple, even, float(np.nextafter(even, 0)), float(np.nextafter(even, np.inf))):
        if np.array_equal(frames / rate, times):
            return rate, None
    if np.allclose(frames / simple, times, rtol=0, atol=1e-3):
        return simple, None  # a file written by hand or rounded by a spreadsheet
    if not 0 < estimate < np.inf:
        raise DataError(f"timeline: {path}: time_s must be finite and increase with the frames.")
    return estimate, times
