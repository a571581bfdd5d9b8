"""What command-line tools share: user errors without traceback, the override of config keys, lines of progress.

Imports nothing but the errors, so that ``--help`` and data preparation start at once.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from hocp_mm.errors import HOCPError

USER_ERROR = 2
INTERRUPTED = 130
"""Exit codes: argparse's own for wrong usage; the shell's for Ctrl-C."""


def run(main: Callable[[], object]) -> NoReturn:
    """Call ``main`` and end the process; a user's error prints ``error: <text>`` and exits with 2.

    Frameworks wrap what happens while they build an object or inside a worker process: the original error counts.
    With ``HOCP_TRACEBACK=1`` in the environment everything is shown. Any other exception passes through: it is a
    fault of the program, and its traceback is wanted.

    Args:
        main: Function without arguments, the body of the tool.

    Raises:
        SystemExit: Always, unless ``main`` fails with an error that is not the user's.
    """
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        cause = user_error(error)
        if cause is None or os.environ.get("HOCP_TRACEBACK") == "1":
            raise
        sys.stdout.flush()
        sys.stderr.write(f"error: {_text(cause)}\n")
        sys.exit(USER_ERROR)
    sys.exit(0)


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


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _text(error: HOCPError) -> str:
    """Return the text alone: torch puts the whole traceback of a data loader's worker into it."""
    text = str(error)
    if text.startswith("Caught ") and "\nOriginal Traceback" in text:
        kind = type(error)
        text = text.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2]
    return text.strip()


def add_config_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Add ``--cfg-options KEY=VALUE …``, read as MMEngine's tools read it.

    Args:
        parser: Parser of a tool that reads a config.
        example: An override that its users need.
    """
    from mmengine.config import DictAction  # here: it takes a second, and tools without a config do without

    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help=f"override keys, e.g. {example}"
    )


class ProgressLine:
    """Show on stderr how many things are done: in place on a terminal, else as a line every few seconds.

    Args:
        title: What is going on.
        unit: What is counted, in the plural.
        seconds: Least time between two lines where the output is no terminal.
    """

    def __init__(self, title: str, unit: str, seconds: float = 3.0) -> None:
        self._title, self._unit, self._seconds = title, unit, seconds
        self._start = time.monotonic()
        self._next = self._start

    def __call__(self, done: int, total: int) -> None:
        """Show the state.

        Args:
            done: What is finished.
            total: What there is to do.
        """
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if not terminal and now < self._next and done < total:
            return
        self._next = now + self._seconds
        end = "\n" if done == total or not terminal else ""
        text = f"{self._title}: {done}/{total} {self._unit}, {now - self._start:.0f} s"
        print(f"\r{text}" if terminal else text, end=end, file=sys.stderr, flush=True)  # noqa: T201 - a terminal is its place
