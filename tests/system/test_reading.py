"""Paths that lead to no file are one clear error, and never a wait without end."""

import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.reading import check_file, parse_number, read_bytes, read_json, read_text, unique_keys


def _make(path, kind):
    makers = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "circle": lambda: path.symlink_to(path.name),
        "failing disk": lambda: path.symlink_to("/proc/self/mem"),
        "file of the kernel": lambda: path.symlink_to("/proc/version"),
        "nothing": lambda: None,
        "link to nothing": lambda: path.symlink_to("/nowhere/else"),
    }
    makers[kind]()
    return path


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("folder", DataError, r"x\.csv: the label file cannot be read \(Is a directory\)"),
        ("pipe", DataError, r"x\.csv: the label file cannot be read \(Is a named pipe\)"),
        ("device", DataError, r"x\.csv: the label file cannot be read \(Is a device\)"),
        ("circle", DataError, r"x\.csv: the label file cannot be read \(Too many levels of symbolic links\)"),
        ("failing disk", DataError, r"x\.csv: the label file cannot be read \(Input/output error\)"),
        ("file of the kernel", DataError, r"x\.csv: the label file cannot be read \(Is a file of the kernel\)"),
        ("nothing", MissingDataError, r"x\.csv: no such label file\."),
        ("link to nothing", MissingDataError, r"no such label file \(a link to /nowhere/else, which is not there\)"),
    ],
)
def test_what_is_no_file_is_told(tmp_path, kind, error, text):
    with pytest.raises(error, match=text):
        read_text(_make(tmp_path / "x.csv", kind), "label file")


def test_a_name_that_no_file_can_have_is_told():
    with pytest.raises(DataError, match="embedded null byte"):
        check_file("a\0b", "label file")


def test_a_file_of_a_file_is_missing(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(MissingDataError, match="no such label file"):
        check_file(tmp_path / "a/b", "label file")


def test_a_file_or_a_link_to_one_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    (tmp_path / "b").symlink_to("a")
    assert read_bytes(tmp_path / "b", "file").startswith(b"\xef\xbb\xbfone")
    assert read_text(tmp_path / "b", "file") == "one\ntwo\nthree\n"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(bytes(11))
    with pytest.raises(DataError, match="must have at most 10 bytes, got 11"):
        read_bytes(tmp_path / "a", "file", largest=10)


def test_no_text_is_as_large_as_the_memory(tmp_path):
    with (tmp_path / "a").open("wb") as holes:
        holes.truncate(1 << 29)
    with pytest.raises(DataError, match="must have at most 268435456 bytes"):
        read_text(tmp_path / "a", "file")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_comes_back(value):
    assert parse_number(repr(value)) == value


@pytest.mark.parametrize("text", ["", "nan", "inf", "-Infinity", "1_0", "0,5", "\u0660", "1e999", "0x1", "1 2"])
def test_anything_else_is_no_number(text):
    assert math.isnan(parse_number(text))


def test_a_key_given_twice_is_refused():
    assert unique_keys([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="key 'a' is given twice"):
        unique_keys([("a", 1), ("b", 2), ("a", 1)])


def test_many_keys_are_compared_soon():
    """Counting each of them anew would take the square: hours."""
    pairs = [(f"key{number}", 1) for number in range(300_000)]
    with pytest.raises(ValueError, match="key 'last' is given twice"):
        unique_keys([*pairs, ("last", 1), ("last", 2)])


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "Expecting"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is given twice"),
        (b"\xff\xfe{}", "codec can't decode"),
        (b"[" * 10**5, "recursion"),
    ],
)
def test_what_is_no_json_is_one_error(raw, reason, tmp_path):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(DataError, match=rf"a\.json: not readable as JSON \(.*{reason}"):
        read_json(tmp_path / "a.json", "boxes file")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1, "b": 1.5}')
    assert read_json(tmp_path / "a.json", "boxes file", lambda digits: -int(digits)) == {"a": -1, "b": 1.5}
    with pytest.raises(DataError, match=r"a\.json: the note must have at most 10 bytes, got 21"):
        read_json(tmp_path / "a.json", "note", largest=10)
