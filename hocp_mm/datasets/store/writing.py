"""Files that appear whole or not at all, and one sentence where the disk refuses."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from av.error import FFmpegError

from hocp_mm.errors import DataError, HOCPError

DRAFT_SUFFIX = ".part"


def draft_of(path: Path) -> Path:
    """Return where a file is written before it is moved into its place."""
    return path.with_name(path.name + DRAFT_SUFFIX)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while ``path`` is written (full disk, no permission) into an error for the user.

    Raises:
        DataError: If something cannot be written.
    """
    try:
        yield
    except (OSError, FFmpegError) as error:
        known = isinstance(error, HOCPError)
        reason = getattr(error, "strerror", None) or error
        where = getattr(error, "filename", None) or path
        raise DataError(str(error) if known else f"{where}: cannot be written ({reason}).") from error
