"""The frames of one clip, whatever they are stored as: a video, one image file per frame, or a pack of crops."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from hocp_mm.datasets.media.images import check_same_size, held_frames, iter_images, read_image
from hocp_mm.datasets.media.pack import PackTable, iter_pack
from hocp_mm.datasets.media.video import Decoder, iter_frames, read_frames
from hocp_mm.errors import DataError, HOCPError

OnFault = Callable[[str, HOCPError], None]
"""Takes the file of a frame that cannot be used, and why."""


class Frames(ABC):
    """Frames 0 to ``len - 1`` of a clip, RGB uint8 ``[H, W, 3]`` each.

    Attributes:
        filename: Video, folder of images or pack.
    """

    filename: str

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of frames, those without a picture included."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Identity of the pixels."""

    @abstractmethod
    def shown(self) -> NDArray[np.int64]:
        """Return for each frame the number of the frame to show: itself, or the last one with a picture."""

    @abstractmethod
    def read(self, frames: NDArray[np.integer]) -> Iterator[NDArray[np.uint8]]:
        """Yield frames by number, one in memory at a time where they are image files or pictures of a pack.

        Args:
            frames: Numbers of frames with a picture, in increasing order.
        """

    @abstractmethod
    def every(self, on_fault: OnFault | None = None) -> Iterator[NDArray[np.uint8] | None]:
        """Yield all frames in order, one in memory at a time; None for a frame without a picture.

        Args:
            on_fault: Takes what is wrong with a single image file, whose frame then has no picture; None raises it.

        Raises:
            DataError: If a frame cannot be read; always, where it is one of a video.
        """

    def file_of(self, frame: int) -> str:
        """Return the file that a frame is in."""
        del frame
        return self.filename


class VideoFrames(Frames):
    """Frames of a video (see `hocp_mm.datasets.read_frames`).

    Args:
        filename: Video.
        count: Frames that are used; the file may hold more.
        decoder: See `hocp_mm.datasets.read_frames`.
    """

    def __init__(self, filename: str, count: int, decoder: Decoder = "auto") -> None:
        self.filename = filename
        self._count = count
        self._decoder: Decoder = decoder

    @override
    def __len__(self) -> int:
        return self._count

    @property
    @override
    def key(self) -> Hashable:
        return self.filename, self._count

    @override
    def shown(self) -> NDArray[np.int64]:
        return np.arange(self._count)

    @override
    def read(self, frames: NDArray[np.integer]) -> Iterator[NDArray[np.uint8]]:
        yield from read_frames(self.filename, frames, self._decoder)

    @override
    def every(self, on_fault: OnFault | None = None) -> Iterator[NDArray[np.uint8] | None]:
        del on_fault
        if self._decoder == "decord":
            yield from self.read(np.arange(self._count))
            return
        count = 0
        for count, frame in enumerate(iter_frames(self.filename), start=1):
            yield frame
            if count == self._count:
                return
        raise DataError(f"{self.filename}: frame {count} was asked for, but the stream ends after {count} frames.")


class ImageFrames(Frames):
    """Frames that are image files.

    Args:
        filename: Their folder.
        files: One path per frame, empty where there is none.
    """

    def __init__(self, filename: str, files: Sequence[str]) -> None:
        self.filename = filename
        self.files = files

    @override
    def __len__(self) -> int:
        return len(self.files)

    @property
    @override
    def key(self) -> Hashable:
        return self.filename, zlib.crc32("\0".join(self.files).encode(errors="surrogateescape"))

    @override
    def shown(self) -> NDArray[np.int64]:
        return held_frames(self.files)

    @override
    def read(self, frames: NDArray[np.integer]) -> Iterator[NDArray[np.uint8]]:
        yield from iter_images(self.files, frames)

    @override
    def every(self, on_fault: OnFault | None = None) -> Iterator[NDArray[np.uint8] | None]:
        first: tuple[str, tuple[int, ...]] | None = None
        for file in self.files:
            picture = None
            if file:
                try:
                    picture = read_image(file)
                    first = first or (file, picture.shape)
                    check_same_size(file, picture.shape, *first)
                except HOCPError as error:
                    if on_fault is None:
                        raise
                    on_fault(file, error)
                    picture = None
            yield picture

    @override
    def file_of(self, frame: int) -> str:
        return self.files[frame]


class PackFrames(Frames):
    """Pictures of a pack, each compared with its checksum.

    Args:
        filename: Pack.
        table: Where they lie.
        side: Width and height that every picture must have, pixels; None for any.
    """

    def __init__(self, filename: str, table: PackTable, side: int | None = None) -> None:
        self.filename = filename
        self.table = table
        self._side = side

    @override
    def __len__(self) -> int:
        return len(self.table)

    @property
    @override
    def key(self) -> Hashable:
        return self.filename, len(self.table), zlib.crc32(self.table.offsets.tobytes())

    @override
    def shown(self) -> NDArray[np.int64]:
        return held_frames(self.table.sizes)

    @override
    def read(self, frames: NDArray[np.integer]) -> Iterator[NDArray[np.uint8]]:
        yield from iter_pack(self.filename, self.table, frames, self._side)

    @override
    def every(self, on_fault: OnFault | None = None) -> Iterator[NDArray[np.uint8] | None]:
        del on_fault
        there = self.table.sizes > 0
        pictures = self.read(np.flatnonzero(there))
        for has_picture in there.tolist():
            yield next(pictures) if has_picture else None


def frames_of(
    filename: str,
    num_frames: int,
    frame_files: Sequence[str] | None = None,
    pack: PackTable | None = None,
    side: int | None = None,
    decoder: Decoder = "auto",
) -> Frames:
    """Return the frames of a clip.

    Args:
        filename: Video, folder of images or pack.
        num_frames: Number of frames.
        frame_files: Image of each frame, empty where there is none; None for a video or a pack.
        pack: Where the pictures lie in a pack; None for a video or images.
        side: Width and height of those pictures, pixels.
        decoder: What reads a video (see `hocp_mm.datasets.read_frames`).

    Returns:
        The frames.

    Raises:
        ValueError: If there is not one image, or one row of the pack, for each frame.
    """
    if pack is not None:
        found: Frames = PackFrames(filename, pack, side)
    elif frame_files is not None:
        found = ImageFrames(filename, frame_files)
    else:
        return VideoFrames(filename, num_frames, decoder)
    if len(found) != num_frames:
        what = "frame_files must name one file" if pack is None else "pack must have one row"
        raise ValueError(f"LoadFaceClip: {what} per frame, got {len(found)} for {num_frames} ({filename}).")
    return found
