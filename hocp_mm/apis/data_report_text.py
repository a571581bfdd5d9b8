"""The account of a check as text and as a file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hocp_mm.apis.data_report import DataReport, PartReport, Range
from hocp_mm.files import write_rows
from hocp_mm.refusals import visible

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


def _scale(values: Range | None) -> str:
    return "-" if values is None else f"{values[0]:g} to {values[1]:g}"


def _count(faults: int) -> str:
    return "1 fault" if faults == 1 else f"{faults:,} faults"
