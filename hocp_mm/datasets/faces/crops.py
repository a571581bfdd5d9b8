"""From face boxes to crops: one rule, for raw folders, the preparation of stores, checks and inference."""

import math
import zlib
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import crop_faces, face_track, square_boxes
from hocp_mm.datasets.media.images import held_frames, iter_images, square_pixels, square_scale
from hocp_mm.datasets.media.pack import CODECS, Codec, PackTable, iter_pack
from hocp_mm.datasets.media.video import Decoder, iter_frames, read_frames
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


_LARGEST_SIZE = 8192


@dataclass(frozen=True)
class CropSettings:
    """What decides the pixels of a store.

    Attributes:
        size: Side of the pictures, pixels.
        margin: Side of the square in units of the longer side of the smoothed face box; None = whole frames.
        smooth: Window of the moving average of the boxes, in frames.
        codec: ``"jpeg"`` or ``"png"`` (without loss, about four times the bytes and the time to decode).
        quality: Of JPEG, 1 to 100.
        faces: Where the boxes come from: the data set's own word (``"landmarks"``, ``"box"``, ``"frame"`` …) or the
            name of a detector.
        pixel_aspect: Width of a pixel of the source over its height; the pictures have square pixels.
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


class FrameCrops:
    """The crops of one record of a raw data set (see `AffectDataset`).

    Args:
        record: The record.
        size: Side of the crops, pixels.
        margin: Side of the square in units of the longer side of the smoothed face box.
        smooth: Window of the moving average of the boxes, in frames.
        decoder: See `read_frames`.

    Raises:
        ValueError: If there is not one name in ``frame_files`` per frame.
    """

    def __init__(self, record: Mapping[str, Any], size: int, margin: float, smooth: int, decoder: Decoder) -> None:
        self.filename: str = record["filename"]
        self.size = size
        self._count: int = record["num_frames"]
        self._files: list[str] | None = record.get("frame_files")
        self._aspect: float = record.get("pixel_aspect", 1.0)
        self._decoder: Decoder = decoder
        if self._files is not None and len(self._files) != self._count:
            raise ValueError(
                f"LoadFaceClip: frame_files must name one file per frame, got {len(self._files)} for {self._count} "
                f"({self.filename})."
            )
        self._boxes: NDArray[np.float32] | None = record["boxes"]
        self._squares = squares_of(self._boxes, self._aspect, margin, smooth)

    @property
    def key(self) -> Hashable:
        """Identity of the pixels, size, margin and smooth aside."""
        # Two data sets may give one file different boxes or frames.
        squares = None if self._squares is None else zlib.crc32(self._squares.tobytes())
        names = None if self._files is None else zlib.crc32("\0".join(self._files).encode(errors="surrogateescape"))
        return self.filename, self._count, self._aspect, squares, names

    def shown(self) -> NDArray[np.int64]:
        """Return for each frame the number of the frame to show: itself, or the last one with a picture."""
        return np.arange(self._count) if self._files is None else held_frames(self._files)

    def read(self, frames: NDArray[np.integer]) -> Iterator[NDArray[np.uint8]]:
        """Yield the crops of some frames.

        Args:
            frames: Frame numbers with a picture, in increasing order.

        Yields:
            RGB, uint8 ``[size, size, 3]``.
        """
        # Image files come one by one, so that no more than one is held at its full size.
        files = self._files
        pictures = read_frames(self.filename, frames, self._decoder) if files is None else iter_images(files, frames)
        for index, picture in zip(frames.tolist(), pictures, strict=True):
            yield self._cut(index, picture)

    def _cut(self, index: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        check_face(picture, self._boxes, index, self.filename if self._files is None else self._files[index])
        return crop_frame(picture, self._squares, index, self._aspect, self.size)

    def read_all(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the number and the crop of every frame with a picture; one full-size frame is held at a time.

        Raises:
            DataError: If a video ends before its last frame.
        """
        if self._files is not None:
            frames = np.flatnonzero([bool(file) for file in self._files])
            yield from zip(frames.tolist(), self.read(frames), strict=True)
            return
        if self._decoder == "decord":
            yield from enumerate(self.read(np.arange(self._count)))
            return
        count = 0
        for count, frame in enumerate(iter_frames(self.filename), start=1):
            yield count - 1, self._cut(count - 1, frame)
            if count == self._count:
                return
        raise DataError(f"{self.filename}: frame {count} was asked for, but the stream ends after {count} frames.")


_TOLERANCE = 1e-3  # that of crop_faces: a thousandth of the side is no other scale


class StoredCrops:
    """The crops of one record of a store.

    Args:
        record: With ``pack`` and ``crop`` (see `StoreIndex.record`).
        size: Side of the crops, pixels.
        margin: Side of the square in units of the longer side of the smoothed face box; whole frames have none.
        smooth: Window of the moving average of the boxes, in frames.

    Raises:
        DataError: If the pictures of the store do not show enough, or are too small.
    """

    def __init__(self, record: Mapping[str, Any], size: int, margin: float, smooth: int) -> None:
        self.filename: str = record["filename"]
        self.size = size
        self._table: PackTable = record["pack"]
        faces = record["boxes"] is not None
        self._square = stored_square(record["crop"], faces, len(self._table), size, margin, smooth, self.filename)

    @property
    def key(self) -> Hashable:
        """Identity of the pixels, size and margin aside."""
        return self.filename, len(self._table), zlib.crc32(self._table.offsets.tobytes())

    def shown(self) -> NDArray[np.int64]:
        """Return for each frame the number of the frame to show: itself, or the last one with a picture."""
        return held_frames(self._table.sizes)

    def read(self, frames: NDArray[np.integer]) -> Iterator[NDArray[np.uint8]]:
        """Yield the crops of some frames.

        Args:
            frames: Frame numbers with a picture, in increasing order.

        Yields:
            RGB, uint8 ``[size, size, 3]``.
        """
        for picture in iter_pack(self.filename, self._table, frames):
            yield picture if self._square is None else crop_faces(picture[None], self._square, self.size)[0]

    def read_all(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the number and the crop of every frame with a picture."""
        frames = np.flatnonzero(self._table.sizes)
        yield from zip(frames.tolist(), self.read(frames), strict=True)


def stored_square(
    crop: CropSettings, faces: bool, num_frames: int, size: int, margin: float, smooth: int, where: str
) -> NDArray[np.float64] | None:
    """Return the square to cut from every picture of a record.

    Args:
        crop: How the pictures were cut.
        faces: The record has face boxes; without them its pictures are whole frames, and ``margin`` and ``smooth``
            say nothing.
        num_frames: Frames of the record; nothing was averaged over one.
        size: Side wanted, pixels.
        margin: Margin wanted.
        smooth: Average wanted, in frames.
        where: File, for the message.

    Returns:
        Square in pixels of the picture, float64 ``[1, 4]``; None to take the picture as it is.

    Raises:
        DataError: If the store cannot give it without blur; says how to prepare it again.
    """
    faces = faces and crop.margin is not None
    if faces and num_frames > 1 and smooth // 2 != crop.smooth // 2:
        raise DataError(
            f"{where}: the boxes were averaged over {crop.smooth} frames, LoadFaceClip wants smooth={smooth}; prepare "
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
