"""Memory of a process that loads one random clip after the other; Linux only."""

import multiprocessing
import random
import resource
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks.data_sets import make_clips, seed_everything

WARM_UP = 200
"""Clips until caches are full and the allocator has seen every size."""

_WINDOW = 50  # clips over which the memory is averaged


def measure_memory(kind: str, folder: Path, clips: int) -> dict[str, Any]:
    """Load random clips in a process of its own.

    Args:
        kind: Pipeline, see `make_clips`.
        folder: Data, see `write_data`.
        clips: Clips to load, more than the warm-up.

    Returns:
        ``curve``: resident megabytes (2**20 bytes) by number of clips; ``growth``: share by which the last clips take
        more than those after the warm-up.
    """
    # Started afresh, so that nothing of this process is counted.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        resident = pool.submit(resident_bytes, kind, folder, clips).result()
    points = sorted({WARM_UP, *range(0, clips + 1, max(1, clips // 8))} - {0})
    curve = {str(point): statistics.fmean(resident[max(0, point - _WINDOW) : point]) / 2**20 for point in points}
    before = statistics.fmean(resident[WARM_UP : WARM_UP + _WINDOW])
    return {"curve": curve, "growth": statistics.fmean(resident[-_WINDOW:]) / before - 1}


def resident_bytes(kind: str, folder: Path, clips: int) -> list[int]:
    """Return the resident memory of this process after each random clip."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    seed_everything(0)
    dataset = make_clips(kind, folder)
    page = resource.getpagesize()
    found: list[int] = []
    for _ in range(clips):
        dataset[random.randrange(len(dataset))]  # type: ignore[arg-type]
        found.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
    return found
