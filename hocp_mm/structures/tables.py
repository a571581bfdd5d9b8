"""Columns of numbers and words as a table: CSV, JSON, Parquet, pandas. A cell without a value is empty, or null.

pandas and pyarrow are imported where they are asked for, and nowhere else: ``pip install 'hocp-mm[tables]'``.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import MissingDataError
from hocp_mm.system.files import replacing, write_rows

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports]

Columns = Mapping[str, NDArray[Any]]
"""Arrays ``[F]`` by name: integers, flags, floats (NaN: no value) and words (``""``: no value)."""


def csv_rows(columns: Columns) -> Iterator[list[str]]:
    """Yield the header, then each row.

    Args:
        columns: The table.

    Yields:
        Cells. Numbers are the shortest text that reads back to the same float, flags are 0 or 1.
    """
    yield list(columns)
    yield from map(list, zip(*(_cells(column) for column in columns.values()), strict=True))


def _cells(column: NDArray[Any]) -> Iterator[str]:
    if column.dtype.kind == "f":
        # Not `tolist`, which makes doubles, whose shortest text is longer.
        return ("" if np.isnan(value) else str(value) for value in column)
    return map(str, (column.astype(np.int64) if column.dtype.kind == "b" else column).tolist())


def write_csv(path: Path, columns: Columns, facts: Mapping[str, Any], follow: bool = True) -> None:
    """Write a CSV file, whole or not at all; ``facts`` have no place in it."""
    write_rows(path, csv_rows(columns), follow=follow)


def write_json(path: Path, columns: Columns, facts: Mapping[str, Any], follow: bool = True) -> None:
    """Write one JSON object: the facts, and ``frames``, a list with an object for each row; whole or not at all."""
    head = json.dumps(dict(facts))[1:-1]
    values = [_plain(column) for column in columns.values()]
    with replacing(path, follow) as draft, draft.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f'{{{head}{", " if head else ""}"frames": [')
        for number, row in enumerate(zip(*values, strict=True)):
            file.write(",\n" if number else "\n")
            json.dump(dict(zip(columns, row, strict=True)), file)
        file.write("\n]}\n")


def _plain(column: NDArray[Any]) -> list[Any]:
    """Return what JSON knows."""
    if column.dtype.kind == "f":
        return [None if np.isnan(value) else float(str(value)) for value in column]
    return [value or None for value in column.tolist()] if column.dtype.kind == "U" else column.tolist()


def write_parquet(path: Path, columns: Columns, facts: Mapping[str, Any], follow: bool = True) -> None:
    """Write a Parquet file, whole or not at all; the facts are its metadata, in JSON.

    Raises:
        MissingDataError: If pyarrow is not installed.
    """
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDataError(_missing("pyarrow", "a Parquet file")) from error
    table = pyarrow.table(
        {
            name: pyarrow.array(_plain(column), pyarrow.string())
            if column.dtype.kind == "U"
            else pyarrow.array(column, from_pandas=True)  # NaN is null
            for name, column in columns.items()
        },
        metadata={name: json.dumps(value) for name, value in facts.items()},
    )
    with replacing(path, follow) as draft:
        pyarrow.parquet.write_table(table, draft)


def to_pandas(columns: Columns, facts: Mapping[str, Any]) -> "pandas.DataFrame":
    """Return a data frame; the facts are its ``attrs``.

    Raises:
        MissingDataError: If pandas is not installed.
    """
    try:
        import pandas  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDataError(_missing("pandas", "a data frame")) from error
    words = {name: _plain(column) for name, column in columns.items() if column.dtype.kind == "U"}
    frame = pandas.DataFrame({**columns, **words})
    frame.attrs.update(facts)
    return frame


def _missing(package: str, what: str) -> str:
    return f"timeline: {what} needs {package}, which is not installed: pip install 'hocp-mm[tables]'."


WRITERS: dict[str, Callable[[Path, Columns, Mapping[str, Any], bool], None]] = {
    ".csv": write_csv,
    ".json": write_json,
    ".parquet": write_parquet,
}
"""By the end of the file's name."""
