"""Files that are there whole or not at all, whatever ends the process that writes them.

A file is written under another name beside its place, brought to the disk, and renamed: a reader sees the old file or
the new one. Drafts of processes that were killed stay behind, under names that nothing else has.
"""

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

_DRAFT = re.compile(r"\..*\.[0-9a-f]{32}\.part(\.[^.]*)?")
_LONGEST_STEM = 120  # a draft's name must not be too long where the file's own is just allowed


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a draft to write, which takes the place of ``path`` when the block ends well.

    Args:
        path: File to write; its folder must exist. What is there stays until the draft is complete.

    Yields:
        Path beside it with the same suffix, where nothing exists yet. After an exception it is removed.

    Raises:
        FileNotFoundError: If the block ends without having written the draft.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as draft:
        ...         _ = draft.write_text("whole")
        ...     [file.read_text() for file in Path(folder).iterdir()]
        ['whole']
    """
    path = Path(path)
    draft = path.with_name(f".{path.stem[:_LONGEST_STEM]}.{uuid.uuid4().hex}.part{path.suffix}")
    try:
        yield draft
        bring_to_disk(draft)
        draft.replace(path)
        bring_to_disk(path.parent)
    finally:
        draft.unlink(missing_ok=True)  # there only if something went wrong


def write_text(path: str | os.PathLike[str], text: str, newline: str | None = None) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Args:
        path: File to write; its folder must exist.
        text: Content.
        newline: As in ``open``.
    """
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", newline=newline)


def bring_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, would survive a loss of power.

    Args:
        path: File or folder. File systems that cannot do it for folders are left as they are.
    """
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)


def remove_drafts(folder: Path) -> None:
    """Remove the drafts that killed processes left in a folder that nobody writes to at present.

    Args:
        folder: Folder; it may not exist.
    """
    if folder.is_dir():
        for file in folder.iterdir():
            if _DRAFT.fullmatch(file.name) and file.is_file() and not file.is_symlink():
                file.unlink(missing_ok=True)
