"""Write a whole synthetic set in SEWA's layout: planned, in parallel, and only moved into place when it is complete."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hocp_mm.datasets.splits import write_split_files
from hocp_mm.datasets.synthetic.clip import SyntheticClip
from hocp_mm.datasets.synthetic.sewa_files import SewaClipName, write_sewa_clip
from hocp_mm.datasets.synthetic.staging import write_staged
from hocp_mm.datasets.synthetic.trajectories import MOTION_SHARE
from hocp_mm.parallel import Progress, run_tasks

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
    progress: Progress | None = None,
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
    people = _people(spec)
    tasks = [(person, clip) for part in people.values() for person in part for clip in range(spec.clips_per_subject)]

    def write(draft: Path) -> None:
        keys = run_tasks(_write_clip, [(draft, spec, *task) for task in tasks], workers, progress)
        by_part = {
            part: sorted(key for key, (person, _) in zip(keys, tasks, strict=True) if person in numbers)
            for part, numbers in people.items()
        }
        write_split_files(draft / "splits", by_part, spec.seed)

    manifest = json.dumps({"layout": "sewa", "version": _VERSION, **asdict(spec)}, indent=2) + "\n"
    return write_staged(Path(root), manifest, write, overwrite)


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
