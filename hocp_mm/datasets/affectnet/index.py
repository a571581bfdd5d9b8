"""What a million little files or half a gigabyte of text say, kept in one file.

It is taken as long as names, sizes and times of all files that it was read from are the same, and it lies where nobody
else can have written it (:mod:`hocp_mm.system.cache_folder`).
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.system.cache_folder import cache_folder, open_trusted, replacing_trusted, trusted_folder

FILES = "files"  # the column of packed names, one per row
Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and sides of the other columns, without the rows."""

_VERSION = 4  # raise it when the same files are read differently
_LIMIT_BYTES = 8 * 2**30  # some kilobytes for each of a million images


def folder_state(folder: Path) -> str:
    """Return a hash of the names, sizes and times of all files in a folder, whatever their order.

    The time of the last change of the entry (``ctime``) cannot be set back, unlike that of the content.

    Args:
        folder: Folder.

    Returns:
        The hash, after the number of files.
    """
    total = count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                stat = entry.stat()
            except OSError:  # a link to nothing; reading it will say so
                stat = entry.stat(follow_symlinks=False)
            text = f"{entry.name}\0{_times(stat)}"
            total += int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=16).digest(), "big")
            count += 1
    return f"{_VERSION}:{count}:{total % (1 << 128):032x}"


def file_state(path: Path) -> str:
    """Return size and times of one file."""
    return f"{_VERSION}:{_times(path.stat())}"


def _times(stat: os.stat_result) -> str:
    return f"{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"


def load_index(store: Path, state: str, layout: Layout) -> dict[str, NDArray[Any]] | None:
    """Return what `save_index` kept, or None if it is not there, of another state, or not to be used.

    Args:
        store: File.
        state: Of what was read.
        layout: What it must hold.

    Returns:
        The columns, and the packed names under ``files``.
    """
    try:
        # Opened here: numpy leaves a file open that turns out to be none of its own.
        with (
            open_trusted(trusted_folder(store.parent) / store.name, _LIMIT_BYTES) as file,
            np.lib.npyio.NpzFile(file, allow_pickle=False) as kept,
        ):
            if str(kept["state"]) != state:
                return None
            index = {name: kept[name] for name in kept.files if name != "state"}
        _check_layout(index, layout)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever zip files and arrays that are none are answered with
        print_log(f"{store}: not a readable index, reading the annotations again ({error})"[:300], logger="current")
        return None
    return index


def _check_layout(index: dict[str, NDArray[Any]], layout: Layout) -> None:
    if index.keys() != {*layout, FILES}:  # damage in the list of contents loses some without a word
        raise ValueError(f"it must hold {', '.join(sorted((*layout, FILES)))}, got {', '.join(sorted(index))}")
    names = index[FILES]
    if names.dtype != np.uint8 or names.ndim != 1:
        raise ValueError(f"{FILES} must be bytes, got {names.dtype} of shape {names.shape}")
    rows = np.count_nonzero(names == 0) + 1 if len(names) else 0
    for name, (dtype, sides) in layout.items():
        if (found := index[name]).dtype != dtype or found.shape != (rows, *sides):
            raise ValueError(f"{name} must be {dtype} of shape {(rows, *sides)}, got {found.dtype}, {found.shape}")


def save_index(store: Path, state: str, index: dict[str, NDArray[Any]]) -> None:
    """Keep what was read; the file appears whole or not at all, and a folder that takes none is no error."""
    try:
        folder = trusted_folder(store.parent, make=True)
        with replacing_trusted(folder / store.name) as file:
            np.savez(file, state=np.array(state), **index)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        text = f"{store}: the index cannot be kept, the next start reads all annotations again ({error})"
        print_log(text, logger="current", level=logging.WARNING)


def index_file(source: Path, kind: str = "") -> Path | None:
    """Return the file that keeps the index of a file or folder, or None where there is no place for one.

    Args:
        source: What was read.
        kind: What of it.

    Returns:
        The file; its folder may not exist yet.
    """
    try:
        name = hashlib.sha256(os.fsencode(source.absolute()) + b"\0" + kind.encode()).hexdigest()[:32]
        return cache_folder() / "affectnet" / f"{name}.npz"
    except OSError:
        return None


def pack(names: list[str]) -> NDArray[np.uint8]:
    """Return names as bytes, NUL between them: arrays of strings take the length of the longest for each."""
    return np.frombuffer(os.fsencode("\0".join(names)), dtype=np.uint8)


def unpack(names: NDArray[np.uint8]) -> list[str]:
    """Return what `pack` took."""
    return os.fsdecode(names.tobytes()).split("\0") if len(names) else []
