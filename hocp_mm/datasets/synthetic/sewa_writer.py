"""Write a whole synthetic set in SEWA's layout: planned, in parallel, and only moved into place when it is complete."""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from hocp_mm.datasets.splits import write_split_files
from hocp_mm.datasets.synthetic.clip import SyntheticClip
from hocp_mm.datasets.synthetic.sewa_files import SewaClipName, write_sewa_clip
from hocp_mm.datasets.synthetic.trajectories import MOTION_SHARE
from hocp_mm.errors import DataError

MANIFEST = "synthetic.json"
"""File in the root of a set that holds the numbers it was made with."""

_VERSION = 2  # raise it when the same numbers give other clips, so that old sets are not taken for new ones
_PARTS = ("train", "val", "test")
_LABEL_NOISE = 100  # marks the writer's own random numbers; the clip uses smaller marks
_PAUSE = 1000  # frames between two segments of one recording, at most


@dataclass(frozen=True)
class SyntheticSewaSpec:
    """The numbers that define a synthetic set.

    Attributes:
        subjects: People in train, val and test. Partners of one conversation are always in one part.
        clips_per_subject: Clips of each person.
        frames: Frames of each clip.
        seed: Seed of everything.
        motion_share: Share of arousal's variance that only motion shows, in [0, 1].
    """

    subjects: tuple[int, int, int] = (24, 4, 8)
    clips_per_subject: int = 1
    frames: int = 150
    seed: int = 0
    motion_share: float = MOTION_SHARE

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If a number is out of range.
        """
        where = "SyntheticSewaSpec"
        if len(self.subjects) != len(_PARTS) or min(self.subjects) < 0 or sum(self.subjects) == 0:
            raise ValueError(f"{where}: subjects must be three counts, not all 0, got {self.subjects}.")
        if sum(self.subjects) > 990:
            raise ValueError(f"{where}: SEWA's names have three digits for a person, got {sum(self.subjects)} people.")
        for what, value, low in (
            ("clips", self.clips_per_subject, 1),
            ("frames", self.frames, 2),
            ("seed", self.seed, 0),
        ):
            if value < low:
                raise ValueError(f"{where}: {what} must be at least {low}, got {value}.")
        if self.clips_per_subject * (self.frames + _PAUSE) > 999_999:
            raise ValueError(f"{where}: a person's recording must stay below a million frames; fewer clips or frames.")
        if not 0 <= self.motion_share <= 1:
            raise ValueError(f"{where}: motion_share must lie in [0, 1], got {self.motion_share}.")


def write_synthetic_sewa(
    root: str | Path,
    subjects: Sequence[int] = (24, 4, 8),
    clips_per_subject: int = 1,
    frames: int = 150,
    seed: int = 0,
    motion_share: float = MOTION_SHARE,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> bool:
    """Write a synthetic set in SEWA's layout, or do nothing if it is already there.

    ``root`` receives one folder per clip, ``splits/{train,val,test}.txt`` and ``synthetic.json``. The set is
    written beside ``root`` and moved into place when it is complete; its bytes depend on the numbers alone, not on
    ``workers``. Call it under ``if __name__ == "__main__":`` where ``workers`` is not 1, as processes are started.

    Args:
        root: Folder of the set.
        subjects: People in train, val and test.
        clips_per_subject: Clips of each person.
        frames: Frames of each clip, at 25 per second.
        seed: Seed of everything.
        motion_share: Share of arousal's variance that only motion shows, in [0, 1].
        workers: Processes; ``None`` = one per CPU core, 1 = this process.
        progress: Called with the number of finished clips and of all clips.
        overwrite: Replace a synthetic set made with other numbers. Other folders are never replaced.

    Returns:
        Whether the set was written; ``False`` = it was already there with the same numbers.

    Raises:
        DataError: If ``root`` holds something else.
        ValueError: If a number is out of range.
    """
    train, val, test = subjects
    spec = SyntheticSewaSpec((train, val, test), clips_per_subject, frames, seed, motion_share)
    root = Path(root).absolute()
    if _is_written(root, spec, overwrite):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as staging:
        draft = Path(staging) / "set"
        draft.mkdir()
        _write_set(draft, spec, workers, progress)
        if root.exists():
            root.rename(Path(staging) / "replaced")
        draft.rename(root)
    return True


def _manifest(spec: SyntheticSewaSpec) -> str:
    return json.dumps({"layout": "sewa", "version": _VERSION, **asdict(spec)}, indent=2) + "\n"


def _is_written(root: Path, spec: SyntheticSewaSpec, overwrite: bool) -> bool:
    """Tell whether the set is there; refuse a folder that must not be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    manifest = root / MANIFEST
    if not manifest.is_file():
        raise DataError(f"{root}: a synthetic set goes to a new or empty folder, got one with other content.")
    if manifest.read_text(encoding="utf-8") == _manifest(spec):
        return True
    if not overwrite:
        raise DataError(
            f"{root}: holds a synthetic set made with other numbers (see {manifest}); name another folder or allow "
            "overwriting (--overwrite)."
        )
    return False


def _write_set(
    root: Path, spec: SyntheticSewaSpec, workers: int | None, progress: Callable[[int, int], None] | None
) -> None:
    parts = _people(spec)
    tasks = [(person, clip) for people in parts.values() for person in people for clip in range(spec.clips_per_subject)]
    workers = min(workers or _cores(), len(tasks))
    keys: dict[tuple[int, int], str] = {}
    report = progress or (lambda done, total: None)
    report(0, len(tasks))
    if workers == 1:
        for task in tasks:
            keys[task] = _write_clip(root, spec, *task)
            report(len(keys), len(tasks))
    else:
        # Started afresh, not forked: a copy of a process with running threads may hang.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,))
        try:
            futures = {pool.submit(_write_clip, root, spec, *task): task for task in tasks}
            for future in as_completed(futures):
                keys[futures[future]] = future.result()
                report(len(keys), len(tasks))
        finally:
            pool.shutdown(cancel_futures=True)
    by_part = {part: sorted(key for (who, _), key in keys.items() if who in people) for part, people in parts.items()}
    write_split_files(root / "splits", by_part, spec.seed)
    (root / MANIFEST).write_text(_manifest(spec), encoding="utf-8")


def _people(spec: SyntheticSewaSpec) -> dict[str, range]:
    """Number the people so that each part starts with a new conversation (an odd number)."""
    parts, first = {}, 1
    for part, count in zip(_PARTS, spec.subjects, strict=True):
        parts[part] = range(first, first + count)
        first += count + count % 2
    return parts


def _write_clip(root: Path, spec: SyntheticSewaSpec, person: int, number: int) -> str:
    """Render and write one clip; returns its key."""
    clip = SyntheticClip(spec.seed, person, number, spec.frames, spec.motion_share)
    rng = np.random.default_rng([spec.seed, _LABEL_NOISE, person, number])
    means = {"A": clip.affect.arousal.mean(), "V": clip.affect.valence.mean()}
    dimension = max(means, key=lambda name: abs(means[name]))
    conversation = (person + 1) // 2
    first = number * (spec.frames + _PAUSE) + int(rng.integers(_PAUSE))
    name = SewaClipName(
        segment=f"S{dimension}{'H' if means[dimension] > 0 else 'L'}",
        culture=1 + (conversation - 1) % 6,
        conversation=conversation,
        person=person,
        first=first,
        last=first + spec.frames - 1,
    )
    write_sewa_clip(root, name, clip, rng)
    return name.key


def _cores() -> int:
    """Return the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
