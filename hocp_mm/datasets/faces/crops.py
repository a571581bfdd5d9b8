"""From face boxes to crops: one rule, for raw folders, the preparation of stores, checks and inference."""

import math
import zlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import crop_faces, face_track, smoothing_window, square_boxes
from hocp_mm.datasets.media.frames import Frames
from hocp_mm.datasets.media.pack import CODECS, Codec
from hocp_mm.errors import DataError

_LARGEST_SIZE = 8192
_TOLERANCE = 1e-3  # that of crop_faces: a thousandth of the side is no other scale


def square_pixels(frame: NDArray[np.uint8], pixel_aspect: float) -> NDArray[np.uint8]:
    """Stretch a frame so that its pixels become square; never shrinks.

    Exact for positions: what lies at (x, y), pixel *i* covering [i, i + 1), comes to lie at
    ``(x, y) * square_scale(pixel_aspect)``. A width that is not whole then is rounded up, the edge repeating.

    Args:
        frame: ``[H, W, 3]``.
        pixel_aspect: Width of a pixel over its height; 4/3 for 720x576 frames of a wide DVD.

    Returns:
        The frame itself for 1, else a wider one (above 1) or a higher one (below 1).
    """
    scale_x, scale_y = square_scale(pixel_aspect)
    if (scale_x, scale_y) == (1.0, 1.0):
        return frame
    height, width = frame.shape[:2]
    size = (int(np.ceil(width * scale_x - 1e-6)), int(np.ceil(height * scale_y - 1e-6)))
    # Pixel centres: output u + 0.5 looks at (u + 0.5) / scale.
    to_source = np.array([[1 / scale_x, 0, (1 / scale_x - 1) / 2], [0, 1 / scale_y, (1 / scale_y - 1) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(frame, to_source, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def square_scale(pixel_aspect: float) -> tuple[float, float]:
    """Return the factors on x and y that make pixels square; one of them is 1.

    Raises:
        ValueError: If the aspect is not positive and finite.

    Example:
        >>> square_scale(2.0), square_scale(0.5)
        ((2.0, 1.0), (1.0, 2.0))
    """
    if not (np.isfinite(pixel_aspect) and pixel_aspect > 0):
        raise ValueError(f"square_scale: pixel_aspect must be positive, got {pixel_aspect!r}.")
    return max(float(pixel_aspect), 1.0), max(1 / float(pixel_aspect), 1.0)


def squares_of(
    boxes: NDArray[np.floating] | None, pixel_aspect: float, margin: float | None, smooth: int, fps: float
) -> NDArray[np.float32] | None:
    """Return the square to cut from every frame of a record.

    Args:
        boxes: Tight face boxes of the whole record in pixels of the file, ``[F, 4]``, NaN rows without a face; None
            for whole frames.
        pixel_aspect: Width of a pixel over its height.
        margin: Side of the square in units of the longer side of the smoothed box; None for whole frames.
        smooth: Window of the moving average of the boxes, in 25ths of a second.
        fps: Frames per second of the record (see `smoothing_window`).

    Returns:
        Squares in pixels of the frame after `square_pixels`, float32 ``[F, 4]``; None for whole frames.
    """
    if boxes is None or margin is None:
        return None
    return face_track(boxes * (2 * square_scale(pixel_aspect)), margin, smoothing_window(smooth, fps))


def whole_square(frame: NDArray[np.uint8], pixel_aspect: float) -> NDArray[np.float32]:
    """Return the square around a whole frame ``[H, W, 3]``, in pixels after `square_pixels`, float32 ``[1, 4]``."""
    (height, width), (scale_x, scale_y) = frame.shape[:2], square_scale(pixel_aspect)
    return square_boxes(np.array([[0, 0, width * scale_x, height * scale_y]], np.float32), 1.0)


def crop_frame(
    frame: NDArray[np.uint8], squares: NDArray[np.floating] | None, index: int, pixel_aspect: float, size: int
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
    square = whole_square(frame, pixel_aspect) if squares is None else squares[index : index + 1]
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


@dataclass(frozen=True)
class CropSettings:
    """What decides the pixels of a store.

    Attributes:
        size: Side of the pictures, pixels.
        margin: Side of the square in units of the longer side of the smoothed face box; None = whole frames.
        smooth: Window of the moving average of the boxes, in 25ths of a second.
        codec: ``"jpeg"`` or ``"png"`` (without loss, about four times the bytes and the time to decode).
        quality: Of JPEG, 1 to 100.
        faces: Where the boxes come from: the data set's own word (``"landmarks"``, ``"box"``, ``"frame"`` …) or the
            name of a detector.
        pixel_aspect: Width of a pixel of all sources over its height; 1 where each says its own. The pictures have
            square pixels.
    """

    size: int = 176
    margin: float | None = 1.5
    smooth: int = 25
    codec: Codec = "jpeg"
    quality: int = 95
    faces: str = "landmarks"
    pixel_aspect: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that no store can have.

        Raises:
            ValueError: If a value is out of its range.
        """
        rules = (
            (_whole(self.size, 1, _LARGEST_SIZE), f"size must be a whole number from 1 to {_LARGEST_SIZE}", self.size),
            (self.margin is None or _positive(self.margin), "margin must be positive, or None", self.margin),
            (_whole(self.smooth, 1), "smooth must be a whole number of 1 or more", self.smooth),
            (self.codec in CODECS, f"codec must be one of {', '.join(CODECS)}", self.codec),
            (_whole(self.quality, 1, 100), "quality must be a whole number from 1 to 100", self.quality),
            (isinstance(self.faces, str) and self.faces != "", "faces must be a name", self.faces),
            (_positive(self.pixel_aspect), "pixel_aspect must be positive", self.pixel_aspect),
        )
        for kept, rule, value in rules:
            if not kept:
                raise ValueError(f"CropSettings: {rule}, got {value!r}.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as an object for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any, where: str) -> "CropSettings":
        """Return the settings that `to_json` wrote.

        Args:
            values: The object.
            where: File that it comes from, for the message.

        Returns:
            The settings.

        Raises:
            DataError: If a setting is missing, unknown or out of its range.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            got = sorted(values) if isinstance(values, Mapping) else repr(values)
            raise DataError(f"{where}: crop settings must be {', '.join(sorted(names))}, got {got}.")
        try:
            return cls(**values)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error


def _whole(value: object, low: int, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


class Crops:
    """The crops of one clip, by the one rule for all frames, or out of those that a store holds.

    A store gives the pictures themselves, or a smaller cut of them around the same centre; never a blurred one.

    Args:
        frames: The frames.
        boxes: Tight face boxes of all of them in pixels of the files, float32 ``[F, 4]``, NaN rows without a face; None
            for whole frames.
        size: Side of the crops, pixels.
        margin: Side of the square in units of the longer side of the smoothed face box.
        smooth: Window of the moving average of the boxes, in 25ths of a second.
        fps: Frames per second of the video; 0 for pictures that are no video.
        pixel_aspect: Width of a pixel over its height.
        stored: How the frames, which are pictures of a store, were cut from their files; None for the files themselves.

    Raises:
        DataError: If the pictures of a store do not show enough, or are too small.
    """

    def __init__(
        self,
        frames: Frames,
        boxes: NDArray[np.float32] | None,
        size: int,
        margin: float,
        smooth: int,
        fps: float,
        pixel_aspect: float = 1.0,
        stored: CropSettings | None = None,
    ) -> None:
        self.frames = frames
        self.size = size
        self._stored, self._aspect = stored, pixel_aspect
        if stored is None:
            self._boxes = boxes
            self._squares: NDArray[np.floating] | None = squares_of(boxes, pixel_aspect, margin, smooth, fps)
        else:
            faces = boxes is not None
            self._squares = stored_square(stored, faces, len(frames), size, margin, smooth, fps, frames.filename)

    @property
    def key(self) -> Hashable:
        """Identity of the pixels, size, margin and smooth aside."""
        # Two data sets may give one file different boxes or frames.
        squares = None if self._squares is None else zlib.crc32(self._squares.tobytes())
        return self.frames.key, self._aspect, squares

    def read(self, frames: NDArray[np.integer]) -> Iterator[NDArray[np.uint8]]:
        """Yield the crops of some frames.

        Args:
            frames: Frame numbers with a picture, in increasing order.

        Yields:
            RGB, uint8 ``[size, size, 3]``.
        """
        for index, picture in zip(frames.tolist(), self.frames.read(frames), strict=True):
            yield self._cut(index, picture)

    def read_all(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the number and the crop of every frame with a picture; one full-size frame is held at a time."""
        for index, picture in enumerate(self.frames.every()):
            if picture is not None:
                yield index, self._cut(index, picture)

    def _cut(self, index: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._stored is None:
            check_face(picture, self._boxes, index, self.frames.file_of(index))
            return crop_frame(picture, self._squares, index, self._aspect, self.size)
        return picture if self._squares is None else crop_faces(picture[None], self._squares, self.size)[0]


def stored_square(
    crop: CropSettings, faces: bool, num_frames: int, size: int, margin: float, smooth: int, fps: float, where: str
) -> NDArray[np.float64] | None:
    """Return the square to cut from every picture of a record in a store.

    Args:
        crop: How the pictures were cut.
        faces: The record has face boxes; without them its pictures are whole frames, and ``margin`` and ``smooth``
            say nothing.
        num_frames: Frames of the record; nothing was averaged over one.
        size: Side wanted, pixels.
        margin: Margin wanted.
        smooth: Average wanted, in 25ths of a second.
        fps: Frames per second of the record.
        where: File, for the message.

    Returns:
        Square in pixels of the picture, float64 ``[1, 4]``; None to take the picture as it is.

    Raises:
        DataError: If the store cannot give it without blur; says how to prepare it again.
    """
    faces = faces and crop.margin is not None
    if faces and num_frames > 1 and smoothing_window(smooth, fps) // 2 != smoothing_window(crop.smooth, fps) // 2:
        raise DataError(
            f"{where}: the boxes were averaged with smooth={crop.smooth}, LoadFaceClip wants smooth={smooth}; prepare "
            f"the store again with --smooth {smooth}, or set smooth={crop.smooth}."
        )
    ratio = margin / crop.margin if faces and crop.margin is not None else 1.0
    side = crop.size * ratio
    if ratio > 1 + _TOLERANCE or size > side * (1 + _TOLERANCE):
        raise DataError(f"{where}: {_too_small(crop, faces, size, margin)}")
    if size == crop.size and abs(ratio - 1) <= _TOLERANCE:
        return None
    first = (crop.size - side) / 2
    return np.array([[first, first, first + side, first + side]])


def _too_small(crop: CropSettings, faces: bool, size: int, margin: float) -> str:
    if not faces or crop.margin is None:
        return (
            f"the store holds whole frames of {crop.size} pixels, LoadFaceClip wants size={size}; prepare it again "
            f"with --size {size}, or set size={crop.size} or less."
        )
    widest = max(margin, crop.margin)
    needed = math.ceil(size * widest / margin - _TOLERANCE)
    return (
        f"the store holds crops of {crop.size} pixels with margin {crop.margin:g}, LoadFaceClip wants size={size}, "
        f"margin={margin:g}; prepare it again with --size {needed} --margin {widest:g}, or set margin and size to what "
        "it holds or less."
    )
