"""The store of face crops, prepared from the small SEWA set: here a checksum tells of every changed byte."""

import json
import tempfile
from pathlib import Path

import numpy as np

from hocp_mm.datasets import SEWADataset
from hocp_mm.datasets.store import CropSettings
from hocp_mm.datasets.store.prepare import prepare_store
from tests.fault_injection import sewa
from tests.fault_injection.delivery import SIDE
from tests.fault_injection.harm import (
    cut,
    exchange,
    flip_bit,
    overwrite,
    reencode,
    register_unreadable,
    replace,
    through_link,
)
from tests.fault_injection.layouts import Layout
from tests.fault_injection.sewa import COUNT, KEY, KEYS, OTHER, THIRD, UNTRAINED


def write(root: Path) -> None:
    """Prepare the raw set, which is then gone."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        sewa.write(raw)
        parts = {part: SEWADataset(str(raw), part, lazy_init=True) for part in ("train", "val")}
        settings = CropSettings(size=SIDE, margin=1.0)
        prepare_store(root, parts, settings, split_folders={"splits": raw / "splits"}, workers=1)


STORE = Layout(
    "store",
    write,
    {"type": "hocp_mm.FaceCropDataset", "split": "train"},
    {"split": "val"},
    victim=KEY,
    longest=COUNT,
)


def pack(root: Path, key: str = KEY) -> Path:
    return next((root / "packs").glob(f"{key}*.avi"))


def header(root: Path) -> Path:
    return root / "store.json"


def index(root: Path) -> Path:
    return root / "index.npz"


def split(root: Path) -> Path:
    return root / "splits/train.txt"


register_unreadable(STORE, "a pack", pack)
register_unreadable(STORE, "the header", header, whole=True)
register_unreadable(STORE, "the index", index, whole=True)
register_unreadable(STORE, "the split file", split, whole=True)


@STORE.refused("a pack is cut in the middle")
def cut_pack(root):
    return cut(pack(root))


@STORE.refused("a bit flips in the pixels of a picture")
def flipped_bit(root):
    raw = pack(root).read_bytes()
    return flip_bit(pack(root), raw.index(b"\xff\xda", len(raw) // 2) + 60)


@STORE.refused("a block of 512 bytes in a pack is zeros")
def zero_block(root):
    return overwrite(pack(root), bytes(512), len(pack(root).read_bytes()) // 2)


@STORE.refused("two packs are exchanged", records=KEYS[:2])
def exchanged_packs(root):
    return exchange(pack(root), pack(root, OTHER))


@STORE.refused("the pack of another record is copied over")
def pack_of_another(root):
    pack(root).write_bytes(pack(root, OTHER).read_bytes())
    return pack(root)


@STORE.harmless("bytes follow on the end of a pack")
def longer_pack(root):
    with pack(root).open("ab") as file:
        file.write(bytes(999))


@STORE.harmless("the facts beside a pack are missing, which only preparation reads")
def no_facts(root):
    pack(root).with_suffix(".npz").unlink()


@STORE.refused("the header is cut", whole=True)
def cut_header(root):
    return cut(header(root))


@STORE.refused("the header is nested a hundred thousand deep", whole=True)
def deep_header(root):
    header(root).write_text("[" * 100_000)
    return header(root)


@STORE.refused("the header is of a later version", whole=True)
def later_version(root):
    return replace(header(root), '"format_version": 1', '"format_version": 99')


@STORE.refused("the header is that of a store with other crops", whole=True)
def other_crops(root):
    content = json.loads(header(root).read_text())
    content["crop"]["margin"] = 1.5
    header(root).write_text(json.dumps(content))
    return header(root)


@STORE.refused("the header is UTF-16", whole=True)
def utf16_header(root):
    return reencode(header(root), "utf-16")


@STORE.refused(
    "the store was prepared with other labels than the config asks for",
    whole=True,
    options={"expected": {"labels": "A"}},
)
def other_labels(root):
    return root


@STORE.refused("the index is cut", whole=True)
def cut_index(root):
    return cut(index(root), 0.8)


@STORE.refused("a bit flips in the labels of the index", whole=True)
def flipped_index(root):
    raw = index(root).read_bytes()
    return flip_bit(index(root), raw.index(b"affect.npy") + 300)


@STORE.refused("the index holds a pickled array", whole=True)
def pickled_index(root):
    with np.load(index(root)) as file:
        columns = dict(file)
    columns["affect"] = np.array([{"a": 1}], dtype=object)
    np.savez(index(root), **columns)
    return index(root)


@STORE.refused("the index lacks a column", whole=True)
def short_index(root):
    with np.load(index(root)) as file:
        columns = {name: file[name] for name in file.files if name != "valid"}
    np.savez(index(root), **columns)
    return index(root)


def write_keys(root: Path, *keys: str) -> Path:
    """Write the split by hand, without a checksum."""
    split(root).write_text("".join(f"{key}\n" for key in keys))
    return split(root)


@STORE.refused("a key is in the split twice", whole=True)
def double_key(root):
    return write_keys(root, KEY, OTHER, KEY)


@STORE.refused("a key was taken out of the split by hand", whole=True)
def edited_split(root):
    return replace(split(root), f"{KEY}\n", "")


@STORE.refused("the split names a record that was never prepared", whole=True)
def unknown_key(root):
    return write_keys(root, KEY, OTHER, THIRD, "SAH_C9_S099_P099_VC1_000000_000001")


@STORE.refused("a record is in two parts", whole=True)
def leak(root):
    write_keys(root, KEY, OTHER, THIRD, UNTRAINED)
    return root / "splits"


@STORE.harmless("the report is missing")
def no_report(root):
    (root / "report.csv").unlink(missing_ok=True)


@STORE.harmless("the folder of packs is a link")
def linked_packs(root):
    through_link(root / "packs")


@STORE.harmless("the folder of the store has a name in many scripts", folder="crops ünï 数据 %20 #1")
def odd_root(root):
    del root


@STORE.harmless("a system leaves its files everywhere (.DS_Store, ._*, Thumbs.db)")
def leftovers(root):
    for folder in (root, root / "packs", root / "splits"):
        for name in (".DS_Store", "Thumbs.db", "._index.npz", "._train.txt"):
            (folder / name).write_bytes(b"\0\5\x16\7")
