"""Many independent tasks over several processes, with progress."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from typing import Any, TypeVar

import cv2

Progress = Callable[[int, int], None]
"""Called with the number of finished tasks and of all tasks."""
_T = TypeVar("_T")


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


def cpu_cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """See to it that this process ends when the one that started it does, be it killed in the middle of a file."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _begin_worker() -> None:
    cv2.setNumThreads(1)
    end_with_parent()


def _end_with(sentinel: int) -> None:
    """Wait for the end of the process that started this one, and end too.

    The pool's workers would wait for tasks for ever, and one in the middle of a file would go on writing beside
    whoever takes up the work.
    """
    wait([sentinel])
    os._exit(1)
