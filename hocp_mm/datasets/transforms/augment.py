"""Augmentations that treat a clip as one thing: one draw, the same for all of its frames.

They read and replace ``imgs``, RGB uint8 ``[T, H, W, 3]``. Draws come from Python's ``random`` (see `SampleClip`).
"""

import math
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.registry import TRANSFORMS

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, RGB


def resize_clip(imgs: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize all frames to ``size`` x ``size``; averages areas where it shrinks."""
    if imgs.shape[1:3] == (size, size):
        return imgs
    shrinks = max(imgs.shape[1:3]) > size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.stack([cv2.resize(img, (size, size), interpolation=method) for img in np.ascontiguousarray(imgs)])


def _rows(imgs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the frames as one tall picture ``[T * H, W, 3]``: OpenCV then treats all of them in one call."""
    return np.ascontiguousarray(imgs).reshape(-1, imgs.shape[2], 3)


def _check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"{name}: size must be 1 or more, got {size}.")


@TRANSFORMS.register_module()
class ResizeClip:
    """Resize every frame to ``size`` x ``size``; a frame that is not square is stretched.

    Args:
        size: Side of the result, pixels.
    """

    def __init__(self, size: int) -> None:
        _check_size("ResizeClip", size)
        self.size = size

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace ``imgs``."""
        results["imgs"] = resize_clip(results["imgs"], self.size)
        return results

    def __repr__(self) -> str:
        """Show the settings."""
        return f"ResizeClip(size={self.size})"


@TRANSFORMS.register_module()
class CenterCropClip:
    """Cut the central ``size`` x ``size`` out of every frame.

    Args:
        size: Side of the result, pixels; the frames must not be smaller.
    """

    def __init__(self, size: int) -> None:
        _check_size("CenterCropClip", size)
        self.size = size

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Return the record with smaller ``imgs``.

        Raises:
            ValueError: If the frames are smaller than the crop.
        """
        height, width = results["imgs"].shape[1:3]
        if min(height, width) < self.size:
            raise ValueError(f"CenterCropClip: frames must be {self.size} or more wide and high, got {width}x{height}.")
        top, left = (height - self.size) // 2, (width - self.size) // 2
        results["imgs"] = results["imgs"][:, top : top + self.size, left : left + self.size]
        return results

    def __repr__(self) -> str:
        """Show the settings."""
        return f"CenterCropClip(size={self.size})"


@TRANSFORMS.register_module()
class RandomResizedClipCrop:
    """Cut one random rectangle out of all frames and resize it to ``size`` x ``size``.

    Args:
        size: Side of the result, pixels.
        scale: Bounds of the share of the area that is kept, in (0, 1].
        ratio: Bounds of width / height; faces bear little stretching, hence the narrow default.

    Raises:
        ValueError: If ``size`` is below 1, or bounds are out of range or out of order.
    """

    def __init__(self, size: int, scale: Sequence[float] = (0.7, 1.0), ratio: Sequence[float] = (0.9, 1.1)) -> None:
        _check_size("RandomResizedClipCrop", size)
        if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
            raise ValueError(
                "RandomResizedClipCrop: scale must be bounds in (0, 1] and ratio positive bounds, "
                f"got {tuple(scale)} and {tuple(ratio)}."
            )
        self.size = size
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace ``imgs``."""
        imgs = results["imgs"]
        height, width = imgs.shape[1:3]
        area = height * width * random.uniform(*self.scale)
        ratio = math.exp(random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        crop_w = min(width, max(1, round(math.sqrt(area * ratio))))
        crop_h = min(height, max(1, round(math.sqrt(area / ratio))))
        left, top = random.randint(0, width - crop_w), random.randint(0, height - crop_h)
        results["imgs"] = resize_clip(imgs[:, top : top + crop_h, left : left + crop_w], self.size)
        return results

    def __repr__(self) -> str:
        """Show the settings."""
        return f"RandomResizedClipCrop(size={self.size}, scale={self.scale}, ratio={self.ratio})"


@TRANSFORMS.register_module()
class ClipFlip:
    """Mirror all frames left to right with probability ``p``; valence and arousal do not change.

    Args:
        p: Probability, in [0, 1].

    Raises:
        ValueError: If ``p`` is no probability.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"ClipFlip: p must lie in [0, 1], got {p}.")
        self.p = p

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace ``imgs``."""
        if random.random() < self.p:
            imgs = results["imgs"]
            results["imgs"] = cv2.flip(_rows(imgs), 1).reshape(imgs.shape)  # NumPy needs 20 times as long for the copy
        return results

    def __repr__(self) -> str:
        """Show the settings."""
        return f"ClipFlip(p={self.p})"


@TRANSFORMS.register_module()
class ClipColorJitter:
    """Change brightness, contrast and saturation of a clip, the same for all of its frames.

    Each factor is drawn from [1 - x, 1 + x] (not below 0). Contrast turns about the mean luma of the clip, so it
    does not flicker from frame to frame. The three are one matrix, and only its result is rounded and bounded to
    0..255: nothing wraps around, as it does in MMAction2's ``ColorJitter`` under NumPy 2.

    Args:
        brightness: Reach x of the factor on all values.
        contrast: Reach x of the factor on the distance from the mean luma.
        saturation: Reach x of the factor on the distance from grey.

    Raises:
        ValueError: If a reach is negative.
    """

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2) -> None:
        if min(brightness, contrast, saturation) < 0:
            raise ValueError(
                f"ClipColorJitter: reaches must be 0 or more, got {brightness}, {contrast} and {saturation}."
            )
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace ``imgs``."""
        bright, contrast, saturate = (
            random.uniform(max(0.0, 1 - reach), 1 + reach)
            for reach in (self.brightness, self.contrast, self.saturation)
        )
        imgs = results["imgs"]
        rows = _rows(imgs)
        mean_luma = float(cv2.mean(rows)[:3] @ _LUMA)
        to_grey = np.tile(_LUMA, (3, 1))
        matrix = bright * contrast * (saturate * np.eye(3) + (1 - saturate) * to_grey)
        # Grey stays grey under saturation (rows sum to 1), so the offset of contrast passes through unchanged.
        offset = np.full((3, 1), bright * (1 - contrast) * mean_luma)
        results["imgs"] = cv2.transform(rows, np.hstack([matrix, offset])).reshape(imgs.shape)
        return results

    def __repr__(self) -> str:
        """Show the settings."""
        return f"ClipColorJitter(brightness={self.brightness}, contrast={self.contrast}, saturation={self.saturation})"
