"""What a million little files say, kept in one: found again as long as names, sizes and times of all are the same."""

import hashlib
import logging
import os
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.functional.native.build import cache_folder

_VERSION = 1  # raise it when the same files are read differently
_COLUMNS = ("ids", "expression", "affect", "landmarks", "inner")


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
            text = f"{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
            total += int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=16).digest(), "big")
            count += 1
    return f"{_VERSION}:{count}:{total % (1 << 128):032x}"


def load_index(store: Path, state: str) -> dict[str, NDArray[Any]] | None:
    """Return what `save_index` kept, or None if it is not there, of another state, or damaged."""
    try:
        with np.load(store, allow_pickle=False) as kept:
            if str(kept["state"]) != state:
                return None
            return {name: kept[name] for name in _COLUMNS}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        print_log(f"{store}: not a readable index, reading the annotations again ({error})", logger="current")
        return None


def save_index(store: Path, state: str, index: dict[str, NDArray[Any]]) -> None:
    """Keep what was read; the file appears whole or not at all, and a folder that takes none is no error."""
    draft = store.with_name(f".{store.stem}-{uuid.uuid4().hex}.npz")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.savez(draft, state=np.array(state), **index)  # pyright: ignore[reportArgumentType]
            draft.replace(store)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        text = f"{store}: the index cannot be kept, the next start reads all annotations again ({error})"
        print_log(text, logger="current", level=logging.WARNING)


def index_file(annotations: Path) -> Path | None:
    """Return the file that keeps the index of a folder, or None where there is no place for one."""
    try:
        name = hashlib.sha256(os.fsencode(annotations.absolute())).hexdigest()[:32]
        return cache_folder() / "affectnet" / f"{name}.npz"
    except OSError:
        return None
