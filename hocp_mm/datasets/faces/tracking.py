"""From the faces of single frames to the box of one person in every frame."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BRIDGE_SECONDS = 1.0  # longer gaps between detections hold the last box instead of gliding across
_JUMP_COST = 1.5  # of a link between two detections that do not overlap; a detection gains at most 1
_SAME_PLACE = 0.1  # overlap from which two detections may be one face that moved
_LOOK_BACK = 64  # detections that a link may reach back over; keeps an hour of video linear


class FaceTrack(NamedTuple):
    """Boxes of one face through a video.

    Attributes:
        boxes: (x1, y1, x2, y2) in pixels around the inner landmarks, float32 ``[F, 4]``, every row finite; or
            None where the whole frame already is the face crop.
        face_found: True where the face was seen, false where its box is only held or interpolated, bool ``[F]``.
    """

    boxes: NDArray[np.float32] | None
    face_found: NDArray[np.bool_]


def link_detections(
    keys: NDArray[np.int64],
    squares: NDArray[np.float32],
    scores: NDArray[np.floating] | Sequence[float] | None = None,
    jump: float = 1.0,
) -> NDArray[np.int64]:
    """Choose the detections of the main face: at most one per frame, the best path through the video.

    A detection gains its side over the largest side, times its score; a link to the next costs 1.5 (1 - IoU). A chance
    detection somewhere else costs two links and is left out; a cut to another place costs one and is followed.

    Args:
        keys: Frame number of each detection, increasing, ``[D]``.
        squares: (x1, y1, x2, y2), ``[D, 4]``.
        scores: Trust in each detection, ``[D]``; 1 by default.
        jump: Factor on the cost of a link between detections that hardly overlap (IoU up to 0.1). Where every frame is
            looked at, detections gain more in a second; the factor keeps a jump as dear in seconds.

    Returns:
        Indices of the chosen detections in order of time.
    """
    sides = squares[:, 2] - squares[:, 0]
    gains = sides / sides.max() * (1 if scores is None else np.asarray(scores))
    totals, previous = gains.astype(np.float64), np.full(len(keys), -1)
    for i in range(1, len(keys)):
        near = np.arange(max(0, i - _LOOK_BACK), i)
        near = near[keys[near] < keys[i]]
        if len(near):
            common = _overlap(squares[i], squares[near])
            linked = totals[near] - _JUMP_COST * (1 - common) * np.where(common > _SAME_PLACE, 1.0, jump)
            best = int(linked.argmax())
            if linked[best] > 0:
                totals[i], previous[i] = gains[i] + linked[best], near[best]
    path = [int(totals.argmax())]
    while previous[path[-1]] >= 0:
        path.append(int(previous[path[-1]]))
    return np.array(path[::-1], dtype=np.int64)


def spread_boxes(
    frames: NDArray[np.int64], boxes: NDArray[np.float32], num_frames: int, every: int, bridge: int
) -> FaceTrack:
    """Spread the boxes of a few frames over all: interpolate short gaps, hold the last box through long ones.

    Args:
        frames: Frames in which the face was seen, increasing, ``[K]``, K > 0.
        boxes: Its box there, ``[K, 4]``.
        num_frames: Frames of the video.
        every: Distance of the frames that were looked at; a face seen in one counts as seen up to the next.
        bridge: Longest gap to interpolate across, in frames; never less than ``every``.

    Returns:
        One box and one flag per frame.
    """
    full = np.empty((num_frames, 4), dtype=np.float32)
    found = np.zeros(num_frames, dtype=np.bool_)
    full[: frames[0] + 1] = boxes[0]
    for k in range(1, len(frames)):
        start, stop = int(frames[k - 1]), int(frames[k])
        share = np.arange(1, stop - start + 1, dtype=np.float32)[:, None] / (stop - start)
        if stop - start > max(bridge, every):
            share = (share == 1).astype(np.float32)
        full[start + 1 : stop + 1] = boxes[k - 1] + share * (boxes[k] - boxes[k - 1])
    full[frames[-1] + 1 :] = boxes[-1]
    for frame in frames:
        found[frame : frame + every] = True  # up to the next look
    return FaceTrack(full, found)


def _overlap(square: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of one box with each of several."""
    low, high = np.maximum(square[:2], others[:, :2]), np.minimum(square[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    area = (square[2:] - square[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - common
    return common / area
