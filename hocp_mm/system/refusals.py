"""Telling what a user can mend from a fault of the program, by the error alone.

The user's are, besides `HOCPError`: what a check of this package says with ``raise``, what the machine refuses (a full
disk, a killed process, a port in use), and, while objects are built from a config, what their classes say. An
``AttributeError`` out of our own code is nobody's but ours.
"""

import contextlib
import dis
import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from hocp_mm.errors import HOCPError
from hocp_mm.system.files import FULL, reason

_LONGEST_TEXT = 1 << 16  # that is looked at at all: an error may repeat what a file holds
LONGEST_VALUE, LONGEST_LINE = 300, 600
"""Characters of a value that a refusal repeats, and of the whole refusal."""

_PACKAGE = str(Path(__file__).parents[1])
_OF_CHECKS = (ValueError, TypeError, KeyError, NotImplementedError)
_OF_BUILDING = (*_OF_CHECKS, AssertionError)
_WORK = ("run_epoch", "run_iter")
_LONG = re.compile(r"'[^']{301,}'|\"[^\"]{301,}\"|\[.{299,}\]|\{.{299,}\}|\S{301,}")
_KILLED_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (?:is killed by signal: (?P<signal>[\w ]+)|exited unexpectedly)"
)
_UNKNOWN = re.compile(r"(.+) is not in the \S+::([\w ]+) registry\.")
_BUILD = "build_from_cfg"  # of mmengine: the arguments of a class do not fit, if it fails there itself
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory")
_PORT = re.compile(r"port: (\d+)")


def refusal(error: BaseException) -> str | None:
    r"""Return the one line for the user, or None if the error is a fault of the program.

    Args:
        error: What ended the work, with its chain of causes. The innermost `HOCPError` counts, then the innermost
            other error that is the user's.

    Returns:
        At most 600 characters without line breaks.

    Example:
        >>> refusal(HOCPError("a.csv: must have\n2 columns.")), refusal(ZeroDivisionError())
        ('a.csv: must have\\n2 columns.', None)
    """
    own = user_error(error)
    if own is not None:
        return one_line(_text(own))
    for link in reversed(list(_chain(error))):
        text = _machine(link) or (_text(link) if _is_check(link) else None) or _memory(link)
        if text:
            return one_line(text)
    return None


def user_error(error: BaseException) -> HOCPError | None:
    """Return the innermost `HOCPError` in the chain of causes of ``error``, itself included, or None.

    Example:
        >>> user_error(ValueError("x")) is None
        True
    """
    found = None
    for link in _chain(error):
        if isinstance(link, HOCPError):
            found = link
    return found


@contextlib.contextmanager
def config_errors(config: Any = None) -> Iterator[None]:
    """Turn what goes wrong while objects are built from a config into an error for the user, until work begins.

    Work begins with the first iteration of a loop; what its errors are, `refusal` decides.

    Args:
        config: The config; the error then names the part of it.

    Raises:
        HOCPError: If a part cannot be built.
    """
    try:
        yield
    except Exception as error:
        cause = None if user_error(error) else _cause(error)
        if cause is None:
            raise
        last = _innermost(cause)
        detail = " ".join(_text(cause).split()).rstrip(".")
        if unknown := _UNKNOWN.match(detail):
            detail = f"type must be the name of a registered {unknown[2]}, got '{unknown[1]}'"
        elif not (_is_check(cause) or (last is not None and last.tb_frame.f_code.co_name == _BUILD)):
            detail = f"{type(cause).__name__}: {detail}; HOCP_TRACEBACK=1 shows where"
        raise HOCPError(f"config: {_place(error, config)}{shorten(detail, LONGEST_VALUE)}.") from error


def _cause(error: BaseException) -> BaseException | None:
    """Return the error in a chain to tell a user who builds from a config, or None if there is none."""
    chain = list(_chain(error))
    working = any(frame in _WORK for link in chain for frame in _names(link.__traceback__))
    if working or any(_machine(link) for link in chain):
        return None
    for link in reversed(chain):
        if _is_check(link):
            return link
    # Deep in torch a wrong value may end as anything; in our own code only these are about values.
    fits = isinstance(error, _OF_BUILDING) or not _is_ours(_innermost(error))
    return error if fits and not isinstance(error, OSError) else None


def shorten(text: str, limit: int) -> str:
    """Cut the middle out of a text that is longer than ``limit`` characters.

    Returns:
        At most ``limit`` characters, more of the beginning than of the end.

    Example:
        >>> shorten("abcdefghij", 7)
        'abc…hij'
    """
    head = (limit - 1) * 2 // 3 if limit > 50 else (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def visible(text: str) -> str:
    r"""Return a text with control characters as escapes: names of files may hold commands to a terminal.

    Example:
        >>> visible("a\x1b[2J\n")
        'a\\x1b[2J\\n'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )


def one_line(text: str) -> str:
    """Return a text as one line of bounded length: control characters as escapes, long values without their middle."""
    short = _LONG.sub(lambda found: shorten(found[0], LONGEST_VALUE), visible(shorten(text, _LONGEST_TEXT)))
    return shorten(short, LONGEST_LINE)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _text(error: BaseException) -> str:
    """Return the text alone: torch puts the whole traceback of a data loader's worker into it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if _is_from_worker(text):
        text = text.rpartition(f"\n{_full_name(type(error))}: ")[2]
    return text.strip()


def _full_name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_from_worker(text: str) -> bool:
    return text.startswith("Caught ") and "\nOriginal Traceback" in text


def _machine(error: BaseException) -> str | None:
    """Return what the machine refused, or None."""
    text = str(error)
    if isinstance(error, RuntimeError) and (found := _KILLED_WORKER.search(text)):
        how = f"was ended by a signal ({found['signal']})" if found["signal"] else "was ended from outside"
        return (
            f"data loader: a worker process {how}; it may have run out of memory, which a smaller num_workers or "
            "batch_size saves."
        )
    if "EADDRINUSE" in text or getattr(error, "errno", None) == errno.EADDRINUSE:
        port = _PORT.search(text)
        return (
            f"launcher: the port{f' {port[1]}' if port else ''} is in use, perhaps by another training; choose a free "
            "one (MASTER_PORT; --master-port of torchrun, PORT of tools/dist_train.sh)."
        )
    if isinstance(error, OSError):
        if error.errno in FULL:
            return f"{error.filename or 'a file of this run'}: cannot be written ({reason(error)})."
        if error.errno in (errno.EACCES, errno.ENAMETOOLONG) and error.filename:
            return f"{error.filename}: cannot be opened ({reason(error)})."
    return None


def _memory(error: BaseException) -> str | None:
    """Return what to do where torch was refused memory, and says how much, or None."""
    text = str(error)
    if isinstance(error, RuntimeError) and _NO_MEMORY.search(text):
        detail = shorten(" ".join(text.split()), LONGEST_VALUE).rstrip(".")
        return f"memory: there is not enough for what is asked for ({detail}); take smaller numbers."
    return None


def _is_check(error: BaseException) -> bool:
    """Tell whether code of this package said ``raise`` with an error about values."""
    if not isinstance(error, _OF_CHECKS):
        return False
    text = str(error)
    if _is_from_worker(text):
        places = re.findall(r'\n *File "([^"]+)", line \d+, in .*\n *(.*)', text)
        return bool(places) and places[-1][0].startswith(_PACKAGE) and places[-1][1].startswith("raise ")
    last = _innermost(error)
    return _raises(last) and _is_ours(last)


def _innermost(error: BaseException) -> TracebackType | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _raises(trace: TracebackType | None) -> bool:
    """Tell whether the place is a ``raise``, and not an operation that failed."""
    return trace is not None and trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _is_ours(trace: TracebackType | None) -> bool:
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE)


def _names(trace: TracebackType | None) -> Iterator[str]:
    while trace is not None:
        yield trace.tb_frame.f_code.co_name
        trace = trace.tb_next


def _place(error: BaseException, config: Any) -> str:
    """Return the part of a config that mmengine was building, as ``custom_hooks.0 (EMAHook): ``, or nothing."""
    part: Any = None
    for link in _chain(error):
        trace = link.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_name == _BUILD:
                part = trace.tb_frame.f_locals.get("cfg")
            trace = trace.tb_next
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind is None:
        return ""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    key = _find(config, part) or _find(config, {"type": kind})
    return f"{key} ({shorten(name, 60)}): " if key else f"{shorten(name, 60)}: "


def _find(config: Any, part: Mapping[str, Any]) -> str | None:
    """Return the dotted key under which a config first holds a dict with all that ``part`` has."""
    entries = config.items() if isinstance(config, Mapping) or hasattr(config, "items") else ()
    if isinstance(config, list | tuple):
        entries = enumerate(config)
    for key, value in entries:
        if isinstance(value, Mapping) and all(name in value and value[name] == part[name] for name in part):
            return str(key)
        if (below := _find(value, part)) is not None:
            return f"{key}.{below}"
    return None
