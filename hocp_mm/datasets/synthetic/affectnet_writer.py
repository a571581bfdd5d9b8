"""Write a whole synthetic set in AffectNet's layout, of the release of 2017 or of 2021.

Nobody is in both parts. In the layout of 2017 every twentieth picture more shows no face, or has no usable expression,
with the cells that the real files have there: NULL, widths of -1, -2, classes 8 to 10.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hocp_mm.datasets.synthetic.affectnet_files import (
    HEADER,
    csv_text,
    face_row,
    faceless_row,
    render_face,
    write_crop,
    write_image,
)
from hocp_mm.datasets.synthetic.clip import FPS, SyntheticClip
from hocp_mm.datasets.synthetic.scene import sample_scene
from hocp_mm.datasets.synthetic.staging import write_staged
from hocp_mm.parallel import Progress, run_tasks

_VERSION = 1  # raise it when the same numbers give other pictures
_IMAGES = "Manually_Annotated/Manually_Annotated_Images"
_CSV = {"train": "training.csv", "val": "validation.csv"}
_PIECE = "Manually_Annotated/{}.rows"
_PARTS = ("train", "val")
_APART = 2 * FPS  # frames between two pictures of a person
_USELESS = (10, 9, 8)  # classes of the extra pictures of 2017, in turn
_ONE_IN = 20
_SCENERY = 200  # marks the writer's own random numbers; the clip uses smaller marks


@dataclass(frozen=True)
class SyntheticAffectNetSpec:
    """The numbers that define a synthetic set.

    Attributes:
        release: Layout, ``"2017"`` or ``"2021"``.
        people: People in train and val.
        images_per_person: Pictures of each person.
        seed: Seed of everything.
    """

    release: Literal["2017", "2021"] = "2017"
    people: tuple[int, int] = (120, 24)
    images_per_person: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is out of range.
        """
        where = "SyntheticAffectNetSpec"
        if self.release not in ("2017", "2021"):
            raise ValueError(f"{where}: release must be '2017' or '2021', got {self.release!r}.")
        if len(self.people) != len(_PARTS) or min(self.people) < 1:
            raise ValueError(f"{where}: people must be two counts of 1 or more, got {self.people}.")
        for what, value, low in (("images_per_person", self.images_per_person, 1), ("seed", self.seed, 0)):
            if value < low:
                raise ValueError(f"{where}: {what} must be at least {low}, got {value}.")


def write_synthetic_affectnet(
    root: str | Path,
    spec: SyntheticAffectNetSpec | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> bool:
    """Write a synthetic set in AffectNet's layout, or do nothing if it is already there.

    Its bytes depend on the numbers alone, not on ``workers``. Call it under ``if __name__ == "__main__":`` where
    ``workers`` is not 1, as processes are started.

    Args:
        root: Folder of the set.
        spec: The numbers; None takes their defaults.
        workers: Processes; ``None`` = one per CPU core, 1 = this process.
        progress: Called with the number of finished people and of all people.
        overwrite: Replace a synthetic set made with other numbers. Other folders are never replaced.

    Returns:
        Whether the set was written; ``False`` = it was already there with the same numbers.
    """
    numbers = spec or SyntheticAffectNetSpec()
    layout = {"layout": f"affectnet-{numbers.release}", "version": _VERSION, **asdict(numbers)}
    manifest = json.dumps(layout, indent=2) + "\n"
    return write_staged(Path(root), manifest, lambda draft: _write(draft, numbers, workers, progress), overwrite)


def _write(root: Path, spec: SyntheticAffectNetSpec, workers: int | None, progress: Progress | None) -> None:
    """Render everybody, then write what lists them."""
    parts = _people(spec)
    run_tasks(
        _write_person, [(root, spec, part, who) for part, people in parts.items() for who in people], workers, progress
    )
    if spec.release == "2017":
        for part, people in parts.items():
            pieces = [root / _PIECE.format(person) for person in people]
            text = "".join(piece.read_text(encoding="utf-8") for piece in pieces)
            (root / "Manually_Annotated" / _CSV[part]).write_text(f"{HEADER}\n{text}", encoding="utf-8")
            for piece in pieces:
                piece.unlink()


def _people(spec: SyntheticAffectNetSpec) -> dict[str, range]:
    train, val = spec.people
    return {"train": range(1, train + 1), "val": range(train + 1, train + val + 1)}


def _write_person(root: Path, spec: SyntheticAffectNetSpec, part: str, person: int) -> None:
    """Write all pictures of one person and, for the layout of 2017, a piece of the csv file."""
    count = spec.images_per_person
    clip = SyntheticClip(spec.seed, person, 0, 1 + (count - 1) * _APART, motion_share=0.0)
    rows: list[list[object]] = []
    for number in range(count):
        face = render_face(clip, number * _APART)
        serial = (person - 1) * count + number
        if spec.release == "2021":
            write_crop(root / f"{part}_set", str(serial), face)
            continue
        file = f"{person}/{serial:056x}.jpg"  # as long as the hashes that name the real ones
        write_image(root / _IMAGES / file, face.image)
        rows.append(face_row(file, face))
        if serial % _ONE_IN == _ONE_IN - 1:
            kind = _USELESS[serial // _ONE_IN % len(_USELESS)]
            file = f"{person}/{serial:055x}f.jpg"
            empty = sample_scene(np.random.default_rng([spec.seed, _SCENERY, serial]), clip.identity).background
            write_image(root / _IMAGES / file, face.image if kind == 8 else empty)
            rows.append(face_row(file, face, kind) if kind == 8 else faceless_row(file, kind))
    if rows:
        (root / _PIECE.format(person)).write_text(csv_text(rows), encoding="utf-8")
