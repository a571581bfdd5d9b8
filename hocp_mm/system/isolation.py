"""Tasks that may crash or hang: each runs in a process that can be lost, and the loss is told with the task's number.

A decoder written in C can end its process on a damaged file, or never return from an endless one. A
``ProcessPoolExecutor`` then gives up all tasks and does not say which one did it.
"""

import contextlib
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2

from hocp_mm.system.parallel import end_with_parent

Task = tuple[Callable[..., Any], tuple[Any, ...], float | None]
"""A function of a module, its arguments, and the seconds it may take (None = any)."""

_BEGUN = "begun"


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        value: What its function returned.
        failure: What ended the process instead, empty if nothing did: ``"crashed (SIGSEGV)"`` …
    """

    value: Any = None
    failure: str = ""


class IsolatedPool:
    """Processes that serve one task after the other; one that crashes or takes too long is replaced.

    Args:
        workers: Most processes at a time; they start when they are needed. 0 = this process, where a crash ends all
            and no time is kept.
        memory_bytes: Most that a process may ask for beyond what it has when its first task begins; more fails as on
            a full machine (``MemoryError``, or a crash). None = any; without effect where the system is not Linux.
        imports_main: Processes import the script that was started, as tasks of its own functions need; it must start
            its work under ``if __name__ == "__main__":``. Without, any script will do.

    Raises:
        ValueError: If ``workers`` is negative.

    Example:
        >>> with IsolatedPool(0) as pool:
        ...     [outcome.value for _, outcome in pool.run([(max, (1, 2), None), (min, (1, 2), None)])]
        [2, 1]
    """

    def __init__(self, workers: int, memory_bytes: int | None = None, imports_main: bool = True) -> None:
        if workers < 0:
            raise ValueError(f"IsolatedPool: workers must be 0 or more, got {workers}.")
        self._most = workers
        self._memory_bytes, self._imports_main = memory_bytes, imports_main
        self._workers: list[_Worker] = []

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Outcome]]:
        """Run tasks and give each outcome as it comes.

        Args:
            tasks: Taken one by one, when a process is free for it. Arguments and results travel pickled.

        Yields:
            Number of the task, and its outcome.

        Raises:
            RuntimeError: If a function raises an exception (its traceback is in the text), or no process can start.
        """
        try:
            for number, task in enumerate(tasks):
                if self._most == 0:
                    function, arguments, _ = task
                    yield number, Outcome(function(*arguments))
                    continue
                while not (free := self._free()):
                    yield from _next_outcomes(self._workers)
                free.start(number, task)
            while busy := [worker for worker in self._workers if worker.busy]:
                yield from _next_outcomes(busy)
        finally:
            for worker in self._workers:
                if worker.busy:  # nobody waits for its answer any more
                    worker.end()

    def _free(self) -> "_Worker | None":
        for worker in self._workers:
            if not worker.busy:
                return worker
        if len(self._workers) < self._most:
            self._workers.append(_Worker(self._memory_bytes, self._imports_main))
            return self._workers[-1]
        return None

    def __enter__(self) -> "IsolatedPool":
        """Return the pool."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.end()


class _Worker:
    """One process after the other, and what the present one is at."""

    def __init__(self, memory_bytes: int | None, imports_main: bool) -> None:
        self._memory_bytes, self._imports_main = memory_bytes, imports_main
        self.busy = False
        self.number = 0
        self.deadline = float("inf")
        self._process: Any = None
        self._connection: Connection | None = None
        self._seconds: float | None = None
        self._has_begun = False

    @property
    def connection(self) -> Connection:
        """Where the answer comes."""
        assert self._connection is not None
        return self._connection

    def start(self, number: int, task: Task) -> None:
        """Hand over a task, to a new process if there is none."""
        if self._process is not None and not self._process.is_alive():  # killed while it had nothing to do
            self.end()
        if self._process is None:
            self._start_process()
        function, arguments, self._seconds = task
        self.number, self.busy = number, True
        self.deadline = float("inf")  # until it begins: starting a process and importing take no time from the task
        self.connection.send((function, arguments))

    def receive(self) -> Outcome | None:
        """Return the answer, or what became of the process; None if the task has only begun.

        Raises:
            RuntimeError: If the task raised an exception, or the process ended before it began.
        """
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return self._lost()
        if message == _BEGUN:
            self._has_begun = True
            self.deadline = float("inf") if self._seconds is None else time.monotonic() + self._seconds
            return None
        self.busy = False
        good, value = message
        if not good:
            raise RuntimeError(f"IsolatedPool: task {self.number} failed.\n{value}")
        return Outcome(value)

    def give_up(self) -> Outcome:
        """End a process that takes too long."""
        self.end()
        return Outcome(failure=f"did not end within {self._seconds:g} s")

    def end(self) -> None:
        """End the process, whatever it is at."""
        self.busy = self._has_begun = False
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.connection.close()
            self._process = None

    def _lost(self) -> Outcome:
        self._process.join()
        code, has_begun = self._process.exitcode, self._has_begun
        self.end()
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        if not has_begun:
            raise RuntimeError(
                f"IsolatedPool: a process ended ({name}) before its first task; scripts must start their work under "
                '`if __name__ == "__main__":`.'
            )
        return Outcome(failure=f"crashed ({name})")

    def _start_process(self) -> None:
        # Started afresh, not forked: a copy of a process with running threads may hang.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._memory_bytes), daemon=True)
        with _no_daemon(), contextlib.nullcontext() if self._imports_main else _another_main():
            self._process.start()
        theirs.close()  # else the end of the process would not be seen here


def _next_outcomes(busy: list[_Worker]) -> Iterator[tuple[int, Outcome]]:
    """Wait until something happens to one of the workers, all of which are at a task, and yield what has ended."""
    patience = min(worker.deadline for worker in busy) - time.monotonic()
    ready = wait([worker.connection for worker in busy], None if patience == float("inf") else max(0.0, patience))
    for worker in busy:
        outcome = worker.receive() if worker.connection in ready else None
        if outcome is None and worker.busy and worker.deadline <= time.monotonic():
            outcome = worker.give_up()
        if outcome is not None:
            yield worker.number, outcome


@contextlib.contextmanager
def _no_daemon() -> Iterator[None]:
    """Let processes of ``multiprocessing.Pool`` and of data loaders start one, too.

    ``multiprocessing`` forbids it, since such a process may be ended without ending its own; ours see to that
    themselves (`end_with_parent`).
    """
    config = vars(multiprocessing.current_process())["_config"]
    before = dict(config)
    config["daemon"] = False
    try:
        yield
    finally:
        config.clear()
        config.update(before)


@contextlib.contextmanager
def _another_main() -> Iterator[None]:
    """Hide the script that was started from the processes that are started."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _limit_memory(more: int) -> None:
    """Let this process have so many bytes of addresses more than it has."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([*limits, pages * resource.getpagesize() + more]), hard))


def _serve(connection: Connection, memory_bytes: int | None) -> None:
    """Do tasks until the other side ends this process."""
    cv2.setNumThreads(1)
    end_with_parent()  # a connection that is closed is only seen between two tasks
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    while True:
        try:
            function, arguments = connection.recv()
            if memory_bytes is not None:  # after the first task's imports
                _limit_memory(memory_bytes)
                memory_bytes = None
            connection.send(_BEGUN)
            answer = True, function(*arguments)
        except EOFError:
            return
        except Exception:
            answer = False, traceback.format_exc()
        connection.send(answer)
