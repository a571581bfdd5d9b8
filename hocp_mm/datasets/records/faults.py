"""Faults of data sets: collected over a whole set, told apart by kind, then raised or skipped together."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hocp_mm.errors import DataError, HOCPError, MissingDataError

_SHOWN_FAULTS = 10
_T = TypeVar("_T")


@dataclass(frozen=True, order=True)
class Fault:
    """What is wrong with one file.

    Attributes:
        file: The file or folder.
        text: ``<file>: <rule>, got <value>.``
        kind: What is wrong, in a word or two: ``"labels"``, ``"labels missing"``, ``"video"``, ``"image"`` …
    """

    file: str | Path
    text: str
    kind: str = "data"

    def __str__(self) -> str:
        """Return the text."""
        return self.text


def attempt(faults: list[Fault], kind: str, file: str | Path, function: Callable[..., _T], *args: Any) -> _T | None:
    """Call ``function``; on a fault of the data add it to ``faults`` and return None.

    Args:
        faults: Faults so far.
        kind: What the function reads: ``"labels"``, ``"video"`` … A missing file makes it ``"labels missing"``.
        file: What it reads it from.
        function: Raises an `HOCPError` for faults of the data.
        *args: Its arguments.

    Returns:
        What the function returns, or None.
    """
    try:
        return function(*args)
    except HOCPError as error:
        faults.append(fault_of(error, kind, file))
        return None


def fault_of(error: HOCPError, kind: str, file: str | Path) -> Fault:
    """Return what an error says about a file; a missing one has `` missing`` behind its kind."""
    return Fault(file, str(error), f"{kind} missing" if isinstance(error, MissingDataError) else kind)


def raise_faults(where: str, faults: Sequence[Fault | str]) -> None:
    """Raise one error for all faults of a set; do nothing if there are none.

    Args:
        where: Beginning of the message.
        faults: All faults.

    Raises:
        DataError: With the number of faults and the first ten.
    """
    if faults:
        raise DataError("\n".join([f"{where}: the data must be complete, got {_count(faults)}:", *_listed(faults)]))


def skipped_text(where: str, faults: Sequence[Fault], left_out: Sequence[str] = ()) -> str:
    """Return the warning that names what ``on_fault="skip"`` passes over.

    Args:
        where: Beginning of the message.
        faults: All faults, at least one.
        left_out: Names of the records that are not used at all.

    Returns:
        Count by kind, all names left out, and the first ten faults.
    """
    kinds = Counter(fault.kind for fault in faults)
    by_kind = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    out = f", {len(left_out)} left out ({', '.join(left_out)})" if left_out else ""
    head = f"{where}: on_fault='skip', {_count(faults)} skipped: {by_kind}{out}:"
    return "\n".join([head, *_listed(faults)])


def _count(faults: Sequence[Any]) -> str:
    return "1 fault" if len(faults) == 1 else f"{len(faults)} faults"


def _listed(faults: Sequence[Any]) -> list[str]:
    rest = [f"  … and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
    return [*(f"  {fault}" for fault in faults[:_SHOWN_FAULTS]), *rest]
