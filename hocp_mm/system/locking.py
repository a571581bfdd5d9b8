"""One preparation at a time in a folder."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from hocp_mm.errors import DataError, OutputError
from hocp_mm.system.files import writing

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a store; the operating system frees it when the process ends, however it ends.

    The file stays: removed, it could be locked by one process and made anew by another at the same time.

    Args:
        folder: Folder of the store.

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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{folder}: another process is preparing this store; wait until it has finished, or end it."
            ) from error
        except OSError as error:  # some network file systems have no locks
            text = f"{path}: no lock ({error.strerror}); see to it that nobody else prepares this store now"
            print_log(text, logger="current", level=logging.WARNING)
        yield
