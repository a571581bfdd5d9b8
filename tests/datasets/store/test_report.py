"""What a store says about what it lacks."""

import pytest

from hocp_mm.datasets.records.faults import Fault
from hocp_mm.datasets.store.report import LEFT_OUT, count_kinds, left_out_keys, read_report, report_text
from hocp_mm.errors import DataError, MissingDataError

ROWS = [
    Fault("a, b.avi", 'a, b.avi: a "quoted"\nsentence in two lines', "video"),
    Fault("Ω/1.jpg#2", "…", LEFT_OUT),
    Fault("\udcff.avi", "a name that is no UTF-8", "video"),
    Fault("a.csv", "got 'a\rb'", "labels"),
    Fault("b\n.csv", "got 'a\r\nb'", "labels"),
]


def test_every_text_comes_back(tmp_path):
    (tmp_path / "report.csv").write_text(report_text(ROWS), encoding="utf-8", errors="surrogateescape", newline="")
    assert read_report(tmp_path) == ROWS
    assert left_out_keys(ROWS) == {"Ω/1.jpg#2"}
    assert list(count_kinds(ROWS).items()) == [("labels", 2), ("video", 2), (LEFT_OUT, 1)]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(MissingDataError, match=r"report\.csv: no such file"):
        read_report(tmp_path)
    for text in ("", "kind,file\n", "kind,file,text\nvideo,a.avi\n"):
        (tmp_path / "report.csv").write_text(text)
        with pytest.raises(DataError, match="must have the columns kind, file, text"):
            read_report(tmp_path)


def test_a_report_of_holes_is_not_read_into_memory(tmp_path):
    with (tmp_path / "report.csv").open("wb") as holes:
        holes.truncate(1 << 36)
    with pytest.raises(DataError, match="must have at most"):
        read_report(tmp_path)
