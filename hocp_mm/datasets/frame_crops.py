"""Crops out of the files of a data set: a video, or one image per frame."""

import zlib
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.crop_rule import check_face, crop_frame, squares_of
from hocp_mm.datasets.image_frames import held_frames, iter_images
from hocp_mm.datasets.video import Decoder, iter_frames, read_frames
from hocp_mm.errors import DataError


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
