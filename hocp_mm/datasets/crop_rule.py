"""Which part of a frame a network sees: one rule, for reading raw folders and for preparing a store of crops."""

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces import crop_faces, face_track, square_boxes
from hocp_mm.datasets.image_frames import square_pixels, square_scale
from hocp_mm.errors import DataError


def squares_of(
    boxes: NDArray[np.floating] | None, pixel_aspect: float, margin: float | None, smooth: int
) -> NDArray[np.float32] | None:
    """Return the square to cut from every frame of a record.

    Args:
        boxes: Tight face boxes of the whole record in pixels of the file, ``[F, 4]``, NaN rows without a face; None
            for whole frames.
        pixel_aspect: Width of a pixel over its height.
        margin: Side of the square in units of the longer side of the smoothed box; None for whole frames.
        smooth: Window of the moving average of the boxes, in frames.

    Returns:
        Squares in pixels of the frame after `square_pixels`, float32 ``[F, 4]``; None for whole frames.
    """
    if boxes is None or margin is None:
        return None
    return face_track(boxes * (2 * square_scale(pixel_aspect)), margin, smooth)


def crop_frame(
    frame: NDArray[np.uint8], squares: NDArray[np.float32] | None, index: int, pixel_aspect: float, size: int
) -> NDArray[np.uint8]:
    """Cut one frame of a record.

    Args:
        frame: RGB as read from the file, ``[H, W, 3]``.
        squares: What `squares_of` returned; None takes the whole frame, its shorter side extended by its edge pixels
            to a square.
        index: Number of the frame in the record.
        pixel_aspect: Width of a pixel over its height.
        size: Side of the crop, pixels.

    Returns:
        RGB, uint8 ``[size, size, 3]``.
    """
    if squares is None:
        (height, width), (scale_x, scale_y) = frame.shape[:2], square_scale(pixel_aspect)
        square = square_boxes(np.array([[0, 0, width * scale_x, height * scale_y]], np.float32), 1.0)
    else:
        square = squares[index : index + 1]
    return crop_faces(square_pixels(frame, pixel_aspect)[None], square, size)[0]


def check_face(frame: NDArray[np.uint8], boxes: NDArray[np.floating] | None, index: int, where: str) -> None:
    """Refuse a face that lies beside its frame, of which a crop would show the smeared edge.

    Args:
        frame: As read from the file, ``[H, W, 3]``.
        boxes: Face boxes of the record, ``[F, 4]``, NaN rows without a face; None for whole frames.
        index: Number of the frame in the record.
        where: File, for the message.

    Raises:
        DataError: If box and frame have no pixel in common.
    """
    if boxes is None:
        return
    (height, width), box = frame.shape[:2], boxes[index]
    # Written so that NaN, a frame without a face, passes.
    if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
        raise DataError(f"{where}: the face must lie in the {width}x{height} frame, got the box {box.tolist()}.")
