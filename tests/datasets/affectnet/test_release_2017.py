"""The csv files of 2017, cell by cell: what is read, what is NULL, and one exact line for every fault."""

import numpy as np
import pytest

from hocp_mm.datasets.affectnet.release_2017 import read_affectnet_csv
from hocp_mm.errors import DataError, MissingDataError
from tests.material.affectnet_files import HEADER, MARKS, marks_text, row

FIRST = "689/737db2483489148d783ef278f43f486c0a97e140fc4b6b61b84363ca.jpg"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache"))


def read(folder, *lines, header=HEADER, landmarks=True, raw=None, **options):
    path = folder / "training.csv"
    text = "\n".join([*([header] if header else []), *lines]) + "\n"
    path.write_bytes(text.encode() if raw is None else raw)
    return read_affectnet_csv(path, folder / "images", landmarks, **options)


def test_a_row_of_the_release_is_read_number_by_number(tmp_path):
    cells = {"face_x": "134.0", "face_y": "134.0", "face_width": 899, "face_height": 899}
    rows = read(tmp_path, row(FIRST, 1, "0.785714", "-0.055556", **cells))
    assert rows.files == [FIRST]
    assert (rows.expression.tolist(), rows.expression.dtype) == ([1], np.int16)
    assert rows.affect.tolist() == [[0.785714, -0.055556]]
    assert rows.boxes["box"].tolist() == [[134, 134, 1033, 1033]]
    points = np.reshape(MARKS, (68, 2))
    np.testing.assert_allclose(rows.boxes["landmarks"][0], [*points.min(0), *points.max(0)], rtol=1e-6)
    np.testing.assert_allclose(rows.boxes["inner"][0], [*points[17:].min(0), *points[17:].max(0)], rtol=1e-6)
    assert (rows.lines.tolist(), rows.faults, rows.where(0)) == ([2], [], f"{tmp_path / 'training.csv'}: line 2")


def test_a_file_without_header_is_read_from_its_first_line(tmp_path):
    rows = read(tmp_path, row("1/a.jpg", 2, 0.5, 0.25), row("1/b.jpg", 3), header=None)
    assert (rows.files, rows.expression.tolist(), rows.lines.tolist()) == (["1/a.jpg", "1/b.jpg"], [2, 3], [1, 2])


def test_columns_are_found_by_name_so_that_valence_and_arousal_never_swap(tmp_path):
    header = "arousal,valence,EXPRESSION,subdirectory_filepath,face_x,face_y,face_width,face_height,facial_landmarks"
    rows = read(tmp_path, f"-0.7,0.3,4,1/a.png,1,2,3,4,{marks_text()}", header=header)
    assert (rows.affect.tolist(), rows.expression.tolist(), rows.files) == ([[0.3, -0.7]], [4], ["1/a.png"])
    assert rows.boxes["box"].tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize("separator", [";", " ", "|", "; "])
def test_the_separator_of_landmarks_is_found(tmp_path, separator):
    lines = [row("1/a.jpg", facial_landmarks="NULL"), row("1/b.jpg", facial_landmarks=marks_text(separator))]
    rows = read(tmp_path, *lines)
    assert rows.faults == []
    assert np.isnan(rows.boxes["landmarks"][0]).all()
    assert rows.boxes["landmarks"][1].tolist() == [20.0, 10.25, 53.5, 43.75]


@pytest.mark.parametrize("landmarks", [True, False])
def test_a_file_made_on_windows_names_the_same_images(tmp_path, landmarks):
    for _ in range(2):  # the second time from the index
        rows = read(tmp_path, row(r"689\a.jpg"), row(r" 1\2\b.jpg "), row("689/c.jpg"), landmarks=landmarks)
        assert rows.files == ["689/a.jpg", "1/2/b.jpg", "689/c.jpg"]
        assert rows.faults == []


def test_null_is_no_number_and_a_width_below_zero_is_no_face(tmp_path):
    nulls = dict.fromkeys(("face_x", "face_y", "face_width", "face_height", "facial_landmarks"), "NULL")
    rows = read(
        tmp_path,
        row("1/a.jpg", 10, -2, -2, **nulls),
        row("1/b.jpg", 9, -2, -2, face_width=-1, face_height=-1),
        row("1/c.jpg", "NULL", "NULL", ""),
    )
    assert rows.faults == []
    assert rows.expression.tolist() == [10, 9, -1]
    assert rows.affect[:2].tolist() == [[-2, -2], [-2, -2]]
    assert np.isnan(rows.affect[2]).all()
    assert np.isnan(rows.boxes["box"]).all(axis=1).tolist() == [True, True, False]
    assert np.isnan(rows.boxes["landmarks"]).all(axis=1).tolist() == [True, False, False]


def test_byte_order_mark_windows_line_ends_quotes_and_empty_lines_are_no_faults(tmp_path):
    text = f"{HEADER}\r\n\r\n{row('1/a.jpg', 5)}\r\n{row(chr(34) + '1/b,c.jpg' + chr(34), 6)}\r\n\r\n"
    rows = read(tmp_path, raw=b"\xef\xbb\xbf" + text.encode())
    assert (rows.files, rows.expression.tolist(), rows.faults) == (["1/a.jpg", "1/b,c.jpg"], [5, 6], [])
    assert rows.lines.tolist() == [3, 4]


def test_names_may_be_in_any_script_and_end_in_any_way(tmp_path):
    files = ["12/ü.JPG", "12/笑.png", "12/x.bmp", "12/y.tif"]
    assert read(tmp_path, *(row(file) for file in files)).files == files


FAULTS = {
    "a word": (row("1/a.jpg", valence="bad"), "line 3: valence must be a finite number or NULL, got 'bad'"),
    "NaN": (row("1/a.jpg", arousal="nan"), "line 3: arousal must be a finite number or NULL, got 'nan'"),
    "infinity": (row("1/a.jpg", face_x="inf"), "line 3: face_x must be a finite number or NULL, got 'inf'"),
    "class 12": (row("1/a.jpg", 12), "line 3: expression must be a class from 0 to 11, got '12'"),
    "half a class": (row("1/a.jpg", 1.5), "line 3: expression must be a class from 0 to 11, got '1.5'"),
    "class -2": (row("1/a.jpg", -2), "line 3: expression must be a class from 0 to 11, got '-2'"),
    "cut line": ("1/a.jpg,1,2,3", "line 3 must have 9 cells, got 4"),
    "one cell too many": (row("1/a.jpg") + ",1", "line 3 must have 9 cells, got 10"),
    "135 landmarks": (
        row("1/a.jpg", facial_landmarks=marks_text(values=MARKS[:135])),
        "line 3: facial_landmarks must be 136 numbers with ';' between them or NULL, got 135",
    ),
    "another separator": (
        row("1/a.jpg", facial_landmarks=marks_text(" ")),
        "line 3: facial_landmarks must be 136 numbers with ';' between them or NULL, got 1",
    ),
    "a landmark that is a word": (
        row("1/a.jpg", facial_landmarks=marks_text().replace("43.75", "x")),
        "line 3: landmarks must be finite numbers, got 'x'",
    ),
    "an infinite landmark": (
        row("1/a.jpg", facial_landmarks=marks_text().replace("43.75", "inf")),
        "line 3: landmarks must be finite numbers, got 'inf'",
    ),
    "absolute path": (row("/etc/a.jpg"), "line 3: a path must lie below the images, got '/etc/a.jpg'"),
    "climbing path": (row("1/../../a.jpg"), "line 3: a path must lie below the images, got '1/../../a.jpg'"),
    **{
        f"absolute or climbing on Windows: {path}": (
            row(path),
            f"line 3: a path must lie below the images, got {path!r}",
        )
        for path in (r"C:\set\a.jpg", "c:/set/a.jpg", r"1\..\..\a.jpg", r"..\a.jpg", r"\a.jpg", r"\\host\share\a.jpg")
    },
    "a path with NUL": (row("1/a\0.jpg"), "line 3: a path must lie below the images, got '1/a\\x00.jpg'"),
    "no path": (row(""), "line 3: a path must lie below the images, got ''"),
}


@pytest.mark.parametrize(("line", "text"), FAULTS.values(), ids=FAULTS)
def test_each_fault_has_one_line_and_the_other_rows_are_read(tmp_path, line, text):
    rows = read(tmp_path, row("1/x.jpg", 1), line, row("1/y.jpg", 2))
    assert rows.faults == [f"{tmp_path / 'training.csv'}: {text}."]
    assert (rows.files, rows.lines.tolist()) == (["1/x.jpg", "1/y.jpg"], [2, 4])
    assert len(rows.boxes["landmarks"]) == len(rows.boxes["box"]) == len(rows.affect) == 2


def test_landmarks_are_counted_even_where_boxes_come_from_elsewhere(tmp_path):
    rows = read(tmp_path, row("1/a.jpg", facial_landmarks="1;2;3"), landmarks=False)
    assert "136 numbers with ';' between them or NULL, got 3." in rows.faults[0]
    assert set(rows.boxes) == {"box"}


REFUSALS = {
    "empty": (b"", "a csv file must hold one row per face, got none"),
    "blank": (b"\n\n", "a csv file must hold one row per face, got none"),
    "header alone": (f"{HEADER}\n".encode(), "a csv file must hold one row per face, got the header alone"),
    "picture": (b"\xff\xd8\xff\xe0\n", r"a csv file must be UTF-8 text \(invalid start byte at byte 0\)"),
    "column missing": (
        b"subDirectory_filePath,expression,valence\n1/a.jpg,1,0\n",
        "the header must name the columns .* once, but face_x, face_y, .*, facial_landmarks, arousal is missing",
    ),
    "column twice": (
        f"{HEADER},valence\n".encode(),
        "the header must name the columns .* once, but valence occurs twice",
    ),
    "line without end": (b"\0" * (1 << 22), "not a readable csv file"),
    "nothing but faults": (
        f"{HEADER}\n".encode() + b"1,1\n" * 102_500,
        "must be a csv file of AffectNet, got more than",
    ),
    "cell without end": (b'"' + b"x" * 200_000, r"not a readable csv file \(field larger than field limit"),
}


@pytest.mark.parametrize(("raw", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_no_such_file_at_all_is_refused(tmp_path, raw, message):
    with pytest.raises(DataError, match=rf"training\.csv: {message}"):
        read(tmp_path, raw=raw)


def test_a_file_of_holes_is_not_read_into_memory(tmp_path):
    file = tmp_path / "training.csv"
    with file.open("wb") as holes:
        holes.truncate(1 << 36)
    with pytest.raises(DataError, match="not a readable csv file"):
        read_affectnet_csv(file, tmp_path, landmarks=False)


def test_no_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"x\.csv: no such csv file\."):
        read_affectnet_csv(tmp_path / "x.csv", tmp_path, True)


def test_rows_are_the_same_however_they_fall_into_chunks(tmp_path, monkeypatch):
    lines = [row(f"{n}/a.jpg", n % 8, f"{n / 50 - 1:.3f}") for n in range(9)]
    whole = read(tmp_path, *lines, cache=False)
    monkeypatch.setattr("hocp_mm.datasets.affectnet.release_2017._CHUNK", 2)
    parts = read(tmp_path, *lines, cache=False)
    assert parts.files == whole.files
    np.testing.assert_array_equal(parts.affect, whole.affect)
    np.testing.assert_array_equal(parts.boxes["inner"], whole.boxes["inner"])
    assert parts.lines.tolist() == list(range(2, 11))


def test_a_second_reading_comes_from_the_index_until_the_file_changes(tmp_path, monkeypatch):
    first = read(tmp_path, row("1/ü.jpg", 3, 0.25, -0.5), row("1/b.jpg", "NULL", "NULL", 0))
    path = tmp_path / "training.csv"
    with monkeypatch.context() as patch:
        patch.setattr("hocp_mm.datasets.affectnet.release_2017._Parser", None)  # any parsing would fail
        again = read_affectnet_csv(path, tmp_path / "images", True)
    assert (again.files, again.lines.tolist()) == (first.files, first.lines.tolist())
    np.testing.assert_array_equal(again.affect, first.affect)
    np.testing.assert_array_equal(again.expression, first.expression)
    for name in ("box", "landmarks", "inner"):
        np.testing.assert_array_equal(again.boxes[name], first.boxes[name])
    path.write_text(path.read_text().replace("0.25", "0.75"))  # as long as before
    assert read_affectnet_csv(path, tmp_path / "images", True).affect[0, 0] == 0.75


def test_an_index_without_landmarks_does_not_stand_for_one_with_them(tmp_path):
    read(tmp_path, row("1/a.jpg"), landmarks=False)
    for landmarks in (True, False):
        rows = read_affectnet_csv(tmp_path / "training.csv", tmp_path / "images", landmarks)
        assert set(rows.boxes) == ({"box", "landmarks", "inner"} if landmarks else {"box"})


def test_a_file_with_faults_is_read_again_each_time(tmp_path):
    for _ in range(2):
        assert len(read(tmp_path, row("1/a.jpg", 12)).faults) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("number", ["0.1_5", "\u0660", "1e999"])
def test_a_number_that_only_python_would_take_is_a_fault(tmp_path, number):
    rows = read(tmp_path, row("1/a.jpg"), row("1/b.jpg", arousal=number))
    assert rows.files == ["1/a.jpg"]
    assert len(rows.faults) == 1
    assert "line 3: arousal must be a finite number or NULL" in rows.faults[0]


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(tmp_path):
    with pytest.raises(DataError, match=r"training\.csv: not a readable csv file \(unexpected end of data\)"):
        read(tmp_path, row("1/a.jpg"), f'"{row("1/b.jpg")}', row("1/c.jpg"))


def test_a_disk_that_fails_is_told(tmp_path):
    (tmp_path / "training.csv").symlink_to("/proc/self/mem")
    with pytest.raises(DataError, match=r"training\.csv: the csv file cannot be read \(Input/output error\)"):
        read_affectnet_csv(tmp_path / "training.csv", tmp_path, landmarks=False, cache=False)
