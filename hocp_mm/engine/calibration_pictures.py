"""Pictures of the training set as the network sees them, for fits that need data and no labels."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hocp_mm.engine.sampling import Draw, SeededDataset


def training_pictures(loader: DataLoader, model: nn.Module, batches: int, pictures: int, seed: int = 0) -> list[Tensor]:
    """Take frames out of clips that are drawn, and changed, as in training; no random number of the run moves.

    Args:
        loader: Of the training set; its data set and its batch size count.
        model: Has the ``data_preprocessor``.
        batches: Batches of clips, fewer where the set is smaller; of fewer clips where it has not two of them.
        pictures: Frames of all of them together, about; at least one of each clip.
        seed: Of the clips.

    Returns:
        For each batch normalised images ``[B, C, H, W]``, on the device of the model.

    Raises:
        ValueError: If the model gets no clips ``[N, C, T, H, W]`` or ``[N, M, C, T, H, W]``.
    """
    dataset = SeededDataset(loader.dataset)
    size = min(loader.batch_size or 1, max(1, len(dataset) // 2))  # one batch to fit to and one to judge by
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[: batches * size]
    each = max(1, math.ceil(pictures / max(1, len(order))))
    preprocess: Any = model.data_preprocessor
    found: list[Tensor] = []
    for first in range(0, len(order), size):
        draws = [Draw(index, seed + first + place) for place, index in enumerate(order[first : first + size].tolist())]
        collate: Any = loader.collate_fn
        with torch.no_grad():
            clips = preprocess(collate([dataset[draw] for draw in draws]), training=False)["inputs"]
        clips = clips.flatten(0, 1) if clips.ndim == 6 else clips
        if clips.ndim != 5:
            raise ValueError(f"calibrate: the model must get clips [N, C, T, H, W], got shape {tuple(clips.shape)}.")
        length = clips.shape[2]
        frames = torch.linspace(0, length - 1, min(each, length)).round().long()
        found.append(clips[:, :, frames].transpose(1, 2).flatten(0, 1))
    return found
