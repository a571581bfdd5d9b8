"""The box of 49 inner landmarks from the five points that detection networks give: eyes, nose, corners of the mouth."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.cascades import Detections

# Eyes and mouth corners of a mean face, and its outline of brows and lower lip: across in distances of the eyes, down
# in distances from the eyes to the mouth's corners.
_KNOWN = np.array([(-0.5, 0), (0.5, 0), (-0.446, 1), (0.446, 1)])
_HALF = [(-0.926, -0.194), (-0.784, -0.314), (-0.584, -0.350), (-0.377, -0.322), (-0.287, 1.150), (-0.126, 1.216)]
_OUTLINE = np.array([*_HALF, *((-x, y) for x, y in _HALF), (0, 1.229)])


def _ones(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([points, np.ones(len(points))])


# Carries eyes and mouth corners to the outline: the affine map that fits them best, applied to it, [13, 4].
_TO_OUTLINE = _ones(_OUTLINE) @ np.linalg.pinv(_ones(_KNOWN))


def point_detections(points: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]) -> Detections:
    """Return the faces with these five points (see `points_to_landmark_box`) and scores ``[D]``.

    Five points on one spot are no face; an infinite one comes from a network that overflowed.
    """
    finite = np.isfinite(points).all(axis=(1, 2))
    boxes, scores = points_to_landmark_box(points[finite]), scores[finite]
    real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return Detections(boxes[real], np.clip(scores[real], 0, 1).astype(np.float32))


def points_to_landmark_box(points: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the box that 49 landmarks would have around a face with these five points.

    The network's own box runs from the forehead to the chin, and how much of either it takes differs from face to face;
    the points are landmarks. So brows and lower lip of dlib's mean face (the shape that its face chips are aligned
    to) are carried to the face by the affine map that fits eyes and mouth corners best, and the box is tight
    around them and the five points. A tilted head tilts them, a turned one narrows them, in profile the nose counts.

    From the true points of 120 frames of 12 synthetic faces the boxes had 1.03 of the width and 0.98 of the height of
    those around all 49 landmarks (medians); the longer side, which decides the crop, was 0.88 to 1.22 of theirs in
    single frames (open mouths, raised brows and faces unlike the mean), and no centre was more than 10 % of it away.

    Args:
        points: Right eye, left eye, nose tip, right and left corner of the mouth, of the person, (x, y) in pixels,
            ``[D, 5, 2]``.

    Returns:
        (x1, y1, x2, y2), float32 ``[D, 4]``.
    """
    outline = _TO_OUTLINE @ points[:, [0, 1, 3, 4]]
    around = np.concatenate([outline, points], axis=1)  # [D, 18, 2]
    return np.concatenate([around.min(axis=1), around.max(axis=1)], axis=1).astype(np.float32)
