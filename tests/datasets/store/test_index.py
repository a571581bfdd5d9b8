"""An index gives back the records that were written, whole, or one error."""

import numpy as np
import pytest

from hocp_mm.datasets.store import CropSettings, IndexRow, PackTable, read_index, write_index
from hocp_mm.errors import DataError, MissingDataError
from tests.material.store_files import make_row

CROP = CropSettings(size=32)


def table(count: int, first: int = 0) -> PackTable:
    numbers = np.arange(first, first + count)
    return PackTable(numbers * 100, np.full(count, 90, np.int32), (numbers * 7).astype(np.uint32))


@pytest.fixture
def rows():
    return [
        make_row("first", table(5)),
        make_row("zweité", table(2, 5), pack="first", first_row=5, boxes=None, fps=29.97),
        make_row("third", table(3, 9), boxes=np.array([[1, 2, 3, 4], [np.nan] * 4, [5, 6, 7, 8]], np.float32)),
    ]


def test_records_come_back_whole(tmp_path, rows):
    write_index(tmp_path / "index.npz", rows, CROP)
    index = read_index(tmp_path / "index.npz")
    assert (len(index), index.total_frames, index.keys()) == (3, 10, ["first", "zweité", "third"])
    for number, row in enumerate(rows):
        record = index.record(number)
        assert record["video"] == row.key
        assert record["filename"] == str(tmp_path / "packs" / f"{row.pack}.avi")
        assert (record["num_frames"], record["fps"], record["subject"]) == (len(row.table), row.fps, row.subject)
        assert record["crop"] == CROP
        assert "expression" not in record
        for name in ("affect", "valid", "face_found"):
            assert np.array_equal(record[name], getattr(row, name))
        for name in ("offsets", "sizes", "checksums"):
            assert np.array_equal(getattr(record["pack"], name), getattr(row.table, name))
        if row.boxes is None:
            assert record["boxes"] is None
        else:
            assert np.array_equal(record["boxes"], row.boxes, equal_nan=True)
        assert (int(index.num_frames[number]), index.subjects()[number]) == (len(row.table), row.subject)


def test_a_record_is_fresh(tmp_path, rows):
    """A transform may write into it; the next epoch must not see that."""
    write_index(tmp_path / "index.npz", rows, CROP)
    index = read_index(tmp_path / "index.npz")
    record = index.record(0)
    for name in ("affect", "valid", "boxes", "face_found"):
        record[name][:] = 1
    assert np.array_equal(index.record(0)["affect"], rows[0].affect)
    assert np.array_equal(index.record(0)["boxes"], rows[0].boxes)


def test_expressions_are_kept_where_a_set_has_them(tmp_path):
    labelled = [make_row("a", table(1), expression=6), make_row("b", table(1, 1), expression=-1)]
    write_index(tmp_path / "index.npz", labelled, CROP)
    index = read_index(tmp_path / "index.npz")
    assert [index.record(row)["expression"] for row in range(2)] == index.expressions.tolist() == [6, -1]


def test_a_row_from_a_record_is_the_same_row(rows, tmp_path):
    write_index(tmp_path / "index.npz", rows, CROP)
    record = read_index(tmp_path / "index.npz").record(2)
    again = IndexRow.from_record(record, "third", 0, record["pack"])
    assert again.key == rows[2].key
    assert np.array_equal(again.boxes, rows[2].boxes, equal_nan=True)


def test_the_same_rows_give_the_same_bytes(tmp_path, rows):
    for name in ("a.npz", "b.npz"):
        write_index(tmp_path / name, rows, CROP)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_rows_that_contradict_each_other_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="keys must differ, got 1 of 2"):
        write_index(tmp_path / "index.npz", [rows[0], rows[0]], CROP)
    with pytest.raises(ValueError, match="keys must differ, got 0 of 0"):
        write_index(tmp_path / "index.npz", [], CROP)
    with pytest.raises(ValueError, match=r"'x' must have one row per frame in every array, got \[5, 3, 3, 3, 3\]"):
        make_row("x", table(3), affect=rows[0].affect)


def test_a_missing_index_is_an_unfinished_store(tmp_path):
    with pytest.raises(MissingDataError, match=r"index\.npz: no such file, so the store is not finished"):
        read_index(tmp_path / "index.npz")


def test_a_changed_byte_is_found_or_without_effect(tmp_path, rows):
    """An error that names the file, or the very same records."""
    path = tmp_path / "index.npz"
    write_index(path, rows, CROP)
    raw = path.read_bytes()
    good = str([read_index(path).record(row) for row in range(3)])
    places = range(0, len(raw), 23)
    texts = [_records_of_damaged(path, raw, place) for place in places]
    errors = [text for text in texts if text != good]
    assert all(text.startswith(f"{path}: ") for text in errors)
    assert len(errors) > 0.7 * len(places)


def _records_of_damaged(path, raw: bytes, place: int) -> str:
    path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :])
    try:
        return str([read_index(path).record(row) for row in range(3)])
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_index_is_refused(tmp_path, rows, share):
    path = tmp_path / "index.npz"
    write_index(path, rows, CROP)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(DataError, match=r"index\.npz: the index is damaged"):
        read_index(path)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda columns: columns.pop("affect"), "columns must be"),
        (lambda columns: columns.update(affect=columns["affect"][:-1]), r"affect must be float32 \(10, 2\), got"),
        (lambda columns: columns.update(valid=columns["valid"].astype(int)), r"valid must be bool \(10,\), got int64"),
        (lambda columns: columns.update(format_version=np.array([9])), "format_version must be 1, got"),
        (lambda columns: columns.update(sizes=-columns["sizes"]), "offsets and sizes must not be negative"),
        (lambda columns: columns.update(keys=columns["keys"][:-1]), "the last end must be"),
        (lambda columns: columns.update(crop=columns["crop"][:-1]), "damaged"),
    ],
)
def test_columns_that_do_not_belong_together_are_refused(tmp_path, rows, change, rule):
    path = tmp_path / "index.npz"
    write_index(path, rows, CROP)
    with np.load(path) as file:
        columns = dict(file)
    change(columns)
    np.savez(path, **columns)
    with pytest.raises(DataError, match=rule):
        read_index(path)


@pytest.mark.parametrize("pack", ["../../elsewhere", "/home/somebody/video", "..", "a/b", "a\\b", "a\nb"])
def test_a_strangers_index_names_no_file_outside_of_the_packs(pack, tmp_path):
    write_index(tmp_path / "index.npz", [make_row("a", table(1), pack=pack)], CROP)
    with pytest.raises(DataError, match=r"index\.npz: the index is damaged \(a pack must have the name of a file in"):
        read_index(tmp_path / "index.npz")


def test_lengths_that_overflow_are_refused(tmp_path):
    write_index(tmp_path / "index.npz", [make_row("a", table(5)), *(make_row(k, table(1)) for k in "bcde")], CROP)
    with np.load(tmp_path / "index.npz") as file:
        columns = dict(file)
    columns["num_frames"] = np.array([2**62, 2**62, 2**62, 2**62 - 9, 18])  # 9 in 64 bits
    np.savez(tmp_path / "index.npz", **columns)
    with pytest.raises(DataError, match="the index is damaged"):
        read_index(tmp_path / "index.npz")


@pytest.mark.parametrize("name", ["format_version", "affect", "crop", "keys"])
def test_zeros_that_were_packed_are_not_unpacked(tmp_path, rows, name):
    """A few kilobytes would fill the memory."""
    write_index(tmp_path / "index.npz", rows, CROP)
    with np.load(tmp_path / "index.npz") as file:
        columns = dict(file)
    columns[name] = np.zeros(1 << 22, columns[name].dtype)
    np.savez_compressed(tmp_path / "index.npz", **columns)
    with pytest.raises(DataError, match=r"index\.npz: .*arrays must be stored as they are, got \d+ bytes in a file of"):
        read_index(tmp_path / "index.npz")
