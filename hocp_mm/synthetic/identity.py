"""Who a synthetic person is: everything about a face that stays the same over all of the person's clips."""

from dataclasses import dataclass

import numpy as np

Color = tuple[float, float, float]
"""RGB in [0, 255]."""

_SKINS: tuple[Color, ...] = (
    (246, 214, 192),
    (236, 196, 168),
    (222, 176, 144),
    (196, 146, 112),
    (158, 110, 82),
    (122, 82, 62),
)
_HAIRS: tuple[Color, ...] = (
    (28, 22, 20),
    (58, 40, 30),
    (96, 64, 40),
    (150, 110, 66),
    (190, 150, 100),
    (140, 70, 40),
    (150, 148, 146),
)
_IRISES: tuple[Color, ...] = ((62, 40, 26), (88, 60, 34), (74, 96, 72), (70, 104, 140), (96, 108, 118))


@dataclass(frozen=True)
class Identity:
    """Appearance and neutral expression of one person.

    Lengths are in face units: one unit is one pixel of a 320x240 frame at head scale 1, y points down, and the origin
    lies between the eyes and the tip of the nose.

    Attributes:
        skin: Skin colour.
        hair: Hair colour; brows are a little darker.
        iris: Colour of the iris.
        shirt: Colour of the shirt.
        lips: Colour of the lips.
        half_width: Half of the face's width at the cheekbones.
        chin: Distance of the chin below the origin.
        jaw: How much the face narrows towards the chin, 0 = ellipse.
        hairline: Distance of the hairline above the origin.
        hair_length: How far the hair at the sides reaches below the origin; negative = short hair.
        fringe: Sideways shift of the parting, in [-1, 1].
        eye_offset: Distance of each eye's centre from the middle.
        eye_width: Half of an eye's width.
        brow_thickness: Thickness of the brows at their inner end.
        brow_height: Distance of the resting brows above the eyes.
        nose_length: Distance of the nose's tip below the origin.
        nose_width: Half of the nose's width at the nostrils.
        mouth_height: Distance of the mouth below the origin.
        mouth_width: Half of the resting mouth's width.
        lip_thickness: Thickness of the lower lip.
        beard: Strength of a stubble beard in [0, 1].
        glasses: Whether the person wears glasses, and of which shape: 0 none, 1 round, 2 square.
        smile_bias: Added to valence before it moves the mouth: a confounder of still frames.
        brow_bias: Added to the visible part of arousal before it raises the brows.
        eye_bias: Added to the visible part of arousal before it opens the eyes.
    """

    skin: Color
    hair: Color
    iris: Color
    shirt: Color
    lips: Color
    half_width: float
    chin: float
    jaw: float
    hairline: float
    hair_length: float
    fringe: float
    eye_offset: float
    eye_width: float
    brow_thickness: float
    brow_height: float
    nose_length: float
    nose_width: float
    mouth_height: float
    mouth_width: float
    lip_thickness: float
    beard: float
    glasses: int
    smile_bias: float
    brow_bias: float
    eye_bias: float


def sample_identity(rng: np.random.Generator) -> Identity:
    """Sample a person.

    Args:
        rng: Source of randomness.

    Returns:
        The person; the same generator state gives the same person.
    """
    skin = _between(rng, _SKINS)
    long_hair = rng.uniform() < 0.4
    return Identity(
        skin=skin,
        hair=_vary(rng, _HAIRS[rng.integers(len(_HAIRS))], 0.15),
        iris=_vary(rng, _IRISES[rng.integers(len(_IRISES))], 0.15),
        shirt=_triple(rng.uniform(30, 210, size=3)),
        lips=_triple(np.multiply(skin, (0.86, 0.62, 0.62)) * rng.uniform(0.85, 1.0)),
        half_width=rng.uniform(46, 54),
        chin=rng.uniform(64, 74),
        jaw=rng.uniform(0.1, 0.3),
        hairline=rng.uniform(44, 56),
        hair_length=rng.uniform(30, 70) if long_hair else rng.uniform(-25, 5),
        fringe=rng.uniform(-1, 1),
        eye_offset=rng.uniform(20, 24),
        eye_width=rng.uniform(10, 12.5),
        brow_thickness=rng.uniform(3, 5.5),
        brow_height=rng.uniform(14, 17),
        nose_length=rng.uniform(15, 21),
        nose_width=rng.uniform(8.5, 12),
        mouth_height=rng.uniform(36, 40),
        mouth_width=rng.uniform(17, 22),
        lip_thickness=rng.uniform(4.5, 7),
        beard=rng.uniform(0.3, 1.0) if not long_hair and rng.uniform() < 0.35 else 0.0,
        glasses=int(rng.integers(1, 3)) if rng.uniform() < 0.25 else 0,
        smile_bias=0.15 * rng.standard_normal(),
        brow_bias=0.2 * rng.standard_normal(),
        eye_bias=0.2 * rng.standard_normal(),
    )


def _between(rng: np.random.Generator, palette: tuple[Color, ...]) -> Color:
    """Sample a colour on the line through an ordered palette."""
    place = rng.uniform(0, len(palette) - 1)
    return _triple([np.interp(place, range(len(palette)), channel) for channel in zip(*palette, strict=True)])


def _vary(rng: np.random.Generator, color: Color, spread: float) -> Color:
    return _triple(np.multiply(color, rng.uniform(1 - spread, 1 + spread)))


def _triple(values: np.ndarray | list[float]) -> Color:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
