"""What a check of the data found: one account per part, as text and as a file."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hocp_mm.datasets.records.faults import Fault
from hocp_mm.datasets.records.record import Record
from hocp_mm.system.files import write_rows
from hocp_mm.system.refusals import visible

Range = tuple[float, float]


@dataclass(frozen=True)
class PartReport:
    """The data set of one loader.

    Attributes:
        name: ``"train"``, ``"val"`` or ``"test"``; with a number where a loader joins several data sets.
        dataset: Its class.
        records: Videos, or images where each is a record.
        clips: Samples of one epoch: random clips in training, windows in test.
        frames: Frames of all records.
        valid_frames: Frames whose label counts.
        subjects: People (or conversations), 0 if the set does not say who is who.
        valence_range: Lowest and highest label that counts, in [-1, 1]; None without any.
        arousal_range: As ``valence_range``.
        face_found_share: Share of the frames in which a face was found, 0 to 1; None without frames.
        label_range: Annotation scale that was mapped to [-1, 1].
        rate_range: Lowest and highest frames per second of the records, the mean where a video has no even rate; None
            where no record has a rate.
        variable: Videos whose frames do not come evenly.
        decoders: How many records are read in each way; empty if files were not read.
        faults: What is wrong, in the order of the records; faults of the whole part come first.
        notes: Warnings of the data set that are no faults: cut videos, frames without label …
        same_as: Name of the part that this one is equal to; its faults are told there.
    """

    name: str
    dataset: str
    records: int = 0
    clips: int = 0
    frames: int = 0
    valid_frames: int = 0
    subjects: int = 0
    valence_range: Range | None = None
    arousal_range: Range | None = None
    face_found_share: float | None = None
    label_range: Range | None = None
    rate_range: Range | None = None
    variable: int = 0
    decoders: dict[str, int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    same_as: str = ""


@dataclass(frozen=True)
class DataReport:
    """All parts of a config.

    Attributes:
        parts: One account per part, in the order train, val, test.
    """

    parts: tuple[PartReport, ...]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Faults of all parts; what several parts say in the same words is there once."""
        found = {(fault.kind, str(fault)): fault for part in self.parts for fault in part.faults}
        return tuple(found.values())

    @property
    def kinds(self) -> dict[str, int]:
        """Number of faults by kind, the most frequent first."""
        return dict(Counter(fault.kind for fault in self.faults).most_common())

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


class PartStatistics:
    """Sums that need one record at a time."""

    def __init__(self) -> None:
        self._records = self._frames = self._valid = self._found = 0
        self._subjects: set[str] = set()
        self._rates: set[float] = set()
        self._low = np.full(2, np.inf)
        self._high = np.full(2, -np.inf)

    def add(self, record: Record) -> None:
        """Take in a record."""
        self._records += 1
        self._frames += record.num_frames
        if record.fps > 0:
            self._rates.add(record.fps)
        valid = record.valid
        self._valid += int(np.count_nonzero(valid))
        self._found += int(np.count_nonzero(record.face_found))
        if record.subject:
            self._subjects.add(record.subject)
        labels = record.affect[valid]
        if len(labels):
            self._low = np.minimum(self._low, labels.min(axis=0))
            self._high = np.maximum(self._high, labels.max(axis=0))

    def report(self, **known: Any) -> PartReport:
        """Return the account of the part.

        Args:
            **known: What is not counted here.

        Returns:
            The account.
        """
        valence, arousal = (self._range(0), self._range(1)) if self._valid else (None, None)
        return PartReport(
            records=self._records,
            frames=self._frames,
            valid_frames=self._valid,
            subjects=len(self._subjects),
            valence_range=valence,
            arousal_range=arousal,
            face_found_share=self._found / self._frames if self._frames else None,
            rate_range=(min(self._rates), max(self._rates)) if self._rates else None,
            **known,
        )

    def _range(self, dimension: int) -> Range:
        return float(self._low[dimension]), float(self._high[dimension])


_SHOWN = 10


def report_text(report: DataReport) -> str:
    """Return one table with a column per part, then the first faults of each kind.

    Args:
        report: What the check found.

    Returns:
        Lines of text.
    """
    lines = _table(report)
    for part in report.parts:
        lines += ["", *(f"note ({part.name}): {visible(note)}" for note in part.notes)] if part.notes else []
    for kind, count in report.kinds.items():
        texts = [str(fault) for fault in report.faults if fault.kind == kind]
        lines += ["", f"{kind}: {_count(count)}", *(f"  {visible(text)}" for text in texts[:_SHOWN])]
        lines += [f"  … and {count - _SHOWN} more"] if count > _SHOWN else []
    total = len(report.faults)
    lines += ["", "no faults" if total == 0 else f"{_count(total)} in all"]
    return "\n".join(lines)


def write_faults(report: DataReport, path: str | Path) -> Path:
    """Write all faults to a CSV file: part, kind, file, text.

    Args:
        report: What the check found.
        path: File; its folder is created.

    Returns:
        The path.
    """
    path = Path(path)
    rows = [[part.name, fault.kind, fault.file, str(fault)] for part in report.parts for fault in part.faults]
    write_rows(path, [["part", "kind", "file", "text"], *rows], lineterminator="\r\n")
    return path


def _table(report: DataReport) -> list[str]:
    rows: list[tuple[str, Callable[[PartReport], str]]] = [
        ("data set", lambda part: part.dataset),
        ("records", lambda part: f"{part.records:,}"),
        ("clips per epoch", lambda part: f"{part.clips:,}"),
        ("frames", lambda part: f"{part.frames:,}"),
        ("frames per second", _rate),
        ("valid labels", lambda part: _share(part.valid_frames, part.frames)),
        ("subjects", lambda part: f"{part.subjects:,}" if part.subjects or not part.records else "not told"),
        ("valence", lambda part: _range(part.valence_range)),
        ("arousal", lambda part: _range(part.arousal_range)),
        ("scaled from", lambda part: _scale(part.label_range)),
        ("face found", lambda part: "-" if part.face_found_share is None else f"{100 * part.face_found_share:.1f} %"),
    ]
    for way in dict.fromkeys(way for part in report.parts for way in part.decoders):
        rows.append((f"read as {way}", lambda part, way=way: f"{part.decoders.get(way, 0):,}"))
    for kind in report.kinds:
        rows.append((f"faults: {kind}", lambda part, kind=kind: _faults(part, kind)))
    if not report.kinds:
        rows.append(("faults", lambda part: _faults(part, None)))
    header = ["", *(part.name for part in report.parts)]
    return _aligned([header, *([name, *map(cell, report.parts)] for name, cell in rows)])


def _faults(part: PartReport, kind: str | None) -> str:
    if part.same_as:
        return f"as {part.same_as}"
    return str(sum(kind in (None, fault.kind) for fault in part.faults))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _share(part: int, whole: int) -> str:
    return f"{part:,}" if part == whole else f"{part:,} ({100 * part / whole:.1f} %)"


def _range(values: Range | None) -> str:
    return "-" if values is None else f"{values[0]:+.2f} to {values[1]:+.2f}"


def _rate(part: PartReport) -> str:
    if part.rate_range is None:
        return "-"
    low, high = (f"{rate:.4g}" for rate in part.rate_range)
    return (low if low == high else f"{low} to {high}") + (f" ({part.variable:,} variable)" if part.variable else "")


def _scale(values: Range | None) -> str:
    return "-" if values is None else f"{values[0]:g} to {values[1]:g}"


def _count(faults: int) -> str:
    return "1 fault" if faults == 1 else f"{faults:,} faults"
