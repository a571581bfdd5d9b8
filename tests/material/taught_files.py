"""Tiny folders of videos with labels that a network might have given."""

from pathlib import Path

import numpy as np

from hocp_mm.datasets import TaughtLabels, write_taught_csv
from tests.material.tiny_configs import noise, write_video


def make_labels(count: int = 12, fps: float = 25.0, boxed: bool = True, seed: int = 0) -> TaughtLabels:
    """Return labels of a video in which nobody is seen in frames 4 and 5."""
    rng = np.random.default_rng(seed)
    affect = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    confidence = np.linspace(0.1, 0.9, count, dtype=np.float32)
    boxes = np.tile(np.float32([14, 8, 40, 30]), (count, 1)) + np.arange(count, dtype=np.float32)[:, None] / 2
    found = np.ones(count, np.bool_)
    affect[4:6], boxes[4:6], confidence[4:6], found[3:6] = np.nan, np.nan, 0, False
    return TaughtLabels(np.arange(count) / fps, affect, found, confidence, boxes if boxed else None)


def write_taught(root: Path, names: tuple[str, ...] = ("a.mp4", "show/b.avi"), count: int = 12) -> Path:
    """Write ``videos`` and ``labels``."""
    for number, name in enumerate(names):
        video = root / "videos" / name
        video.parent.mkdir(parents=True, exist_ok=True)
        write_video(video, noise(count, seed=number))
        write_taught_csv(root / "labels" / f"{name}.csv", make_labels(count, seed=number))
    return root
