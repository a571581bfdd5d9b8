"""SEWA: labels, landmarks, splits and metadata. Damages of its videos are in `tests.fault_injection.sewa_videos`."""

import zipfile
from pathlib import Path

from hocp_mm.datasets.splits import write_split_files
from tests.fault_injection.harm import (
    NO_FAULT_OF_FOLDERS,
    UNREADABLE,
    cut,
    exchange,
    flip_bit,
    reencode,
    register_unreadable,
    replace,
    through_link,
)
from tests.fault_injection.layouts import Layout
from tests.material.sewa_files import square_landmarks, write_landmarks_zip, write_segment

COUNT = 24
KEYS = (
    "SAH_C1_S001_P001_VC1_000100_000123",
    "SVL_C2_S002_P003_VC1_000000_000023",
    "SVH_C2_S004_P007_VC1_000050_000073",
    "SSL_C3_S003_P005_VC1_000010_000033",
)
KEY, OTHER, THIRD, UNTRAINED = KEYS


def write(root: Path) -> None:
    """Write three segments for training and one for validation, with all files that the release has."""
    for index, key in enumerate(KEYS):
        folder = write_segment(root, key, COUNT, first_number=100 * index)
        segment, _, conversation, person, *_ = key.split("_")
        text = f"[Info]\nCategory={segment}\nConversation={conversation[1:]}\nSubject={person[1:]}\n"
        (folder / "metadata.ini").write_text(text, encoding="utf-8")
    write_split_files(root / "splits", {"train": KEYS[:3], "val": KEYS[3:], "test": []}, seed=0)


SEWA = Layout(
    "SEWA",
    write,
    {"type": "hocp_mm.SEWADataset", "split": "train"},
    {"split": "val"},
    victim=KEY,
    longest=COUNT,
)


def video(root: Path) -> Path:
    return root / KEY / f"{KEY}.avi"


def valence(root: Path, key: str = KEY) -> Path:
    return root / key / f"{key}_Valence_V_Aligned.csv"


def arousal(root: Path, key: str = KEY) -> Path:
    return root / key / f"{key}_Arousal_V_Aligned.csv"


def landmarks(root: Path, key: str = KEY) -> Path:
    return root / key / f"{key}_Landmarks.zip"


def split(root: Path) -> Path:
    return root / "splits" / "train.txt"


register_unreadable(SEWA, "a label file", valence)
register_unreadable(SEWA, "a landmarks zip", landmarks)
register_unreadable(SEWA, "the split file", split, whole=True)
register_unreadable(SEWA, "the folder of a segment", lambda root: root / KEY, except_for=NO_FAULT_OF_FOLDERS)


def _edit_rows(path: Path, edit) -> Path:
    """Apply ``edit`` to the rows below the header."""
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([header, *edit(rows)]) + "\n", encoding="utf-8")
    return path


def _cell(path: Path, value: str, row: int = 5) -> Path:
    return _edit_rows(path, lambda rows: [f"{n},{value}" if n == row else line for n, line in enumerate(rows)])


for _value, _what in (
    ("nan", "NaN"),
    ("inf", "inf"),
    ("", "empty"),
    ("n/a", "text"),
    ("1.5", "outside of the range"),
    ("0.1\0", "followed by a zero byte"),
    ("1_0", "written with an underscore"),
    ("\u0660.\u0665", "written in Arabic digits"),
):
    SEWA.refused(f"a label is {_what}")(lambda root, value=_value: _cell(valence(root), value))


@SEWA.refused("a label file is cut in the middle")
def cut_labels(root):
    return cut(valence(root))


@SEWA.unseen("the last digits of a label file are cut off")
def cut_last_digit(root):
    path = valence(root)
    path.write_bytes(path.read_bytes()[:-3])
    return path


@SEWA.refused("label files of valence and arousal are exchanged")
def exchange_labels(root):
    return exchange(valence(root), arousal(root))


@SEWA.unseen("label files of valence and arousal are exchanged and have no header")
def exchange_headerless_labels(root):
    for path in (valence(root), arousal(root)):
        path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    return exchange(valence(root), arousal(root))


@SEWA.harmless("a label file has no header")
def no_header(root):
    path = valence(root)
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")


@SEWA.refused("columns of a label file are exchanged")
def exchange_columns(root):
    path = valence(root)
    path.write_text("\n".join(",".join(reversed(line.split(","))) for line in path.read_text().splitlines()) + "\n")
    return path


@SEWA.refused("labels of another segment are copied over", records=KEYS[:2])
def labels_of_another(root):
    for find in (valence, arousal):
        find(root).write_bytes(find(root, OTHER).read_bytes())
    return valence(root), video(root)


@SEWA.refused("rows are numbered from one")
def one_based(root):
    return _edit_rows(valence(root), lambda rows: [f"{n + 1},{row.partition(',')[2]}" for n, row in enumerate(rows)])


@SEWA.harmless("rows are numbered as in the full recording")
def numbered_as_recorded(root):
    for path in (valence(root), arousal(root)):
        _edit_rows(path, lambda rows: [f"{n + 100},{row.partition(',')[2]}" for n, row in enumerate(rows)])


@SEWA.refused("a row is missing")
def missing_row(root):
    return _edit_rows(valence(root), lambda rows: rows[:7] + rows[8:])


@SEWA.refused("a row is there twice")
def double_row(root):
    return _edit_rows(valence(root), lambda rows: rows[:7] + rows[6:])


@SEWA.refused("rows are in another order")
def shuffled_rows(root):
    return _edit_rows(valence(root), lambda rows: rows[::-1])


@SEWA.refused("labels are longer than the video")
def long_labels(root):
    return _edit_rows(valence(root), lambda rows: [*rows, f"{COUNT},0.1"])


@SEWA.refused("both label files end before the video")
def short_labels(root):
    return tuple(_edit_rows(path, lambda rows: rows[:-4]) for path in (valence(root), arousal(root)))


@SEWA.unseen("labels are shifted by five frames")
def shifted_labels(root):
    def shift(rows):
        values = [row.partition(",")[2] for row in rows]
        return [f"{n},{value}" for n, value in enumerate(values[:1] * 5 + values[:-5])]

    return tuple(_edit_rows(path, shift) for path in (valence(root), arousal(root)))


@SEWA.unseen("labels are divided by ten")
def divided_labels(root):
    def divide(rows):
        return [f"{n},{float(row.partition(',')[2]) / 10:.4f}" for n, row in enumerate(rows)]

    return tuple(_edit_rows(path, divide) for path in (valence(root), arousal(root)))


@SEWA.refused("labels are times ten")
def multiplied_labels(root):
    return _edit_rows(valence(root), lambda rows: [f"{n},{4 + n / 10}" for n, _ in enumerate(rows)])


@SEWA.refused("labels have decimal commas")
def decimal_commas(root):
    return _edit_rows(valence(root), lambda rows: [row.replace(".", ",") for row in rows])


@SEWA.refused("labels have decimal commas and semicolons")
def decimal_commas_and_semicolons(root):
    path = valence(root)
    path.write_text(path.read_text().replace(",", ";").replace(".", ","))
    return path


@SEWA.harmless("a label file has semicolons")
def semicolons(root):
    path = valence(root)
    path.write_text(path.read_text().replace(",", ";"))


@SEWA.refused("a label file has tabs")
def tabs(root):
    path = valence(root)
    path.write_text(path.read_text().replace(",", "\t"))
    return path


@SEWA.refused("a quote in a label file is never closed")
def open_quote(root):
    return replace(valence(root), "\n3,", '\n"3,')


@SEWA.refused("a label file has a million columns")
def million_columns(root):
    return _edit_rows(
        valence(root), lambda rows: [f"{row}{',0.1' * 1_000_000}" if n < 3 else row for n, row in enumerate(rows)]
    )


@SEWA.refused("a label file has a million empty lines")
def million_lines(root):
    return _edit_rows(valence(root), lambda rows: [*rows[:5], *[""] * 1_000_000, *rows[5:]])


@SEWA.refused("a label file is UTF-16, as a spreadsheet saves it")
def utf16_labels(root):
    return reencode(valence(root), "utf-16")


@SEWA.harmless("text files have a byte order mark and CRLF line ends")
def bom_and_crlf(root):
    for path in (valence(root), arousal(root), split(root), root / KEY / "metadata.ini"):
        reencode(path, "utf-8-sig", "\r\n")


@SEWA.harmless("text files end in empty lines")
def trailing_lines(root):
    for path in (valence(root), split(root)):
        path.write_text(path.read_text() + "\n\n \n")


@SEWA.refused("a label file is named in other case")
def other_case(root):
    path = valence(root)
    path.rename(path.with_name(path.name.replace("Valence_V_Aligned", "valence_v_aligned")))
    return path


@SEWA.refused("only labels of the sound are there")
def other_labels(root):
    path = valence(root)
    path.rename(path.with_name(path.name.replace("_V_", "_A_")))
    return path


@SEWA.refused("a landmarks zip is cut in the middle")
def cut_zip(root):
    return cut(landmarks(root))


@SEWA.refused("a bit flips in a landmarks zip")
def flipped_zip(root):
    path = landmarks(root)
    return flip_bit(path, path.read_bytes().index(b"1 2 3 4") + 100)


@SEWA.refused("landmarks of one frame have 48 points")
def few_points(root):
    points = {frame: square_landmarks() for frame in range(COUNT)}
    return write_landmarks_zip(landmarks(root), COUNT, points | {3: square_landmarks()[:48]})


@SEWA.refused("no frame has landmarks")
def no_points(root):
    return write_landmarks_zip(landmarks(root), COUNT, dict.fromkeys(range(COUNT)))


@SEWA.harmless("landmarks of some frames are missing or not finite")
def holes(root):
    points = {frame: square_landmarks() for frame in range(COUNT) if frame not in (0, 9)}
    write_landmarks_zip(landmarks(root), COUNT, points | {5: None, 6: square_landmarks() * float("nan")})


@SEWA.refused("landmarks lie outside of the frame")
def far_points(root):
    points = {frame: square_landmarks() + (1000 if frame == 4 else 0) for frame in range(COUNT)}
    return write_landmarks_zip(landmarks(root), COUNT, points)


@SEWA.refused("landmarks belong to a video of twice the size")
def doubled_points(root):
    return write_landmarks_zip(landmarks(root), COUNT, {frame: square_landmarks() * 2 for frame in range(COUNT)})


@SEWA.refused("landmarks of another segment are copied over", records=KEYS[:2])
def landmarks_of_another(root):
    landmarks(root).write_bytes(landmarks(root, OTHER).read_bytes())
    return landmarks(root)


@SEWA.refused("landmarks go on beyond the end of the video")
def more_points(root):
    return write_landmarks_zip(landmarks(root), COUNT + 3, {frame: square_landmarks() for frame in range(COUNT + 3)})


def _add_to_zip(path: Path, name: str, content: str | bytes) -> Path:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


@SEWA.refused("a landmarks zip holds a frame twice")
def double_member(root):
    return _add_to_zip(landmarks(root), "again_00003.txt", "1 2 3")


@SEWA.harmless("a landmarks zip was made on a Mac (__MACOSX, .DS_Store)")
def mac_zip(root):
    for name in (f"__MACOSX/._{KEY}_00003.txt", ".DS_Store", "__MACOSX/"):
        _add_to_zip(landmarks(root), name, b"\0\5\x16\7" if not name.endswith("/") else b"")


@SEWA.refused("a landmarks zip holds paths that climb out of it")
def climbing_zip(root):
    return _add_to_zip(landmarks(root), f"../../../evil_{COUNT + 5:05d}.txt", "1 2 3")


@SEWA.refused("a member of a landmarks zip unpacks to a thousand times its size")
def zip_bomb(root):
    path = landmarks(root)
    path.unlink()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(f"{KEY}_00000.txt", b"\n" * (64 << 20))
    return path


@SEWA.refused("a landmarks zip asks for a password")
def locked_zip(root):
    path = landmarks(root)
    raw = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(mark)
        while at >= 0:
            raw[at + place] |= 1
            at = raw.find(mark, at + 1)
    path.write_bytes(raw)
    return path


def write_keys(root: Path, *keys: str) -> Path:
    """Write the split by hand, without a checksum."""
    split(root).write_text("".join(f"{key}\n" for key in keys))
    return split(root)


@SEWA.refused("a key is in the split twice", whole=True)
def double_key(root):
    return write_keys(root, KEY, OTHER, KEY)


@SEWA.refused("a key was taken out of the split by hand", whole=True)
def edited_split(root):
    return replace(split(root), f"{KEY}\n", "")


@SEWA.refused("the split names a segment that is not there")
def unknown_key(root):
    key = KEY.replace("P001", "P002")
    write_keys(root, *KEYS[:3], key)
    return root / key


@SEWA.refused("the split names no segment", whole=True)
def empty_split(root):
    split(root).write_text("# nothing\n")
    return split(root)


@SEWA.refused("a key is written in other case")
def lower_key(root):
    write_keys(root, KEY.lower(), OTHER, THIRD)
    return Path(KEY.lower())


@SEWA.refused("a key climbs out of the set")
def climbing_key(root):
    write_keys(root, f"../{KEY}", OTHER, THIRD)
    return Path(f"../{KEY}")


@SEWA.refused("a conversation is in two parts", whole=True)
def leak(root):
    key = UNTRAINED.replace("S003", "S001")
    for path in sorted((root / UNTRAINED).iterdir()):
        path.rename(path.with_name(path.name.replace(UNTRAINED, key)))
    (root / UNTRAINED).rename(root / key)
    (root / "splits/val.txt").write_text(f"{key}\n")
    return root / "splits"


@SEWA.harmless("metadata.ini is missing")
def no_metadata(root):
    (root / KEY / "metadata.ini").unlink()


@SEWA.harmless("metadata.ini is no text")
def binary_metadata(root):
    (root / KEY / "metadata.ini").write_bytes(bytes(range(256)) * 4)


@SEWA.harmless("metadata.ini is that of another segment")
def other_metadata(root):
    (root / KEY / "metadata.ini").write_bytes((root / OTHER / "metadata.ini").read_bytes())


for _how in ("is a named pipe", "is a link to an endless device", "lies on a disk that fails", "is a folder"):
    SEWA.harmless(f"metadata.ini {_how}")(lambda root, how=_how: UNREADABLE[how](root / KEY / "metadata.ini") and None)


@SEWA.harmless("the folder of a segment is a link")
def linked_folder(root):
    through_link(root / KEY)


@SEWA.harmless("the folder of the set has a name in many scripts", folder="SEWA ünï 数据 %20 #1")
def odd_root(root):
    del root


@SEWA.harmless("a system leaves its files everywhere (.DS_Store, ._*, Thumbs.db)")
def leftovers(root):
    for folder in (root, root / KEY, root / "splits"):
        for name in (".DS_Store", "Thumbs.db", f"._{KEY}.avi", f"._{KEY}_Valence_V_Aligned.csv"):
            (folder / name).write_bytes(b"\0\5\x16\7")


BOXES = {"faces": "given", "boxes_file": "boxes.json"}


def _boxes(root: Path, text: str) -> Path:
    path = root / "boxes.json"
    path.write_text(text, encoding="utf-8")
    return path


_BOX = "[40, 0, 280, 240]"
_REST = ", ".join(f'"{key}": {_BOX}' for key in KEYS[1:])
_ALL = f'{{"{KEY}": {_BOX}, {_REST}}}'


@SEWA.harmless("face boxes come from a JSON file", options=BOXES)
def good_boxes(root):
    _boxes(root, _ALL)


for _name, _text, _whole in (
    ("the boxes file is cut", _ALL[:-9], True),
    ("the boxes file names a key twice", f'{{"{KEY}": [0, 0, 9, 9], "{KEY}": {_BOX}, {_REST}}}', True),
    ("the boxes file is nested a hundred thousand deep", '{"a": ' + "[" * 100_000, True),
    ("the boxes file is a list", f"[{_BOX}]", True),
    ("the boxes file lacks a key", f"{{{_REST}}}", False),
    ("a box has no area", _ALL.replace("280", "40", 1), False),
    ("a box is NaN", _ALL.replace("280", "NaN", 1), False),
    ("a box is beyond all numbers", _ALL.replace("280", "9" * 400, 1), False),
    ("a box is true", _ALL.replace("[40", "[true", 1), False),
    ("a box lies outside of the frame", _ALL.replace("[40, 0, 280", "[4000, 0, 4280", 1), False),
    ("boxes are too few", f'{{"{KEY}": [{", ".join([_BOX] * 3)}], {_REST}}}', False),
):
    SEWA.refused(_name, options=BOXES, whole=_whole)(lambda root, text=_text: _boxes(root, text))


@SEWA.refused("the boxes file is UTF-16", options=BOXES, whole=True)
def utf16_boxes(root):
    return reencode(_boxes(root, _ALL), "utf-16")


register_unreadable(SEWA, "the boxes file", lambda root: _boxes(root, _ALL), options=BOXES, whole=True)
