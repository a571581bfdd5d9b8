"""Pictures as the clips that a network of timm is measured on: what trained weights do to noise says little."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor

from hocp_mm.datasets import read_image
from hocp_mm.errors import DataError, HOCPError, MissingDataError

MOST = 32
"""Pictures that are read."""
_MOST_STRETCHED = 8
"""Longer over shorter side of what is seen of a picture: timm makes the shorter one that of the network, then crops."""
_ENDS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def read_pictures(folder: str | Path, name: str, in_chans: int, size: int, frames: int) -> list[Tensor]:
    """Read the pictures of a folder, cropped and normalised as timm does it for a network in a test.

    Args:
        folder: Holds pictures; the first 32 of them by name, of those in folders below, too. Of a strip more than 8
            times as long as wide only the middle counts.
        name: Name of the network in timm.
        in_chans: Channels that it takes, 3.
        size: Height and width, pixels.
        frames: Pictures in each clip.

    Returns:
        Clips ``[1, 3, T, size, size]`` of ``frames`` pictures each, the last one of what is left; where there are fewer
        than that in all, they are shown again.

    Raises:
        MissingDataError: If there is no such folder.
        DataError: If it has no picture, or one cannot be read.
        HOCPError: If the network takes no pictures of 3 channels.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingDataError(f"--images: must be a folder of pictures, got {folder}.")
    if in_chans != 3:
        raise HOCPError(f"--images: pictures have 3 channels, the network takes {in_chans} ({name}).")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _ENDS and file.is_file())[:MOST]
    if not files:
        raise DataError(f"--images: {folder} must hold a picture ({', '.join(sorted(_ENDS))}), got none.")
    config = timm.get_pretrained_cfg(name)
    known = {} if config is None else resolve_data_config(pretrained_cfg=config.to_dict())
    change: Any = create_transform(**{**known, "input_size": (3, size, size)}, is_training=False)
    pictures = torch.stack([torch.as_tensor(change(Image.fromarray(_middle(read_image(file))))) for file in files])
    if len(pictures) < frames:
        pictures = pictures[torch.arange(frames) % len(pictures)]
    return [clip.transpose(0, 1).unsqueeze(0) for clip in pictures.split(frames)]


def _middle(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    most = _MOST_STRETCHED * min(picture.shape[:2])
    top, left = (max(0, side - most) // 2 for side in picture.shape[:2])
    return picture[top : top + most, left : left + most]
