"""Ways to harm any file, byte by byte, and things that are there but cannot be read."""

import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fault_injection.layouts import Layout


def cut(path: Path, share: float = 0.5) -> Path:
    """Keep the beginning, as a copy does that was interrupted."""
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    return path


def overwrite(path: Path, patch: bytes, at: int) -> Path:
    """Write over some bytes."""
    raw = bytearray(path.read_bytes())
    raw[at : at + len(patch)] = patch
    path.write_bytes(raw)
    return path


def flip_bit(path: Path, at: int, bit: int = 3) -> Path:
    """Turn one bit over."""
    return overwrite(path, bytes([path.read_bytes()[at] ^ 1 << bit]), at)


def flip_pixels(path: Path) -> Path:
    """Flip a bit in the pixels of a JPEG that leaves all markers whole and that many pixels show."""
    raw, wanted = path.read_bytes(), np.asarray(Image.open(path), np.float32)
    for at in range(raw.rindex(b"\xff\xda") + 40, len(raw) - 2):
        changed = raw[:at] + bytes([raw[at] ^ 16]) + raw[at + 1 :]
        markers = [changed[place + 1] for place in range(at - 1, at + 1) if changed[place] == 0xFF]
        if any(markers) or raw[at - 1] == 0xFF or raw[at] == 0xFF:
            continue
        picture = np.asarray(Image.open(io.BytesIO(changed)), np.float32)
        if np.abs(picture - wanted).mean() > 10:
            path.write_bytes(changed)
            return path
    raise ValueError(f"{path}: no bit of it is such a one.")


def replace(path: Path, old: str, new: str, count: int = 1) -> Path:
    """Replace a piece of text that must be there."""
    text = path.read_text(encoding="utf-8")
    if old not in text:
        raise ValueError(f"{path}: holds no {old!r}.")
    path.write_text(text.replace(old, new, count), encoding="utf-8", newline="")
    return path


def reencode(path: Path, encoding: str, newline: str = "\n") -> Path:
    """Write a text file anew in another encoding or with other line ends."""
    text = path.read_text(encoding="utf-8").replace("\n", newline)
    path.write_bytes(text.encode(encoding))
    return path


def exchange(one: Path, other: Path) -> tuple[Path, Path]:
    """Exchange two files."""
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)
    return one, other


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _missing(path: Path) -> Path:
    _remove(path)
    return path


def _empty(path: Path) -> Path:
    _remove(path)
    path.write_bytes(b"")
    return path


def _folder(path: Path) -> Path:
    _remove(path)
    path.mkdir()
    return path


def _link(path: Path, target: str) -> Path:
    _remove(path)
    path.symlink_to(target)
    return path


def _fifo(path: Path) -> Path:
    _remove(path)
    os.mkfifo(path)
    return path


def _web_page(path: Path) -> Path:
    _remove(path)
    path.write_text("<!DOCTYPE html><html><head><title>403 Forbidden</title></head></html>\n" * 8, encoding="utf-8")
    return path


UNREADABLE: dict[str, Callable[[Path], Path]] = {
    "is missing": _missing,
    "has 0 bytes": _empty,
    "is a web page that says 403": _web_page,
    "is a folder": _folder,
    "is a link to nowhere": lambda path: _link(path, "/nowhere/at/all"),
    "is a link to itself": lambda path: _link(path, path.name),
    "is a named pipe": _fifo,
    "is a link to an endless device": lambda path: _link(path, "/dev/zero"),
    # A regular file whose first byte cannot be read (EIO), also for root, whom permissions do not bind.
    "lies on a disk that fails": lambda path: _link(path, "/proc/self/mem"),
}

NO_FAULT_OF_FOLDERS = ("is a folder", "lies on a disk that fails")


def register_unreadable(
    layout: Layout, what: str, find: Callable[[Path], Path], except_for: Sequence[str] = (), **stated: Any
) -> None:
    """Register every way in which one file may be there and yet be no file.

    Args:
        layout: Where.
        what: The file, for the names of the damages.
        find: Returns it, given the root.
        except_for: Ways that are registered elsewhere, or are no damage.
        **stated: As for `Layout.refused`.
    """
    for how, harm in UNREADABLE.items():
        if how in except_for:
            continue
        layout.refused(f"{what} {how}", **stated)(lambda root, harm=harm: harm(find(root)))


def through_link(path: Path) -> Path:
    """Move a file or folder away and leave a link to it, which is no damage."""
    elsewhere = path.parent.parent / f".moved_{path.name}" if path.is_dir() else path.with_name(f".moved_{path.name}")
    path.rename(elsewhere)
    path.symlink_to(elsewhere, target_is_directory=elsewhere.is_dir())
    return path
