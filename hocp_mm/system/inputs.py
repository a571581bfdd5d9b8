"""What a user means by the names of inputs: files, patterns, and folders of videos and pictures."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from hocp_mm.errors import MissingDataError

VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob",
    ".webm", ".wmv",
)  # fmt: skip
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def find_inputs(names: Iterable[str | Path]) -> list[Path]:
    """Return the files that names stand for, each once.

    Args:
        names: Files; patterns with ``*``, ``?``, ``[…]`` or ``**``, where nothing has the very name; folders, whose
            videos and pictures are taken, and those of the folders in them.

    Returns:
        Files in the order of the names, those of a pattern or folder sorted. A file that is not there is returned, too:
        what opens it says so, and costs no other.

    Raises:
        MissingDataError: If a pattern matches no file, or a folder holds none.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found += find_media(path, (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES), "videos or pictures")
        elif os.path.lexists(path) or not glob.has_magic(str(name)):
            found.append(path)
        else:
            matching = [Path(match) for match in sorted(glob.glob(str(name), recursive=True))]  # noqa: PTH207
            files = [file for file in matching if not file.is_dir()]
            if not files:
                raise MissingDataError(f"{name}: no file has such a name.")
            found += files
    return list(dict.fromkeys(found))


def find_media(folder: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    """Return the files of a folder and of the folders in it whose names have one of some ends, sorted.

    Args:
        folder: The folder.
        suffixes: Ends of names, in lower case.
        what: What they are, for the message.

    Returns:
        Files without those whose names begin with a dot; folders that are links are not entered.

    Raises:
        MissingDataError: If there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise MissingDataError(f"{folder}: no such folder of {what}.")
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and not file.is_dir()
    ]
    if not files:
        raise MissingDataError(f"{folder}: must hold {what} ({', '.join(suffixes)}), got none.")
    return files
