"""AffectNet, release of 2021: crops of 224x224 and four npy files for each."""

import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tests.fault_injection.harm import cut, flip_pixels, register_unreadable, through_link
from tests.fault_injection.layouts import Layout
from tests.material.affectnet_files import MARKS
from tests.material.sewa_files import SQUARE, arousal_of, draw_number, valence_of


def write(root: Path) -> None:
    """Write five crops for training and two for validation."""
    for part, numbers in (("train_set", range(5)), ("val_set", range(10, 12))):
        (root / part / "annotations").mkdir(parents=True)
        (root / part / "images").mkdir()
        for number in numbers:
            square = np.ascontiguousarray(draw_number(number)[SQUARE[1] : SQUARE[3], SQUARE[0] : SQUARE[2]])
            crop = cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA)
            Image.fromarray(crop).save(root / part / f"images/{number}.jpg", quality=95)
            values = {"exp": str(number % 8), "val": f"{valence_of(number)}", "aro": f"{arousal_of(number)}"}
            for kind, value in values.items():
                np.save(root / part / f"annotations/{number}_{kind}.npy", np.array(value))
            np.save(root / part / f"annotations/{number}_lnd.npy", np.array(MARKS))


AFFECTNET_2021 = Layout(
    "AffectNet 2021",
    write,
    {"type": "hocp_mm.AffectNetDataset", "split": "train", "release": "2021", "index_cache": False},
    {"split": "val"},
    victim="2.jpg",
    longest=1,
)


def annotation(root: Path, kind: str = "val", number: int = 2) -> Path:
    return root / f"train_set/annotations/{number}_{kind}.npy"


def picture(root: Path) -> Path:
    return root / "train_set/images/2.jpg"


register_unreadable(AFFECTNET_2021, "an annotation", annotation)
register_unreadable(AFFECTNET_2021, "the landmarks", lambda root: annotation(root, "lnd"), except_for=("is missing",))
register_unreadable(AFFECTNET_2021, "an image", picture, except_for=("is missing",))


@AFFECTNET_2021.refused("an image is missing")
def missing_image(root):
    picture(root).unlink()
    return picture(root)


def _save(root: Path, value: Any, kind: str = "val") -> Path:
    np.save(annotation(root, kind), value)
    return annotation(root, kind)


for _what, _kind, _value in (
    ("an annotation is text", "val", np.array("happy")),
    ("an annotation is NaN", "val", np.array("nan")),
    ("an annotation is infinite", "aro", np.array(np.inf)),
    ("an annotation is outside of the range", "aro", np.array("1.5")),
    ("an annotation has a decimal comma", "aro", np.array("0,5")),
    ("an annotation is two values", "aro", np.array([0.1, 0.2])),
    ("an annotation is no value", "aro", np.zeros(0)),
    ("an annotation is a complex number", "aro", np.array(1j)),
    ("an annotation is a date", "aro", np.array("2021-03-01", dtype="datetime64")),
    ("a class is not known", "exp", np.array("99")),
    ("a class is a fraction", "exp", np.array(0.5)),
    ("landmarks are 135 numbers", "lnd", np.zeros(135)),
    ("a landmark is NaN", "lnd", np.array([np.nan, *MARKS[1:]])),
):
    AFFECTNET_2021.refused(_what)(
        lambda root, kind=_kind, value=_value: (_save(root, value, kind), annotation(root, "*"))
    )


@AFFECTNET_2021.harmless("an annotation is a number instead of text")
def number(root):
    _save(root, np.array(valence_of(2)))


@AFFECTNET_2021.harmless("an annotation has bytes instead of text, and one dimension")
def as_bytes(root):
    _save(root, np.array([str(valence_of(2)).encode()]))


@AFFECTNET_2021.harmless("landmarks are missing")
def no_landmarks(root):
    annotation(root, "lnd").unlink()


@AFFECTNET_2021.refused("an annotation is cut in its header")
def cut_header(root):
    return cut(annotation(root))


@AFFECTNET_2021.refused("an annotation lacks its last byte")
def cut_end(root):
    path = annotation(root)
    path.write_bytes(path.read_bytes()[:-1])
    return path


class _Payload:
    """Writes a file when somebody unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@AFFECTNET_2021.refused("an annotation holds a pickled program")
def pickled(root):
    content = np.empty((), dtype=object)
    content[()] = _Payload(root.parent / "executed")
    np.save(annotation(root), content, allow_pickle=True)
    return annotation(root)


@AFFECTNET_2021.refused("an annotation is a bare pickle")
def bare_pickle(root):
    annotation(root).write_bytes(pickle.dumps(_Payload(root.parent / "executed")))
    return annotation(root)


def _header(root: Path, text: str) -> Path:
    raw = text.encode()
    annotation(root).write_bytes(b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + b"0.5")
    return annotation(root)


def _fields(kind: str, shape: tuple[int, ...]) -> str:
    return str({"descr": kind, "fortran_order": False, "shape": shape})


for _what, _text in (
    ("the header of an annotation is nested very deep", "(" * 60_000),
    ("the header of an annotation is a call", "__import__('os').mkdir('executed')"),
    (
        "the header of an annotation promises a huge array",
        _fields("<f8", (1 << 40,)),
    ),
    (
        "the header of an annotation promises a huge string",
        _fields("<U9999999999", ()),
    ),
    ("the header of an annotation lacks the shape", str({"descr": "<f8", "fortran_order": False})),
    ("the header of an annotation is a list", "[1, 2, 3]"),
    ("the header of an annotation has a negative shape", _fields("<f8", (-1,))),
    ("the header of an annotation is no text", "\0" * 64),
):
    AFFECTNET_2021.refused(_what)(lambda root, text=_text: _header(root, text))


@AFFECTNET_2021.unseen("valence and arousal are exchanged")
def exchanged(root):
    raw = annotation(root).read_bytes()
    annotation(root).write_bytes(annotation(root, "aro").read_bytes())
    annotation(root, "aro").write_bytes(raw)
    return annotation(root)


@AFFECTNET_2021.unseen("annotations of another image are copied over")
def copied(root):
    for kind in ("exp", "val", "aro"):
        annotation(root, kind).write_bytes(annotation(root, kind, 3).read_bytes())
    return annotation(root)


@AFFECTNET_2021.refused("an image is cut in the middle")
def cut_image(root):
    return cut(picture(root))


@AFFECTNET_2021.unseen("a bit flips in the pixels of an image")
def flipped_bit(root):
    return flip_pixels(picture(root))


@AFFECTNET_2021.refused("an image has two files", records=("2.jpg", "2.png"))
def two_files(root):
    Image.open(picture(root)).save(picture(root).with_suffix(".png"))
    return picture(root).parent


@AFFECTNET_2021.harmless("the folder of annotations is a link")
def linked(root):
    through_link(root / "train_set/annotations")


@AFFECTNET_2021.harmless("a system leaves its files everywhere (.DS_Store, ._*, Thumbs.db)")
def leftovers(root):
    for name in (".DS_Store", "Thumbs.db", "._2_val.npy", "._2_exp.npy", "._2.jpg"):
        for folder in ("annotations", "images"):
            (root / "train_set" / folder / name).write_bytes(b"\0\5\x16\7")


@AFFECTNET_2021.refused("there are no annotations", whole=True)
def no_annotations(root):
    for path in (root / "train_set/annotations").iterdir():
        path.unlink()
    return root / "train_set/annotations"
