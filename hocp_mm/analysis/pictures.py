"""Pictures as the clips that a network of timm is measured on: what trained weights do to noise says little."""

from collections.abc import Mapping, Sequence
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
from hocp_mm.engine.sampling import seeded_random_numbers
from hocp_mm.errors import DataError, HOCPError, MissingDataError

_MOST = 32  # pictures that a network is verified on
DRAWN: Mapping[str, Any] = {
    "scale": (0.6, 1.0), "ratio": (0.9, 1.1), "color_jitter": 0.3, "grayscale_prob": 0.25, "gaussian_blur_prob": 0.25,
}  # fmt: skip
"""How far from a picture its variants may be, in the words of timm's transforms."""
_MOST_STRETCHED = 8
"""Longer over shorter side of what is seen of a picture: timm makes the shorter one that of the network, then crops."""
_ENDS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def find_pictures(folder: str | Path, most: int) -> list[Path]:
    """List the pictures of a folder and of those in it.

    Args:
        folder: Where they are.
        most: Where there are more, so many of them are taken, spread over all in the order of their names.

    Returns:
        Files, one or more.

    Raises:
        MissingDataError: If there is no such folder.
        DataError: If it has no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingDataError(f"--images: must be a folder of pictures, got {folder}.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _ENDS and file.is_file())
    if not files:
        raise DataError(f"--images: {folder} must hold a picture ({', '.join(sorted(_ENDS))}), got none.")
    return [files[place * len(files) // most] for place in range(most)] if len(files) > most else files


def stack_pictures(files: Sequence[Path], name: str, size: int, variants: int = 0, seed: int = 0) -> Tensor:
    """Read pictures, cropped and normalised as timm does it for a network in a test.

    Args:
        files: Pictures. Of a strip more than 8 times as long as wide only the middle counts.
        name: Name of the network in timm.
        size: Height and width, pixels.
        variants: Of each picture, drawn as timm does it in training: cut out, mirrored, in other colours or in none,
            blurred. They follow the pictures.
        seed: Of what is drawn; other random numbers go on as if nothing had been.

    Returns:
        Tensor ``[(1 + variants) * len(files), 3, size, size]``.

    Raises:
        DataError: If one cannot be read.
    """
    config = timm.get_pretrained_cfg(name)
    known = {} if config is None else resolve_data_config(pretrained_cfg=config.to_dict())
    known = {**known, "input_size": (3, size, size)}
    shown: Any = create_transform(**known, is_training=False)
    drawn: Any = create_transform(**{**known, **DRAWN, "crop_pct": None, "crop_mode": None}, is_training=True)
    images = [Image.fromarray(_middle(read_image(file))) for file in files]
    pictures = [torch.as_tensor(shown(image)) for image in images]
    with seeded_random_numbers(seed):
        pictures += [torch.as_tensor(drawn(image)) for _ in range(variants) for image in images]
    return torch.stack(pictures)


def read_clips(folder: str | Path, name: str, in_chans: int, size: int, frames: int) -> list[Tensor]:
    """Read the pictures of a folder as clips.

    Args:
        folder: Holds pictures, or folders of them; 32 of them are taken.
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
    files = find_pictures(folder, _MOST)
    if in_chans != 3:
        raise HOCPError(f"--images: pictures have 3 channels, the network takes {in_chans} ({name}).")
    pictures = stack_pictures(files, name, size)
    if len(pictures) < frames:
        pictures = pictures[torch.arange(frames) % len(pictures)]
    return [clip.transpose(0, 1).unsqueeze(0) for clip in pictures.split(frames)]


def _middle(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    most = _MOST_STRETCHED * min(picture.shape[:2])
    top, left = (max(0, side - most) // 2 for side in picture.shape[:2])
    return picture[top : top + most, left : left + most]
