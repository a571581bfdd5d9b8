"""One synthetic SEWA as videos and as a store of face crops, and the data sets that read clips of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hocp_mm.datasets import FaceCropDataset, SEWADataset
from hocp_mm.datasets.faces.crops import CropSettings
from hocp_mm.datasets.store.prepare import prepare_store
from hocp_mm.synthetic import write_synthetic_sewa

STOCK, RAW, STORE = "MMAction2", "raw folders", "store"
"""Who reads: MMAction2's stock pipeline on the videos, ours on the videos, ours on the store."""

CLIP_LEN, SIZE, MARGIN = 16, 176, 1.5
Clips = torch.utils.data.Dataset[dict[str, Any]]


def write_data(folder: Path, videos: int, frames: int, report: Callable[[str], None]) -> None:
    """Write the set and its store; what is there already stays.

    Args:
        folder: Receives ``sewa`` and ``store``.
        videos: Videos, all in the training part.
        frames: Frames of each.
        report: Called with a line about each step.
    """
    raw, store = folder / "sewa", folder / "store"
    report(f"{videos} videos of {frames} frames")
    write_synthetic_sewa(raw, (videos, 0, 0), frames=frames)
    report("store of face crops")
    part = SEWADataset(str(raw), "train", lazy_init=True, serialize_data=False)
    settings = CropSettings(size=SIZE, margin=MARGIN)
    prepare_store(store, {"train": part}, settings, split_folders={"splits": raw / "splits"})


def make_clips(kind: str, folder: Path, clips_per_video: int = 100) -> Clips:
    """Return random clips of 16 frames: ``inputs`` uint8 with 3 x 16 x 176 x 176 values, without augmentation.

    Args:
        kind: ``STOCK``, ``RAW`` or ``STORE``.
        folder: What `write_data` filled.
        clips_per_video: Clips of each video.
    """
    if kind == STOCK:
        return StockClips(sorted((folder / "sewa").glob("*/*.avi")), clips_per_video)
    steps = [
        {"type": "hocp_mm.SampleClip", "clip_len": CLIP_LEN},
        {"type": "hocp_mm.LoadFaceClip", "size": SIZE, "margin": MARGIN},
        {"type": "hocp_mm.PackAffectInputs"},
    ]
    if kind == RAW:
        return SEWADataset(str(folder / "sewa"), "train", pipeline=steps, clips_per_video=clips_per_video)
    return FaceCropDataset(str(folder / "store"), "train", pipeline=steps, clips_per_video=clips_per_video)


class StockClips(Clips):
    """MMAction2's own transforms on whole frames, with the settings of its recipes, resized to our size.

    Args:
        files: Videos.
        clips_per_video: Clips of each.
    """

    def __init__(self, files: list[Path], clips_per_video: int) -> None:
        self.files = files * clips_per_video
        self.decode, self.finish = stock_pipeline()

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one random clip."""
        return run(self.finish, run(self.decode, stock_record(self.files[index])))


def stock_record(file: Path) -> dict[str, Any]:
    """Return what MMAction2's ``VideoDataset`` hands to its pipeline."""
    return {"filename": str(file), "label": 0, "start_index": 0, "modality": "RGB"}


def stock_pipeline() -> tuple[list[Any], list[Any]]:
    """Return MMAction2's transforms up to the decoded frames, and those after them."""
    from hocp_mm import compat

    compat.apply()
    from mmaction.datasets.transforms import (
        DecordDecode,
        DecordInit,
        FormatShape,
        PackActionInputs,
        Resize,
        SampleFrames,
    )

    decode = [DecordInit(), SampleFrames(clip_len=CLIP_LEN, frame_interval=1, num_clips=1), DecordDecode()]
    return decode, [Resize(scale=(SIZE, SIZE), keep_ratio=False), FormatShape("NCTHW"), PackActionInputs()]


def run(steps: list[Any], results: dict[str, Any]) -> dict[str, Any]:
    """Call transforms one after the other."""
    for step in steps:
        results = step(results)
    return results


def seed_everything(seed: int) -> None:
    """Seed Python's generator, which our transforms draw from, and NumPy's, which MMAction2's do."""
    import random

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - MMAction2 draws from the global generator
