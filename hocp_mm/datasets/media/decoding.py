"""Decoding in order, the one that is right on every container: frame *k* is the *k*-th picture that comes out.

Every file is opened inside the call and closed at its end, so nothing is carried through a fork of data loader
workers. One picture is held at a time; who wants more keeps it.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

from hocp_mm.datasets.media.hdr import TRANSFERS, tone_map
from hocp_mm.datasets.media.images import ORIENTATION
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.reading import check_file, full_name, reason_of

# From about this size on threads pay; a chat video of 320x240 takes twice the time with them.
_PIXELS_WORTH_THREADS = 1280 * 720
# A Path has made one slash of two. Drives of Windows have one letter.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# Demuxers of text art, which take any text.
_TEXT = ("tty", "bin", "xbin", "adf", "idf")
# Decoders that apply changes of a picture which they never saw to a grey one.
_MAKES_UP = frozenset(
    ("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "h263", "flv", "wmv1", "wmv2")
)
_IMAGE_CODECS = {"mjpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
# How frames become upright, by the value of the EXIF tag and by degrees: swap the axes, then mirror x, then y.
_EXIF = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
_ANGLES = {0: _EXIF[1], 180: _EXIF[3], -180: _EXIF[3], -90: _EXIF[6], 90: _EXIF[8]}


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Open a file for reading and give its container and its film: of several video streams the one FFmpeg would take.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no video.
    """
    try:
        check_file(path, "video file")  # FFmpeg would wait for a named pipe, and read a device for ever
    except MissingDataError:
        if _ADDRESS.match(str(path)):
            text = "addresses of the net are not supported; download the video first and give the file."
            raise DataError(f"{path}: {text}") from None
        raise
    try:
        # "%03d.jpg" is one picture, no series. PyAV 17.0 crashes where streams get options, too.
        container = av.open(full_name(path), container_options={"pattern_type": "none"})
    except (FFmpegError, ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable video file ({said_by(error)}).") from error
    with container:
        if container.format.name in _TEXT:
            raise DataError(f"{path}: not a readable video file (FFmpeg would draw its text).")
        stream = films(path, container)[0]
        context = stream.codec_context
        if context is None:
            raise DataError(f"{path}: there is no decoder for its video stream (an unknown codec).")
        large = context.width * context.height >= _PIXELS_WORTH_THREADS
        stream.thread_type = "AUTO" if large else "SLICE"
        yield container, stream


def said_by(error: Exception) -> str:
    """Return what FFmpeg says, without the file and without the last line of its log, which may be about another."""
    return getattr(error, "strerror", None) or reason_of(error)


def films(path: str | Path, container: Any) -> list[Any]:
    """Return the video streams of a file that are films, FFmpeg's choice first; a cover picture is none.

    Args:
        path: The file, for the message.
        container: The same, open.

    Returns:
        At least one stream.

    Raises:
        DataError: If there is none.
    """
    streams = list(container.streams.video)
    found = [stream for stream in streams if Disposition.attached_pic not in Disposition(stream.disposition)]
    if not found:
        got = "a cover picture alone" if streams else "none"
        raise DataError(f"{path}: the file must hold a video stream, got {got}.")
    best = container.streams.best("video")
    return sorted(found, key=lambda stream: best is None or stream.index != best.index)


def decode(path: str | Path) -> Iterator[av.VideoFrame]:
    """Yield the frames of a file in display order; of one that was cut before a key frame, those from there on.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file cannot be opened or a frame cannot be decoded.
    """
    count, started = 0, False
    with open_video(path) as (container, stream):
        try:
            makes_up = stream.codec_context.name in _MAKES_UP
            for number, packet in enumerate(container.demux(stream)):
                started |= number == 0 and packet.is_keyframe
                for frame in packet.decode():
                    started |= frame.key_frame
                    if started or not makes_up:
                        yield frame
                        count += 1
        except FFmpegError as error:
            if stream.codec_context.name == "webp":
                text = "this WebP cannot be decoded; FFmpeg reads no animated WebP: save it as GIF, PNG or a video."
                raise DataError(f"{path}: {text}") from error
            hint = "" if started else "; the file was cut before its first key frame"
            raise DataError(f"{path}: frame {count} cannot be decoded ({said_by(error)}{hint}).") from error


def to_rgb(path: str | Path, index: int, frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Return a frame as it is meant to be seen, RGB uint8 ``[H, W, 3]``.

    Turned and mirrored as its display matrix says; grey becomes three equal channels, alpha is left out, more
    than 8 bits are rounded to 8, and both fields of an interlaced picture stay in it. Pixels that are not square
    are not stretched (see `hocp_mm.datasets.media.video.VideoInfo.pixel_aspect`). Colours follow the file's matrix
    and range, BT.601 and limited where it says neither; PQ and HLG are tone-mapped (`hocp_mm.datasets.media.hdr`).

    Args:
        path: File that it comes from, for the message.
        index: Its number, for the message.
        frame: Decoded frame.

    Returns:
        The picture.

    Raises:
        DataError: If the frame is damaged, or the file is turned by other than quarter turns.
    """
    if frame.is_corrupt:
        # The decoder paints over holes in the data and goes on; such a picture was never filmed.
        raise DataError(f"{path}: frame {index} is damaged in the file.")
    # One thread: starting more for the conversion doubles the time of a small frame.
    threads = 0 if frame.width * frame.height >= _PIXELS_WORTH_THREADS else 1
    transfer, primaries = int(frame.color_trc), int(frame.color_primaries)  # conversion may change what the frame says
    if transfer in TRANSFERS:
        # Planes, because the FFmpeg of PyAV 17.0 gets the green of 10-bit video wrong in packed pixels of 16 bits.
        signal = np.asarray(frame.to_ndarray(format="gbrp12le", threads=threads), dtype=np.uint16)
        picture = tone_map(signal, transfer, primaries)
    else:
        # Rows of an odd width have padding behind them; who takes a checksum needs them without.
        picture = np.ascontiguousarray(frame.to_ndarray(format="rgb24", threads=threads), dtype=np.uint8)
    swap, flip_x, flip_y = orientation(path)
    if not (swap or flip_x or flip_y):
        return picture
    upright = picture.transpose(1, 0, 2) if swap else picture
    return np.ascontiguousarray(upright[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def orientation(path: str | Path) -> tuple[bool, bool, bool]:
    """Return how the frames of a file become upright: whether to swap their axes, then to mirror x, then y.

    Asked of the first frame only, once per file and process: PyAV's side data and their frame refer to each
    other, so that asking every frame would keep thousands of pictures until Python looks for cycles.

    Args:
        path: Video file.

    Returns:
        Three flags, all false without a display matrix.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the matrix turns by other than quarter turns, or the first frame cannot be decoded.
    """
    stat = check_file(path, "video file")
    return _orientation(str(path), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=65536)
def _orientation(path: str, mtime_ns: int, size: int) -> tuple[bool, bool, bool]:
    """Read the display matrix; ``mtime_ns`` and ``size`` end the cached answer when the file changes."""
    frame = next(decode(path), None)
    try:
        side_data = None if frame is None else frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV has no name for some kinds of side data, such as EXIF, and then gives none at all
        return _turned(path, frame)
    if side_data is None:
        return _turned(path, frame)
    # Rows of 3; FFmpeg maps a pixel (x, y) to (a x + c y, b x + d y) with a, b = m[0:2] and c, d = m[3:5].
    a, b, _, c, d = np.frombuffer(bytes(side_data), dtype=np.int32)[:5].tolist()
    if b == c == 0 and a and d:
        return False, a < 0, d < 0
    if a == d == 0 and b and c:
        return True, c < 0, b < 0
    raise DataError(f"{path}: a display matrix must turn by quarter turns, got {[[a, b], [c, d]]} (16.16 fixed point).")


def _turned(path: str, frame: Any) -> tuple[bool, bool, bool]:
    """Return the orientation where no display matrix can be had: by EXIF, else by the angle alone."""
    if frame is None:
        return _EXIF[1]
    with open_video(path) as (container, stream):
        if stream.codec_context.name in _IMAGE_CODECS:  # only EXIF itself tells of mirrors
            data = bytes(next(packet for packet in container.demux(stream) if packet.size))
            with Image.open(io.BytesIO(data), formats=list(_IMAGE_CODECS.values())) as picture:
                return _EXIF[picture.getexif().get(ORIENTATION, 1)]
    if frame.rotation not in _ANGLES:
        raise DataError(f"{path}: a video must be turned by quarter turns, got {frame.rotation} degrees.")
    return _ANGLES[frame.rotation]


def read_in_order(path: str | Path, frames: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Decode up to the last wanted frame and convert only the wanted ones.

    Args:
        path: Video file.
        frames: Frame numbers, sorted and free of repeats, at least one.

    Returns:
        RGB pictures, uint8 ``[n, H, W, 3]``.

    Raises:
        DataError: If the file ends before a wanted frame, or a frame cannot be decoded, is damaged or leans on a
            damaged one, or has another size.
    """
    pictures = Pictures(path, frames)
    index, damaged = 0, None
    for index, frame in enumerate(decode(path), start=1):
        # Pictures lean on those before them, back to a key frame; only the damaged one itself is marked.
        damaged = index - 1 if frame.is_corrupt else None if frame.key_frame else damaged
        if pictures.wants == index - 1:
            if damaged not in (None, index - 1):
                raise DataError(f"{path}: frame {damaged} is damaged in the file, and frame {index - 1} leans on it.")
            pictures.add(frame)
            if pictures.wants is None:
                return pictures.array
    raise DataError(f"{path}: frame {pictures.wants} was asked for, but the stream ends after {index} frames.")


def check_size(path: str | Path, index: int, shape: tuple[int, ...], first: tuple[int, ...]) -> None:
    """Refuse a frame of another size than the first, whose boxes it would be cropped by.

    Args:
        path: Video file, for the message.
        index: Number of the frame.
        shape: ``[H, W, 3]`` of it.
        first: That of the first frame.

    Raises:
        DataError: If they differ.
    """
    if shape != first:
        raise DataError(
            f"{path}: all frames must have one size, but frame {index} has {shape[1::-1]} after {first[1::-1]}."
        )


class Pictures:
    """The wanted frames of one file, filled from the first to the last.

    Args:
        path: File that they come from, for messages.
        frames: Their numbers, sorted and free of repeats, at least one.
    """

    def __init__(self, path: str | Path, frames: NDArray[np.integer]) -> None:
        self._path = path
        self._frames: list[int] = frames.tolist()
        self._found = 0
        self.array: NDArray[np.uint8] = np.empty((0, 0, 0, 3), dtype=np.uint8)
        """RGB ``[n, H, W, 3]``; complete when ``wants`` is None."""

    @property
    def wants(self) -> int | None:
        """Number of the frame that `add` expects next, None if there are all."""
        return self._frames[self._found] if self._found < len(self._frames) else None

    def add(self, frame: av.VideoFrame) -> None:
        """Take in the frame ``wants``.

        Raises:
            DataError: If it is damaged, or of another size than the first.
        """
        index = self._frames[self._found]
        picture = to_rgb(self._path, index, frame)
        if self._found == 0:
            self.array = np.empty((len(self._frames), *picture.shape), dtype=np.uint8)
        check_size(self._path, index, picture.shape, self.array.shape[1:])
        self.array[self._found] = picture
        self._found += 1
