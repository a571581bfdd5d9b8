"""All 68 landmarks of a synthetic frame: the 49 that are rendered, the jaw line and the inner mouth corners."""

import numpy as np
import numpy.typing as npt

from hocp_mm.synthetic.clip import RenderedFrame, SyntheticClip
from hocp_mm.synthetic.geometry import face_geometry
from hocp_mm.synthetic.identity import Identity

Floats = npt.NDArray[np.float64]

_JAW, _INNER_CORNERS = slice(0, 17), [60, 64]
_RENDERED = [*range(17, 60), 61, 62, 63, 65, 66, 67]
_OUTLINE = 2 / 2.2  # the head's outline is a superellipse of exponent 2.2


def landmarks68(clip: SyntheticClip, index: int, frame: RenderedFrame) -> Floats:
    """Complete the landmarks of one frame.

    The 49 rendered points are exact. The others lie on the outline of the head and in the mouth's corners, carried to
    the picture by the affine map that fits the 49 best: a few pixels off where the head is turned.

    Args:
        clip: The clip.
        index: Number of the frame in it.
        frame: ``clip[index]``.

    Returns:
        Points in pixels (x, y), ``[68, 2]``, in the order of the 68-point scheme.
    """
    geometry = face_geometry(clip.identity, clip.expression(index))
    known = geometry.landmarks()
    matrix, *_ = np.linalg.lstsq(np.column_stack([known, np.ones(len(known))]), frame.landmarks, rcond=None)
    corners = geometry.lips[1, [1, 11]]  # a twelfth inside of the outer ones
    added = np.concatenate([_jaw_line(clip.identity), corners])
    placed = np.column_stack([added, np.ones(len(added))]) @ matrix
    points = np.empty((68, 2))
    points[_JAW], points[_INNER_CORNERS], points[_RENDERED] = placed[:17], placed[17:], frame.landmarks
    return points


def _jaw_line(identity: Identity) -> Floats:
    """Return 17 points from the left ear over the chin to the right ear, in face units."""
    angle = np.linspace(0, np.pi, 17)
    down = np.abs(np.sin(angle)) ** _OUTLINE
    width = identity.half_width * (1 - identity.jaw * down**2)
    return np.stack([-np.sign(np.cos(angle)) * width * np.abs(np.cos(angle)) ** _OUTLINE, identity.chin * down], axis=1)
