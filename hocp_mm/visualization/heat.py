"""Heat on pictures: what raises a number in red, what lowers it in blue, as strong as the heat is."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

RAISES, LOWERS = (214, 47, 39), (33, 102, 172)
"""RGB."""
_STRONGEST = 0.7  # opacity of a heat of 1
_LABEL = 0.045  # height of a letter in heights of a picture


def draw_heat(
    picture: NDArray[np.uint8], heat: NDArray[np.floating[Any]], square: Sequence[float] | NDArray[np.floating[Any]]
) -> None:
    """Lay a map over a part of a picture, in place.

    Args:
        picture: RGB uint8 ``[H, W, 3]``.
        heat: Map ``[h, w]``; 1 and above is as red, -1 and below as blue as it gets. Between cells it is interpolated.
        square: Where the map lies, (x1, y1, x2, y2) in pixels; what is outside the picture is not drawn.
    """
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in square)
    left, top, right, bottom = max(int(x1), 0), max(int(y1), 0), min(int(np.ceil(x2)), width), min(
        int(np.ceil(y2)), height
    )  # fmt: skip
    if left >= right or top >= bottom:
        return
    rows, columns = heat.shape
    by_x, by_y = columns / (x2 - x1), rows / (y2 - y1)
    # Pixel centres: the one at u + 0.5 of the picture looks at (u + 0.5 - x1) * by_x of the map.
    to_map = np.array([
        [by_x, 0, (left + 0.5 - x1) * by_x - 0.5],
        [0, by_y, (top + 0.5 - y1) * by_y - 0.5],
    ])  # fmt: skip
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (right - left, bottom - top)
    whole = cv2.warpAffine(
        np.clip(heat, -1, 1).astype(np.float32), to_map, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    part = picture[top:bottom, left:right]
    colour = np.where(whole[..., None] > 0, np.array(RAISES, np.float32), np.array(LOWERS, np.float32))
    share = _STRONGEST * np.abs(whole)[..., None]
    part[:] = np.rint(part + share * (colour - part)).astype(np.uint8)


def write_label(picture: NDArray[np.uint8], text: str) -> None:
    """Write a line at the top left of a picture, in place; ASCII alone."""
    scale = max(picture.shape[0] * _LABEL / 22, 0.35)  # OpenCV's letters are 22 pixels high at 1
    at = (round(12 * scale), round(34 * scale))
    thick = max(round(2 * scale), 1)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    pad = round(6 * scale)
    corners = (at[0] - pad, at[1] - height - pad), (at[0] + width + pad, at[1] + below)
    cv2.rectangle(picture, *corners, (18, 20, 24), -1)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (238, 238, 238), thick, cv2.LINE_AA)
