"""Many independent tasks over several processes, with progress."""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from typing import Any, TypeVar

import cv2

Progress = Callable[[int, int], None]
"""Called with the number of finished tasks and of all tasks."""
_T = TypeVar("_T")
_LAUNCHED_BY = "HOCP_MM_LAUNCHED_BY"


def run_tasks(
    function: Callable[..., _T], tasks: Sequence[tuple[Any, ...]], workers: int | None, progress: Progress | None
) -> list[_T]:
    """Call ``function`` with the arguments of each task.

    The first exception of a task ends the others and is raised; what a task should survive it catches itself. When
    this process is killed, its workers end at once.

    Args:
        function: A function of a module.
        tasks: Arguments of each call; they and the results travel pickled.
        workers: Processes; None = one per CPU core, 1 = this process.
        progress: Called after each task.

    Returns:
        Results in the order of the tasks.

    Raises:
        ValueError: If ``workers`` is below 1.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"run_tasks: workers must be 1 or more, got {workers}.")
    report = progress or (lambda done, total: None)
    workers = min(workers or cpu_cores(), len(tasks))
    if workers <= 1:
        results = []
        for done, task in enumerate(tasks, start=1):
            results.append(function(*task))
            report(done, len(tasks))
        return results
    # Started afresh, not forked: a copy of a process with running threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        futures = [pool.submit(function, *task) for task in tasks]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            report(done, len(tasks))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def read_ahead(items: Iterable[_T], most: int) -> Generator[_T, None, None]:
    """Yield items that a thread of its own makes ahead of the one who takes them.

    Args:
        items: What is made; an exception of it is raised here, in its turn.
        most: Items that may wait.

    Yields:
        The items, in order. Who leaves early ends the thread with the item that it is at.
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(most)
    left = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((kind, value), timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            if all(put("item", item) for item in items):
                put("end", None)
        except BaseException as error:  # whatever it is, the one who takes the items is to know
            put("error", error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while (got := waiting.get())[0] == "item":
            yield got[1]
        if got[0] == "error":
            raise got[1]
    finally:
        left.set()
        thread.join()


def cpu_cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """See to it that this process ends when the one that started it does, be it killed in the middle of a file."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def end_with_launcher(launcher: str = "none") -> None:
    """See to it that this process ends when the program that launched it is gone, even if that was killed.

    A training whose torchrun or ``tools/run_folds.py`` was killed would otherwise go on beside the next one.

    Args:
        launcher: Option of the tools. With ``none`` only processes of torchrun and of `launched` look after it.
    """
    known = os.environ.pop(_LAUNCHED_BY, None)
    if launcher == "none" and known is None and "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = os.getppid()
    if known is not None and known != str(parent):
        os._exit(1)  # it was killed before this process came to look
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def launched() -> dict[str, str]:
    """Return the environment of a child process that calls `end_with_launcher`."""
    return os.environ | {_LAUNCHED_BY: str(os.getpid())}


def is_first_process() -> bool:
    """Tell whether this is the only process of a run, or its first one, before a process group is there."""
    names = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), "0")) == 0


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all; one of them reports it
    cv2.setNumThreads(1)
    end_with_parent()


def _end_after(parent: int) -> None:
    """Wait until ``parent`` is no longer the parent of this process, and end too."""
    with contextlib.suppress(AttributeError, OSError):  # a system without it, or the process is gone
        handle = os.pidfd_open(parent)
        if os.getppid() == parent:
            wait([handle])
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _end_with(sentinel: int) -> None:
    """Wait for the end of the process that started this one, and end too.

    The pool's workers would wait for tasks for ever, and one in the middle of a file would go on writing beside
    whoever takes up the work.
    """
    wait([sentinel])
    os._exit(1)
