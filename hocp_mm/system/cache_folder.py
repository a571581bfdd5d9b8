"""The folder that keeps what this package makes once, used only if nobody else can have put something there.

The names in it can be guessed, and a kept library runs as whoever loads it. So a folder is judged as ``ssh`` judges
that of its keys (``StrictModes`` in sshd_config(5)): with links followed first, it and every folder above it must
belong to this user or to root, and neither group nor others may write to it. We differ in one point: above the folder
itself the sticky bit of temporary folders makes up for the right to write, because there nobody can rename or remove
what another owns. A folder that breaks the rule is not mended: what lies in it may be of others by then.

The user is the effective one: under ``sudo`` with the caller's home, root does not use the caller's folder. Access
control lists are not read; as a rule the system shows what they grant in the bits of the group. Where the system knows
no owners (Windows), nothing is checked: there the folder lies in the user's profile, which is closed to others, and no
library is ever loaded from it.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hocp_mm.system.files import replacing

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Neither a link to elsewhere, nor a wait for a named pipe; O_BINARY is Windows'.
_READ_FLAGS = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


class UntrustedError(OSError):
    """Others may have written what is found here; the message names the path and the rule."""


def cache_folder() -> Path:
    """Return the folder that keeps what this package makes once; it may not exist yet, or not be ours.

    Raises:
        OSError: If there is no home folder.
    """
    try:
        if named := os.environ.get("HOCP_MM_CACHE"):
            return Path(named).expanduser()
        if base := os.environ.get("XDG_CACHE_HOME"):
            return Path(base) / "hocp_mm"
        return Path.home() / ".cache" / "hocp_mm"
    except RuntimeError as error:  # a user id without a home, as in some containers
        raise OSError(str(error)) from error


def trusted_folder(path: Path, make: bool = False) -> Path:
    """Check a folder and all folders above it.

    Args:
        path: Folder.
        make: Make what is missing, open to this user alone.

    Returns:
        The folder without links: what was checked, and what must be used.

    Raises:
        FileNotFoundError: If it does not exist and is not made.
        UntrustedError: If others may write to it, or to where it lies.
        OSError: If it cannot be made or looked at.
    """
    folder = Path(os.path.realpath(path))
    if make:
        # From above, each checked before the next is made in it. The mode counts from the start, whatever the umask.
        for missing in reversed([f for f in (folder, *folder.parents) if not os.path.lexists(f)]):
            _check_folders(missing.parent, innermost=False)
            with contextlib.suppress(FileExistsError):  # another process may be faster
                missing.mkdir(mode=0o700)
    _check_folders(folder)
    return folder


def open_trusted(path: Path, limit_bytes: int) -> BinaryIO:
    """Open a file that nobody else can have written, to read it; never waits, and never follows a link.

    Args:
        path: File in a `trusted_folder`.
        limit_bytes: Largest size.

    Returns:
        The file, which the caller closes.

    Raises:
        FileNotFoundError: If there is none.
        UntrustedError: If it is no plain file, another user's, open to others to write, or too large.
        OSError: If it cannot be opened.
    """
    handle = os.open(path, _READ_FLAGS)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedError(f"{path}: must be a file, got {stat.filemode(status.st_mode)}")
        if status.st_size > limit_bytes:
            raise UntrustedError(f"{path}: must have {limit_bytes} bytes at most, got {status.st_size}")
        _check_owner(path, status)
        _check_mode(path, status)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


@contextlib.contextmanager
def replacing_trusted(path: Path) -> Iterator[BinaryIO]:
    """Write a file that only this user can write, whatever the umask; whole or not at all, as `replacing` does.

    Args:
        path: File in a `trusted_folder`.

    Yields:
        The file to write to.
    """
    with contextlib.suppress(OSError):  # nothing there
        kind = path.lstat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            path.unlink()  # a link or a pipe, and none of ours
    with replacing(path, follow=False) as draft:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(handle, "wb") as file:
            yield file


def _check_folders(folder: Path, innermost: bool = True) -> None:
    """Refuse a folder without links that can be changed by others; ``innermost`` is one that may not be sticky."""
    for place in (folder, *folder.parents):
        status = place.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise UntrustedError(f"{place}: must be a folder, got {stat.filemode(status.st_mode)}")
        _check_owner(place, status)
        if not status.st_mode & stat.S_ISVTX or (innermost and place == folder):
            _check_mode(place, status)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if hasattr(os, "geteuid") and status.st_uid not in (0, os.geteuid()):
        raise UntrustedError(f"{path}: must belong to user {os.geteuid()} or root, got user {status.st_uid}")


def _check_mode(path: Path, status: os.stat_result) -> None:
    if hasattr(os, "geteuid") and status.st_mode & _OTHERS_WRITE:
        raise UntrustedError(
            f"{path}: group and others must not be able to write to it, got mode {stat.S_IMODE(status.st_mode):04o}"
        )
