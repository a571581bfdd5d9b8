"""Tiny recordings in AVEC's layout: numbered pictures, and labels that grow with time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.material.sewa_files import write_numbered_avi

NAMES = ("Train_DE_01", "Train_HU_01", "Devel_DE_01")


def valence_at(seconds):
    """Return the valence at a time: linear, so that interpolation is exact."""
    return 0.1 + 0.05 * np.asarray(seconds)


def arousal_at(seconds):
    """Return the arousal at a time; never equal to the valence."""
    return -0.3 - 0.02 * np.asarray(seconds)


def label_text(name: str, rows: int, header: bool = True) -> str:
    """Return the bytes of a label file: arousal before valence, names in quotes, six decimals, ten rows a second."""
    lines = ["name;timestamp;arousal;valence;liking"] if header else []
    for row in range(rows):
        time = row / 10
        lines.append(f"'{name}';{time:.6f};{arousal_at(time):.6f};{valence_at(time):.6f};0.500000")
    return "\n".join(lines) + "\n"


def write_avec(root: Path, names: Sequence[str] = NAMES, frames: int = 50, rows: int = 21) -> Path:
    """Write recordings of ``frames`` pictures at 25 per second with ``rows`` labels each, and return the root."""
    (root / "labels").mkdir(parents=True)
    for index, name in enumerate(names):
        (root / "labels" / f"{name}.csv").write_text(label_text(name, rows), encoding="utf-8", newline="\n")
        write_numbered_avi(root / "videos" / f"{name}.avi", range(100 * index, 100 * index + frames))
    return root
