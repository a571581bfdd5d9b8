"""Clips out of a store: the pictures themselves, or a smaller cut of them; never a blurred or a guessed one."""

import math
import zlib
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.faces import crop_faces
from hocp_mm.datasets.image_frames import held_frames
from hocp_mm.datasets.store.pack import PackTable, iter_pack
from hocp_mm.datasets.store.settings import CropSettings
from hocp_mm.errors import DataError

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
        self._stored: int = record["crop"].size
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
        for picture in iter_pack(self.filename, self._table, frames, self._stored):
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
