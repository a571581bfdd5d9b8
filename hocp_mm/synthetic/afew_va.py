"""Write a whole synthetic set in AFEW-VA's layout: folders of PNG frames with squeezed pixels, JSON, folds."""

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from hocp_mm.datasets.splits import make_folds, write_fold_files
from hocp_mm.synthetic.clip import SyntheticClip
from hocp_mm.synthetic.landmarks68 import landmarks68
from hocp_mm.synthetic.scene import FRAME_SHAPE
from hocp_mm.synthetic.staging import write_staged
from hocp_mm.synthetic.trajectories import MOTION_SHARE
from hocp_mm.system.parallel import Progress, run_tasks

PIXEL_ASPECT = 4 / 3
"""Width of a pixel over its height in what is written."""

NUM_FOLDS = 5

_VERSION = 1  # raise it when the same numbers give other clips, so that old sets are not taken for new ones
_LABEL_NOISE = 200  # marks the writer's own random numbers; the clip uses smaller marks
_SHAPE = 720 / 576  # width over height of the frames in pixels, as in the release


@dataclass(frozen=True)
class SyntheticAfewVaSpec:
    """The numbers that define a synthetic set.

    Attributes:
        actors: People.
        clips_per_actor: Clips of each.
        frames: Frames of each clip.
        height: Height of the PNGs; their width is 5/4 of it, and 576 gives the 720x576 of the release.
        seed: Seed of everything, the folds included.
        motion_share: Share of arousal's variance that only motion shows, in [0, 1].
    """

    actors: int = 20
    clips_per_actor: int = 2
    frames: int = 60
    height: int = 144
    seed: int = 0
    motion_share: float = MOTION_SHARE

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If a number is out of range.
        """
        where = "SyntheticAfewVaSpec"
        for what, value, low in (
            ("actors", self.actors, NUM_FOLDS),
            ("clips", self.clips_per_actor, 1),
            ("frames", self.frames, 2),
            ("height", self.height, 32),
            ("seed", self.seed, 0),
        ):
            if value < low:
                raise ValueError(f"{where}: {what} must be at least {low}, got {value}.")
        if self.actors * self.clips_per_actor > 999:
            clips = self.actors * self.clips_per_actor
            raise ValueError(f"{where}: clips are named by three digits, at most 999, got {clips}.")
        if self.frames > 99_999:
            raise ValueError(f"{where}: frames are named by five digits, got {self.frames} frames.")
        if not 0 <= self.motion_share <= 1:
            raise ValueError(f"{where}: motion_share must lie in [0, 1], got {self.motion_share}.")

    @property
    def clips(self) -> dict[str, tuple[int, int]]:
        """Actor and number of the actor's clip by clip name, ``001`` …; the clips of an actor are scattered."""
        who = [(actor, clip) for actor in range(1, self.actors + 1) for clip in range(self.clips_per_actor)]
        random.Random(self.seed).shuffle(who)
        return {f"{number:03d}": one for number, one in enumerate(who, start=1)}


def write_synthetic_afew_va(
    root: str | Path,
    spec: SyntheticAfewVaSpec | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> bool:
    """Write a synthetic set in AFEW-VA's layout, or do nothing if it is already there.

    ``root`` receives one folder per clip, ``folds/`` and ``synthetic.json``. The set is written beside ``root`` and
    moved into place when it is complete; its bytes depend on the numbers alone, not on ``workers``. Call it under
    ``if __name__ == "__main__":`` where ``workers`` is not 1, as processes are started.

    Args:
        root: Folder of the set.
        spec: Its numbers; the defaults if None.
        workers: Processes; None = one per CPU core, 1 = this process.
        progress: Called with the number of finished clips and of all clips.
        overwrite: Replace a synthetic set made with other numbers. Other folders are never replaced.

    Returns:
        Whether the set was written; false = it was already there with the same numbers.
    """
    spec = spec or SyntheticAfewVaSpec()

    def write(draft: Path) -> None:
        run_tasks(_write_clip, [(draft, spec, name, *who) for name, who in spec.clips.items()], workers, progress)
        actors = [actor_name(actor) for actor, _ in spec.clips.values()]
        folds = make_folds(list(spec.clips), actors, NUM_FOLDS, spec.seed)
        write_fold_files(draft, folds, spec.seed, grouped_by="actor")

    manifest = json.dumps({"layout": "afew_va", "version": _VERSION, **asdict(spec)}, indent=2) + "\n"
    return write_staged(Path(root), manifest, write, overwrite)


def actor_name(actor: int) -> str:
    """Return the name of a synthetic actor."""
    return f"Synthetic Actor {actor:03d}"


def squeeze(image: npt.NDArray[np.uint8], height: int) -> npt.NDArray[np.uint8]:
    """Bring a rendered frame of square pixels to the shape of the release: 5:4 in pixels, each 4/3 as wide as high.

    The picture is widened by its edge pixels to the 5:3 that such a frame shows, then resized to 5/4 ``height`` by
    ``height``.

    Args:
        image: ``[240, 320, 3]``.
        height: Height of the result in pixels.

    Returns:
        ``[height, 5/4 height, 3]``.
    """
    side = _side_bars()
    wide = cv2.copyMakeBorder(image, 0, 0, side, side, cv2.BORDER_REPLICATE)
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(wide, (_width(height), height), interpolation=method), dtype=np.uint8)


def squeeze_points(points: npt.NDArray[np.float64], height: int) -> npt.NDArray[np.float64]:
    """Map points of a rendered frame to where `squeeze` puts them; pixel *i* covers [i, i + 1)."""
    rows, columns = FRAME_SHAPE
    side = _side_bars()
    return (points + np.array([side, 0.0])) * (_width(height) / (columns + 2 * side), height / rows)


def _side_bars() -> int:
    rows, columns = FRAME_SHAPE
    return round((rows * _SHAPE * PIXEL_ASPECT - columns) / 2)


def _width(height: int) -> int:
    return round(height * _SHAPE)


def _write_clip(root: Path, spec: SyntheticAfewVaSpec, name: str, actor: int, number: int) -> None:
    """Render and write one clip."""
    folder = root / name
    folder.mkdir()
    clip = SyntheticClip(spec.seed, actor, number, spec.frames, spec.motion_share)
    jitter = 0.4 * np.random.default_rng([spec.seed, _LABEL_NOISE, actor, number]).standard_normal((spec.frames, 68, 2))
    frames = {}
    for index in range(spec.frames):
        frame = clip[index]
        Image.fromarray(squeeze(frame.image, spec.height)).save(folder / f"{index:05d}.png", compress_level=1)
        points = squeeze_points(landmarks68(clip, index, frame) + jitter[index], spec.height)
        frames[f"{index:05d}"] = {
            # The order of a tool that sorts keys: readers must not rely on another one.
            "arousal": round(10 * frame.arousal),
            "landmarks": points.round(3).tolist(),
            "valence": round(10 * frame.valence),
        }
    content = {"actor": actor_name(actor), "frames": frames, "video_id": name}
    (folder / f"{name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
