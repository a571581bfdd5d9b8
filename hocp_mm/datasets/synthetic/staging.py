"""Writing a whole set: beside its folder, in parallel, and moved into place when it is complete."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2

from hocp_mm.errors import DataError

MANIFEST = "synthetic.json"
"""File in the root of a set that holds the numbers it was made with."""

Progress = Callable[[int, int], None]


def write_staged(root: Path, manifest: str, write: Callable[[Path], None], overwrite: bool) -> bool:
    """Write a set, or do nothing if it is already there.

    Args:
        root: Folder of the set.
        manifest: Text of its ``synthetic.json``: the numbers that it is made with.
        write: Fills an empty folder.
        overwrite: Replace a synthetic set made with other numbers. Other folders are never replaced.

    Returns:
        Whether the set was written; false = it was already there with the same numbers.

    Raises:
        DataError: If ``root`` holds something else.
    """
    root = root.absolute()
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        file = root / MANIFEST
        if not file.is_file():
            raise DataError(f"{root}: a synthetic set goes to a new or empty folder, got one with other content.")
        if file.read_text(encoding="utf-8") == manifest:
            return False
        if not overwrite:
            raise DataError(
                f"{root}: holds a synthetic set made with other numbers (see {file}); name another folder or allow "
                "overwriting (--overwrite)."
            )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as staging:
        draft = Path(staging) / "set"
        draft.mkdir()
        write(draft)
        (draft / MANIFEST).write_text(manifest, encoding="utf-8")
        if root.exists():
            root.rename(Path(staging) / "replaced")
        draft.rename(root)
    return True


def run_tasks(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int | None, progress: Progress | None
) -> None:
    """Call ``function`` with the arguments of each task.

    Args:
        function: A function of a module.
        tasks: Arguments of each call.
        workers: Processes; None = one per CPU core, 1 = this process.
        progress: Called with the number of finished tasks and of all tasks.
    """
    report = progress or (lambda done, total: None)
    workers = min(workers or _cores(), len(tasks))
    if workers == 1:
        for done, task in enumerate(tasks, start=1):
            function(*task)
            report(done, len(tasks))
        return
    # Started afresh, not forked: a copy of a process with running threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        futures = [pool.submit(function, *task) for task in tasks]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            report(done, len(tasks))
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
