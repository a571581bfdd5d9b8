"""Where the face is in every frame of a video: the cascade of scikit-image, a given box, landmarks, or the frame.

All sources end in one kind of rectangle, the box tight around the 49 inner landmarks (brows, eyes, nose,
mouth) that training crops from; smoothing, squaring and the margin are applied later and by the same
functions as in training (`hocp_mm.datasets.faces`).

The cascade works offline on any platform, finds upright frontal faces, and gives no landmarks.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets import fill_boxes, iter_frames, landmark_boxes, probe_video, read_landmarks_zip
from hocp_mm.errors import DataError

Faces = str | Path | Sequence[float]
Progress = Callable[[str, int, int], None]

# The cascade frames the face from the hairline to the chin; the landmark box is narrower and much lower.
# Fractions of the side of the cascade's square; `track_faces` says where they were measured.
_WIDTH, _HEIGHT, _DOWN = 0.67, 0.64, 0.035
_DETECTION_SIDE = 240  # pixels of the shorter side that the cascade looks at
_SMALLEST_FACE = 1 / 6  # of the shorter side
_BRIDGE_SECONDS = 1.0  # longer gaps between detections hold the last box instead of gliding across
_JUMP_COST = 1.5  # of a link between two detections that do not overlap; a detection gains at most 1


class FaceTrack(NamedTuple):
    """Boxes of one face through a video.

    Attributes:
        boxes: (x1, y1, x2, y2) in pixels around the inner landmarks, float32 ``[F, 4]``, every row finite; or
            None where the whole frame already is the face crop.
        face_found: True where the face was seen, false where its box is only held, bool ``[F]``.
    """

    boxes: NDArray[np.float32] | None
    face_found: NDArray[np.bool_]


def track_faces(
    video: str | Path, faces: Faces = "cascade", every: int = 5, progress: Progress | None = None
) -> FaceTrack:
    """Return the box of the main face in every frame of a video.

    ``"cascade"`` looks at every few frames (scikit-image's LBP frontal face cascade on a small grey picture),
    links the detections into the best path through the video (large, overlapping from one to the next, so
    that a chance detection or a second person does not make it jump), interpolates between them and holds
    the box where the face is away.

    The cascade's square is converted to a landmark box 0.67 x 0.64 of its side, its centre moved down by 0.035 of
    the side. Measured (width, height, right, down; medians): 0.72, 0.61, 0.00, 0.03 on 59 shifted, scaled, turned and
    mirrored views of the portrait in scikit-image, landmarks marked by hand; 0.62, 0.66, -0.01, 0.04 on 120 frames of
    12 synthetic faces, whose landmarks are known. After smoothing, the crops of 13 synthetic videos had sides of
    0.91 to 1.12 (mean 1.01) times those from landmarks, steady within a video to 2 %, with centres on average within
    1 % and never more than 6 % of the side away. Where a network must see exactly its training crop, give landmarks.

    Args:
        video: Video file.
        faces: ``"cascade"``; ``"frame"`` where the video is cropped to the face already; a fixed box
            (x, y, width, height) in pixels, tight around brows, eyes and mouth; or a landmark zip as in SEWA.
        every: The cascade looks at every ``every``-th frame.
        progress: Called as ``progress("looking for faces", done, total)`` in frames.

    Returns:
        One box and one flag per frame.

    Raises:
        MissingDataError: If there is no such video or landmark file.
        DataError: If the video cannot be read, no face is found, or a given box lies outside the picture.
        ValueError: If ``faces`` or ``every`` is none of the above.
    """
    if every < 1:
        raise ValueError(f"track_faces: every must be at least 1, got {every}.")
    info = probe_video(video)
    if not isinstance(faces, str | Path):
        box = _fixed_box(faces, info.width, info.height, video)
        return FaceTrack(np.tile(box, (info.num_frames, 1)), np.ones(info.num_frames, dtype=np.bool_))
    if faces == "frame":
        return FaceTrack(None, np.ones(info.num_frames, dtype=np.bool_))
    if faces == "cascade":
        return _track_with_cascade(video, info.num_frames, info.fps, every, progress)
    if Path(faces).suffix.lower() == ".zip":
        return _track_from_landmarks(video, Path(faces), info.num_frames)
    raise ValueError(f"track_faces: faces must be 'cascade', 'frame', a box or a landmark .zip, got {faces!r}.")


def square_to_landmark_box(square: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Convert the cascade's squares to landmark boxes, (x1, y1, x2, y2) ``[..., 4]`` (see `track_faces`)."""
    side = square[..., 2] - square[..., 0]
    x = (square[..., 0] + square[..., 2]) / 2
    y = (square[..., 1] + square[..., 3]) / 2 + _DOWN * side
    half_width, half_height = _WIDTH * side / 2, _HEIGHT * side / 2
    corners = (x - half_width, y - half_height, x + half_width, y + half_height)
    return np.stack(corners, axis=-1).astype(np.float32)


def _track_from_landmarks(video: str | Path, path: Path, num_frames: int) -> FaceTrack:
    boxes = landmark_boxes(read_landmarks_zip(path, num_frames))
    if np.isnan(boxes).any(axis=1).all():
        raise DataError(f"track_faces: {path} holds no face in any of the {num_frames} frames of {video}.")
    return FaceTrack(*fill_boxes(boxes))


def link_detections(keys: NDArray[np.int64], squares: NDArray[np.float32]) -> NDArray[np.int64]:
    """Choose the detections of the main face: at most one per frame, the best path through the video.

    A detection gains its side over the largest side; a link to the next costs 1.5 (1 - IoU). A chance
    detection somewhere else costs two links and is left out; a cut to another place costs one and is followed.

    Args:
        keys: Frame number of each detection, increasing, ``[D]``.
        squares: (x1, y1, x2, y2), ``[D, 4]``.

    Returns:
        Indices of the chosen detections in order of time.
    """
    sides = squares[:, 2] - squares[:, 0]
    gains = sides / sides.max()
    scores, previous = gains.astype(np.float64), np.full(len(keys), -1)
    for i in range(1, len(keys)):
        near = np.arange(max(0, i - 64), i)  # bounded look-back keeps an hour of video linear
        near = near[keys[near] < keys[i]]
        if len(near):
            linked = scores[near] - _JUMP_COST * (1 - _overlap(squares[i], squares[near]))
            best = int(linked.argmax())
            if linked[best] > 0:
                scores[i], previous[i] = gains[i] + linked[best], near[best]
    path = [int(scores.argmax())]
    while previous[path[-1]] >= 0:
        path.append(int(previous[path[-1]]))
    return np.array(path[::-1], dtype=np.int64)


def _overlap(square: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of one box with each of several."""
    low, high = np.maximum(square[:2], others[:, :2]), np.minimum(square[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    area = (square[2:] - square[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - common
    return common / area


def _track_with_cascade(
    video: str | Path, num_frames: int, fps: float, every: int, progress: Progress | None
) -> FaceTrack:
    keys: list[int] = []
    squares: list[NDArray[np.float32]] = []
    looked = 0
    for index, frame in enumerate(iter_frames(video)):
        if index % every == 0 or index == num_frames - 1:
            found = detect_faces(frame)
            keys += [index] * len(found)
            squares += list(found)
            looked += 1
        if progress:
            progress("looking for faces", index + 1, num_frames)
    if not squares:
        raise DataError(
            f"track_faces: no face found in {video} (the cascade looked at {looked} of {num_frames} frames; it sees "
            "upright frontal faces of at least a sixth of the picture). Give the face with --box x,y,w,h."
        )
    chosen = link_detections(np.array(keys), np.stack(squares))
    frames, boxes = np.array(keys)[chosen], square_to_landmark_box(np.stack(squares)[chosen])
    return _fill(frames, boxes, num_frames, every, round(_BRIDGE_SECONDS * fps))


def detect_faces(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the cascade's squares in one RGB frame, (x1, y1, x2, y2) in its pixels, float32 ``[D, 4]``."""
    shorter = min(frame.shape[:2])
    scale = min(1.0, _DETECTION_SIDE / shorter)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    limit = min(grey.shape[:2])
    smallest = max(24, round(_SMALLEST_FACE * limit))
    if smallest >= limit:
        return np.zeros((0, 4), dtype=np.float32)
    found = _cascade().detect_multi_scale(
        img=grey, scale_factor=1.1, step_ratio=1.5, min_size=(smallest, smallest), max_size=(limit, limit)
    )
    squares = [(f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in found]
    return (np.array(squares).reshape(-1, 4) / scale).astype(np.float32)


@lru_cache(maxsize=1)
def _cascade() -> Any:
    # Imported here: scikit-image takes a second to load, and only this source of boxes needs it.
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())


def _fill(frames: NDArray[np.int64], boxes: NDArray[np.float32], num_frames: int, every: int, bridge: int) -> FaceTrack:
    """Spread the boxes of a few frames over all: interpolate short gaps, hold the last box through long ones."""
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


def _fixed_box(values: Sequence[float], width: int, height: int, video: str | Path) -> NDArray[np.float32]:
    if len(values) != 4:
        raise ValueError(f"track_faces: a box must be (x, y, width, height), got {len(values)} numbers.")
    x, y, w, h = (float(value) for value in values)
    if not (w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
        raise DataError(
            f"track_faces: the box must have a size and lie in the picture, got x={x:g} y={y:g} w={w:g} h={h:g} "
            f"({video} is {width}x{height})."
        )
    return np.array([x, y, x + w, y + h], dtype=np.float32)
