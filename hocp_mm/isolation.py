"""Tasks that may crash or hang: each runs in a process that can be lost, and the loss is told with the task's number.

A decoder written in C can end its process on a damaged file, or never return from an endless one. A
``ProcessPoolExecutor`` then gives up all tasks and does not say which one did it.
"""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import cv2

Task = tuple[Callable[..., Any], tuple[Any, ...], float | None]
"""A function of a module, its arguments, and the seconds it may take (None = any)."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        value: What its function returned.
        failure: What ended the process instead, empty if nothing did: ``"crashed (SIGSEGV)"`` …
    """

    value: Any = None
    failure: str = ""


def run_isolated(tasks: Iterable[Task], workers: int) -> Iterator[tuple[int, Outcome]]:
    """Run tasks in processes of their own, and give each outcome as it comes.

    A process serves one task after the other; one that crashes or takes too long is replaced.

    Args:
        tasks: Taken one by one, when a process is free for it. Arguments and results travel pickled.
        workers: Processes; 0 = this process, where a crash ends all and no time is kept.

    Yields:
        Number of the task, and its outcome.

    Raises:
        ValueError: If ``workers`` is negative.
        RuntimeError: If a function raises an exception (its traceback is in the text), or no process can be started.
    """
    if workers < 0:
        raise ValueError(f"run_isolated: workers must be 0 or more, got {workers}.")
    numbered = enumerate(tasks)
    if workers == 0:
        for number, (function, arguments, _) in numbered:
            yield number, Outcome(function(*arguments))
        return
    pool: list[_Worker] = []
    try:
        for number, task in numbered:
            if len(pool) < workers:
                pool.append(_Worker(number, task))
                continue
            for ended, outcome in _wait_for_some(pool):
                yield ended.number, outcome
            free = next(worker for worker in pool if worker.free)
            free.start(number, task)
        while busy := [worker for worker in pool if not worker.free]:
            for ended, outcome in _wait_for_some(busy):
                yield ended.number, outcome
    finally:
        for worker in pool:
            worker.end()


class _Worker:
    """One process and what it is at."""

    def __init__(self, number: int, task: Task) -> None:
        self._connection, self._process = _start_process()
        self.start(number, task)

    def start(self, number: int, task: Task) -> None:
        """Hand over a task, to a new process if the last one is lost."""
        if self._process.exitcode is not None:
            self._connection, self._process = _start_process()
        function, arguments, seconds = task
        self.number, self.free, self._seconds = number, False, seconds
        self.deadline = float("inf") if seconds is None else time.monotonic() + seconds
        self._connection.send((function, arguments))

    @property
    def connection(self) -> Connection:
        """Where the answer comes."""
        return self._connection

    def receive(self) -> Outcome:
        """Return the answer, or what became of the process.

        Raises:
            RuntimeError: If the task raised an exception.
        """
        self.free = True
        try:
            good, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            self._connection.close()
            return Outcome(failure=f"crashed ({_ended_by(self._process.exitcode)})")
        if not good:
            raise RuntimeError(f"run_isolated: task {self.number} failed.\n{value}")
        return Outcome(value)

    def give_up(self) -> Outcome:
        """End a process that takes too long."""
        self.free = True
        self.end()
        return Outcome(failure=f"did not end within {self._seconds:.0f} s")

    def end(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def _wait_for_some(busy: list[_Worker]) -> list[tuple[_Worker, Outcome]]:
    """Wait until a task of one of the workers has ended, and return all that have; none if a worker is free."""
    if any(worker.free for worker in busy):
        return []
    patience = min(worker.deadline for worker in busy) - time.monotonic()
    ready = wait([worker.connection for worker in busy], None if patience == float("inf") else max(0.0, patience))
    ended = [(worker, worker.receive()) for worker in busy if worker.connection in ready]
    now = time.monotonic()
    return ended + [(worker, worker.give_up()) for worker in busy if not worker.free and worker.deadline <= now]


def _start_process() -> tuple[Connection, Any]:
    # Started afresh, not forked: a copy of a process with running threads may hang.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # else its end would not be seen here
    try:
        ours.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(
            f"run_isolated: a process ended ({_ended_by(process.exitcode)}) before its first task; scripts must start "
            'their work under `if __name__ == "__main__":`.'
        ) from error
    return ours, process


def _serve(connection: Connection) -> None:
    """Do tasks until the other side ends this process."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    connection.send("ready")
    while True:
        try:
            function, arguments = connection.recv()
            answer = True, function(*arguments)
        except EOFError:
            return
        except Exception:
            answer = False, traceback.format_exc()
        connection.send(answer)


def _ended_by(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"
