"""Clips per second of the data pipelines, and whether they return the frames that were asked for."""

import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from mmengine.dataset import worker_init_fn
from mmengine.dataset.utils import pseudo_collate
from numpy.typing import NDArray
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.data_memory import measure_memory
from benchmarks.data_sets import (
    RAW,
    STOCK,
    STORE,
    Clips,
    make_clips,
    run,
    seed_everything,
    stock_pipeline,
    stock_record,
    write_data,
)
from benchmarks.timing import Step, interleaved
from hocp_mm.datasets import iter_frames, read_frames

VIDEOS, FRAMES = 8, 750
CLIPS = {STOCK: 32, RAW: 32, STORE: 128}  # in one run, which then takes about as long for each
BATCH, WORKERS = 4, 2
ROUNDS_OF_WARM_UP = 6
MEMORY_CLIPS = 2000
CHECKED_CLIPS = 12


def measure(seconds: float, folder: Path | None = None) -> dict[str, Any]:
    """Write the data, time the three pipelines in turns, check the frames of the decoders and watch the memory.

    Args:
        seconds: Time for the timed rounds, about.
        folder: Where the data are written, and kept; a temporary folder by default.

    Returns:
        ``clips_per_second`` by pipeline and kind of loading, ``wrong`` and ``checked`` frames by decoder, ``memory`` by
        pipeline (see `measure_memory`), and ``bytes`` of videos and packs.
    """
    with _place(folder) as place:
        write_data(place, VIDEOS, FRAMES, _say)
        files = sorted((place / "sewa").glob("*/*.avi"))
        _say("clips per second")
        speeds = measure_speeds(place, seconds)
        _say("frames")
        wrong = {STOCK: count_wrong_stock(files), RAW: count_wrong_raw(files)}
        _say("memory")
        memory = {kind: measure_memory(kind, place, MEMORY_CLIPS) for kind in (RAW, STORE)}
        sizes = {"videos": _bytes(place / "sewa", "*/*.avi"), "packs": _bytes(place / "store", "packs/*")}
    return {
        "videos": VIDEOS, "frames": FRAMES, "clips_per_second": speeds, "wrong": wrong,
        "checked": VIDEOS * CHECKED_CLIPS * 16, "memory": memory, "bytes": sizes,
    }  # fmt: skip


def measure_speeds(folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Time random clips of each pipeline, in this process and in a loader of two workers.

    Returns:
        Clips per second by pipeline, then by ``"1 process"`` and ``"2 workers"``.
    """
    cv2.setNumThreads(0)  # as mmengine sets it for training
    seed_everything(0)
    datasets = {kind: make_clips(kind, folder) for kind in CLIPS}
    # Workers first: they are forked, and this process must not have decoded anything by then.
    steps = {(kind, "2 workers"): load_in_workers(datasets[kind], CLIPS[kind]) for kind in CLIPS}
    for step in steps.values():
        step()
    steps |= {(kind, "1 process"): load_here(datasets[kind], CLIPS[kind]) for kind in CLIPS}
    # Ours examines a video once it has decoded it several times, and jumps from then on.
    for way in ("2 workers", "1 process"):
        for _ in range(ROUNDS_OF_WARM_UP):
            steps[RAW, way]()
    times = interleaved({f"{kind}, {way}": step for (kind, way), step in steps.items()}, rounds=9, seconds=seconds)
    return {
        kind: {way: 1e3 * CLIPS[kind] / times[f"{kind}, {way}"] for way in ("1 process", "2 workers")} for kind in CLIPS
    }


def load_here(dataset: Clips, clips: int) -> Step:
    """Return a step that loads random clips in this process."""
    sampler = RandomSampler(dataset, num_samples=clips)  # type: ignore[arg-type]

    def step() -> None:
        for index in sampler:
            dataset[index]

    return step


def load_in_workers(dataset: Clips, clips: int) -> Step:
    """Return a step that takes random clips from a loader whose workers stay."""
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=RandomSampler(dataset, num_samples=clips),  # type: ignore[arg-type]
        num_workers=WORKERS,
        persistent_workers=True,
        collate_fn=pseudo_collate,
        worker_init_fn=_seed_worker,
    )

    def step() -> None:
        for _ in loader:
            pass

    return step


def _seed_worker(worker: int) -> None:
    worker_init_fn(worker, num_workers=WORKERS, rank=0, seed=0, disable_subprocess_warning=True)
    cv2.setNumThreads(0)


def count_wrong_stock(files: list[Path]) -> int:
    """Count frames of MMAction2's pipeline that are not, bit by bit, those of the same decoder reading in order."""
    import decord

    seed_everything(1)
    decode, _ = stock_pipeline()
    wrong = 0
    for file in files:
        reader = decord.VideoReader(str(file), num_threads=1)
        truth = [_checksum(reader.next().asnumpy()) for _ in range(len(reader))]
        for _ in range(CHECKED_CLIPS):
            results = run(decode, stock_record(file))
            pairs = zip(results["imgs"], results["frame_inds"].tolist(), strict=True)
            wrong += sum(_checksum(img) != truth[index] for img, index in pairs)
    return wrong


def count_wrong_raw(files: list[Path]) -> int:
    """Count frames of our decoder that are not those of reading in order."""
    import random

    seed_everything(1)
    wrong = 0
    for file in files:
        truth = [_checksum(frame) for frame in iter_frames(file)]
        for _ in range(CHECKED_CLIPS):
            start = random.randrange(len(truth) - 15)
            frames = read_frames(file, range(start, start + 16))
            wrong += sum(_checksum(frame) != truth[start + place] for place, frame in enumerate(frames))
    return wrong


def _checksum(frame: NDArray[Any]) -> int:
    return zlib.crc32(frame.tobytes())


def _bytes(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern))


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)
