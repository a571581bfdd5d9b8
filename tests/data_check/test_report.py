"""The account as a table, a list and a file."""

import csv

from hocp_mm.data_check.report import DataReport, PartReport, report_text, write_faults
from hocp_mm.datasets.records.faults import Fault

IMAGES = [Fault(f"set/{n}.jpg", f"set/{n}.jpg: no picture.", "image") for n in range(12)]
TRAIN = PartReport(
    "train",
    "AffectNetDataset",
    records=287_651,
    clips=287_651,
    frames=287_651,
    valid_frames=143_826,
    valence_range=(-0.5, 0.25),
    arousal_range=(0.0, 1.0),
    face_found_share=0.9,
    label_range=(-10, 10),
    rate_range=(18.237704, 25.0),
    variable=1_234,
    decoders={"images": 287_651},
    faults=(*IMAGES, Fault("set/a.csv", "set/a.csv: a, b.", "labels")),
    notes=("two images without annotations",),
)
LOST = PartReport("val", "SEWADataset", faults=(Fault("none", "none: no such folder.", "set"), TRAIN.faults[0]))
AGAIN = PartReport("test", "SEWADataset", same_as="val")


def cells(text: str) -> dict[str, list[str]]:
    """Return the cells of the table by the name of their row."""
    lines = text.split("\n\n")[0].splitlines()
    return {(parts := line.split("  "))[0]: [cell.strip() for cell in parts[1:] if cell.strip()] for line in lines}


def test_the_table_has_a_column_per_part():
    table = cells(report_text(DataReport((TRAIN, LOST, AGAIN))))
    assert table["records"] == ["287,651", "0", "0"]
    assert table["valid labels"] == ["143,826 (50.0 %)", "0", "0"]
    assert table["subjects"] == ["not told", "0", "0"]
    assert table["valence"] == ["-0.50 to +0.25", "-", "-"]
    assert table["scaled from"] == ["-10 to 10", "-", "-"]
    assert table["face found"] == ["90.0 %", "-", "-"]
    assert table["frames per second"] == ["18.24 to 25 (1,234 variable)", "-", "-"]
    assert table["read as images"] == ["287,651", "0", "0"]
    assert table["faults: image"] == ["12", "1", "as val"]
    assert table["faults: labels"] == ["1", "0", "as val"]


def test_the_first_ten_of_a_kind_are_listed_and_nothing_is_counted_twice():
    report = DataReport((TRAIN, LOST, AGAIN))
    text = report_text(report)
    assert report.kinds == {"image": 12, "labels": 1, "set": 1}
    assert not report.ok
    assert "\nimage: 12 faults\n" + "\n".join(f"  {fault}" for fault in IMAGES[:10]) + "\n  … and 2 more\n" in text
    assert "\nset: 1 fault\n  none: no such folder.\n" in text
    assert "note (train): two images without annotations" in text
    assert text.endswith("\n14 faults in all")


def test_names_cannot_give_commands_to_the_terminal():
    odd = PartReport(
        "val", "SEWADataset", faults=(Fault("x.csv", "\x1b[2J\udcff\n.csv: x.", "labels"),), notes=("\x1b[2J",)
    )
    text = report_text(DataReport((odd,)))
    assert "\n  \\x1b[2J\\udcff\\n.csv: x.\n" in text
    assert "\x1b" not in text


def test_without_faults_the_last_line_says_so():
    clean = PartReport("train", "SEWADataset", records=1, frames=2, valid_frames=2, subjects=1)
    text = report_text(DataReport((clean,)))
    assert text.endswith("\n\nno faults")
    assert cells(text)["faults"] == ["0"]
    assert DataReport((clean,)).ok


def test_the_file_has_every_fault(tmp_path):
    path = write_faults(DataReport((TRAIN, LOST)), tmp_path / "new" / "faults.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert rows[12] == {"part": "train", "kind": "labels", "file": "set/a.csv", "text": "set/a.csv: a, b."}
    assert rows[13]["part"] == "val"
