"""Exact frames out of video files: frame *k* is the *k*-th decoded frame, never a guess from time stamps.

Decoding runs in order from the start and converts only the wanted frames to RGB, which costs no more than
a seeking decoder on clips of this length and is right on every container. The popular alternative is not:
decord 0.6.0 returns other frames than asked, silently, on Xvid AVIs with B-frames (the codec of SEWA), so
here it must pass `random access == sequential` on each file before it is used (`decoder="decord"`).

Time stamps are no substitute for counting: the first frame of such an AVI has pts 1, not 0. Every file is
opened inside the call and closed at its end, so nothing is carried through a fork of data loader workers.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from hocp_mm.errors import DataError, MissingDataError

Decoder = Literal["pyav", "decord"]

# An MPEG-4 picture header alone takes 7 bytes; FFmpeg calls a packet up to 19 bytes a "not coded" picture.
_SMALLEST_PICTURE = 20
# From about this size on threads pay; a chat video of 320x240 takes twice the time with them.
_PIXELS_WORTH_THREADS = 1280 * 720
# decord 0.6.0 hangs on transport streams until it is killed, so they are not even opened for the self-check.
_DECORD_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm")


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds, found without decoding it.

    Attributes:
        num_frames: Number of frames that a complete decode gives.
        fps: Average frames per second.
        width: Pixels.
        height: Pixels.
        codec: FFmpeg's name of the codec, ``mpeg4`` for Xvid.
        header_frames: Number of frames that the header promises, 0 if it does not say.
    """

    num_frames: int
    fps: float
    width: int
    height: int
    codec: str
    header_frames: int = 0


def probe_video(path: str | Path) -> VideoInfo:
    """Count the frames of a video and read its format.

    Packets are counted, not decoded (about 5 ms per 1000 frames). Where a packet is too small to hold a
    picture (dropped frames of variable rate AVIs, placeholders of packed bitstreams) the file is decoded
    once instead, so that the count is always the one that `read_frames` can serve.

    Args:
        path: Video file.

    Returns:
        Count and format.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is no video, holds no frame, or ends in the middle of one.
    """
    packets, doubtful = 0, False
    with _open(path) as (container, stream):
        context = stream.codec_context
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        header = (context.width, context.height, context.name, stream.frames)
        try:
            for packet in container.demux(stream):
                if packet.size == 0 and packet.dts is None:
                    continue  # PyAV ends every stream with an empty packet that flushes the decoder
                if packet.is_corrupt:
                    raise DataError(
                        f"{path}: the file must hold whole frames, but it ends or breaks inside frame {packets} "
                        f"(its header promises {stream.frames}); copy it again."
                    )
                doubtful |= packet.size < _SMALLEST_PICTURE
                packets += 1
        except FFmpegError as error:
            raise DataError(f"{path}: cannot be read after {packets} frames ({error}).") from error
    if doubtful:
        packets = sum(1 for _ in _decode(path))
    if packets == 0:
        raise DataError(f"{path}: a video must hold at least one frame, got none.")
    width, height, codec, promised = header
    return VideoInfo(packets, fps, width, height, codec, promised)


def read_frames(
    path: str | Path, indices: Sequence[int] | NDArray[np.integer], decoder: Decoder = "pyav"
) -> NDArray[np.uint8]:
    """Return exactly the frames asked for.

    Args:
        path: Video file.
        indices: Zero-based frame numbers in any order, repeats allowed, ``[n]``.
        decoder: ``"pyav"`` decodes in order; ``"decord"`` seeks, and is refused for a file on which its
            random access differs from its sequential reading (checked once per file and process).

    Returns:
        RGB frames, uint8 ``[n, H, W, 3]``, in the order of ``indices``.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file ends before a wanted frame, cannot be decoded, changes its picture size, or
            fails the self-check of decord.
        ValueError: If an index is negative or ``decoder`` is unknown.
    """
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
        raise ValueError(f"read_frames: indices must be whole numbers [n], got {wanted.dtype} {wanted.shape}.")
    if wanted.size and wanted.min() < 0:
        raise ValueError(f"read_frames: indices must be 0 or more, got {wanted.min()} ({path}).")
    if decoder not in ("pyav", "decord"):
        raise ValueError(f"read_frames: decoder must be 'pyav' or 'decord', got {decoder!r}.")
    if wanted.size == 0:
        info = probe_video(path)
        return np.empty((0, info.height, info.width, 3), dtype=np.uint8)
    frames, position = np.unique(wanted, return_inverse=True)
    pictures = _read_with_decord(path, frames) if decoder == "decord" else _read_in_order(path, frames)
    # np.unique sorted them and dropped repeats; `position` says where each one goes.
    return pictures if np.array_equal(frames, wanted) else pictures[position]


def iter_frames(path: str | Path) -> Iterator[NDArray[np.uint8]]:
    """Yield every frame of a video in order, RGB uint8 ``[H, W, 3]``; holds one at a time.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file cannot be opened or a frame cannot be decoded.
    """
    for index, frame in enumerate(_decode(path)):
        yield _to_rgb(path, index, frame)


@contextmanager
def _open(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Open a file for reading and give its container and its first video stream."""
    if not Path(path).is_file():
        raise MissingDataError(f"{path}: no such video file.")
    try:
        container = av.open(str(path))
    except (FFmpegError, ValueError) as error:
        raise DataError(f"{path}: not a readable video file ({error}).") from error
    with container:
        if not container.streams.video:
            raise DataError(f"{path}: the file must hold a video stream, got none.")
        yield container, container.streams.video[0]


def _decode(path: str | Path) -> Iterator[av.VideoFrame]:
    """Yield the frames of a file in display order."""
    count = 0
    with _open(path) as (container, stream):
        context = stream.codec_context
        large = context.width * context.height >= _PIXELS_WORTH_THREADS
        stream.thread_type = "AUTO" if large else "SLICE"
        try:
            for frame in container.decode(stream):
                yield frame
                count += 1
        except FFmpegError as error:
            raise DataError(f"{path}: frame {count} cannot be decoded ({error}).") from error


def _to_rgb(path: str | Path, index: int, frame: av.VideoFrame) -> NDArray[np.uint8]:
    if frame.is_corrupt:
        # The decoder paints over holes in the data and goes on; such a picture was never filmed.
        raise DataError(f"{path}: frame {index} is damaged in the file.")
    # One thread: starting more for the conversion doubles the time of a small frame.
    threads = 0 if frame.width * frame.height >= _PIXELS_WORTH_THREADS else 1
    return np.asarray(frame.to_ndarray(format="rgb24", threads=threads), dtype=np.uint8)


def _read_in_order(path: str | Path, frames: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Decode up to the last wanted frame; ``frames`` is sorted and free of repeats."""
    pictures: NDArray[np.uint8] | None = None
    found = index = 0
    for index, frame in enumerate(_decode(path), start=1):
        if index - 1 != frames[found]:
            continue
        picture = _to_rgb(path, index - 1, frame)
        if pictures is None:
            pictures = np.empty((len(frames), *picture.shape), dtype=np.uint8)
        if picture.shape != pictures.shape[1:]:
            raise DataError(
                f"{path}: all frames must have one size, but frame {index - 1} has {picture.shape[1::-1]} "
                f"after {pictures.shape[2:0:-1]}."
            )
        pictures[found] = picture
        found += 1
        if found == len(frames):
            return pictures
    raise DataError(f"{path}: frame {frames[found]} was asked for, but the stream ends after {index} frames.")


def _read_with_decord(path: str | Path, frames: NDArray[np.integer]) -> NDArray[np.uint8]:
    file = Path(path)
    if not file.is_file():
        raise MissingDataError(f"{path}: no such video file.")
    stat = file.stat()
    fault = _decord_fault(str(file), stat.st_mtime_ns, stat.st_size)
    if fault:
        raise DataError(f"{path}: decord cannot be trusted with this file: {fault}. Use decoder='pyav'.")
    import decord  # optional: it has no wheels for many platforms

    reader = decord.VideoReader(str(file))
    if frames[-1] >= len(reader):
        raise DataError(f"{path}: frame {frames[-1]} was asked for, but the stream ends after {len(reader)} frames.")
    return reader.get_batch(frames.tolist()).asnumpy()


@lru_cache(maxsize=4096)
def _decord_fault(path: str, mtime_ns: int, size: int) -> str:
    """Return why decord must not read this file, or an empty text.

    Random access is compared with a sequential pass over every frame, in a fixed scattered order; checksums
    keep the memory flat. ``mtime_ns`` and ``size`` make the cached verdict end when the file changes.
    """
    if Path(path).suffix.lower() not in _DECORD_SUFFIXES:
        return f"only {', '.join(_DECORD_SUFFIXES)} are tried, others can hang it"
    try:
        import decord
    except ImportError:
        return "it is not installed"
    try:
        in_order = [zlib.crc32(decord_frame.asnumpy()) for decord_frame in decord.VideoReader(path)]
        count = probe_video(path).num_frames
        if len(in_order) != count:
            return f"it sees {len(in_order)} frames of {count}"
        reader = decord.VideoReader(path)
        for index in np.random.default_rng(0).permutation(count).tolist():
            if zlib.crc32(reader[index].asnumpy()) != in_order[index]:
                return f"random access to frame {index} returns another picture than sequential reading"
    except (RuntimeError, StopIteration) as error:
        return f"it fails on it ({str(error).strip().splitlines()[-1]})"
    return ""
