"""One content under two names: copies that took the place of another recording's files.

Two recordings never have the same bytes, so whoever copied labels, landmarks or pictures to the wrong place is found,
although each file is in order by itself. Which of the two is the right one cannot be told.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hocp_mm.datasets.records.faults import Fault, attempt
from hocp_mm.datasets.records.record import Record
from hocp_mm.errors import DataError
from hocp_mm.system.reading import check_file

_BLOCK = 1 << 20
_PICTURES = 8  # enough to tell two recordings apart; a set has millions


class Claim(NamedTuple):
    """What belongs to one recording.

    Attributes:
        record: Name of the record.
        recording: What was recorded; two records of one recording may have equal contents.
        where: File or folder, for the message.
        files: Files that are compared byte by byte, in order; none for a claim on ``data`` alone.
        data: Bytes that are compared, such as the labels.
    """

    record: str
    recording: Hashable
    where: str | Path
    files: Sequence[str | Path] = ()
    data: bytes = b""


def find_twins(claims: Iterable[Claim]) -> dict[str, list[Fault]]:
    """Find equal contents of different recordings; files are read only where the sizes are equal.

    Args:
        claims: Everything that may be compared with each other.

    Returns:
        Faults of kind ``"twins"`` by record, for both sides.
    """
    found: dict[str, list[Fault]] = {}
    for same_size in _grouped(claims, _sizes):
        for equal in _grouped(same_size, _digest):
            for claim in equal:
                other = next((other for other in equal if other.recording != claim.recording), None)
                if other is not None:
                    text = f"{claim.where}: two recordings must not have the same content, but {other.where} has it."
                    found.setdefault(claim.record, []).append(Fault(claim.where, text, "twins"))
    return found


def without_twins(
    records: Sequence[Record], faults: list[Fault], claims: Callable[[Record], Iterable[Claim]]
) -> list[Record]:
    """Leave out records that share a content, and name them.

    Args:
        records: The records of a data set.
        faults: Faults so far; extended.
        claims: Names what belongs to a record.

    Returns:
        The others.
    """
    twins = find_twins(claim for record in records for claim in claims(record))
    faults += [fault for found in twins.values() for fault in found]
    return [record for record in records if record.key not in twins]


def picture_claim(record: Record, recording: Hashable) -> Claim:
    """Claim some pictures of a record whose frames are image files, spread over its length.

    Args:
        record: The record.
        recording: See `Claim`.

    Returns:
        The claim.
    """
    shown = [file for file in record.frame_files or () if file]
    places = np.unique(np.linspace(0, len(shown) - 1, _PICTURES).astype(np.int64))
    return Claim(record.key, recording, record.filename, tuple(shown[place] for place in places))


def label_claim(record: Record, recording: Hashable, where: str | Path) -> Iterator[Claim]:
    """Claim the labels of a record, unless they never change: traces of people who moved nothing may be equal.

    Args:
        record: The record.
        recording: See `Claim`.
        where: File of the labels.

    Yields:
        The claim.
    """
    counts = record.affect[record.valid]
    if np.ptp(counts, axis=0).all():
        boxes = b"" if record.boxes is None else record.boxes.tobytes()
        yield Claim(record.key, recording, where, data=record.affect.tobytes() + boxes)


def _grouped(claims: Iterable[Claim], key: Callable[[Claim], Hashable]) -> list[list[Claim]]:
    """Return the groups of equal key that hold more than one recording; what cannot be read is in none."""
    groups: dict[Hashable, list[Claim]] = {}
    for claim in claims:
        value = attempt([], "twins", claim.where, key, claim)
        if value is not None:
            groups.setdefault(value, []).append(claim)
    return [group for group in groups.values() if len({claim.recording for claim in group}) > 1]


def _sizes(claim: Claim) -> tuple[int, ...]:
    return len(claim.data), *(check_file(file, "file").st_size for file in claim.files)


def _digest(claim: Claim) -> str:
    """Return a hash of the content.

    Raises:
        DataError: If a file cannot be read.
    """
    digest = hashlib.blake2b(claim.data, digest_size=16)
    for path in claim.files:
        try:
            with Path(path).open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{path}: the file cannot be read ({error.strerror or error}).") from error
    return digest.hexdigest()
