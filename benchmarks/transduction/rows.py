"""The table of raw numbers: one line for each run, appended whole as it ends."""

import csv
import io
import os
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from hocp_mm.errors import DataError
from hocp_mm.system.files import write_text


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        section: ``main`` or ``ablation``.
        task: Its name.
        contender: Its name.
        seed: Of fold, start and batches.
        parameters: Of the network.
        macs: Multiplications for one frame.
        seconds: Of one core in training, that of the image network it starts from included.
        validation_first: CCC of the first target on the validation part; others alike, on the test part, too.
        validation_second: Of the second one.
        validation: Mean of both.
        validation_accuracy: Share of frames of the right class, NaN without classes.
        test_first: On the test part.
        test_second: On the test part.
        test: On the test part.
        test_accuracy: On the test part.
        settings: Digest of what the numbers depend on besides.
    """

    section: str
    task: str
    contender: str
    seed: int
    parameters: int
    macs: float
    seconds: float
    validation_first: float
    validation_second: float
    validation: float
    validation_accuracy: float
    test_first: float
    test_second: float
    test: float
    test_accuracy: float
    settings: str

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What the run was of."""
        return self.section, self.task, self.contender, self.seed


COLUMNS = tuple(field.name for field in fields(Row))


def read_rows(file: Path) -> list[Row]:
    """Read all whole lines.

    Args:
        file: The table.

    Returns:
        The runs; none where there is no file.

    Raises:
        DataError: If the columns are others, or a line does not fit them, has no score, or the run of another line.
    """
    if not file.is_file():
        return []
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: must be text in UTF-8 ({error}).") from error
    whole = text[: text.rfind("\n") + 1]  # whoever was killed may have left a piece of a line
    lines = list(csv.reader(io.StringIO(whole)))
    if lines and tuple(lines[0]) != COLUMNS:
        raise DataError(f"{file}: columns must be those of this study, got {lines[0][:5]}; remove the file.")
    kinds: list[Any] = [field.type for field in fields(Row)]
    found: dict[tuple, Row] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = Row(*(kind(cell) for kind, cell in zip(kinds, line, strict=True)))
        except ValueError as error:
            raise DataError(
                f"{file}: every line must hold {len(COLUMNS)} cells that fit ({error}; line {number})."
            ) from error
        if not -1 <= row.test <= 1:
            raise DataError(f"{file}: test must be a CCC, got {row.test} (line {number}).")
        if found.setdefault(row.key, row) is not row:
            raise DataError(f"{file}: every run must stand there once, got {row.key} again (line {number}).")
    return list(found.values())


def prepare(file: Path) -> None:
    """Write the head of the table, or take a piece of a line off its end."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    whole = text[: text.rfind("\n") + 1] or _line(COLUMNS)
    if whole != text:
        write_text(file, whole, newline="")


def append(file: Path, row: Row) -> None:
    """Append one line to a prepared table, by one call of the system: several processes may do so at a time."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, _line(astuple(row)).encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def _line(cells: tuple) -> str:
    out = io.StringIO()
    rounded = (f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells)
    csv.writer(out, lineterminator="\n").writerow(rounded)
    return out.getvalue()
