"""Write a whole synthetic set in Aff-Wild2's layout: face crops that count from one, label files with marks."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from hocp_mm.datasets.affwild2.files import HEADER, SETS, TRACK
from hocp_mm.datasets.faces.boxes import crop_faces, landmark_boxes, square_boxes
from hocp_mm.errors import DataError
from hocp_mm.synthetic.clip import SyntheticClip
from hocp_mm.synthetic.staging import write_staged
from hocp_mm.synthetic.trajectories import MOTION_SHARE
from hocp_mm.system.parallel import Progress, run_tasks

CROPS = ("cropped_aligned", "cropped_aligned_new_50_vids")
SIDE = 112
"""Width and height of a crop, pixels."""

_ANNOTATIONS = "6th ABAW Annotations"
_VERSION = 1  # raise it when the same numbers give other files, so that old sets are not taken for new ones
_HOLES = 200  # marks the writer's own random numbers; the clip and the SEWA writer use smaller marks
_SHARE_MARKED, _SHARE_MISSING = 0.04, 0.06  # of all frames, in runs, as in the real set
_QUALITY = 92  # of the JPEG files


@dataclass(frozen=True)
class SyntheticAffWild2Spec:
    """The numbers that define a synthetic set.

    Attributes:
        videos: Videos in Train_Set and Validation_Set, 1 or more each. Every fourth shows two people, and every
            third has its crops in the second folder.
        frames: Frames of each video.
        seed: Seed of everything.
        motion_share: Share of arousal's variance that only motion shows, in [0, 1].
    """

    videos: tuple[int, int] = (24, 6)
    frames: int = 150
    seed: int = 0
    motion_share: float = MOTION_SHARE

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If a number is out of range.
        """
        where = "SyntheticAffWild2Spec"
        if len(self.videos) != len(SETS) or min(self.videos) < 1:
            raise ValueError(f"{where}: videos must be two counts of 1 or more, got {self.videos}.")
        if not 2 <= self.frames <= 99_999 or self.seed < 0 or not 0 <= self.motion_share <= 1:
            raise ValueError(
                f"{where}: frames must lie in [2, 99999], seed be 0 or more and motion_share lie in [0, 1], "
                f"got {self.frames}, {self.seed} and {self.motion_share}."
            )


class _Task(NamedTuple):
    """One person of one video."""

    part: str
    name: str
    crops: str
    person: int


def write_synthetic_affwild2(
    root: str | Path,
    spec: SyntheticAffWild2Spec | None = None,
    workers: int | None = 1,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> bool:
    """Write a synthetic set in Aff-Wild2's layout, or do nothing if it is already there.

    The set is written beside ``root`` and moved into place when it is complete; its bytes depend on the numbers
    alone. Call it under ``if __name__ == "__main__":`` where ``workers`` is not 1, as processes are started.

    Args:
        root: Folder of the set.
        spec: Its numbers; the defaults of `SyntheticAffWild2Spec` if None.
        workers: Processes; ``None`` = one per CPU core, 1 = this process.
        progress: Called with the number of finished label files and of all.
        overwrite: Replace a synthetic set made with other numbers. Other folders are never replaced.

    Returns:
        Whether the set was written; ``False`` = it was already there with the same numbers.

    Raises:
        DataError: If ``root`` holds something else.
    """
    spec = spec or SyntheticAffWild2Spec()

    def write(draft: Path) -> None:
        for folder in (*CROPS, *(f"{_ANNOTATIONS}/{TRACK}/{part}" for part in SETS.values())):
            (draft / folder).mkdir(parents=True)
        run_tasks(_write_person, [(draft, spec, task) for task in _tasks(spec)], workers, progress)

    manifest = json.dumps({"layout": "affwild2", "version": _VERSION, **asdict(spec)}, indent=2) + "\n"
    return write_staged(Path(root), manifest, write, overwrite)


def _tasks(spec: SyntheticAffWild2Spec) -> Iterator[_Task]:
    """Name the videos and their people; no person is in two videos."""
    person = video = 0
    for part, count in zip(SETS.values(), spec.videos, strict=True):
        for _ in range(count):
            video += 1
            crops = CROPS[video % 3 == 0]
            sides = ("_left", "_right") if video % 4 == 0 else ("",)
            for side in sides:
                person += 1
                yield _Task(part, f"{video}-30-320x240{side}", crops, person)


def _write_person(root: Path, spec: SyntheticAffWild2Spec, task: _Task) -> None:
    """Render one person's crops and write the label file."""
    clip = SyntheticClip(spec.seed, task.person, 0, spec.frames, spec.motion_share)
    rng = np.random.default_rng([spec.seed, _HOLES, task.person])
    marked, missing = _runs(rng, spec.frames, _SHARE_MARKED), _runs(rng, spec.frames, _SHARE_MISSING)
    folder = root / task.crops / task.name
    folder.mkdir()
    for index in np.flatnonzero(~missing).tolist():
        frame = clip[index]
        square = square_boxes(landmark_boxes(frame.landmarks[None]), 1.5)  # each frame by itself: aligned crops are
        crop = crop_faces(frame.image[None], square, SIDE)[0]
        path = folder / f"{index + 1:05d}.jpg"
        written = cv2.imwrite(str(path), crop[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not written:
            raise DataError(f"{path}: the picture could not be written (disk full?).")
    rows = [
        "-5,-5" if marked[index] else f"{clip.affect.valence[index]:.6f},{clip.affect.arousal[index]:.6f}"
        for index in range(spec.frames)
    ]
    labels = root / _ANNOTATIONS / TRACK / task.part / f"{task.name}.txt"
    labels.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8", newline="\n")


def _runs(rng: np.random.Generator, frames: int, share: float) -> npt.NDArray[np.bool_]:
    """Choose about a share of the frames, in runs; never all of them."""
    chosen = np.zeros(frames, dtype=np.bool_)
    length = max(1, round(frames * share / 2))
    for start in rng.integers(0, frames, size=2):
        chosen[start : start + length] = True
    chosen[rng.integers(frames)] = False
    return chosen
