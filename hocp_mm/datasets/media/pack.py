"""Packs: pictures of one size in an AVI that any player shows, each found by its byte offset.

No decoder seeks here, so no decoder can give another frame than the one asked for: a picture is the bytes between two
known places, checked against their CRC-32. A JPEG alone would not do, as damage in the middle of its data decodes to
a wrong picture without a word.
"""

import io
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.files import replacing
from hocp_mm.system.reading import full_name

Codec = Literal["jpeg", "png"]
CODECS = ("jpeg", "png")
# Pictures lie 8 or 9 bytes apart, and a frame without a picture takes 8: neighbours come with one read.
_LARGEST_GAP = 4096
_LARGEST_READ = 4 * 2**20
# Chroma 4:4:4 halves the largest error against 4:2:0. It takes a fifth more bytes and the same time to decode; on noisy
# pictures two thirds more bytes and half longer.
_FULL_CHROMA = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


@dataclass(frozen=True)
class PackTable:
    """Where the pictures of consecutive frames lie in a pack.

    Attributes:
        offsets: First byte of each picture, int64 ``[F]``.
        sizes: Bytes of each picture, int32 ``[F]``; 0 = the frame has no picture.
        checksums: CRC-32 of these bytes, uint32 ``[F]``.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int32]
    checksums: NDArray[np.uint32]

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.sizes)

    def part(self, start: int, stop: int) -> "PackTable":
        """Return the table of the frames from ``start`` up to ``stop``."""
        return PackTable(self.offsets[start:stop], self.sizes[start:stop], self.checksums[start:stop])


def write_pack(
    path: str | Path,
    crops: Iterable[NDArray[np.uint8] | None],
    size: int,
    fps: float,
    codec: Codec = "jpeg",
    quality: int = 95,
) -> PackTable:
    """Write a pack under another name, compare every picture in the finished file, and move it into place.

    The same crops give the same bytes. One picture is in memory at a time.

    Args:
        path: File to write, ``….avi``; its folder exists.
        crops: RGB uint8 ``[size, size, 3]`` per frame, or None for a frame without a picture.
        size: Side of the pictures, pixels.
        fps: Frames per second, for players alone; 1 where it is not known (0).
        codec: ``"jpeg"`` or ``"png"``.
        quality: Of JPEG, 1 to 100.

    Returns:
        Where the pictures lie, one row per frame.

    Raises:
        ValueError: If a crop has another shape, or none has a picture.
        DataError: If the finished file does not hold what was written.
    """
    sizes: list[int] = []
    checksums: list[int] = []
    with replacing(path, follow=False) as draft:
        with av.open(full_name(draft), "w", format="avi", options={"fflags": "+bitexact"}) as container:
            rate = Fraction(fps).limit_denominator(1001) if fps > 0 else Fraction(1)
            stream: Any = container.add_stream("mjpeg" if codec == "jpeg" else "png", rate=rate)
            stream.width = stream.height = size
            stream.pix_fmt = "yuvj444p" if codec == "jpeg" else "rgb24"
            for index, crop in enumerate(crops):
                data = b"" if crop is None else _encode(crop, size, codec, quality)
                sizes.append(len(data))
                checksums.append(zlib.crc32(data))
                if data:
                    container.mux(_packet(data, stream, index, rate))
        if not any(sizes):
            raise ValueError(f"write_pack: at least one frame must have a picture, got none of {len(sizes)} ({path}).")
        offsets = _find_pictures(draft, sizes, checksums)
    return PackTable(offsets, np.array(sizes, np.int32), np.array(checksums, np.uint32))


def read_pack(path: str | Path, table: PackTable, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the pictures of the frames asked for.

    Args:
        path: The pack.
        table: Its table, or a part of it.
        indices: Rows of ``table`` in any order, repeats allowed, ``[n]``, n of 1 or more.

    Returns:
        RGB, uint8 ``[n, size, size, 3]``, in the order of ``indices``.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file ends early, or the bytes of a picture differ from their checksum.
        ValueError: If a frame is beyond the table or has no picture.
    """
    wanted, position = np.unique(np.asarray(indices), return_inverse=True)
    pictures = np.stack(list(iter_pack(path, table, wanted)))
    return pictures if len(position) == len(wanted) and (np.diff(position) > 0).all() else pictures[position]


def iter_pack(
    path: str | Path, table: PackTable, indices: NDArray[np.integer], size: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures one by one, some megabytes of the file in memory at a time.

    Args:
        path: The pack.
        table: Its table, or a part of it.
        indices: Rows of ``table`` in increasing order, ``[n]``.
        size: Side that every picture must have, pixels; None = any. Others are not decoded.

    Yields:
        RGB, uint8 ``[size, size, 3]``.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file ends early, or the bytes of a picture differ from their checksum.
        ValueError: If a frame is beyond the table or has no picture.
    """
    if len(indices) and (indices[0] < 0 or indices[-1] >= len(table)):
        raise ValueError(
            f"read_pack: indices must be 0 to {len(table) - 1}, got {indices[0]} to {indices[-1]} ({path})."
        )
    if (table.sizes[indices] <= 0).any():
        frame = int(indices[np.argmax(table.sizes[indices] <= 0)])
        raise ValueError(f"read_pack: a frame must have a picture, but frame {frame} has none ({path}).")
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # or a named pipe would be waited for
    except FileNotFoundError as error:
        raise MissingDataError(f"{path}: no such pack; the store must be copied whole, or prepared again.") from error
    except OSError as error:
        raise DataError(f"{path}: the pack cannot be read ({error.strerror or error}).") from error
    try:
        for run in _runs(table, indices):
            start = int(table.offsets[run[0]])
            length = int(table.offsets[run[-1]] + table.sizes[run[-1]]) - start
            block = memoryview(_read(path, handle, start, length))
            for index in run:
                first = int(table.offsets[index]) - start
                yield _decode(path, int(index), block[first : first + int(table.sizes[index])], table, size)
    finally:
        os.close(handle)


def _encode(crop: NDArray[np.uint8], size: int, codec: Codec, quality: int) -> bytes:
    if crop.shape != (size, size, 3) or crop.dtype != np.uint8:
        raise ValueError(f"write_pack: crops must be uint8 [{size}, {size}, 3], got {crop.dtype} {list(crop.shape)}.")
    picture = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
    if codec == "jpeg":
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality, *_FULL_CHROMA])[1]
    else:
        data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]  # 3 saves 2 % and takes half longer
    return data.tobytes()


def _packet(data: bytes, stream: Any, index: int, rate: Fraction) -> av.Packet:
    packet = av.Packet(data)
    packet.stream = stream
    packet.pts = packet.dts = index
    packet.time_base = 1 / rate
    packet.is_keyframe = True
    return packet


def _find_pictures(path: Path, sizes: list[int], checksums: list[int]) -> NDArray[np.int64]:
    """Return the offset of every picture in a finished file, and make sure that it is there.

    Raises:
        DataError: If the file holds other pictures than were written.
    """
    offsets = np.zeros(len(sizes), dtype=np.int64)
    frames = np.flatnonzero(sizes)
    with av.open(full_name(path)) as container, path.open("rb") as file:
        found = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
        if len(found) != len(frames):
            raise DataError(f"{path}: must hold {len(frames)} pictures, got {len(found)} back; is the disk sound?")
        for frame, (place, length) in zip(frames, found, strict=True):
            file.seek(place or 0)
            if length != sizes[frame] or zlib.crc32(file.read(length)) != checksums[frame]:
                raise DataError(f"{path}: frame {frame} reads back other bytes than were written; is the disk sound?")
            offsets[frame] = place
    return offsets


def _runs(table: PackTable, indices: NDArray[np.integer]) -> Iterator[list[int]]:
    """Yield frames whose pictures are fetched together."""
    run: list[int] = []
    for index in indices.tolist():
        if run:
            gap = int(table.offsets[index]) - int(table.offsets[run[-1]]) - int(table.sizes[run[-1]])
            length = int(table.offsets[index]) + int(table.sizes[index]) - int(table.offsets[run[0]])
            if not 0 <= gap <= _LARGEST_GAP or length > _LARGEST_READ:
                yield run
                run = []
        run.append(index)
    if run:
        yield run


def _read(path: str | Path, handle: int, start: int, length: int) -> bytes:
    try:
        block = os.pread(handle, length, start)
    except OSError as error:  # a folder, a failing disk
        raise DataError(f"{path}: the pack cannot be read ({error.strerror or error}).") from error
    if len(block) < length:
        raise DataError(
            f"{path}: the pack must hold {start + length} bytes or more, but it ends after {os.fstat(handle).st_size}; "
            "copy it again, or prepare it again."
        )
    return block


def _decode(path: str | Path, frame: int, data: memoryview, table: PackTable, size: int | None) -> NDArray[np.uint8]:
    if zlib.crc32(data) != int(table.checksums[frame]):
        raise DataError(
            f"{path}: the picture of frame {frame} differs from its checksum in the index (byte "
            f"{int(table.offsets[frame])}): damaged, or another pack; copy it again, or prepare it again."
        )
    if size is not None and (found := picture_size(data)) != (size, size):
        got = "no picture" if found is None else f"{found[0]} x {found[1]}"
        raise DataError(
            f"{path}: frame {frame} must be a picture of {size} x {size} pixels as the store says, got {got}."
        )
    picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise DataError(f"{path}: frame {frame} is no picture (byte {int(table.offsets[frame])}).")
    return np.asarray(picture, dtype=np.uint8)


def picture_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Return width and height that the header of a picture says, None if it is none."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
