"""Where a synthetic clip is recorded: background, body, light, camera."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hocp_mm.synthetic.head import Light
from hocp_mm.synthetic.identity import Identity

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

FRAME_SHAPE = (240, 320)
"""Height and width of a frame in pixels, as in SEWA's video chats."""
NOISE_MARGIN = 32
"""How many rows and columns more than a frame the camera's noise has."""
NOISE_ZERO = 128
"""Value of a noise byte that leaves a pixel as it is."""


@dataclass(frozen=True)
class Scene:
    """Surroundings of one clip.

    Attributes:
        background: ``[240, 320, 3]`` RGB with the body, lit.
        center: Resting place of the face's origin in pixels (x, y).
        scale: Frame pixels per face unit at rest.
        light: The main light on the head.
        noise: ``[272, 352, 3]`` brightness noise of the camera around ``NOISE_ZERO``; each frame shows another cut-out.
    """

    background: Bytes
    center: tuple[float, float]
    scale: float
    light: Light
    noise: Bytes


def sample_scene(rng: np.random.Generator, identity: Identity) -> Scene:
    """Sample the surroundings of a clip.

    Args:
        rng: Source of randomness.
        identity: The person, whose body belongs to the background.

    Returns:
        The scene.
    """
    direction = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.7, 0.0), 1.0])
    x, y, z = (direction / np.sqrt((direction**2).sum())).tolist()
    warmth, level = rng.uniform(-0.04, 0.08), rng.uniform(0.75, 1.05)
    gain = (level * (1 + warmth), level, level * (1 - warmth))
    center = (160 + rng.uniform(-22, 22), 112 + rng.uniform(-8, 8))
    scale = rng.uniform(0.9, 1.08)
    background = _paint_wall(rng)
    _paint_body(background, identity, center, scale)
    height, width = FRAME_SHAPE
    noise = rng.uniform(1.5, 4.0) * rng.standard_normal((height + NOISE_MARGIN, width + NOISE_MARGIN, 1))
    return Scene(
        background=_to_bytes(background * gain),
        center=center,
        scale=scale,
        light=Light((x, y, z), rng.uniform(0.5, 0.8), gain),
        noise=np.repeat(_to_bytes(NOISE_ZERO + noise), 3, axis=-1),
    )


def _paint_wall(rng: np.random.Generator) -> Floats:
    """Paint a wall with a gradient, blotches, and a few blurred things on it."""
    height, width = FRAME_SHAPE
    base = rng.uniform(60, 200, size=3) * 0.4 + rng.uniform(60, 200) * 0.6
    wall = np.tile(base, (height, width, 1)).astype(np.float32)
    for _ in range(rng.integers(1, 6)):
        corner = rng.uniform((-40, -40), (width, 0.7 * height))
        size = rng.uniform((20, 20), (110, 110))
        color = np.clip(base + rng.uniform(-70, 70, size=3), 10, 245)
        low, high = np.round(corner).astype(int), np.round(corner + size).astype(int)
        cv2.rectangle(wall, low.tolist(), high.tolist(), color.tolist(), -1)
    wall = cv2.GaussianBlur(wall, (0, 0), rng.uniform(1.5, 5))
    blotches = cv2.resize(
        rng.standard_normal((6, 8)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    tilt = rng.uniform(-0.25, 0.25, size=2)
    gradient = 1 + tilt[0] * np.linspace(-1, 1, width) + tilt[1] * np.linspace(-1, 1, height)[:, None]
    return (wall * (gradient + 0.05 * blotches)[..., None]).astype(np.float32)


def _paint_body(background: Floats, identity: Identity, center: tuple[float, float], scale: float) -> None:
    """Paint shoulders, collar and a shaded neck in place; the head covers the neck's upper end."""
    height, width = FRAME_SHAPE
    rows, columns = np.indices((height, width), dtype=np.float32)
    x, y = (columns - center[0]) / scale, (rows - center[1]) / scale
    top = identity.chin + 24
    shoulders = np.clip(0.5 + 70 * (1 - np.sqrt((x / 108) ** 2 + ((y - top - 62) / 70) ** 2)), 0, 1)
    folds = 1 + 0.06 * np.sin(x / 9 + 0.02 * y) - 0.25 * np.abs(x / 108) ** 2
    half = 0.46 * identity.half_width + 0.002 * np.maximum(y - identity.chin, 0) ** 2
    neckline = identity.chin + 34 - 0.03 * x**2
    neck = np.clip(0.5 + half - np.abs(x), 0, 1) * np.clip(0.5 + neckline - y, 0, 1) * (y > 0)
    chin_shadow = 0.9 - 0.4 * np.exp(-np.maximum(y - identity.chin, 0) / 11) - 0.15 * np.abs(x / half) ** 3
    for mask, color, shade in ((shoulders, identity.shirt, folds), (neck, identity.skin, chin_shadow)):
        background += mask[..., None] * (np.multiply(color, np.clip(shade, 0, 2)[..., None]) - background)


def _to_bytes(values: npt.NDArray[np.floating]) -> Bytes:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
