"""What command-line tools share: user errors without traceback, the override of config keys, lines of progress.

Imports nothing heavy, so that ``--help`` and data preparation start at once.
"""

import argparse
import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from tqdm import tqdm

from hocp_mm.errors import HOCPError, SomeFailedError
from hocp_mm.system.refusals import LONGEST_VALUE, refusal, shorten, user_error

SOME_FAILED, USER_ERROR = 1, 2
INTERRUPTED, TERMINATED = 130, 143
EXIT_CODES = {
    0: "done",
    SOME_FAILED: "some inputs failed, faults were found, or a check failed: each is named, all else is done",
    USER_ERROR: "refused: a wrong option, file or place; one line says which, what was finished before it stays",
    INTERRUPTED: "ended by Ctrl-C; what was finished stays",
    TERMINATED: "ended by SIGTERM; what was finished stays",
}
"""Of all commands. 2 is argparse's own for wrong usage, the last two are the shell's; after a traceback, which only a
fault of the program prints, Python's own is 1, too."""

_GRACE_SECONDS = 5.0


def run(main: Callable[[], object], at_once: bool = False) -> NoReturn:
    """Call ``main`` and end the process; a user's error prints ``error: <text>``; the code is one of `EXIT_CODES`.

    Frameworks wrap what happens while they build an object or inside a worker process: the original error counts (see
    `hocp_mm.system.refusals`). With ``HOCP_TRACEBACK=1`` in the environment everything is shown. Any other exception
    passes through: it is a fault of the program, and its traceback is wanted.

    Args:
        main: Function without arguments, the body of the tool.
        at_once: End the process without the interpreter's own end, in which every object of the frameworks is taken
            apart: a second, a quarter of what a short video takes. What is registered for the end is done.

    Raises:
        SystemExit: Always, unless ``main`` fails with an error that is not the user's.
    """
    try:
        with _terminable():
            main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except _TerminatedError:
        _tell("ended by SIGTERM.")
        sys.exit(TERMINATED)
    except Exception as error:
        text = None if os.environ.get("HOCP_TRACEBACK") == "1" else refusal(error)
        if text is None:
            raise
        _tell(text)
        sys.exit(SOME_FAILED if isinstance(user_error(error), SomeFailedError) else USER_ERROR)
    if at_once:
        _end()
    sys.exit(0)


def _end() -> NoReturn:
    """Do what the interpreter does at its end (``Py_FinalizeEx``), up to where it begins to free objects."""
    steps: list[Any] = [getattr(threading, "_shutdown"), getattr(atexit, "_run_exitfuncs")]  # noqa: B009
    for step in steps:
        step()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        os._exit(120)  # as the interpreter does
    os._exit(0)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import large packages, and build from them, without Python's collector of cycles.

    It is called by the number of new objects, would walk all that was imported again and again, which is a fifth of
    the time until a network is there, and find nothing: modules stay. What is there at the end, once in a process, it
    never walks again (``gc.freeze``).

    Yields:
        Nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:
            gc.freeze()
            atexit.register(gc.unfreeze)  # or libraries complain of what they find alive at the end
        if was_enabled:
            gc.enable()


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # the full disk may be the output's
        sys.stdout.flush()
    sys.stderr.write(f"error: {text}\n")


class _TerminatedError(BaseException):
    """SIGTERM came."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, with drafts removed; at once where it waits for other processes."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def end(*_: object) -> None:
        if os.getpid() != owner:  # a fork that has not replaced this yet
            os._exit(TERMINATED)
        raise _TerminatedError

    waker, woken = os.pipe()
    os.set_blocking(woken, False)
    left = threading.Event()
    threading.Thread(target=_end_late, args=(waker, end, left), daemon=True).start()
    before = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        left.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        os.close(woken)


def _end_late(waker: int, handler: object, left: threading.Event) -> None:
    """End the process some seconds after SIGTERM: a collective operation that waits lets no handler run."""
    while numbers := os.read(waker, 64):
        # Who has put another handler there, as our train loops do, ends the run in its own time.
        ours = signal.getsignal(signal.SIGTERM) is handler
        if signal.SIGTERM in numbers and ours and not left.wait(_GRACE_SECONDS):
            os._exit(TERMINATED)
    os.close(waker)


def positive(text: str) -> int:
    """Read an option that is a whole number above 0 (``type=positive``)."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got {text!r}")
    return int(text)


def number_or_word(text: str) -> int | str:
    """Read an option such as a rank: ``64`` or ``x1``."""
    return int(text) if text.isdigit() else text


def add_config_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Add ``--cfg-options KEY=VALUE …``, read as MMEngine's tools read it.

    Args:
        parser: Parser of a tool that reads a config.
        example: An override that its users need.
    """
    parser.add_argument(
        "--cfg-options", nargs="+", action=_Options, metavar="KEY=VALUE", help=f"override keys, e.g. {example}"
    )


class _Options(argparse.Action):
    def __call__(self, _: object, namespace: argparse.Namespace, values: Any, __: object = None) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **config_options(values)})


def config_options(words: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` words as MMEngine's tools do.

    Args:
        words: As the shell hands them over.

    Returns:
        Values by dotted key.

    Raises:
        HOCPError: If a word is no assignment.
    """
    from mmengine.config import DictAction  # here: it takes a second, and tools without options do without

    parser = argparse.ArgumentParser()
    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise HOCPError(f"--cfg-options: must be KEY=VALUE, got {shorten(repr(word), LONGEST_VALUE)}.")
        try:
            DictAction("options", "options")(parser, found := argparse.Namespace(), [word])
        except Exception as error:  # brackets that do not close, and what else its reader of lists does not expect
            raise HOCPError(
                f"--cfg-options: {key} must be a value or list, got {shorten(repr(value), 200)}."
            ) from error
        options |= found.options
    return options


class ProgressLine:
    """Show on stderr how many things are done: a bar on a terminal, else a line every few seconds, as logs want it.

    Args:
        title: What is going on.
        unit: What is counted, in the plural.
        seconds: Least time between two lines where the output is no terminal.
        leave: Whether a line stays when all is done.
    """

    def __init__(self, title: str, unit: str, seconds: float = 3.0, leave: bool = True) -> None:
        self._title, self._unit, self._seconds, self._leave = title, unit, seconds, leave
        self._bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show the state.

        Args:
            done: What is finished.
            total: What there is to do.
        """
        bar = self._bar = self._bar or self._new_bar(total)
        bar.update(done - bar.n)
        if done >= total:
            if self._leave:
                bar.refresh()
            bar.close()
            self._bar = None

    def close(self) -> None:
        """End the bar where not all is done."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def stage(self, title: str, done: int, total: int) -> None:
        """Show the state of one of several stages, which come one after the other.

        Args:
            title: What is going on now.
            done: What is finished of it.
            total: What there is to do.
        """
        if title != self._title:
            if self._bar is not None:
                self._bar.close()
            self._title, self._bar = title, None
        self(done, total)

    def _new_bar(self, total: int) -> tqdm:
        terminal = sys.stderr.isatty()
        return _Bar(
            desc=self._title,
            total=total,
            unit=self._unit,
            file=sys.stderr if terminal else _Lines(),
            bar_format=_BAR if terminal else _LINE,
            mininterval=0.1 if terminal else self._seconds,
            miniters=1,  # else it guesses after how many there is something to show, and is late where they get slower
            delay=1e-9,  # nothing is shown before something is done
            dynamic_ncols=True,
            leave=self._leave,
        )


_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]"
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed_s:.0f} s"


class _Bar(tqdm):
    monitor_interval = 0  # no thread that looks after slow bars; see miniters


class _Lines:
    """A file that makes lines, each of them once, of what rewrites itself on a terminal."""

    def __init__(self) -> None:
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self._last:
            sys.stderr.write(f"{line}\n")
        self._last = line or self._last

    def flush(self) -> None:
        sys.stderr.flush()
