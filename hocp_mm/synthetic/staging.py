"""Writing a whole set: beside its folder, and moved into place when it is complete."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hocp_mm.errors import DataError
from hocp_mm.system.files import writing
from hocp_mm.system.reading import read_json

MANIFEST = "synthetic.json"
"""File in the root of a set that holds the numbers it was made with, and a hash of the names and sizes of its files."""
_LISTING = "listing_sha256"
_LARGEST = 1 << 20  # bytes


def write_staged(root: Path, manifest: str, write: Callable[[Path], None], overwrite: bool) -> bool:
    """Write a set, or do nothing if it is already there.

    Args:
        root: Folder of the set.
        manifest: Text of its ``synthetic.json``: the numbers that it is made with.
        write: Fills an empty folder.
        overwrite: Replace a synthetic set made with other numbers. Folders with anything else in them never are.

    Returns:
        Whether the set was written; false = it was already there with the same numbers.

    Raises:
        DataError: If ``root`` holds something else.
    """
    root, numbers = root.absolute(), json.loads(manifest)
    if not _is_free(root):
        file = root / MANIFEST
        if not file.is_file():
            raise DataError(f"{root}: a synthetic set goes to a new or empty folder, got one with other content.")
        known = _read(root)
        if isinstance(known, dict) and {**known, _LISTING: None} == {**numbers, _LISTING: None}:
            return False
        if not overwrite:
            raise DataError(
                f"{root}: holds a synthetic set made with other numbers (see {file}); name another folder or allow "
                "overwriting (--overwrite)."
            )
        _require_whole(root)
    with writing(root):
        return _write(root, numbers, write)


def _write(root: Path, numbers: dict[str, Any], write: Callable[[Path], None]) -> bool:
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as staging:
        draft = Path(staging) / "set"
        draft.mkdir()
        write(draft)
        text = json.dumps({**numbers, _LISTING: _listing(draft)}, indent=2)
        (draft / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
        if root.exists():
            if not _is_free(root):  # by now: writing takes minutes
                _require_whole(root)
            root.rename(Path(staging) / "replaced")
        draft.rename(root)
    return True


def _is_free(root: Path) -> bool:
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def _require_whole(root: Path) -> None:
    """Refuse to replace a folder unless it holds a set as it was written, and nothing besides.

    Raises:
        DataError: If it does not.
    """
    known = _read(root) if (root / MANIFEST).is_file() else None
    if not isinstance(known, dict) or known.get(_LISTING) != _listing(root):
        raise DataError(
            f"{root}: holds files that were added or changed since the set was written, or was written by an earlier "
            "version, and is not replaced; delete it, or name another folder."
        )


def _read(root: Path) -> Any:
    return read_json(root / MANIFEST, "manifest of a synthetic set", largest=_LARGEST)


def _listing(root: Path) -> str:
    """Return a hash of the places and sizes of all files of a set but its manifest."""
    files = sorted(file for file in root.rglob("*") if file.is_symlink() or not file.is_dir())
    lines = [
        f"{file.relative_to(root).as_posix()} {file.lstat().st_size}\n" for file in files if file != root / MANIFEST
    ]
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()
