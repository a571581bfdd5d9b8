"""AffectNet, release of 2017: csv files and images of any size with a face box."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fault_injection.harm import (
    cut,
    flip_pixels,
    overwrite,
    reencode,
    register_unreadable,
    replace,
    through_link,
)
from tests.fault_injection.layouts import Layout
from tests.material.affectnet_files import HEADER, marks_text, row
from tests.material.sewa_files import SQUARE, arousal_of, draw_number, valence_of

FILES = tuple(f"{number % 2}/{number:02d}.jpg" for number in range(6))
FILE = FILES[2]
_BOX = {"face_x": SQUARE[0], "face_y": SQUARE[1], "face_width": SQUARE[2] - SQUARE[0], "face_height": SQUARE[3]}


def line_of(number: int, file: str, **cells: object) -> str:
    """Return the row of an image that shows its number."""
    values = {"expression": number % 8, "valence": valence_of(number), "arousal": arousal_of(number), **_BOX, **cells}
    return row(file, **values)


def write(root: Path) -> None:
    """Write six images for training and two for validation."""
    for part, numbers in (("training", range(6)), ("validation", range(10, 12))):
        files = {number: FILES[number] if number < 6 else f"v/{number}.jpg" for number in numbers}
        for number, file in files.items():
            write_jpeg(images(root) / file, number)
        lines = [HEADER, *(line_of(number, file) for number, file in files.items())]
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")


def write_jpeg(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_number(number)).save(path, quality=95)


AFFECTNET_2017 = Layout(
    "AffectNet 2017",
    write,
    {"type": "hocp_mm.AffectNetDataset", "split": "train", "release": "2017", "index_cache": False},
    {"split": "val"},
    victim=FILE,
    longest=1,
)


def images(root: Path) -> Path:
    return root / "Manually_Annotated_Images"


def picture(root: Path) -> Path:
    return images(root) / FILE


def table(root: Path) -> Path:
    return root / "training.csv"


register_unreadable(AFFECTNET_2017, "the csv file", table, whole=True, except_for=("is missing",))
register_unreadable(AFFECTNET_2017, "an image", picture)


@AFFECTNET_2017.refused("the csv file is missing", whole=True)
def missing_table(root):
    table(root).unlink()
    return Path(f"{root} holds no training.csv")


def _edit(root: Path, edit: Callable[[list[str]], list[str]]) -> Path:
    header, *rows = table(root).read_text().splitlines()
    table(root).write_text("\n".join([header, *edit(rows)]) + "\n")
    return table(root)


def _row(root: Path, text: str) -> tuple[Path, Path]:
    return _edit(root, lambda rows: [text if n == 2 else line for n, line in enumerate(rows)]), picture(root)


for _what, _cells in (
    ("a label is text", {"valence": "high"}),
    ("a label is NaN", {"valence": "nan"}),
    ("a label is infinite", {"arousal": "inf"}),
    ("a label is outside of the range", {"arousal": "1.5"}),
    ("a label has a decimal comma", {"arousal": "0,15"}),
    ("a label is written with an underscore", {"arousal": "0.1_5"}),
    ("a label is a number beyond all numbers", {"arousal": "9" * 400}),
    ("a class is not known", {"expression": 99}),
    ("a class is a fraction", {"expression": 1.5}),
    ("a class is a name", {"expression": "happy"}),
    ("a face box is text", {"face_width": "wide"}),
    ("landmarks are 135 numbers", {"facial_landmarks": marks_text(values=[1.0] * 135)}),
    ("a path climbs out of the images", {"subDirectory_filePath": f"../../{FILE}"}),
    ("a path is absolute", {"subDirectory_filePath": "/etc/passwd"}),
    ("a path is in other case", {"subDirectory_filePath": FILE.upper()}),
    ("a path is empty", {"subDirectory_filePath": ""}),
    ("a path names a folder", {"subDirectory_filePath": "0"}),
    ("a path holds a zero byte", {"subDirectory_filePath": f"{FILE}\0"}),
):
    AFFECTNET_2017.refused(_what)(
        lambda root, cells=_cells: (*_row(root, line_of(2, **{"file": FILE, **cells})), images(root))
    )


@AFFECTNET_2017.refused("a face box lies outside of the image")
def far_box(root):
    return _row(root, line_of(2, FILE, face_x=5000))


@AFFECTNET_2017.refused("a row lacks a cell")
def short_row(root):
    return _edit(root, lambda rows: [*rows[:2], rows[2].rpartition(",")[0], *rows[3:]])


@AFFECTNET_2017.refused("a row has a million cells")
def wide_row(root):
    return _edit(root, lambda rows: [*rows[:2], rows[2] + ",1" * 1_000_000, *rows[3:]])


@AFFECTNET_2017.refused("a quote in the csv file is never closed", whole=True)
def open_quote(root):
    return _edit(root, lambda rows: [*rows[:2], f'"{rows[2]}', *rows[3:]])


@AFFECTNET_2017.refused("the csv file is cut in the middle of a row", records=FILES[2:])
def cut_table(root):
    return cut(table(root), 0.55)


@AFFECTNET_2017.refused("the header lacks a column", whole=True)
def short_header(root):
    return replace(table(root), ",arousal", "")


@AFFECTNET_2017.refused("the header names a column twice", whole=True)
def double_header(root):
    return replace(table(root), ",arousal", ",valence")


@AFFECTNET_2017.harmless("columns are in another order, and the header says so")
def other_order(root):
    lines = [line.split(",") for line in table(root).read_text().splitlines()]
    table(root).write_text("".join(",".join([*cells[:7], cells[8], cells[7]]) + "\n" for cells in lines))


@AFFECTNET_2017.unseen("valence and arousal are exchanged below their header")
def exchanged_columns(root):
    def swap(line: str) -> str:
        *rest, valence, arousal = line.split(",")
        return ",".join([*rest, arousal, valence])

    return _edit(root, lambda rows: [swap(line) for line in rows])


@AFFECTNET_2017.unseen("labels of two images are exchanged")
def exchanged_rows(root):
    return _edit(root, lambda rows: [line_of(1, FILES[2]) if n == 2 else line for n, line in enumerate(rows)])


@AFFECTNET_2017.harmless("the csv file has no header")
def no_header(root):
    table(root).write_text("\n".join(table(root).read_text().splitlines()[1:]) + "\n")


@AFFECTNET_2017.harmless("the csv file has a byte order mark and CRLF line ends")
def bom(root):
    reencode(table(root), "utf-8-sig", "\r\n")


@AFFECTNET_2017.refused("the csv file is UTF-16", whole=True)
def utf16(root):
    return reencode(table(root), "utf-16")


@AFFECTNET_2017.fewer("a label is -2, the mark of the release for none")
def marked_label(root):
    _row(root, line_of(2, FILE, valence=-2))
    return Path("valence or arousal -2 or NULL 1")


@AFFECTNET_2017.fewer("a label is NULL")
def null_label(root):
    _row(root, line_of(2, FILE, valence="NULL"))
    return Path("valence or arousal -2 or NULL 1")


@AFFECTNET_2017.fewer("a row is of class 10, no face")
def faceless(root):
    _row(root, line_of(2, FILE, expression=10))
    return Path("class 10 (occluded or no face) 1")


@AFFECTNET_2017.refused("an image is cut in the middle")
def cut_image(root):
    return cut(picture(root))


@AFFECTNET_2017.refused("an image lacks its end")
def cut_end(root):
    path = picture(root)
    path.write_bytes(path.read_bytes()[:-2])
    return path


def _scan(path: Path) -> int:
    """Return where the pixels of a JPEG begin."""
    return path.read_bytes().rindex(b"\xff\xda") + 14


@AFFECTNET_2017.refused("the header of an image is damaged")
def damaged_header(root):
    path = picture(root)
    return overwrite(path, bytes(40), path.read_bytes().index(b"\xff\xc4"))


@AFFECTNET_2017.refused("a block of 512 bytes in an image is noise")
def noise_block(root):
    return overwrite(picture(root), np.random.default_rng(0).bytes(512), _scan(picture(root)) + 900)


@AFFECTNET_2017.unseen("a block of 512 bytes in an image is zeros")
def zero_block(root):
    return overwrite(picture(root), bytes(512), _scan(picture(root)) + 900)


@AFFECTNET_2017.unseen("a bit flips in the pixels of an image")
def flipped_bit(root):
    return flip_pixels(picture(root))


@AFFECTNET_2017.harmless("an image is progressive")
def progressive(root):
    Image.open(picture(root)).save(picture(root), quality=95, progressive=True)


@AFFECTNET_2017.harmless("an image is a PNG named .jpg")
def png(root):
    Image.open(picture(root)).save(picture(root), format="PNG")


@AFFECTNET_2017.harmless("an image is CMYK")
def cmyk(root):
    Image.open(picture(root)).convert("CMYK").save(picture(root), quality=98)


@AFFECTNET_2017.harmless("an image is grey")
def grey(root):
    Image.open(picture(root)).convert("L").save(picture(root), quality=95)


@AFFECTNET_2017.harmless("bytes follow on the end of an image")
def longer_image(root):
    with picture(root).open("ab") as file:
        file.write(b"\0" * 999)


@AFFECTNET_2017.refused("an image was made ten times smaller, its face box was not")
def smaller_image(root):
    Image.open(picture(root)).resize((32, 24)).save(picture(root))
    return table(root), picture(root)


@AFFECTNET_2017.unseen("an image was made half as large, its face box was not")
def half_image(root):
    Image.open(picture(root)).resize((160, 120)).save(picture(root))
    return picture(root)


@AFFECTNET_2017.refused("an image is a GIF")
def gif(root):
    Image.open(picture(root)).save(picture(root), format="GIF")
    return picture(root)


@AFFECTNET_2017.refused("an image is vector graphics that runs a program when it is shown")
def vector(root):
    picture(root).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    return picture(root)


@AFFECTNET_2017.harmless("an image is a link")
def linked_image(root):
    through_link(picture(root))


@AFFECTNET_2017.harmless("the folder of the images is a link")
def linked_images(root):
    through_link(images(root))


@AFFECTNET_2017.harmless("a system leaves its files everywhere (.DS_Store, ._*, Thumbs.db)")
def leftovers(root):
    for folder in (root, images(root), images(root) / "0"):
        for name in (".DS_Store", "Thumbs.db", "._02.jpg", "._training.csv"):
            (folder / name).write_bytes(b"\0\5\x16\7")


@AFFECTNET_2017.harmless("an image is in both parts", found=True)
def leak(root):
    path = root / "validation.csv"
    path.write_text(path.read_text() + line_of(0, FILES[0]) + "\n")
    return images(root) / FILES[0]


@AFFECTNET_2017.refused("two csv files could be the one", whole=True)
def two_tables(root):
    (root / "Manually_Annotated").mkdir()
    (root / "Manually_Annotated/training.csv").write_text(table(root).read_text())
    return root / "Manually_Annotated/training.csv"
