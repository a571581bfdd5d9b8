"""Writing a whole set: beside its folder, and moved into place when it is complete."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from hocp_mm.errors import DataError
from hocp_mm.system.files import writing
from hocp_mm.system.reading import read_bytes

MANIFEST = "synthetic.json"
"""File in the root of a set that holds the numbers it was made with."""
_LARGEST = 1 << 20  # bytes


def write_staged(root: Path, manifest: str, write: Callable[[Path], None], overwrite: bool) -> bool:
    """Write a set, or do nothing if it is already there.

    Args:
        root: Folder of the set.
        manifest: Text of its ``synthetic.json``: the numbers that it is made with.
        write: Fills an empty folder.
        overwrite: Replace a synthetic set made with other numbers. Other folders are never replaced.

    Returns:
        Whether the set was written; false = it was already there with the same numbers.

    Raises:
        DataError: If ``root`` holds something else.
    """
    root = root.absolute()
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        file = root / MANIFEST
        if not file.is_file():
            raise DataError(f"{root}: a synthetic set goes to a new or empty folder, got one with other content.")
        if read_bytes(file, "manifest of a synthetic set", _LARGEST) == manifest.encode():
            return False
        if not overwrite:
            raise DataError(
                f"{root}: holds a synthetic set made with other numbers (see {file}); name another folder or allow "
                "overwriting (--overwrite)."
            )
    with writing(root):
        return _write(root, manifest, write)


def _write(root: Path, manifest: str, write: Callable[[Path], None]) -> bool:
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as staging:
        draft = Path(staging) / "set"
        draft.mkdir()
        write(draft)
        (draft / MANIFEST).write_text(manifest, encoding="utf-8")
        if root.exists():
            root.rename(Path(staging) / "replaced")
        draft.rename(root)
    return True
