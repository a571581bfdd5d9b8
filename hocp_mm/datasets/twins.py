"""One file under two names: a copy that took the place of another recording's file.

Two recordings never have the same bytes, so whoever copied labels, landmarks or a video to the wrong place is found,
although each file is in order by itself. Which of the two is the right one cannot be told.
"""

import hashlib
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import NamedTuple

from hocp_mm.datasets.faults import Fault, attempt
from hocp_mm.datasets.source_files import check_file
from hocp_mm.errors import DataError

_BLOCK = 1 << 20


class Claim(NamedTuple):
    """A file that belongs to one recording.

    Attributes:
        record: Name of the record, for the caller.
        recording: What was recorded; two records of one recording may have equal files.
        file: The file.
    """

    record: str
    recording: Hashable
    file: str | Path


def find_twins(claims: Iterable[Claim]) -> dict[str, list[Fault]]:
    """Find files of different recordings that are equal byte by byte; only files of one size are read.

    Args:
        claims: All files that may be compared with each other.

    Returns:
        Faults of kind ``"twins"`` by record, for both sides.
    """
    sizes: dict[int, list[Claim]] = {}
    for claim in claims:
        state = attempt([], "twins", check_file, claim.file, "file")
        if state is not None and state.st_size:
            sizes.setdefault(state.st_size, []).append(claim)
    found: dict[str, list[Fault]] = {}
    for same_size in sizes.values():
        if len({claim.recording for claim in same_size}) < 2:
            continue
        contents: dict[str, list[Claim]] = {}
        for claim in same_size:
            if digest := attempt([], "twins", _digest, claim.file):
                contents.setdefault(digest, []).append(claim)
        for equal in contents.values():
            for claim in equal:
                other = next((other for other in equal if other.recording != claim.recording), None)
                if other is not None:
                    text = f"{claim.file}: two recordings must have different files, but {other.file} is the same."
                    found.setdefault(claim.record, []).append(Fault(text, "twins"))
    return found


def _digest(path: str | Path) -> str:
    """Return a hash of the content.

    Raises:
        DataError: If the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with Path(path).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror or error}).") from error
    return digest.hexdigest()
