"""What two records must not share: people across parts, files anywhere."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from hocp_mm.datasets.records.faults import Fault
from hocp_mm.datasets.records.record import Record
from hocp_mm.structures import same_actor


@dataclass
class PartContent:
    """Who and what is in a part.

    Attributes:
        name: Name of the part.
        split: ``"train"``, ``"val"`` or ``"test"``.
        kind: Kind of data set: people of two kinds are different people.
        subjects: First record (its key and file) of each known person.
        files: First record of each file, by what tells files apart whatever their names.
    """

    name: str
    split: str
    kind: str
    subjects: dict[str, tuple[str, str]] = field(default_factory=dict)
    files: dict[Hashable, tuple[str, str, str]] = field(default_factory=dict)

    def add(self, record: Record) -> list[Fault]:
        """Take in a record.

        Args:
            record: The record.

        Returns:
            A fault if another record of this part has the same file.
        """
        key, file, subject = record.key, record.filename, same_actor(record.subject)
        if subject:
            self.subjects.setdefault(subject, (key, file))
        identity = _identity(record)
        if identity is None:
            return []
        other, other_file, other_subject = self.files.setdefault(identity, (key, file, subject))
        if other == key or key.startswith(f"{other}#"):
            return []  # AffectNet names further rows of one image so
        if subject == other_subject and record.frame_files is not None and subject:
            return []  # two people of one video; Aff-Wild2 names them in a warning
        text = f"{file}: a file must have one key, but is that of {other!r} ({other_file}) and {key!r} in {self.name}."
        return [Fault(file, text, "same file")]


def leaks(parts: Sequence[PartContent]) -> dict[str, list[Fault]]:
    """Find people and files that are in two parts.

    A test loader that reads just what the validation loader reads is no leak: some sets have no labels for their test
    part.

    Args:
        parts: All parts.

    Returns:
        Faults of kind ``"leak"`` by the name of the later part; a file whose person is told is not told again.
    """
    found: dict[str, list[Fault]] = {part.name: [] for part in parts}
    for one, other in combinations(parts, 2):
        if one.split == other.split:
            continue
        if "train" not in (one.split, other.split) and one.files.keys() == other.files.keys():
            continue
        people = one.subjects.keys() & other.subjects.keys() if one.kind == other.kind else set()
        for person in sorted(people):
            (key, _), (other_key, file) = one.subjects[person], other.subjects[person]
            text = (
                f"{file}: a person must be in one part only, but {person!r} is in {one.name} ({key}) and "
                f"{other.name} ({other_key})."
            )
            found[other.name].append(Fault(file, text, "leak"))
        for identity in [identity for identity in other.files if identity in one.files]:
            key, (other_key, file, subject) = one.files[identity][0], other.files[identity]
            if subject not in people:
                text = (
                    f"{file}: a file must be in one part only, but is in {one.name} ({key}) and {other.name} "
                    f"({other_key})."
                )
                found[other.name].append(Fault(file, text, "leak"))
    return found


def _identity(record: Record) -> Hashable:
    """Return what tells the file of a record from all others, or None if it cannot be asked."""
    try:
        stat = Path(record.filename).stat()
    except OSError:
        return None  # told where the file is read
    first = 0
    if (table := record.pack) is not None:  # a pack may hold many records
        first = int(table.offsets[np.argmax(np.asarray(table.sizes) > 0)])
    return stat.st_dev, stat.st_ino, first
