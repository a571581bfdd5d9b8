"""Files that users bring, read whole: bytes, text, JSON and the numbers in cells, or one clear error.

What is there and yet is no file is refused first (`check_file`).
"""

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hocp_mm.errors import DataError, MissingDataError

_LARGEST, _LARGEST_TEXT = 1 << 30, 1 << 28
NOTE_BYTES = 1 << 20
"""Bytes of a note that a tool leaves beside its files: JSON may take twenty times its size in memory."""
_OTHERS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "Is a directory"),
    (stat.S_ISFIFO, "Is a named pipe"),
    (stat.S_ISSOCK, "Is a socket"),
    (lambda mode: True, "Is a device"),
)


def check_file(path: str | Path, what: str) -> os.stat_result:
    """Refuse a path that leads to no regular file, before it is opened.

    It may lead to a folder, to nowhere, in a circle, to a named pipe (opening it waits for ever), to a device that
    never ends, or to a file of the kernel that lets its reader wait.

    Args:
        path: File, or a link to one.
        what: What it should be, for the message: ``"label file"``.

    Returns:
        Its state.

    Raises:
        MissingDataError: If there is nothing at this path, or a link to nowhere.
        DataError: If there is something else than a file, or it cannot be reached.
    """
    try:
        state = os.stat(path)  # noqa: PTH116 - half the time of a Path, and there are a million files
    except (FileNotFoundError, NotADirectoryError) as error:
        link = Path(path)
        hint = f" (a link to {link.readlink()}, which is not there)" if link.is_symlink() else ""
        raise MissingDataError(f"{path}: no such {what}{hint}.") from error
    except (OSError, ValueError) as error:  # a circle of links, no permission; a name with a zero byte
        raise DataError(f"{path}: the {what} cannot be read ({reason_of(error)}).") from error
    if not stat.S_ISREG(state.st_mode):
        kind = next(name for test, name in _OTHERS if test(state.st_mode))
        raise DataError(f"{path}: the {what} cannot be read ({kind}).")
    if state.st_size == 0:  # or a file of the kernel, such as /proc/kmsg, which lets its reader wait for ever
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                endless = bool(os.read(handle, 1))
            finally:
                os.close(handle)
        except OSError as error:
            raise DataError(f"{path}: the {what} cannot be read ({reason_of(error)}).") from error
        if endless:
            raise DataError(f"{path}: the {what} cannot be read (Is a file of the kernel).")
    return state


def full_name(path: str | os.PathLike[str]) -> str:
    """Return the absolute name of a file: FFmpeg takes what is before a colon in another for a protocol (``12:30``)."""
    return os.path.abspath(path)  # noqa: PTH100 - a text, not a Path, is wanted


def reason_of(error: Exception) -> str:
    """Return what the system says of a file that cannot be read, without its path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def read_bytes(path: str | Path, what: str, largest: int = _LARGEST) -> bytes:
    """Read a whole file.

    Args:
        path: File.
        what: What it should be, for the message.
        largest: Bytes that it may have.

    Returns:
        Its bytes.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it cannot be read or is larger.
    """
    state = check_file(path, what)
    if state.st_size > largest:
        raise DataError(f"{path}: the {what} must have at most {largest} bytes, got {state.st_size}.")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the {what} cannot be read ({reason_of(error)}).") from error


def read_text(path: str | Path, what: str) -> str:
    """Read a whole text file in UTF-8, with or without byte order mark, any line ends.

    Args:
        path: File.
        what: What it should be, for the message.

    Returns:
        Its text, lines ending in a line feed.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it cannot be read or is no such text.
    """
    try:
        text = read_bytes(path, what, _LARGEST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the {what} must be UTF-8 text ({error.reason} at byte {error.start}).") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, what: str, parse_int: Callable[[str], float] = int, largest: int = _LARGEST) -> Any:
    """Read a JSON file in UTF-8, with or without byte order mark.

    Args:
        path: File.
        what: What it should be, for the message.
        parse_int: Makes a number of the digits of a whole one.
        largest: Bytes that it may have.

    Returns:
        What it holds.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it cannot be read or is no JSON, or an object has a key twice.
    """
    raw = read_bytes(path, what, largest)
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=unique_keys, parse_int=parse_int)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}).") from error


def refuse_to_replace(path: Path, is_ours: Callable[[Any], bool], option: str) -> None:
    """Refuse to replace a JSON file that no earlier call has written; a link is replaced, not what it leads to.

    Args:
        path: Where a tool is going to write JSON.
        is_ours: Tells by what the file holds whether the tool wrote it.
        option: Option that names the folder.

    Raises:
        DataError: If somebody else's file is there.
    """
    if path.is_symlink() or not path.is_file():
        return
    try:
        ours = is_ours(read_json(path, "file of results", largest=1 << 24))
    except DataError:
        ours = False
    if not ours:
        raise DataError(
            f"{option}: {path} was not written by an earlier call and would be replaced; name another folder."
        )


def parse_number(text: str) -> float:
    """Return the finite number that a cell holds, NaN where it holds anything else.

    Stricter than ``float``, which takes ``1_0`` for ten and knows the digits of all scripts.

    Example:
        >>> parse_number(" -0.5"), parse_number("1_0"), parse_number("inf")
        (-0.5, nan, nan)
    """
    if not text.isascii() or "_" in text:
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its pairs (``object_pairs_hook``), refusing a repeated key.

    Args:
        pairs: Keys and values in the order of the file.

    Returns:
        The object.

    Raises:
        ValueError: If a key is given twice: the json module would keep the last one without a word.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        times = Counter(key for key, _ in pairs)
        raise ValueError(f"key {next(key for key in times if times[key] > 1)!r} is given twice")
    return content
