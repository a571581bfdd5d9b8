"""``report.csv`` of a store: what was left out of it, and why."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from hocp_mm.datasets.records.faults import Fault
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.reading import read_bytes

REPORT = "report.csv"
LEFT_OUT = "record left out"
"""Kind of the faults that name, instead of a file, the key of a record that a split names and the store lacks."""
_LARGEST = 1 << 27  # bytes
_HEADER = ("kind", "file", "text")


def report_text(rows: Iterable[Fault]) -> str:
    """Return the content of the file."""
    text = io.StringIO()
    writer = csv.writer(text)  # its line ends, \r\n, make it quote fields with either of the two
    writer.writerows([_HEADER, *((row.kind, row.file, str(row)) for row in rows)])
    return text.getvalue()


def read_report(store: str | Path) -> list[Fault]:
    """Read the report of a store.

    Args:
        store: Folder of the store.

    Returns:
        All rows.

    Raises:
        MissingDataError: If there is none.
        DataError: If it is not a report.
    """
    path = Path(store) / REPORT
    try:
        text = read_bytes(path, "report", _LARGEST).decode("utf-8", "surrogateescape")
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except MissingDataError as error:
        raise MissingDataError(f"{path}: no such file; prepare the store again.") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    if tuple(header) != _HEADER or any(len(row) != len(_HEADER) for row in rows):
        raise DataError(f"{path}: every line must have the columns {', '.join(_HEADER)}.")
    return [Fault(file, text, kind) for kind, file, text in rows]


def left_out_keys(rows: Iterable[Fault]) -> set[str]:
    """Return the keys of the records that splits name and the store lacks."""
    return {row.file for row in rows if row.kind == LEFT_OUT}


def count_kinds(rows: Sequence[Fault]) -> dict[str, int]:
    """Return how many rows there are of each kind, the most frequent one first."""
    return dict(sorted(Counter(row.kind for row in rows).items(), key=lambda item: (-item[1], item[0])))
