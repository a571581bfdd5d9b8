"""Clips of one loader as its pipeline delivers them, with what the labels say."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from hocp_mm.data_check.parts import BuiltPart, build_part, part_configs, samples_by_record
from hocp_mm.datasets import AffectDataset
from hocp_mm.errors import DataError, HOCPError
from hocp_mm.visualization.contact_sheet import SheetClip


def build_browsed(cfg: Config, split: str) -> BuiltPart:
    """Build the first data set of a loader; what is faulty in it is left out.

    Args:
        cfg: Config with ``{split}_dataloader``.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Returns:
        The data set with its faults.

    Raises:
        DataError: If nothing of it can be used.
        HOCPError: If the config cannot be used.
    """
    built = build_part(part_configs(cfg, [split])[0])
    if built.refusal:
        raise HOCPError(f"browse: {split}_dataloader: {built.refusal}")
    if built.dataset is None:
        raise DataError("\n  ".join(built.faults[:10]))
    return built


def browse_clips(dataset: AffectDataset, clips: int, frames: int, seed: int = 0) -> list[SheetClip]:
    """Draw clips and send them through the pipeline of the data set, augmentation included.

    Args:
        dataset: Data set whose pipeline ends in ``PackAffectInputs`` and leaves pixels as uint8.
        clips: Clips to draw, of different records as far as there are enough.
        frames: Most frames of a clip to keep, spread over it with the first and the last among them.
        seed: Seed of the draw and of the augmentation; sets the global generators.

    Returns:
        The clips, in the order of the data set.

    Raises:
        DataError: If a clip cannot be read.
        HOCPError: If the pipeline does not give uint8 ``[3, T, H, W]``.
    """
    rng = np.random.default_rng(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - transforms of others draw from the global generator
    torch.manual_seed(seed)
    names: Sequence[str] | None = dataset.facts.get("expressions")
    return [_sheet_clip(dataset, sample, frames, names) for sample in _draw_samples(dataset, clips, rng)]


def _draw_samples(dataset: AffectDataset, count: int, rng: np.random.Generator) -> list[int]:
    """Return samples of different records; of each record again only when all had their turn."""
    groups = [list(rng.permutation(group)) for group in samples_by_record(dataset).values()]
    drawn: list[int] = []
    while len(drawn) < count and any(groups):
        for place in rng.permutation(len(groups)).tolist():
            if groups[place] and len(drawn) < count:
                drawn.append(int(groups[place].pop()))
    return sorted(drawn)


def _sheet_clip(dataset: AffectDataset, sample: int, frames: int, names: Sequence[str] | None) -> SheetClip:
    packed: Any = dataset.pipeline(dataset.get_data_info(sample))
    inputs = packed["inputs"] if isinstance(packed, dict) and "inputs" in packed else None
    if inputs is None or inputs.dtype != torch.uint8 or inputs.ndim != 4 or inputs.shape[0] != 3:
        got = type(packed).__name__ if inputs is None else f"{inputs.dtype} {list(inputs.shape)}"
        raise HOCPError(f"browse: the pipeline must give inputs as uint8 [3, T, H, W], got {got}.")
    labels: Any = packed["data_samples"]
    length = inputs.shape[1]
    kept = np.unique(np.linspace(0, length - 1, min(frames, length)).round().astype(np.int64))
    inds = np.asarray(labels.frame_inds, dtype=np.int64)
    expressions = None
    if "gt_expression" in labels:
        classes = labels.gt_expression.numpy()[kept].tolist()
        expressions = tuple(_expression(number, names) for number in classes)
    return SheetClip(
        frames=np.ascontiguousarray(inputs.permute(1, 2, 3, 0).numpy()[kept]),
        video=labels.video,
        frame_inds=inds[kept],
        affect=labels.gt_affect.numpy()[kept],
        valid=labels.gt_valid.numpy()[kept],
        face_found=labels.face_found.numpy()[kept],
        num_frames=labels.num_frames,
        subject=labels.subject,
        expressions=expressions,
    )


def _expression(number: int, names: Sequence[str] | None) -> str:
    if number < 0:
        return ""
    return names[number] if names and number < len(names) else f"class {number}"
