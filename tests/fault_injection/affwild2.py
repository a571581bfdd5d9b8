"""Aff-Wild2: numbered crops, one text line per frame."""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2

from tests.fault_injection.harm import (
    NO_FAULT_OF_FOLDERS,
    cut,
    flip_pixels,
    reencode,
    register_unreadable,
    replace,
    through_link,
)
from tests.fault_injection.layouts import Layout
from tests.material.affwild2_files import TRACK, label_lines, write_crops
from tests.material.sewa_files import draw_number

COUNT = 10
FIRST = {"video1": 0, "video2": 100, "video3_left": 200, "video9": 300}


def write(root: Path) -> None:
    """Write three videos for training and one for validation."""
    for name, first in FIRST.items():
        path = root / TRACK / ("Validation_Set" if name == "video9" else "Train_Set") / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(label_lines(COUNT, first_number=first))
        write_crops(root / "cropped_aligned" / name, range(COUNT), first_number=first)


AFFWILD2 = Layout(
    "Aff-Wild2",
    write,
    {"type": "hocp_mm.AffWild2Dataset", "split": "train"},
    {"split": "val"},
    victim="video1",
    longest=COUNT + 2,
)


def labels(root: Path, name: str = "video1") -> Path:
    return root / TRACK / "Train_Set" / f"{name}.txt"


def crops(root: Path, name: str = "video1") -> Path:
    return root / "cropped_aligned" / name


def crop(root: Path) -> Path:
    return crops(root) / "00003.jpg"


register_unreadable(AFFWILD2, "a label file", labels, except_for=("is missing",))
register_unreadable(AFFWILD2, "the folder of crops", crops, except_for=NO_FAULT_OF_FOLDERS)


def _edit(
    name: str, change: Callable[[list[str]], list[str]], expects: Callable[[str], Callable] = AFFWILD2.refused
) -> None:
    """Register a change of the rows below the header."""

    def harm(root: Path) -> tuple[Path, Path]:
        header, *rows = labels(root).read_text().splitlines()
        labels(root).write_text("\n".join([header, *change(rows)]) + "\n")
        return labels(root), crops(root)

    AFFWILD2.refused(name)(harm)


def _third(text: str) -> Callable[[list[str]], list[str]]:
    return lambda rows: [text if n == 2 else row for n, row in enumerate(rows)]


_edit("a label is text", _third("high,0.2"))
_edit("a label is NaN", _third("nan,0.2"))
_edit("a label is infinite", _third("0.1,inf"))
_edit("a label is empty", _third(",0.2"))
_edit("a label is outside of the range", _third("0.1,1.5"))
_edit("a label has decimal commas", _third("0,1,0,2"))
_edit("a label is written with an underscore", _third("0.1,0.1_5"))
_edit("a line has a million cells", _third("0.1" + ",0.2" * 1_000_000))
_edit("labels are separated by semicolons", lambda rows: [row.replace(",", ";") for row in rows])
_edit("a line is empty", lambda rows: [*rows[:3], "", *rows[3:]])
_edit("there is no line", lambda rows: [])
_edit("lines are missing at the end", lambda rows: rows[:-3])
_edit("one line is missing, the pictures go on", lambda rows: rows[1:])
_edit("all frames are to be disregarded", lambda rows: ["-5,-5"] * len(rows))


@AFFWILD2.refused("the label file has no header")
def no_header(root):
    labels(root).write_text(label_lines(COUNT).partition("\n")[2])
    return labels(root)


@AFFWILD2.refused("the header names arousal first")
def exchanged_header(root):
    return replace(labels(root), "valence,arousal", "arousal,valence")


@AFFWILD2.unseen("valence and arousal are exchanged below their header")
def exchanged(root):
    header, *rows = labels(root).read_text().splitlines()
    labels(root).write_text("\n".join([header, *(",".join(reversed(row.split(","))) for row in rows)]) + "\n")
    return labels(root)


@AFFWILD2.refused("the label file is cut in the middle")
def cut_labels(root):
    return cut(labels(root)), crops(root)


@AFFWILD2.refused("the label file is UTF-16")
def utf16(root):
    return reencode(labels(root), "utf-16")


@AFFWILD2.harmless("the label file has a byte order mark and CRLF line ends")
def bom(root):
    reencode(labels(root), "utf-8-sig", "\r\n")


@AFFWILD2.harmless("labels go on beyond the pictures")
def longer_labels(root):
    with labels(root).open("a") as file:
        file.write("0.5,0.5\n0.5,0.5\n")


@AFFWILD2.refused("labels of another video are copied over", records=("video1", "video2"))
def labels_of_another(root):
    shutil.copy(labels(root, "video2"), labels(root))
    return labels(root), crops(root)


@AFFWILD2.refused("pictures of another video are copied over", records=("video1", "video2"))
def pictures_of_another(root):
    for path in crops(root, "video2").iterdir():
        shutil.copy(path, crops(root))
    return crops(root)


@AFFWILD2.refused("pictures are numbered from zero")
def zero_based(root):
    for number in range(COUNT):
        (crops(root) / f"{number + 1:05d}.jpg").rename(crops(root) / f"{number:05d}.jpg")
    return crops(root)


@AFFWILD2.unseen("pictures without a face were left out, and the rest numbered anew")
def renumbered(root):
    for number in range(4, COUNT + 1):
        (crops(root) / f"{number:05d}.jpg").rename(crops(root) / f"{number - 1:05d}.jpg")
    return crops(root)


@AFFWILD2.refused("a number has two pictures")
def double_picture(root):
    shutil.copy(crop(root), crops(root) / "3.jpg")
    return crops(root)


@AFFWILD2.refused("a picture has no number")
def nameless(root):
    shutil.copy(crop(root), crops(root) / "face.jpg")
    return crops(root) / "face.jpg"


@AFFWILD2.refused("the pictures were saved as PNG")
def png(root):
    for path in list(crops(root).iterdir()):
        path.rename(path.with_suffix(".png"))
    return labels(root)


def _unreadable_crop(name: str, change: Callable[[Path], object]) -> None:
    """Register a picture that takes the place of one that is missing, which is usual here."""

    def harm(root: Path) -> Path:
        change(crop(root))
        return Path("1 empty pictures")

    AFFWILD2.fewer(name)(harm)


@AFFWILD2.fewer("a picture is missing, as where no face was found")
def missing_picture(root):
    crop(root).unlink()
    return Path("1 without picture")


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


_unreadable_crop("a picture has 0 bytes", lambda path: path.write_bytes(b""))
_unreadable_crop("a picture is a folder", lambda path: _replace(path, Path.mkdir))
_unreadable_crop("a picture is a link to nowhere", lambda path: _replace(path, lambda p: p.symlink_to("/nowhere")))
_unreadable_crop("a picture is a link to itself", lambda path: _replace(path, lambda p: p.symlink_to(p.name)))
_unreadable_crop(
    "a picture is a link to an endless device", lambda path: _replace(path, lambda p: p.symlink_to("/dev/zero"))
)


@AFFWILD2.refused("a picture is cut in the middle")
def cut_picture(root):
    return cut(crop(root))


@AFFWILD2.refused("a picture is a web page that says 403")
def web_page(root):
    crop(root).write_text("<html>403 Forbidden</html>")
    return crop(root)


@AFFWILD2.unseen("a bit flips in the pixels of a picture")
def flipped_bit(root):
    return flip_pixels(crop(root))


@AFFWILD2.refused("a picture has another size")
def other_size(root):
    x = draw_number(2)[:, 40:280]
    cv2.imwrite(str(crop(root)), x[:, :, ::-1])
    return crop(root)


@AFFWILD2.refused("a video is in both parts", whole=True)
def leak(root):
    target = root / TRACK / "Validation_Set/video3_right.txt"
    target.write_text(label_lines(COUNT, first_number=400))
    write_crops(root / "cropped_aligned/video3_right", range(COUNT), first_number=400)
    return root / TRACK


@AFFWILD2.refused("annotations of two years are there", whole=True)
def two_years(root):
    shutil.copytree(root / TRACK, root / TRACK.replace("6th", "5th"))
    return root


@AFFWILD2.harmless("the folder of crops is a link")
def linked(root):
    through_link(crops(root))


@AFFWILD2.harmless("a system leaves its files everywhere (.DS_Store, ._*, Thumbs.db)")
def leftovers(root):
    for folder in (root, root / TRACK, labels(root).parent, crops(root), crops(root).parent):
        for name in (".DS_Store", "Thumbs.db", "._00003.jpg", "._video1.txt"):
            (folder / name).write_bytes(b"\0\5\x16\7")


@AFFWILD2.harmless("the folder of the set has a name in many scripts", folder="Aff ünï 数据 %20 #1")
def odd_root(root):
    del root
