"""Paint the moving parts of a face (brows, eyes, mouth, folds, glasses) onto a canvas, with soft sub-pixel edges."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hocp_mm.synthetic.geometry import EYE_HEIGHT, Expression, FaceGeometry
from hocp_mm.synthetic.head import CANVAS_SCALE, canvas_points, face_points
from hocp_mm.synthetic.identity import Color, Identity

Bytes = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

_SHIFT = 4  # OpenCV's fixed-point bits: points are placed to 1/16 pixel
_BEZIER = np.stack(
    [np.linspace(1, 0, 7) ** 2, 2 * np.linspace(0, 1, 7) * np.linspace(1, 0, 7), np.linspace(0, 1, 7) ** 2], 1
)
_DOWN = np.array([0.0, 1.0])
_GLINT = np.array([1.4, 1.6])  # how far up and left of the pupil the light is mirrored
_WHITE_OF_EYE: Color = (232, 228, 222)
_TEETH: Color = (232, 226, 212)
_MOUTH_INSIDE: Color = (52, 20, 22)
_TONGUE: Color = (150, 72, 74)


def paint_face(canvas: Bytes, identity: Identity, expression: Expression, geometry: FaceGeometry) -> None:
    """Paint the moving parts in place.

    Args:
        canvas: ``[276, 204, 3]`` RGB albedo of the head, changed in place.
        identity: The person.
        expression: What the face does; ``geometry`` already contains it, the folds take their strength from here.
        geometry: The curves to paint.
    """
    _paint_folds(canvas, identity, expression, geometry)
    _paint_mouth(canvas, identity, geometry)
    for side in range(2):
        _paint_eye(canvas, identity, geometry, side)
        _paint_brow(canvas, identity, geometry, side)
    if identity.glasses:
        _paint_glasses(canvas, identity)


def _paint_brow(canvas: Bytes, identity: Identity, geometry: FaceGeometry, side: int) -> None:
    middle, half = geometry.brows[side], geometry.brow_thickness[:, None] / 2
    outline = np.concatenate([middle - half * _DOWN, (middle + half * _DOWN)[::-1]])
    patch, origin = _window(canvas, outline, 4)
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillPoly(mask, [_fixed(outline, origin)], 235, cv2.LINE_AA, _SHIFT)
    _blend(patch, cv2.GaussianBlur(mask, (5, 5), 1.1), 0.7 * np.array(identity.hair))


def _paint_eye(canvas: Bytes, identity: Identity, geometry: FaceGeometry, side: int) -> None:
    upper, lower = geometry.upper_lids[side], geometry.lower_lids[side]
    outline = np.concatenate([upper, lower[::-1]])
    crease = upper - 3.2 * _DOWN
    patch, origin = _window(canvas, np.concatenate([outline, crease]), 4)
    skin = np.array(identity.skin)
    _stroke(patch, crease[1:-1], origin, 0.72 * skin, 1)
    eyeball = np.empty_like(patch)
    eyeball[:] = _WHITE_OF_EYE
    center, radius = geometry.irises[side], 0.46 * identity.eye_width
    _disc(eyeball, center, radius, origin, 0.55 * np.array(identity.iris))
    _disc(eyeball, center, 0.85 * radius, origin, identity.iris)
    _disc(eyeball, center, 0.42 * radius, origin, (12, 10, 10))
    _disc(eyeball, center - _GLINT, 0.9, origin, (250, 250, 250))
    _stroke(eyeball, upper + 0.8 * _DOWN, origin, (120, 105, 100), 2)  # the lid's shadow on the eyeball
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillPoly(mask, [_fixed(outline, origin)], 255, cv2.LINE_AA, _SHIFT)
    _blend(patch, mask, eyeball)
    _stroke(patch, lower, origin, 0.6 * skin, 1)
    _stroke(patch, upper, origin, 0.25 * skin, 2)


def _paint_mouth(canvas: Bytes, identity: Identity, geometry: FaceGeometry) -> None:
    top, inner_top, inner_bottom, bottom = geometry.lips
    # A fixed window, however wide the mouth is: the blur at the end must not switch the skin's texture on and off.
    reach, height = 1.25 * identity.mouth_width + 6, identity.mouth_height
    patch, origin = _window(canvas, np.array([[-reach, height - 20], [reach, height + 26]]), 0)
    lips, skin = np.array(identity.lips), np.array(identity.skin)
    _stroke(patch, bottom[3:-3] + 3 * _DOWN, origin, 0.82 * skin, 3)  # the shadow below the lower lip
    cv2.fillPoly(
        patch, [_fixed(np.concatenate([top, inner_top[::-1]]), origin)], _rgb(0.86 * lips), cv2.LINE_AA, _SHIFT
    )
    lower = np.concatenate([inner_bottom, bottom[::-1]])
    cv2.fillPoly(patch, [_fixed(lower, origin)], _rgb(lips), cv2.LINE_AA, _SHIFT)
    inside = np.concatenate([inner_top, inner_bottom[::-1]])
    cv2.fillPoly(patch, [_fixed(inside, origin)], _rgb(_MOUTH_INSIDE), cv2.LINE_AA, _SHIFT)
    gap = (inner_bottom - inner_top)[:, 1]
    if gap.max() > 3:
        teeth = np.concatenate([inner_top, (inner_top + np.stack([0 * gap, np.minimum(0.4 * gap, 4)], axis=-1))[::-1]])
        cv2.fillPoly(patch, [_fixed(teeth[1:-1], origin)], _rgb(_TEETH), cv2.LINE_AA, _SHIFT)
        tongue = np.concatenate([inner_bottom, (inner_bottom - np.stack([0 * gap, 0.25 * gap], axis=-1))[::-1]])
        cv2.fillPoly(patch, [_fixed(tongue, origin)], _rgb(_TONGUE), cv2.LINE_AA, _SHIFT)
    _stroke(patch, inner_top, origin, 0.45 * lips, 1)
    patch[:] = cv2.GaussianBlur(patch, (3, 3), 0.7)


def _paint_folds(canvas: Bytes, identity: Identity, expression: Expression, geometry: FaceGeometry) -> None:
    """Paint what a smile or frown does to the skin: cheek folds, raised cheeks, lines between the brows."""
    skin = np.array(identity.skin)
    smile, frown = max(expression.smile, 0.0), max(expression.frown, 0.0)
    box = np.array([[-42.0, 0.0], [42.0, identity.mouth_height + 16]])
    patch, origin = _window(canvas, box, 0)
    for side, corner in ((-1, geometry.lips[0, 0]), (1, geometry.lips[0, -1])):
        wing = np.array([side * (identity.nose_width + 2), identity.nose_length])
        bulge = np.array([side * (5 + 3 * smile), 0])
        end = np.array([corner[0] + 5 * side, corner[1] + 2 - 2 * smile])
        fold = np.stack([wing, (wing + corner) / 2 + bulge, end])
        _stroke(patch, _curve(fold), origin, (1 - 0.08 - 0.2 * smile) * skin, 2)
        if smile > 0:
            _disc(patch, np.array([side * 28, 14 - 4 * smile]), 8, origin, (1 + 0.09 * smile) * skin * (1, 0.95, 0.95))
    patch[:] = cv2.GaussianBlur(patch, (9, 9), 2.2)
    if frown > 0:
        brows = np.array([[-6.0, -EYE_HEIGHT - 22], [6.0, -EYE_HEIGHT - 2]])
        patch, origin = _window(canvas, brows, 2)
        for side in (-1, 1):
            line = np.array([[side * 3.0, -EYE_HEIGHT - 16], [side * 2.2, -EYE_HEIGHT - 6]])
            _stroke(patch, line, origin, (1 - 0.22 * frown) * skin, 2)
        patch[:] = cv2.GaussianBlur(patch, (5, 5), 1.2)


def _paint_glasses(canvas: Bytes, identity: Identity) -> None:
    bend = 2.0 if identity.glasses == 1 else 5.0
    angle = np.linspace(0, 2 * np.pi, 33)
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    rim = np.sign(rim) * np.abs(rim) ** (2 / bend) * (0.78 * identity.eye_offset, 12.5)
    box = np.array([[-identity.half_width - 2, -EYE_HEIGHT - 16], [identity.half_width + 2, -EYE_HEIGHT + 18]])
    patch, origin = _window(canvas, box, 0)
    for side in (-1, 1):
        center = np.array([side * identity.eye_offset, -EYE_HEIGHT + 0.5])
        _stroke(patch, rim + center, origin, (36, 32, 34), 2)
        temple = np.array(
            [[side * 1.78 * identity.eye_offset, -EYE_HEIGHT - 1], [side * identity.half_width, -EYE_HEIGHT]]
        )
        _stroke(patch, temple, origin, (36, 32, 34), 2)
    bridge = np.array([[-0.22, 0.0], [0.0, -2.0], [0.22, 0.0]]) * (identity.eye_offset, 1) - (0, EYE_HEIGHT)
    _stroke(patch, bridge, origin, (36, 32, 34), 2)


def _window(canvas: Bytes, points: Points, margin: float) -> tuple[Bytes, Points]:
    """Return the part of the canvas around some points as a view, and the face units of its upper left pixel."""
    box = canvas_points(np.stack([points.min(axis=0) - margin, points.max(axis=0) + margin]))
    (left, top), (right, bottom) = np.maximum(box, 0).astype(int).tolist()
    return canvas[top : bottom + 2, left : right + 2], face_points((left, top))


def _fixed(points: Points, origin: Points) -> npt.NDArray[np.int32]:
    return np.rint((points - origin) * (CANVAS_SCALE * (1 << _SHIFT))).astype(np.int32)


def _stroke(patch: Bytes, points: Points, origin: Points, color: npt.ArrayLike, thickness: int) -> None:
    cv2.polylines(patch, [_fixed(points, origin)], False, _rgb(color), thickness, cv2.LINE_AA, _SHIFT)


def _disc(patch: Bytes, center: Points, radius: float, origin: Points, color: npt.ArrayLike) -> None:
    x, y = _fixed(center, origin).tolist()
    size = round(radius * CANVAS_SCALE * (1 << _SHIFT))
    cv2.circle(patch, (x, y), size, _rgb(color), -1, cv2.LINE_AA, _SHIFT)


def _curve(control: Points) -> Points:
    """Return seven points of the parabola (quadratic Bezier) with three control points."""
    return _BEZIER @ control


def _blend(patch: Bytes, mask: npt.NDArray[Any], color: npt.ArrayLike) -> None:
    share = mask[..., None] * np.float32(1 / 255)
    patch[:] = patch + share * (np.asarray(color, np.float32) - patch)


def _rgb(color: npt.ArrayLike) -> tuple[float, ...]:
    return tuple(min(max(round(value), 0), 255) for value in np.asarray(color).tolist())
