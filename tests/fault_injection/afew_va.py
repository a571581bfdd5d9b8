"""AFEW-VA: clips as folders of PNG frames with one JSON each, in folds."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fault_injection.harm import (
    NO_FAULT_OF_FOLDERS,
    cut,
    flip_bit,
    overwrite,
    reencode,
    register_unreadable,
    replace,
    through_link,
)
from tests.fault_injection.layouts import Layout
from tests.material.afew_va_files import ACTORS, edit_json, labels_of, landmarks, squeezed_number, write_clip

COUNT = 6
TRAIN, VAL, TEST = ("001", "002", "003"), ("004",), ("005",)


def write(root: Path) -> None:
    """Write five clips of five people, one fold."""
    for number, name in enumerate((*TRAIN, *VAL, *TEST)):
        write_clip(root, name, ACTORS[number], range(COUNT), 20 * (number + 1))
    folder = root / "folds/fold_0"
    folder.mkdir(parents=True)
    for part, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        (folder / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))


AFEW_VA = Layout(
    "AFEW-VA",
    write,
    {"type": "hocp_mm.AFEWVADataset", "split": "train", "fold": 0},
    {"split": "val"},
    victim="001",
    longest=COUNT,
)


def label_file(root: Path) -> Path:
    return root / "001/001.json"


def picture(root: Path) -> Path:
    return root / "001/00002.png"


register_unreadable(AFEW_VA, "a label file", label_file)
register_unreadable(AFEW_VA, "a fold file", lambda root: root / "folds/fold_0/train.txt", whole=True)
register_unreadable(AFEW_VA, "the folder of a clip", lambda root: root / "001", except_for=NO_FAULT_OF_FOLDERS)
register_unreadable(AFEW_VA, "a frame", picture, except_for=("is missing",))


@AFEW_VA.fewer("a frame is missing")
def missing_frame(root):
    picture(root).unlink()
    return picture(root)


@AFEW_VA.fewer("a frame has no label")
def unlabelled_frame(root):
    edit_json(root / "001", lambda content: content["frames"].pop("00002"))
    return picture(root)


def _set(name: str, value: Any) -> Callable[[Path], Path]:
    """Return a harm that sets a value of one frame."""

    def harm(root: Path) -> Path:
        edit_json(root / "001", lambda content: content["frames"]["00002"].update({name: value}))
        return label_file(root)

    return harm


for _what, _name, _value in (
    ("a label is text", "valence", "3"),
    ("a label is null", "valence", None),
    ("a label is NaN", "valence", float("nan")),
    ("a label is infinite", "arousal", float("inf")),
    ("a label is true", "arousal", True),
    ("a label is a list", "arousal", [1]),
    ("a label is a number of 400 digits", "arousal", 10**400),
    ("a label is outside of the range", "arousal", 11),
    ("a label was divided by ten", "arousal", 0.3),
    ("landmarks are 49 points", "landmarks", landmarks()[:49]),
    ("landmarks are no list", "landmarks", "none"),
    ("a landmark is NaN", "landmarks", [[float("nan"), 0.0], *landmarks()[1:]]),
    ("a landmark has 400 digits", "landmarks", [[10**400, 0], *landmarks()[1:]]),
    ("a landmark has three numbers", "landmarks", [[1.0, 2.0, 3.0], *landmarks()[1:]]),
    ("landmarks lie outside of the frame", "landmarks", [[x + 900, y] for x, y in landmarks()]),
    ("landmarks lie on one point", "landmarks", [[5.0, 5.0]] * 68),
):
    AFEW_VA.refused(_what)(_set(_name, _value))


@AFEW_VA.harmless("a frame has no landmarks")
def no_landmarks(root):
    _set("landmarks", [])(root)


def _edit(name: str, expects: Callable[[str], Any], change: Callable[[dict[str, Any]], Any]) -> None:
    """Register a change of the whole JSON."""

    def harm(root: Path) -> tuple[Path, Path] | None:
        edit_json(root / "001", change)
        return (label_file(root), root / "001") if expects is not AFEW_VA.harmless else None

    expects(name)(harm)


_edit("a label file names another clip", AFEW_VA.refused, lambda content: content.update(video_id="002"))
_edit("a label file names no actor", AFEW_VA.refused, lambda content: content.pop("actor"))
_edit("frames are a list", AFEW_VA.refused, lambda content: content.update(frames=list(content["frames"].values())))
_edit(
    "frame ids lack their zeros",
    AFEW_VA.refused,
    lambda content: content.update(frames={str(int(k)): v for k, v in content["frames"].items()}),
)
_edit("no frame has labels", AFEW_VA.refused, lambda content: content.update(frames={}))
_edit(
    "frames of a label file are in another order",
    AFEW_VA.harmless,
    lambda content: content.update(frames=dict(reversed(content["frames"].items()))),
)
_edit("a label file has further keys", AFEW_VA.harmless, lambda content: content.update(note=["x"] * 99))
_edit(
    "labels are numbered from one, frames from zero",
    AFEW_VA.refused,
    lambda content: content.update(frames={f"{int(k) + 1:05d}": v for k, v in content["frames"].items()}),
)
_edit(
    "valence and arousal are exchanged",
    AFEW_VA.unseen,
    lambda content: [f.update(valence=f["arousal"], arousal=f["valence"]) for f in content["frames"].values()],
)


@AFEW_VA.refused("frames are numbered from one, labels from zero")
def one_based_frames(root):
    for number in reversed(range(COUNT)):
        (root / f"001/{number:05d}.png").rename(root / f"001/{number + 1:05d}.png")
    return root / "001", label_file(root)


@AFEW_VA.refused("a label file is cut in the middle")
def cut_labels(root):
    return cut(label_file(root))


@AFEW_VA.refused("a label file names a frame twice")
def double_frame(root):
    return replace(label_file(root), '"00003"', '"00002"')


@AFEW_VA.refused("a label file is nested a hundred thousand deep")
def deep_labels(root):
    label_file(root).write_text('{"actor": ' + "[" * 100_000)
    return label_file(root)


@AFEW_VA.refused("a label file holds a number of a million digits")
def long_number(root):
    return replace(label_file(root), f'"arousal": {labels_of(22)[1]},', f'"arousal": {"9" * 1_000_000},')


@AFEW_VA.refused("a label file is UTF-16")
def utf16_labels(root):
    return reencode(label_file(root), "utf-16")


@AFEW_VA.harmless("a label file has a byte order mark and CRLF line ends")
def bom(root):
    path = label_file(root)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    reencode(path, "utf-8-sig", "\r\n")


@AFEW_VA.harmless("an actor has a name in many scripts")
def actor_name(root):
    edit_json(root / "001", lambda content: content.update(actor="Ænn 安 Ash"))


@AFEW_VA.refused("an actor is in two parts, written in other case", whole=True)
def leak(root):
    edit_json(root / "004", lambda content: content.update(actor=ACTORS[0].upper()))
    return root / "folds/fold_0"


@AFEW_VA.refused("labels and name of another clip are copied over", records=TRAIN[:2])
def labels_of_another(root):
    content = json.loads((root / "002/002.json").read_text())
    label_file(root).write_text(json.dumps({**content, "video_id": "001"}))
    return label_file(root), root / "001"


@AFEW_VA.refused("frames of another clip are copied over", records=TRAIN[:2])
def frames_of_another(root):
    for number in range(COUNT):
        shutil.copy(root / f"002/{number:05d}.png", root / f"001/{number:05d}.png")
    return root / "001", picture(root)


@AFEW_VA.unseen("a frame is copied over the next one")
def copied_frame(root):
    shutil.copy(root / "001/00001.png", picture(root))
    return picture(root)


@AFEW_VA.refused("a frame is cut in the middle")
def cut_frame(root):
    return cut(picture(root))


@AFEW_VA.refused("a frame lacks its last bytes")
def cut_end(root):
    path = picture(root)
    path.write_bytes(path.read_bytes()[:-6])
    return path


@AFEW_VA.refused("a bit flips in a frame")
def flipped_frame(root):
    path = picture(root)
    return flip_bit(path, len(path.read_bytes()) // 2)


@AFEW_VA.refused("a block of 512 bytes in a frame is zeros")
def zero_block(root):
    return overwrite(picture(root), bytes(512), 100)


@AFEW_VA.refused("a frame lacks half of its rows, with checksums that fit")
def few_rows(root):
    _write_png(picture(root), 240, 240, zlib.compress(bytes(120 * (1 + 240 * 3))))
    return picture(root)


@AFEW_VA.refused("the header of a frame promises 60,000 x 60,000 pixels")
def bomb(root):
    _write_png(picture(root), 60_000, 60_000, zlib.compress(bytes(1000)))
    return picture(root)


def _write_png(path: Path, width: int, height: int, pixels: bytes) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@AFEW_VA.refused("a frame has another size")
def other_size(root):
    Image.open(picture(root)).resize((120, 120)).save(picture(root))
    return picture(root)


@AFEW_VA.refused("a frame is an animation")
def animation(root):
    pictures = [Image.fromarray(squeezed_number(number)) for number in (22, 23)]
    pictures[0].save(picture(root), format="PNG", save_all=True, append_images=pictures[1:])
    return picture(root)


def _resave(name: str, change: Callable[[Image.Image], Image.Image], **options: Any) -> None:
    """Register a frame that is stored in another way."""

    def harm(root: Path) -> None:
        changed = change(Image.open(picture(root)))
        changed.save(picture(root), **{"format": "PNG", **options})

    AFEW_VA.harmless(name)(harm)


def _sixteen_bits(frame: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(frame.convert("L")).astype(np.uint16) * 257)


def _turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 8
    return exif


_resave("a frame is grey", lambda frame: frame.convert("L"))
_resave("a frame is grey with 16 bits", _sixteen_bits)
_resave("a frame has an alpha channel", lambda frame: frame.convert("RGBA"))
_resave("a frame has a palette", lambda frame: frame.convert("P", palette=Image.Palette.ADAPTIVE))
_resave("a frame is interlaced differently", lambda frame: frame, optimize=True)
_resave("a frame is a JPEG named .png", lambda frame: frame, format="JPEG", quality=98)
_resave("a frame is a CMYK JPEG named .png", lambda frame: frame.convert("CMYK"), format="JPEG", quality=98)
_resave("a frame is a WebP named .png", lambda frame: frame, format="WEBP", lossless=True)
_resave(
    "a frame is turned, and its EXIF says so",
    lambda frame: frame.transpose(Image.Transpose.ROTATE_270),
    exif=_turned_exif(),
)


@AFEW_VA.harmless("a frame is a link")
def linked_frame(root):
    through_link(picture(root))


@AFEW_VA.harmless("the folder of a clip is a link")
def linked_folder(root):
    through_link(root / "001")


@AFEW_VA.harmless("the folder of the set has a name in many scripts", folder="AFEW ünï 数据 %20 #1")
def odd_root(root):
    del root


@AFEW_VA.harmless("a system leaves its files everywhere (.DS_Store, ._*, Thumbs.db)")
def leftovers(root):
    for folder in (root, root / "001", root / "folds", root / "folds/fold_0"):
        for name in (".DS_Store", "Thumbs.db", "._00002.png", "._001.json", "._train.txt"):
            (folder / name).write_bytes(b"\0\5\x16\7")


@AFEW_VA.refused("a clip is in a fold twice", whole=True)
def double_clip(root):
    path = root / "folds/fold_0/train.txt"
    path.write_text("001\n002\n001\n")
    return path


@AFEW_VA.refused("a clip is in two parts", whole=True)
def shared_clip(root):
    path = root / "folds/fold_0/val.txt"
    path.write_text("001\n")
    return root / "folds/fold_0"


@AFEW_VA.refused("a fold names a clip that is not there")
def unknown_clip(root):
    (root / "folds/fold_0/train.txt").write_text("001\n002\n003\n099\n")
    return root / "099"


@AFEW_VA.refused("a part of the fold is missing", whole=True)
def missing_part(root):
    path = root / "folds/fold_0/test.txt"
    path.unlink()
    return path
