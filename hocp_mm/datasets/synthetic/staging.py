"""A synthetic set appears whole or not at all, and is known by the numbers that it was made with."""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hocp_mm.datasets.synthetic.sewa_writer import MANIFEST
from hocp_mm.errors import DataError


def write_once(root: Path, numbers: Mapping[str, Any], write: Callable[[Path], None], overwrite: bool) -> bool:
    """Write a set beside ``root`` and move it into place, or do nothing if it is already there.

    Args:
        root: Folder of the set, absolute.
        numbers: What the set depends on; written to ``synthetic.json``.
        write: Writes the set into an empty folder.
        overwrite: Replace a synthetic set made with other numbers. Other folders are never replaced.

    Returns:
        Whether the set was written.
    """
    manifest = json.dumps(numbers, indent=2) + "\n"
    if _is_written(root, manifest, overwrite):
        return False
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


def _is_written(root: Path, manifest: str, overwrite: bool) -> bool:
    """Tell whether the set is there; refuse a folder that must not be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    kept = root / MANIFEST
    if not kept.is_file():
        raise DataError(f"{root}: a synthetic set goes to a new or empty folder, got one with other content.")
    if kept.read_text(encoding="utf-8") == manifest:
        return True
    if not overwrite:
        raise DataError(
            f"{root}: holds a synthetic set made with other numbers (see {kept}); name another folder or allow "
            "overwriting (--overwrite)."
        )
    return False
