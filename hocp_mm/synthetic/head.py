"""The parts of a head that do not move: skin, hair, ears, and the shading of its relief under a fixed light."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from hocp_mm.synthetic.geometry import EYE_HEIGHT
from hocp_mm.synthetic.identity import Identity

Floats = npt.NDArray[np.floating]
Bytes = npt.NDArray[np.uint8]

CANVAS_SCALE = 1.5
"""Canvas pixels per face unit; a little more than a frame pixel, so that edges stay soft after resampling."""
CANVAS_ORIGIN = (68.0, 98.0)
"""Face units from the canvas's left and upper edge to the face's origin."""
CANVAS_SHAPE = (276, 204)
"""Height and width of the canvas in pixels."""
SHADE_ONE = 128
"""Value of a shading byte that leaves the colour as it is."""


@dataclass(frozen=True)
class Light:
    """The main light of a scene.

    Attributes:
        direction: Unit vector from the face to the light (x right, y down, z to the camera).
        ambient: Share of the light that comes from everywhere, in [0, 1].
        gain: Factors of the light's colour and level on red, green and blue.
    """

    direction: tuple[float, float, float]
    ambient: float
    gain: tuple[float, float, float]


@dataclass(frozen=True)
class HeadLayer:
    """A drawn head on the canvas.

    Attributes:
        albedo: ``[276, 204, 3]`` colours before shading; beyond the outline the hair's colour goes on.
        alpha: ``[276, 204]`` coverage of the head.
        shade: ``[276, 204, 3]`` factor on the colours, in units of 1 / ``SHADE_ONE``.
    """

    albedo: Bytes
    alpha: Bytes
    shade: Bytes


def canvas_points(points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Map face units to canvas pixels, whose centres have whole coordinates.

    Args:
        points: ``[..., 2]`` in face units.

    Returns:
        ``[..., 2]`` in canvas pixels.
    """
    return (np.asarray(points, dtype=np.float64) + CANVAS_ORIGIN) * CANVAS_SCALE - 0.5


def face_points(pixels: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Map canvas pixels to face units: the inverse of ``canvas_points``.

    Args:
        pixels: ``[..., 2]`` in canvas pixels.

    Returns:
        ``[..., 2]`` in face units.
    """
    return (np.asarray(pixels, dtype=np.float64) + 0.5) / CANVAS_SCALE - CANVAS_ORIGIN


def draw_head(identity: Identity, light: Light, rng: np.random.Generator) -> HeadLayer:
    """Draw everything of a head that stays the same over a clip.

    Args:
        identity: The person.
        light: The main light, its level included.
        rng: Source of the texture of skin and hair.

    Returns:
        The layer; brows, eyes and mouth are still missing.
    """
    rows, columns = np.indices(CANVAS_SHAPE, dtype=np.float32)
    x = (columns + 0.5) / CANVAS_SCALE - CANVAS_ORIGIN[0]
    y = (rows + 0.5) / CANVAS_SCALE - CANVAS_ORIGIN[1]
    face = _face_distance(identity, x, y)
    hair = _hair_distance(identity, x, y)
    ears = np.maximum(_ellipse(np.abs(x) - identity.half_width - 1, y - 2, 6, 11), -9)
    skin_share = _coverage(np.maximum(np.minimum(face, _below_hairline(identity, x, y)), ears))
    alpha = _coverage(np.maximum(np.maximum(face, hair), ears))

    skin = np.multiply(identity.skin, _skin_texture(rng)[..., None])
    stubble = identity.beard * _beard(identity, x, y)
    skin = skin * (1 - 0.55 * stubble[..., None]) + np.multiply(identity.hair, 0.55 * stubble[..., None])
    strands = np.multiply(identity.hair, _hair_texture(rng, x, y)[..., None])
    albedo = strands + skin_share[..., None] * (skin - strands)
    shade = _relief(identity, light, x, y) * (1 - 0.25 * _coverage(-hair / 6) * (1 - skin_share))
    return HeadLayer(
        albedo=_to_bytes(albedo),
        alpha=_to_bytes(255 * alpha),
        shade=_to_bytes(SHADE_ONE * shade[..., None] * np.array(light.gain)),
    )


def _face_distance(identity: Identity, x: Floats, y: Floats) -> Floats:
    """Return the distance inside (positive) or outside the outline of skull and jaw, in face units, roughly."""
    down = np.maximum(y, 0) / identity.chin
    width = identity.half_width * (1 - identity.jaw * down**2)
    height = np.where(y > 0, identity.chin, identity.hairline + 18)
    radius = (np.abs(x / width) ** 2.2 + np.abs(y / height) ** 2.2) ** (1 / 2.2)
    return identity.half_width * (1 - radius)


def _hair_distance(identity: Identity, x: Floats, y: Floats) -> Floats:
    """Return the distance inside (positive) or outside the outline of the hair: a cap, and for long hair its sides."""
    cap = _ellipse(x, y + 12, identity.half_width + 5, identity.hairline + 14)
    # Short hair ends in front of the ears; the slope keeps its outer corners from standing out.
    cap = np.minimum(cap, identity.hair_length - y - 1.5 * np.maximum(np.abs(x) - identity.half_width + 4, 0))
    if identity.hair_length <= 10:
        return cap
    half = identity.hair_length / 2 + 30
    radius = (np.abs(x / (identity.half_width + 9)) ** 3 + np.abs((y + 30 - half) / (half + 10)) ** 3) ** (1 / 3)
    # Long hair hangs behind the neck, which the scene draws and must stay visible between both sides.
    beside_neck = np.maximum(np.abs(x) - 0.4 * identity.half_width, 0.6 * identity.chin - y)
    return np.maximum(cap, np.minimum(identity.half_width * (1 - radius), beside_neck))


def _below_hairline(identity: Identity, x: Floats, y: Floats) -> Floats:
    across = x / identity.half_width
    line = -identity.hairline + 16 * across**4 + 9 * identity.fringe * across
    return y - line


def _beard(identity: Identity, x: Floats, y: Floats) -> Floats:
    jaw = _coverage((y - 26 + 0.004 * x**2) / 8)
    cheeks = _coverage((identity.mouth_height - 6 - y + 0.55 * (np.abs(x) - 24)) / -8)
    return jaw * np.maximum(cheeks, 0.25)


def _relief(identity: Identity, light: Light, x: Floats, y: Floats) -> Floats:
    """Return the brightness of the head's relief: a lit ellipsoid, then what sockets, nose, cheeks and chin add."""
    normal_x, normal_y = 0.9 * x / identity.half_width, 0.75 * (y + 5) / identity.chin
    flat = np.sqrt(np.maximum(1 - normal_x**2 - normal_y**2, 0.02))
    light_x, light_y, light_z = light.direction
    lit = np.maximum(normal_x * light_x + normal_y * light_y + flat * light_z, 0)
    shade = 1.04 * (light.ambient + (1 - light.ambient) * lit) * (0.75 + 0.25 * flat)

    side, tip, wing = np.abs(x), identity.nose_length, identity.nose_width
    eye = _bump(side - identity.eye_offset, 14, y + EYE_HEIGHT + 2, 8)
    corner = _bump(side - 9, 5, y + EYE_HEIGHT, 8)
    ridge = _bump(x, 4.5, y - 0.3 * tip, 16) + 1.2 * _bump(x, 5, y - tip + 3, 5)
    flank = _bump(side - wing, 4.5, y - tip + 3, 9)
    nostril = _bump(side - 0.5 * wing, 2.6, y - tip - 2.5, 1.7)
    below = _bump(x, wing + 1, y - tip - 6, 3)
    cheek = _bump(side - 27, 11, y - 13, 10)
    chin = _bump(x, 12, y - identity.chin + 10, 6)
    forehead = _bump(x, 26, y + 42, 14)
    cast = light_x * np.tanh(x / 3) * _bump(x, 9, y - 0.4 * tip, 14)  # the nose's far side lies in its own shadow
    shade += 0.18 * cast
    shade += 0.13 * ridge + 0.1 * cheek + 0.06 * chin + 0.07 * forehead
    shade *= (1 - 0.32 * eye) * (1 - 0.22 * corner) * (1 - 0.16 * flank) * (1 - 0.6 * nostril) * (1 - 0.25 * below)
    return shade


def _skin_texture(rng: np.random.Generator) -> Floats:
    fine = rng.standard_normal(CANVAS_SHAPE)
    coarse = cv2.resize(rng.standard_normal((23, 17)), CANVAS_SHAPE[::-1], interpolation=cv2.INTER_CUBIC)
    return (1 + 0.012 * fine + 0.012 * coarse).astype(np.float32)


def _hair_texture(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    strands = np.convolve(rng.standard_normal(CANVAS_SHAPE[1] + 4), np.full(3, 0.6), mode="valid")
    swirl = np.clip(np.round(np.arange(CANVAS_SHAPE[1]) + 6 * np.sin(y / 25)), 0, CANVAS_SHAPE[1] - 1)
    gloss = 0.25 * np.exp(-(((y + 62) / 12) ** 2)) * np.exp(-((x / 45) ** 2))
    return (1 + 0.13 * strands[swirl.astype(int)] + gloss).astype(np.float32)


def _ellipse(x: Floats, y: Floats, half_width: float, half_height: float) -> Floats:
    return min(half_width, half_height) * (1 - np.sqrt((x / half_width) ** 2 + (y / half_height) ** 2))


def _bump(x: Floats, width: float, y: Floats, height: float) -> Floats:
    return np.exp(-((x / width) ** 2) - (y / height) ** 2)


def _coverage(distance: Floats) -> Floats:
    """Turn a signed distance into coverage, with an edge that is about one frame pixel wide."""
    return np.clip(0.5 + distance, 0, 1)


def _to_bytes(values: Floats) -> Bytes:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
