"""Render one person in one scene: any expression, any small head turn, to an RGB frame and its true landmarks."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hocp_mm.synthetic.geometry import Expression, face_geometry
from hocp_mm.synthetic.head import CANVAS_ORIGIN, CANVAS_SCALE, CANVAS_SHAPE, SHADE_ONE, draw_head
from hocp_mm.synthetic.identity import Identity
from hocp_mm.synthetic.painting import paint_face
from hocp_mm.synthetic.scene import FRAME_SHAPE, NOISE_MARGIN, NOISE_ZERO, Scene

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_DEPTH = 26.0  # face units by which a turn of sine 1 would move the point nearest to the camera
_HALF_HEAD = (60.0, 85.0)  # where the head's depth falls to 0, in face units
_NOSE = (0.3, 8.0, 18.0)  # depth the nose adds, the place of its tip below the origin, its radius


@dataclass(frozen=True)
class HeadPose:
    """Head pose of one frame, relative to the scene's resting pose.

    Attributes:
        shift: Offset in pixels (x right, y down).
        roll: Rotation in the picture plane in radians, clockwise on screen.
        scale: Factor on the resting size.
        turn: Sines of yaw (to the viewer's right) and pitch (down); small, at most about 0.5.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    roll: float = 0.0
    scale: float = 1.0
    turn: tuple[float, float] = (0.0, 0.0)


class SyntheticFace:
    """A person in a scene, ready to be rendered.

    Args:
        identity: The person.
        scene: The surroundings.
        rng: Source of the texture of skin and hair.
    """

    def __init__(self, identity: Identity, scene: Scene, rng: np.random.Generator) -> None:
        self.identity = identity
        self.scene = scene
        self._layer = draw_head(identity, scene.light, rng)

    def render(
        self,
        expression: Expression,
        pose: HeadPose | None = None,
        exposure: float = 1.0,
        noise_offset: tuple[int, int] = (0, 0),
    ) -> tuple[Bytes, Floats]:
        """Render one frame.

        Args:
            expression: What the face does.
            pose: Where the head is; ``None`` = at rest.
            exposure: Factor on the brightness of the whole frame.
            noise_offset: Row and column, each in [0, 32], of the cut-out of the camera's noise.

        Returns:
            The RGB frame ``[240, 320, 3]`` and its 49 true landmarks ``[49, 2]`` in pixels (x, y).

        Raises:
            ValueError: If ``noise_offset`` lies outside [0, 32].
        """
        if not all(0 <= offset <= NOISE_MARGIN for offset in noise_offset):
            raise ValueError(f"SyntheticFace.render: noise_offset must lie in [0, {NOISE_MARGIN}], got {noise_offset}.")
        pose = pose or HeadPose()
        geometry = face_geometry(self.identity, expression)
        head = self._layer.albedo.copy()
        paint_face(head, self.identity, expression, geometry)
        cv2.multiply(head, self._layer.shade, dst=head, scale=1 / SHADE_ONE)

        frame = self.scene.background.copy()
        self._composite(frame, cv2.merge([head, self._layer.alpha]), pose)
        row, column = noise_offset
        height, width = FRAME_SHAPE
        noise = self.scene.noise[row : row + height, column : column + width]
        # One saturating pass; OpenCV rounds and clips to a byte itself.
        cv2.addWeighted(frame, exposure, noise, 1.0, -NOISE_ZERO, dst=frame)
        return frame, self._project(geometry.landmarks(), pose)

    def _matrix(self, pose: HeadPose) -> Floats:
        """Return ``[2, 3]``: face units to frame pixels."""
        scale = self.scene.scale * pose.scale
        cosine, sine = scale * np.cos(pose.roll), scale * np.sin(pose.roll)
        place = np.add(self.scene.center, pose.shift)
        return np.array([[cosine, -sine, place[0]], [sine, cosine, place[1]]])

    def _project(self, points: Floats, pose: HeadPose) -> Floats:
        """Map points on the face to frame pixels; the exact inverse of what ``_composite`` samples."""
        moved = points
        for _ in range(
            6
        ):  # solves moved - turn * depth(moved) = points; contracts by a factor below 0.3 for usual turns
            depth = _depth(moved[:, 0], moved[:, 1])
            moved = points + _DEPTH * depth[:, None] * np.array(pose.turn)
        matrix = self._matrix(pose)
        return moved @ matrix[:, :2].T + matrix[:, 2]

    def _composite(self, frame: Bytes, head: npt.NDArray[Any], pose: HeadPose) -> None:
        """Lay the lit head over the frame in place: an affine map plus a sideways shift that grows with depth."""
        matrix = self._matrix(pose)
        left, top, right, bottom = _covered_box(matrix)
        inverse = cv2.invertAffineTransform(matrix).astype(np.float32)
        columns = np.arange(left, right, dtype=np.float32)
        rows = np.arange(top, bottom, dtype=np.float32)[:, None]
        x = inverse[0, 0] * columns + (inverse[0, 1] * rows + inverse[0, 2])
        y = inverse[1, 0] * columns + (inverse[1, 1] * rows + inverse[1, 2])
        depth = _depth(x, y)
        yaw, pitch = (np.float32(CANVAS_SCALE * _DEPTH * sine) for sine in pose.turn)
        across = CANVAS_SCALE * x + np.float32(CANVAS_SCALE * CANVAS_ORIGIN[0] - 0.5) - yaw * depth
        down = CANVAS_SCALE * y + np.float32(CANVAS_SCALE * CANVAS_ORIGIN[1] - 0.5) - pitch * depth
        layer = cv2.remap(head, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        share = layer[..., 3] * np.float32(1 / 255)
        region = frame[top:bottom, left:right]
        region[:] = cv2.blendLinear(cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB), region, share, 1 - share)


def _depth(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return how far each place of the head lies towards the camera, 1 = the middle of a face without its nose."""
    lift, tip, radius = _NOSE
    # As products: a power of an array costs several times as much, and this runs over the whole head.
    xx = x * x
    skull = np.maximum(1 - xx * (1 / _HALF_HEAD[0] ** 2) - y * y * (1 / _HALF_HEAD[1] ** 2), 0)
    below = y - tip
    nose = np.maximum(1 - (xx + below * below) * (1 / radius**2), 0)
    return skull + lift * (nose * nose)


def _covered_box(matrix: Floats) -> tuple[int, int, int, int]:
    """Return the part of the frame that the canvas can cover: left, top, right, bottom in whole pixels."""
    height, width = np.divide(CANVAS_SHAPE, CANVAS_SCALE)
    corners = np.array([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]]) - CANVAS_ORIGIN
    places = corners @ matrix[:, :2].T + matrix[:, 2]
    low = np.maximum(np.floor(places.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(places.max(axis=0)) + 1, FRAME_SHAPE[::-1]).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
