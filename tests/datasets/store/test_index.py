"""An index gives back the records that were written, whole, or one error."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from hocp_mm.datasets.records.record import PackedStrings
from hocp_mm.datasets.store import CropSettings, PackTable, read_index, write_index
from hocp_mm.errors import DataError, MissingDataError
from tests.material.store_files import make_record

CROP = CropSettings(size=32)


def table(count: int, first: int = 0) -> PackTable:
    numbers = np.arange(first, first + count)
    return PackTable(numbers * 100, np.full(count, 90, np.int32), (numbers * 7).astype(np.uint32))


def write(path, rows):
    write_index(path, rows, range(len(rows)), CROP)


@pytest.fixture
def rows():
    return [
        make_record("first", table(5)),
        make_record("zweité", table(2, 5), pack="first", boxes=None, fps=29.97),
        make_record("third", table(3, 9), boxes=np.array([[1, 2, 3, 4], [np.nan] * 4, [5, 6, 7, 8]], np.float32)),
    ]


def test_records_come_back_whole(tmp_path, rows):
    write(tmp_path / "index.npz", rows)
    index = read_index(tmp_path / "index.npz")
    assert (len(index), len(index.affect), index.keys) == (3, 10, ["first", "zweité", "third"])
    for number, row in enumerate(rows):
        record = index[number]
        assert record.key == row.key
        assert record.filename == str(tmp_path / "packs" / row.filename)
        assert (record.num_frames, record.fps, record.subject) == (row.num_frames, row.fps, row.subject)
        assert record.crop == CROP
        assert record.expression is None
        for name in ("affect", "valid", "face_found"):
            assert np.array_equal(getattr(record, name), getattr(row, name))
        for name in ("offsets", "sizes", "checksums"):
            assert np.array_equal(getattr(record.pack, name), getattr(row.pack, name))
        if row.boxes is None:
            assert record.boxes is None
        else:
            assert np.array_equal(record.boxes, row.boxes, equal_nan=True)
        assert (int(index.num_frames[number]), index.subjects[number]) == (row.num_frames, row.subject)


def test_uneven_times_are_kept_where_there_are_some(tmp_path, rows):
    """And an index without any has the columns that it always had."""
    write(tmp_path / "even.npz", rows)
    with np.load(tmp_path / "even.npz") as file:
        assert "times" not in file.files
    times = np.array([0.0, 0.03])
    write(tmp_path / "index.npz", [rows[0], replace(rows[1], times=times), rows[2]])
    index = read_index(tmp_path / "index.npz")
    assert index[0].times is None
    assert index[2].times is None
    assert np.array_equal(index[1].times, times)
    assert index[1].results()["times"].tolist() == [0.0, 0.03]
    assert "times" not in index[0].results()


def test_a_record_is_fresh(tmp_path, rows):
    """A transform may write into it; the next epoch must not see that."""
    write(tmp_path / "index.npz", rows)
    index = read_index(tmp_path / "index.npz")
    record = index[0]
    for name in ("affect", "valid", "boxes", "face_found"):
        getattr(record, name)[:] = 1
    assert np.array_equal(index[0].affect, rows[0].affect)
    assert np.array_equal(index[0].boxes, rows[0].boxes)


def test_expressions_are_kept_where_a_set_has_them(tmp_path):
    labelled = [make_record("a", table(1), expression=6), make_record("b", table(1, 1), expression=-1)]
    write(tmp_path / "index.npz", labelled)
    index = read_index(tmp_path / "index.npz")
    assert [record.expression for record in index] == index.expressions.tolist() == [6, -1]


def test_the_same_rows_give_the_same_bytes(tmp_path, rows):
    for name in ("a.npz", "b.npz"):
        write(tmp_path / name, rows)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_rows_that_contradict_each_other_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="keys must differ, got 1 of 2"):
        write(tmp_path / "index.npz", [rows[0], rows[0]])
    with pytest.raises(ValueError, match="keys must differ, got 0 of 0"):
        write(tmp_path / "index.npz", [])
    with pytest.raises(ValueError, match=r"'x' must have one row per frame in every array, got \[3, 5, 3, 3, 3, 3\]"):
        write(tmp_path / "index.npz", [make_record("x", table(3), affect=rows[0].affect)])


def test_a_missing_index_is_an_unfinished_store(tmp_path):
    with pytest.raises(MissingDataError, match=r"index\.npz: no such file, so the store is not finished"):
        read_index(tmp_path / "index.npz")


def test_a_changed_byte_is_found_or_without_effect(tmp_path, rows):
    """An error that names the file, or the very same records."""
    path = tmp_path / "index.npz"
    write(path, rows)
    raw = path.read_bytes()
    good = str([record.results() for record in read_index(path)])
    places = range(0, len(raw), 23)
    texts = [_records_of_damaged(path, raw, place) for place in places]
    errors = [text for text in texts if text != good]
    assert all(text.startswith(f"{path}: ") for text in errors)
    assert len(errors) > 0.7 * len(places)


def _records_of_damaged(path, raw: bytes, place: int) -> str:
    path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :])
    try:
        return str([record.results() for record in read_index(path)])
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_index_is_refused(tmp_path, rows, share):
    path = tmp_path / "index.npz"
    write(path, rows)
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
    write(path, rows)
    with np.load(path) as file:
        columns = dict(file)
    change(columns)
    np.savez(path, **columns)
    with pytest.raises(DataError, match=rule):
        read_index(path)


@pytest.mark.parametrize("pack", ["../../elsewhere", "/home/somebody/video", "..", "a/b", "a\\b", "a\nb"])
def test_a_strangers_index_names_no_file_outside_of_the_packs(pack, tmp_path):
    write(tmp_path / "index.npz", [make_record("a", table(1))])
    with np.load(tmp_path / "index.npz") as file:
        columns = dict(file)
    columns["packs"], columns["packs_ends"] = PackedStrings([pack]).arrays()
    np.savez(tmp_path / "index.npz", **columns)
    with pytest.raises(DataError, match=r"index\.npz: the index is damaged \(a pack must have the name of a file in"):
        read_index(tmp_path / "index.npz")


def test_lengths_that_overflow_are_refused(tmp_path):
    write(tmp_path / "index.npz", [make_record("a", table(5)), *(make_record(k, table(1)) for k in "bcde")])
    with np.load(tmp_path / "index.npz") as file:
        columns = dict(file)
    columns["num_frames"] = np.array([2**62, 2**62, 2**62, 2**62 - 9, 18])  # 9 in 64 bits
    np.savez(tmp_path / "index.npz", **columns)
    with pytest.raises(DataError, match="the index is damaged"):
        read_index(tmp_path / "index.npz")


@pytest.mark.parametrize("name", ["format_version", "affect", "crop", "keys"])
def test_zeros_that_were_packed_are_not_unpacked(tmp_path, rows, name):
    """A few kilobytes would fill the memory."""
    write(tmp_path / "index.npz", rows)
    with np.load(tmp_path / "index.npz") as file:
        columns = dict(file)
    columns[name] = np.zeros(1 << 22, columns[name].dtype)
    np.savez_compressed(tmp_path / "index.npz", **columns)
    with pytest.raises(DataError, match=r"index\.npz: .*arrays must be stored as they are, got \d+ bytes in a file of"):
        read_index(tmp_path / "index.npz")


@pytest.mark.parametrize("times", [[0, 0.03, 0.02], [0, 0.03, 0.03], [0, 0.03, np.inf], [0, np.nan, 0.03]])
def test_times_that_do_not_increase_are_refused(tmp_path, rows, times):
    """Windows over them would never end."""
    path = tmp_path / "index.npz"
    write(path, [rows[0], replace(rows[1], times=np.array([7.0, 7.5])), replace(rows[2], times=np.array([0, 1.0, 2]))])
    assert read_index(path)[1].times.tolist() == [7, 7.5]  # and the next one starts anew
    with np.load(path) as file:
        columns = dict(file)
    columns["times"][-3:] = times
    np.savez(path, **columns)
    with pytest.raises(DataError, match="times of a record must be finite and increase"):
        read_index(path)


def test_a_header_that_claims_a_terabyte_is_refused(tmp_path, rows):
    write(tmp_path / "good.npz", rows)
    claim = io.BytesIO()
    np.lib.format.write_array_header_1_0(claim, {"descr": "<f4", "fortran_order": False, "shape": (1 << 41,)})
    with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(tmp_path / "index.npz", "w") as index:
        for entry in good.infolist():
            index.writestr(entry.filename, claim.getvalue() if entry.filename == "affect.npy" else good.read(entry))
    with pytest.raises(DataError, match=r"index\.npz: the index is damaged"):
        read_index(tmp_path / "index.npz")


def test_weights_of_labels_are_kept_where_there_are_some(tmp_path, rows):
    write(tmp_path / "plain.npz", rows)
    with np.load(tmp_path / "plain.npz") as file:
        assert "weight" not in file.files
    write(tmp_path / "index.npz", [rows[0], replace(rows[1], weight=np.float32([0.5, 0])), rows[2]])
    index = read_index(tmp_path / "index.npz")
    assert index[0].weight is None
    assert index[1].weight.tolist() == [0.5, 0]
    with np.load(tmp_path / "index.npz") as file:
        columns = dict(file)
    np.savez(tmp_path / "index.npz", **{**columns, "weight": -columns["weight"]})
    with pytest.raises(DataError, match="weight must be finite and 0 or more"):
        read_index(tmp_path / "index.npz")
