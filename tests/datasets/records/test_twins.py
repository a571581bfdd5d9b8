"""Equal contents of two recordings are found, whatever their names; those of one recording may be equal."""

import numpy as np
import pytest

from hocp_mm.datasets.records.record import Record
from hocp_mm.datasets.records.twins import Claim, find_twins, label_claim, picture_claim, without_twins


def _write(folder, **contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def test_both_sides_of_a_copy_are_named(tmp_path):
    files = _write(tmp_path, a=b"same", b=b"same", c=b"diff", d=b"longer")
    found = find_twins(Claim(name, name, file, (file,)) for name, file in files.items())
    assert set(found) == {"a", "b"}
    assert found["a"] == [f"{files['a']}: two recordings must not have the same content, but {files['b']} has it."]
    assert found["b"][0].kind == "twins"


def test_files_of_one_recording_and_unreadable_ones_are_no_twins(tmp_path):
    files = _write(tmp_path, a=b"same", b=b"same")
    one = [Claim(name, "one recording", file, (file,)) for name, file in files.items()]
    assert find_twins([*one, Claim("c", "c", "c", (tmp_path / "none",))]) == {}


@pytest.mark.parametrize("size", [(1 << 20) + 1])
def test_a_difference_in_the_last_byte_of_a_large_file_is_one(tmp_path, size):
    files = _write(tmp_path, a=bytes(size), b=bytes(size - 1) + b"\1")
    assert find_twins(Claim(name, name, file, (file,)) for name, file in files.items()) == {}


def _record(name, affect, files=()):
    affect = np.asarray(affect, np.float32)
    valid = np.ones(len(affect), np.bool_)
    return Record(name, name, len(affect), 25.0, "", affect, valid, None, valid, tuple(files))


def test_labels_that_never_change_are_no_sign_of_a_copy():
    still = [_record(name, [[0, 0], [0, 0.5]]) for name in "ab"]
    assert [list(label_claim(record, record.key, "x")) for record in still] == [[], []]
    moved = [_record(name, [[0, 0], [0.1, 0.5]]) for name in "ab"]
    faults = []
    assert without_twins(moved, faults, lambda record: label_claim(record, record.key, record.key)) == []
    assert [fault.file for fault in faults] == ["a", "b"]


def test_pictures_are_claimed_from_the_first_to_the_last_with_a_file():
    files = ["", *(f"{number}.png" for number in range(99)), ""]
    claim = picture_claim(_record("a", [[0, 0]], files), "a")
    assert len(claim.files) == 8
    assert (claim.files[0], claim.files[-1]) == ("0.png", "98.png")
    assert picture_claim(_record("a", [[0, 0]], ["x.png"]), "a").files == ("x.png",)
