"""Files that are there whole or not at all, whatever ends the process that writes them, and a lock on a folder.

A file is written under another name beside its place, brought to the disk, and renamed: a reader sees the old file or
the new one. Drafts of processes that were killed stay behind, under names that nothing else has.
"""

import contextlib
import csv
import errno
import os
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from filelock import lock_descriptor

from hocp_mm.errors import DataError, HOCPError, OutputError

LOCK = ".lock"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""What only a write meets: no space, no quota, a file too large, a disk that is for reading alone."""

_DRAFT = re.compile(r"\..*\.[0-9a-f]{32}\.part(\.[^.]*)?")
_LONGEST_STEM = 120  # a draft's name must not be too long where the file's own is just allowed


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], follow: bool = True) -> Iterator[Path]:
    """Give a draft to write, which takes the place of ``path`` when the block ends well.

    Args:
        path: File to write; its folder is made. What is there stays until the draft is complete.
        follow: Write to the file that a link points to, as a user wants who named the place. False replaces the link:
            for places in a folder that may be a copy, or a stranger's, whose links lead out of it.

    Yields:
        Path beside it with the same suffix, where nothing exists yet. After an exception it is removed.

    Raises:
        OutputError: If the disk refuses the file, or something else than a file has its name.
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
    with writing(path):
        path = Path(os.path.realpath(path)) if follow and path.is_symlink() else path  # a link stays one
        if not path.is_symlink() and path.exists() and not path.is_file():  # a device would be replaced, too
            raise OutputError(f"{path}: cannot be written (something else than a file has this name).")
        draft = path.with_name(f".{path.stem[:_LONGEST_STEM]}.{uuid.uuid4().hex}.part{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            bring_to_disk(draft)
            draft.replace(path)
            bring_to_disk(path.parent)
        finally:
            with contextlib.suppress(OSError):  # a folder that is gone, or takes no more
                draft.unlink(missing_ok=True)  # there only if something went wrong


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the disk refuses while a file or folder is written into an error for the user.

    Args:
        path: The file or folder. Errors about files elsewhere, which are read meanwhile, pass through.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        yield
    except Exception as error:  # PyAV's errors have the number of the system's and are no OSError
        where = None if isinstance(error, HOCPError) else _refused(error, Path(path))
        if where is None:
            raise
        raise OutputError(f"{where}: cannot be written ({reason(error)}).") from error


def reason(error: BaseException) -> str:
    """Return what the system said, without number and file name."""
    return str(getattr(error, "strerror", None) or error)


def _refused(error: Exception, path: Path) -> Path | None:
    """Return the file that an error says cannot be written, or None if it says something else."""
    number, name = getattr(error, "errno", None), getattr(error, "filename", None)
    if number in FULL or (number == errno.EIO and name is None):
        return path
    if number is None or not isinstance(name, str | os.PathLike):
        return None
    file = Path(os.fspath(name))
    ours = file == path or path in file.parents or file in path.parents or is_draft(file)
    forgotten = number == errno.ENOENT and file.parent.is_dir()  # nobody wrote it: a fault of the program
    return (path if is_draft(file) else file) if ours and not forgotten else None


def require_writable(folder: str | os.PathLike[str], option: str) -> None:
    """Make sure that files can be written to a folder, before the work that they are to hold.

    The folder is made and a file written to the disk; both are removed again, so that what fails later leaves nothing.

    Args:
        folder: Folder; it may not exist.
        option: Option or config key that names it.

    Raises:
        OutputError: If it is no such folder.
    """
    folder = Path(folder)
    _probe(
        folder,
        folder / f".probe.{uuid.uuid4().hex}.part",
        f"{option}: must be a folder that can be written to, got {folder}",
    )


def require_writable_file(path: str | os.PathLike[str], option: str) -> None:
    """Make sure that a file can be written, before the work that it is to hold; it stays as it is.

    Args:
        path: File; neither it nor its folder need exist.
        option: Option or config key that names it.

    Raises:
        OutputError: If it cannot be written.
    """
    path = Path(path)
    rule = f"{option}: must be a file that can be written, got {path}"
    if os.path.exists(path) and not path.is_file():  # noqa: PTH110 - Path.exists fails for a name that is too long
        raise OutputError(f"{rule} ({'a folder' if path.is_dir() else 'no regular file'}).")
    new = None if os.path.lexists(path) else path
    _probe(path.parent, path.with_name(f".probe.{uuid.uuid4().hex}.part"), rule, new)


def _probe(folder: Path, probe: Path, rule: str, new: Path | None = None) -> None:
    """Write and remove a file, and the folders made for it.

    Args:
        folder: Where to.
        probe: The file, of a name that nobody looks at: whoever kills this process leaves it.
        rule: For the error.
        new: A name that must be possible, too: it may be too long.

    Raises:
        OutputError: If it cannot be written.
    """
    if str(folder).startswith(("~", "$")):
        raise OutputError(f"{rule} (a shell replaces ~ and $ only where they are not quoted).")
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(4096))
            bring_to_disk(probe)
            if new is not None:
                with contextlib.suppress(FileExistsError):  # by now: somebody else's
                    new.open("xb").close()
                    new.unlink()
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # a ValueError: a zero byte in the name
        raise OutputError(f"{rule} ({reason(error)}).") from error
    finally:
        for place in missing:
            with contextlib.suppress(OSError, ValueError):  # never made, or somebody else has put something there
                place.rmdir()


def refuse_links(*folders: Path) -> None:
    """Refuse folders that are links, before files in them are written or removed.

    For places in a folder that may be a copy, or a stranger's: its links lead out of it, to files of somebody else.

    Args:
        folders: Folders below one that the user named; they may not exist.

    Raises:
        OutputError: If one is a link.
    """
    for folder in folders:
        if folder.is_symlink():
            raise OutputError(
                f"{folder}: must be a folder, got a link, which is not followed (to {folder.readlink()})."
            )


def write_text(
    path: str | os.PathLike[str],
    text: str,
    newline: str | None = None,
    errors: str | None = None,
    follow: bool = True,
) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Args:
        path: File to write; its folder is made.
        text: Content.
        newline: As in ``open``.
        errors: As in ``open``.
        follow: As in `replacing`.
    """
    with replacing(path, follow) as draft:
        draft.write_text(text, encoding="utf-8", errors=errors, newline=newline)


def write_rows(
    path: str | os.PathLike[str], rows: Iterable[Sequence[object]], lineterminator: str = "\n", follow: bool = True
) -> None:
    """Write a CSV file in UTF-8, whole or not at all; file names that are no UTF-8 come out as they are.

    Args:
        path: File to write; its folder is made.
        rows: Cells of each line, the header first.
        lineterminator: As in ``csv.writer``.
        follow: As in `replacing`.
    """
    with (
        replacing(path, follow) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        csv.writer(file, lineterminator=lineterminator).writerows(rows)


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


def is_draft(file: Path) -> bool:
    """Tell whether a file has the name of a draft."""
    return _DRAFT.fullmatch(file.name) is not None


def remove_drafts(folder: Path) -> None:
    """Remove the drafts that killed processes left in a folder that nobody writes to at present.

    Args:
        folder: Folder; it may not exist.
    """
    if folder.is_dir():
        for file in folder.iterdir():
            if is_draft(file) and file.is_file() and not file.is_symlink():
                file.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the operating system frees it when the process ends, however it ends.

    The file stays: removed, it could be locked by one process and made anew by another at the same time.

    Args:
        folder: A store, or labels.

    Raises:
        DataError: If another process holds the lock.
        OutputError: If something else than a file has its name: it would be written through, or waited for.
    """
    path = folder / LOCK
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OutputError(f"{path}: must be a file, got a link or something else; delete it.")
    with writing(path):
        file = path.open("a")
    with file:
        try:
            free = lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:  # some network file systems have no locks
            text = f"{path}: no lock ({error.strerror}); see to it that nobody else writes to this folder now"
            warnings.warn(text, stacklevel=3)
            free = True
        if not free:
            raise DataError(
                f"{folder}: another process is writing to this folder; wait until it has finished, or end it."
            )
        yield
