"""The npy files of 2021: strings or numbers, never a pickle, and an index that never hides a change."""

import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hocp_mm.datasets.affectnet import index as affectnet_index
from hocp_mm.datasets.affectnet import release_2021 as affectnet_npy
from hocp_mm.datasets.affectnet.index import folder_state, load_index
from hocp_mm.datasets.affectnet.release_2021 import read_affectnet_folder, read_npy
from hocp_mm.errors import DataError, MissingDataError
from tests.material.affectnet_files import MARKS, write_2021, write_picture

IMAGES = {"0": ("1", "0.785714", "-0.055556"), "10": (3, -0.25, 0.5), "ü": (np.int64(7), np.float32(-0.5), "-1")}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def part(tmp_path):
    return write_2021(tmp_path / "set", IMAGES) / "train_set"


def test_strings_and_numbers_are_read_alike(part):
    rows = read_affectnet_folder(part)
    assert rows.files == ["0.jpg", "10.jpg", "ü.jpg"]
    assert rows.expression.tolist() == [1, 3, 7]
    assert rows.affect.tolist() == [[0.785714, -0.055556], [-0.25, 0.5], [-0.5, -1]]
    assert rows.boxes["landmarks"].tolist() == [[20.0, 10.25, 53.5, 43.75]] * 3
    assert rows.boxes["inner"].tolist() == [[28.5, 18.75, 53.5, 43.75]] * 3
    assert (rows.faults, rows.extra_images) == ([], 0)
    assert rows.where(1) == f"{part / 'annotations' / '10'}_*.npy"


@pytest.mark.parametrize(
    "marks",
    [np.array(MARKS, np.float32), np.reshape(MARKS, (68, 2)), np.array([f"{value:g}" for value in MARKS])],
    ids=["single precision", "two columns", "strings"],
)
def test_landmarks_come_in_any_shape_of_136(part, marks):
    np.save(part / "annotations/10_lnd.npy", marks)
    assert read_affectnet_folder(part).boxes["landmarks"][1].tolist() == [20.0, 10.25, 53.5, 43.75]


def test_an_image_without_landmarks_has_no_box(part):
    (part / "annotations/10_lnd.npy").unlink()
    rows = read_affectnet_folder(part)
    assert np.isnan(rows.boxes["landmarks"]).all(axis=1).tolist() == [False, True, False]
    assert rows.faults == []


def test_images_without_annotations_are_counted_and_other_files_passed_over(part):
    write_picture(part / "images/77.png")
    (part / "images/Thumbs.db").write_bytes(b"x")
    (part / "annotations/readme.txt").write_text("x")
    rows = read_affectnet_folder(part)
    assert (len(rows), rows.extra_images, rows.faults) == (3, 1, [])


def save(name, value):
    return lambda part: np.save(part / "annotations" / name, value)


def npy_bytes(dtype, values, shape=""):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values


def _pickled(part):
    np.save(part / "annotations/10_exp.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)


def _cut(name):
    def damage(part):
        path = part / "annotations" / name
        path.write_bytes(path.read_bytes()[:-1])

    return damage


FAULTS = {
    "no character": (
        lambda part: (part / "annotations/10_val.npy").write_bytes(npy_bytes("<U1", b"\0\0\x63\x75")),
        "10_val.npy: not readable as text (",
    ),
    "landmarks of no characters": (
        lambda part: (part / "annotations/10_lnd.npy").write_bytes(npy_bytes("<U1", b"\0\0\x63\x75" * 136, "136,")),
        "10_lnd.npy: not readable as text (",
    ),
    "a pickle": (_pickled, r"10_exp.npy: not a readable npy header (values must be numbers or strings, got '|O' of "),
    "a bare pickle": (
        lambda part: (part / "annotations/10_exp.npy").write_bytes(pickle.dumps(3)),
        "10_exp.npy: not an npy file, it begins with ",
    ),
    "an empty file": (
        lambda part: (part / "annotations/10_aro.npy").write_bytes(b""),
        "10_aro.npy: not an npy file, it begins with b''.",
    ),
    "a cut value": (_cut("10_val.npy"), "10_val.npy: must hold 8 bytes of values, got 7."),
    "cut landmarks": (_cut("10_lnd.npy"), "10_lnd.npy: must hold 1088 bytes of values, got 1087."),
    "a broken header": (
        lambda part: (part / "annotations/10_exp.npy").write_bytes(b"\x93NUMPY\x01\x00\x04\x00{'a "),
        "10_exp.npy: not a readable npy header (",
    ),
    "two values": (save("10_val.npy", np.zeros(2)), "10_val.npy: must hold one value, got shape (2,)."),
    "a word": (save("10_val.npy", "bad"), "10_val.npy: values must be finite numbers, got 'bad'."),
    "NaN": (save("10_aro.npy", np.nan), "10_aro.npy: values must be finite numbers, got nan."),
    "half a class": (save("10_exp.npy", "1.5"), "10_exp.npy: expression must be a class from 0 to 11, got '1.5'."),
    "class 12": (save("10_exp.npy", 12), "10_exp.npy: expression must be a class from 0 to 11, got 12."),
    "134 landmarks": (
        save("10_lnd.npy", np.array(MARKS[:134])),
        "10_lnd.npy: must hold 136 landmark numbers, got 134.",
    ),
    "an infinite landmark": (
        save("10_lnd.npy", np.array([*MARKS[:135], np.inf])),
        "10_lnd.npy: values must be finite numbers, got inf.",
    ),
    "a landmark that is a word": (
        save("10_lnd.npy", np.array([*map(str, MARKS[:135]), "x"])),
        "10_lnd.npy: values must be finite numbers, got 'x'.",
    ),
    "no arousal": (
        lambda part: (part / "annotations/10_aro.npy").unlink(),
        "10_aro.npy: no such annotation file, but the image has others.",
    ),
    "no image": (
        lambda part: (part / "images/10.jpg").unlink(),
        "images/10.jpg: no such image file, but it has annotations.",
    ),
    "a folder": (
        lambda part: ((part / "annotations/10_aro.npy").unlink(), (part / "annotations/10_aro.npy").mkdir()),
        "10_aro.npy: not a readable file (Is a directory).",
    ),
    "a circle of links": (
        lambda part: (
            (part / "annotations/10_aro.npy").unlink(),
            (part / "annotations/10_aro.npy").symlink_to(part / "annotations/10_aro.npy"),
        ),
        "10_aro.npy: not a readable file (Too many levels of symbolic links).",
    ),
}


@pytest.mark.parametrize(("damage", "text"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("indexed", [False, True], ids=["first reading", "after an index was kept"])
def test_each_fault_is_one_line_and_the_other_images_are_read(part, damage, text, indexed):
    if indexed:
        read_affectnet_folder(part)
    damage(part)
    rows = read_affectnet_folder(part)
    assert len(rows.faults) == 1
    assert text in rows.faults[0]
    assert (rows.files, rows.expression.tolist()) == (["0.jpg", "ü.jpg"], [1, 7])
    assert len(rows.affect) == len(rows.boxes["inner"]) == 2


def test_two_files_for_one_image_are_a_fault(part):
    write_picture(part / "images/10.png")
    rows = read_affectnet_folder(part)
    assert [fault.partition("images: ")[2] for fault in rows.faults] == [
        "an image must have one file, got '10.jpg' and '10.png'."
    ]
    assert rows.files == ["0.jpg", "ü.jpg"]  # which of the two the labels belong to would be a guess


def test_missing_folders_and_empty_ones_are_refused(part, tmp_path):
    with pytest.raises(MissingDataError, match=r"val_set/annotations: no such folder \(a part has images/ and annot"):
        read_affectnet_folder(tmp_path / "set/val_set")
    for file in (part / "annotations").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"annotations: must hold files named like 0_exp\.npy, got none"):
        read_affectnet_folder(part)


def test_a_second_reading_comes_from_the_index_and_is_the_same(part, monkeypatch):
    first = read_affectnet_folder(part)
    monkeypatch.setattr(affectnet_npy, "read_npy", None)  # reading any file would fail
    again = read_affectnet_folder(part)
    assert again.files == first.files
    for name in ("expression", "affect"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    for name in ("landmarks", "inner"):
        np.testing.assert_array_equal(again.boxes[name], first.boxes[name])
    with pytest.raises(TypeError):
        read_affectnet_folder(part, cache=False)


def test_a_change_that_keeps_size_and_time_of_a_file_is_seen(part):
    read_affectnet_folder(part)
    path = part / "annotations/10_val.npy"
    before = path.stat()
    np.save(path, np.array(0.75))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert read_affectnet_folder(part).affect[1, 0] == 0.75


def test_added_and_removed_annotations_are_seen(part):
    state = folder_state(part / "annotations")
    read_affectnet_folder(part)
    for kind in ("exp", "val", "aro", "lnd"):
        (part / f"annotations/10_{kind}.npy").rename(part / f"annotations/11_{kind}.npy")
    (part / "images/10.jpg").rename(part / "images/11.jpg")
    assert folder_state(part / "annotations") != state
    assert read_affectnet_folder(part).files == ["0.jpg", "11.jpg", "ü.jpg"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", None], ids=["empty", "no zip", "cut"])
def test_a_damaged_index_counts_as_none(part, tmp_path, damage):
    first = read_affectnet_folder(part)
    (index,) = (tmp_path / "cache/affectnet").iterdir()
    index.write_bytes(index.read_bytes()[:-200] if damage is None else damage)
    assert load_index(index, folder_state(part / "annotations"), affectnet_npy._LAYOUT) is None
    assert read_affectnet_folder(part).files == first.files
    assert load_index(index, folder_state(part / "annotations"), affectnet_npy._LAYOUT) is not None  # written anew


def test_a_damaged_byte_in_the_contents_of_an_index_gives_the_same_rows_or_none(part, tmp_path):
    read_affectnet_folder(part)
    (index,) = (tmp_path / "cache/affectnet").iterdir()
    state, whole = folder_state(part / "annotations"), index.read_bytes()
    good = load_index(index, state, affectnet_npy._LAYOUT)
    assert good is not None
    for place in range(whole.index(b"PK\x01\x02"), len(whole), 2):  # where the zip file lists what it holds
        for value in {whole[place] ^ 1, 255} - {whole[place]}:
            index.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            got = load_index(index, state, affectnet_npy._LAYOUT)
            assert got is None or got.keys() == good.keys()
            assert got is None or all(got[name].tobytes() == good[name].tobytes() for name in good)


def _forge(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    """Change what an index holds."""

    def forge(index: Path) -> None:
        with np.load(index) as kept:
            content = dict(kept)
        change(content)
        with index.open("wb") as file:
            np.savez(file, **content)

    return forge


def _set(name: str, change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    return _forge(lambda content: content.update({name: np.asarray(change(content[name]))}))


def _pipe(index: Path) -> None:
    index.unlink()
    os.mkfifo(index)


def _deflate_unknown(index: Path) -> None:
    content = index.read_bytes()
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        parts = content.split(mark)
        content = mark.join([parts[0], *(part[: place - 4] + b"\x63\x00" + part[place - 2 :] for part in parts[1:])])
    index.write_bytes(content)


FORGERIES: dict[str, Callable[[Path], None]] = {
    "a row less": _set("affect", lambda a: a[:-1]),
    "a row more": _set("expression", lambda a: np.append(a, a[:1])),
    "one value": _set("affect", lambda a: a[0, 0]),
    "objects": _set("affect", lambda a: a.astype(object)),
    "texts": _set("expression", lambda a: a.astype(str)),
    "single precision": _set("affect", lambda a: a.astype(np.float32)),
    "names as texts": _set(affectnet_index.FILES, lambda a: np.array(["a", "b", "c"])),
    "fewer names": _set(affectnet_index.FILES, lambda a: a[:1]),
    "no names": _forge(lambda content: content.pop(affectnet_index.FILES)),
    "a column less": _forge(lambda content: content.pop("inner")),
    "a column more": _forge(lambda content: content.update(other=np.zeros(3))),
    "boxes of three": _set("landmarks", lambda a: a[:, :3]),
    "a state that is no text": _forge(lambda content: content.update(state=np.zeros((2, 2)))),
    "no state": _forge(lambda content: content.pop("state")),
    "a packing that zip files do not have": _deflate_unknown,
    "very many bytes": lambda index: os.truncate(index, 2**42),
    "a named pipe": _pipe,
    "open to others": lambda index: index.chmod(0o666),
    "in a folder open to others": lambda index: index.parent.chmod(0o777),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_forged_index_counts_as_none(part, tmp_path, case):
    first = read_affectnet_folder(part)
    (index,) = (tmp_path / "cache/affectnet").iterdir()
    FORGERIES[case](index)
    assert load_index(index, folder_state(part / "annotations"), affectnet_npy._LAYOUT) is None
    again = read_affectnet_folder(part)
    assert again.files == first.files
    np.testing.assert_array_equal(again.affect, first.affect)
    found = load_index(index, folder_state(part / "annotations"), affectnet_npy._LAYOUT)
    assert (found is None) == (case == "in a folder open to others")  # else it was written anew


def test_no_place_for_an_index_is_no_error(part, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path / "file"))
    assert len(read_affectnet_folder(part)) == 3


def test_results_do_not_depend_on_the_chunks(part, monkeypatch):
    whole = read_affectnet_folder(part, cache=False)
    monkeypatch.setattr(affectnet_npy, "_CHUNK", 1)
    parts = read_affectnet_folder(part, cache=False)
    assert parts.files == whole.files
    np.testing.assert_array_equal(parts.affect, whole.affect)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize(
    "value", [np.array("0.5"), np.array(3), np.zeros((2, 3), np.float16), np.array(b"7"), np.zeros(0)]
)
def test_npy_files_are_read_as_numpy_reads_them(tmp_path, version, value):
    file = io.BytesIO()
    np.lib.format.write_array(file, value, version=version)
    (tmp_path / "a.npy").write_bytes(file.getvalue())
    ours = read_npy(str(tmp_path / "a.npy"))
    np.testing.assert_array_equal(ours, np.load(tmp_path / "a.npy"))
    assert ours.dtype == value.dtype


def test_a_header_that_promises_more_is_refused(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,)}\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(DataError, match=r"a\.npy: must hold 799999999992 bytes of values, got 0\."):
        read_npy(str(tmp_path / "a.npy"))


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"a\.npy: not a readable file \(Is a named pipe or a device\)"):
        read_npy(str(tmp_path / "a.npy"))


def test_what_a_mac_leaves_behind_is_no_annotation(part):
    for file in ("annotations/._10_val.npy", "annotations/.DS_Store", "images/._10.jpg"):
        (part / file).write_bytes(b"\0\5\x16\7")
    rows = read_affectnet_folder(part)
    assert (rows.files, rows.faults, rows.extra_images) == (["0.jpg", "10.jpg", "ü.jpg"], [], 0)


@pytest.mark.parametrize("text", ["0.1_5", "\u0660"])
def test_a_number_that_only_python_would_take_is_a_fault(part, text):
    np.save(part / "annotations/10_val.npy", np.array(text))
    assert [fault.file for fault in read_affectnet_folder(part).faults] == [str(part / "annotations/10_val.npy")]
