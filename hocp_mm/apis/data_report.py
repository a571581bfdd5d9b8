"""What a check of the data found: one account per part."""

from collections import Counter
from dataclasses import dataclass, field

from hocp_mm.datasets.faults import Fault

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
