"""From an identity and an expression to the moving curves of a face and its 49 landmarks, in face units."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hocp_mm.synthetic.identity import Identity

Floats = npt.NDArray[np.float64]

EYE_HEIGHT = 12.0
"""Distance of the eyes above the origin, in face units."""

_ALONG = np.linspace(-1, 1, 13)  # position along an eye or a lip, from left to right on screen
_ROUND = 1 - _ALONG**2
_SIXTHS = [2, 4, 6, 8, 10]  # the points at -2/3, -1/3, 0, 1/3 and 2/3
_OUTWARD = np.linspace(0, 1, 7)  # position along a brow, from its inner end


@dataclass(frozen=True)
class Expression:
    """What the muscles of a face do in one frame.

    Attributes:
        smile: Mouth corners, -1 = strongly down, 1 = strongly up.
        frown: Inner ends of the brows, 1 = drawn down and together, negative = relaxed.
        brow_raise: Height of the brows, -1 = low, 1 = high.
        eye_open: Opening of the lids, 0 = closed, 1 = usual.
        mouth_open: Opening of the mouth in [0, 1].
        gaze: Where the eyes look in [-1, 1] (x right, y down).
    """

    smile: float = 0.0
    frown: float = 0.0
    brow_raise: float = 0.0
    eye_open: float = 1.0
    mouth_open: float = 0.0
    gaze: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class FaceGeometry:
    """Curves of one frame in face units; the first index is the side on screen, 0 = left.

    Attributes:
        brows: ``[2, 7, 2]`` middle lines, from the inner to the outer end.
        brow_thickness: ``[7]`` thickness along a middle line.
        upper_lids: ``[2, 13, 2]`` edges of the upper lids, left to right.
        lower_lids: ``[2, 13, 2]`` edges of the lower lids, left to right.
        irises: ``[2, 2]`` centres of the irises.
        lips: ``[4, 13, 2]`` upper lip's outer and inner edge, lower lip's inner and outer edge, left to right.
        nose: ``[9, 2]`` four points down the ridge, five along the nostrils from left to right.
    """

    brows: Floats
    brow_thickness: Floats
    upper_lids: Floats
    lower_lids: Floats
    irises: Floats
    lips: Floats
    nose: Floats

    def landmarks(self) -> Floats:
        """Return the 49 points of the SEWA layout: the 68-point scheme without jaw line and inner mouth corners.

        Returns:
            ``[49, 2]`` points: 10 brows, 9 nose, 12 eyes, 12 outer lips, 6 inner lips.
        """
        left_brow, right_brow = self.brows[0, [6, 5, 3, 2, 0]], self.brows[1, [0, 2, 3, 5, 6]]
        eyes = [
            np.concatenate([upper[[0, 4, 8, 12]], lower[[8, 4]]])
            for upper, lower in zip(self.upper_lids, self.lower_lids, strict=True)
        ]
        top, inner_top, inner_bottom, bottom = self.lips
        mouth = [top[[0, *_SIXTHS, 12]], bottom[_SIXTHS[::-1]], inner_top[[4, 6, 8]], inner_bottom[[8, 6, 4]]]
        return np.concatenate([left_brow, right_brow, self.nose, *eyes, *mouth])


def face_geometry(identity: Identity, expression: Expression) -> FaceGeometry:
    """Place the moving parts of a face.

    Args:
        identity: The person.
        expression: What the face does.

    Returns:
        The curves, in face units.
    """
    uppers, lowers = zip(*(_lids(identity, expression, side) for side in (-1, 1)), strict=True)
    gaze = np.multiply(expression.gaze, (0.32 * identity.eye_width, 1.5))
    irises = np.array([[-identity.eye_offset, -EYE_HEIGHT - 1], [identity.eye_offset, -EYE_HEIGHT - 1]]) + gaze
    return FaceGeometry(
        brows=np.stack([_brow(identity, expression, side) for side in (-1, 1)]),
        brow_thickness=identity.brow_thickness * (1 - 0.55 * _OUTWARD),
        upper_lids=np.stack(uppers),
        lower_lids=np.stack(lowers),
        irises=irises,
        lips=_lips(identity, expression),
        nose=_nose(identity),
    )


def _brow(identity: Identity, expression: Expression, side: int) -> Floats:
    drawn = max(expression.frown, 0.0)
    inner = identity.eye_offset - 0.95 * identity.eye_width - 2.5 * drawn
    outer = identity.eye_offset + 1.5 * identity.eye_width
    height = EYE_HEIGHT + identity.brow_height + 6 * expression.brow_raise + 4 * np.sin(0.7 * np.pi * _OUTWARD) - 2
    slant = (6.5 * drawn + 1.0 * min(expression.frown, 0.0)) * (1 - _OUTWARD) ** 1.5
    return np.stack([side * (inner + (outer - inner) * _OUTWARD), slant - height], axis=-1)


def _lids(identity: Identity, expression: Expression, side: int) -> tuple[Floats, Floats]:
    x = side * identity.eye_offset + identity.eye_width * _ALONG
    tilt = -0.8 * side * _ALONG  # outer corners a little higher
    cheek = max(expression.smile, 0.0)
    lower = -EYE_HEIGHT + (3.0 - 1.2 * cheek) * _ROUND + tilt
    gap = 8.6 * max(expression.eye_open, 0.0) * (1 - np.abs(_ALONG) ** 2.3)
    # The upper lid moves most; a closed eye rests on the lower lid.
    return np.stack([x, lower - gap], axis=-1), np.stack([x, lower], axis=-1)


def _lips(identity: Identity, expression: Expression) -> Floats:
    smile, opened = expression.smile, expression.mouth_open
    half = identity.mouth_width * (1 + 0.17 * smile) * (1 - 0.06 * opened)
    x = half * _ALONG
    # A smile lifts the corners and lowers the middle a little; the mouth's own height stays.
    line = identity.mouth_height + 2.5 * smile * _ROUND - 7.5 * smile * _ALONG**2
    gap = (0.6 + 12.5 * opened) * (1 - np.abs(_ALONG) ** 2.5)
    thin = 1 - 0.2 * abs(smile)
    inner_top, inner_bottom = line - 0.18 * gap, line + 0.82 * gap
    bow = 1 - 0.25 * np.exp(-((_ALONG / 0.18) ** 2))
    top = inner_top - 0.75 * identity.lip_thickness * thin * bow * (1 - np.abs(_ALONG) ** 1.6)
    bottom = inner_bottom + identity.lip_thickness * thin * (1 - np.abs(_ALONG) ** 2)
    return np.stack([np.stack([x, y], axis=-1) for y in (top, inner_top, inner_bottom, bottom)])


def _nose(identity: Identity) -> Floats:
    ridge = np.linspace(-EYE_HEIGHT, identity.nose_length - 2, 4)
    base = identity.nose_length + np.array([1.0, 2.5, 3.5, 2.5, 1.0])
    wide = identity.nose_width * np.array([-0.8, -0.4, 0.0, 0.4, 0.8])
    return np.concatenate([np.stack([np.zeros(4), ridge], axis=-1), np.stack([wide, base], axis=-1)])
