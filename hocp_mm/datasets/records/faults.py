"""Faults of data sets: collected over a whole set, told apart by kind, then raised or skipped together."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.system.refusals import visible

_SHOWN_FAULTS = 10
_T = TypeVar("_T")


class Fault(str):
    """What is wrong with one file: the text of it, which knows its file and its kind.

    Attributes:
        file: The file or folder.
        kind: What is wrong, in a word or two: ``"labels"``, ``"labels missing"``, ``"video"``, ``"image"`` …
    """

    file: str
    kind: str

    def __new__(cls, file: str | Path, text: str, kind: str = "data") -> "Fault":
        """Make a fault.

        Args:
            file: See the class.
            text: ``<file>: <rule>, got <value>.``
            kind: See the class.
        """
        fault = super().__new__(cls, text)
        fault.file, fault.kind = str(file), kind
        return fault

    @property
    def text(self) -> str:
        """The whole sentence."""
        return str(self)

    def __getnewargs__(self) -> tuple[str, str, str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Travel between processes with file and kind."""
        return self.file, str(self), self.kind


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


def raise_faults(where: str, faults: Sequence[str]) -> None:
    """Raise one error for all faults of a set; do nothing if there are none.

    Args:
        where: Beginning of the message.
        faults: All faults.

    Raises:
        DataError: With the number of faults and the first ten.
    """
    if faults:
        raise DataError("\n".join([f"{incomplete_text(where, len(faults))}:", *_listed(faults)]))


def incomplete_text(where: str, count: int) -> str:
    """Return the rule that ``count`` faults of the set ``where`` break."""
    return f"{where}: the data must be complete, got {_count(count)}"


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
    out = f", {len(left_out)} left out ({visible(', '.join(left_out))})" if left_out else ""
    head = f"{where}: on_fault='skip', {_count(len(faults))} skipped: {by_kind}{out}:"
    return "\n".join([head, *_listed(faults)])


def _count(faults: int) -> str:
    return "1 fault" if faults == 1 else f"{faults} faults"


def _listed(faults: Sequence[str]) -> list[str]:
    rest = [f"  … and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
    return [*(f"  {visible(fault)}" for fault in faults[:_SHOWN_FAULTS]), *rest]
