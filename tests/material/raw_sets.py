"""Tiny raw sets to prepare, ways to damage them, and what a store must hold bit for bit."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets import SEWADataset
from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.datasets.splits import write_split_files
from hocp_mm.datasets.store import CropSettings
from hocp_mm.datasets.store.prepare import Summary, prepare_store
from tests.material.sewa_files import write_segment

FRAMES = 12
CROPS = CropSettings(size=32, codec="png")
KEYS = tuple(f"SAH_C1_S{talk:03d}_P{2 * talk:03d}_VC1_000100_{99 + FRAMES:06d}" for talk in (1, 2, 3, 4))


def write_talks(root: Path, keys: Sequence[str] = KEYS) -> Path:
    """Write short segments of different talks: all but the last in ``train``, that in ``val``."""
    for number, key in enumerate(keys):
        write_segment(root, key, FRAMES, first_number=40 * number)
    write_split_files(root / "splits", {"train": list(keys[:-1]), "val": [keys[-1]]}, seed=5)
    return root


def prepare_sewa(root: Path, out: Path, crops: CropSettings = CROPS, workers: int = 1, **options: object) -> Summary:
    """Prepare both parts with faults skipped."""
    parts = {
        part: SEWADataset(str(root), part, on_fault="skip", lazy_init=True)
        for part in ("train", "val")
        if (root / "splits" / f"{part}.txt").is_file()
    }
    folders = {"splits": root / "splits"}
    return prepare_store(out, parts, crops, workers=workers, **{"split_folders": folders, **options})  # pyright: ignore


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file by its place."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def damage_frame(video: Path, frame: int) -> None:
    """Overwrite the bytes of one frame; the container stays whole, so that only a decoder can tell."""
    with av.open(str(video)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][frame]
    raw = bytearray(video.read_bytes())
    raw[place : place + size] = b"\xff" * size
    video.write_bytes(raw)


class SquareDetector:
    """A detector of whatever is black or white among grey, where its smaller side has at least some pixels."""

    needs = "it sees squares"

    def __init__(self, smallest: int = 1) -> None:
        self.smallest = smallest

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        rows, columns = np.nonzero((np.abs(frame.astype(int) - 128) > 60).all(axis=2))
        if len(rows) == 0 or min(np.ptp(rows), np.ptp(columns)) < self.smallest:
            return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32))
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Detections(np.array([box], np.float32), np.ones(1, np.float32))
