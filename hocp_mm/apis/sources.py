"""What can be watched: videos and pictures, arrays, iterators of frames, and cameras, all as frames with times.

file, array, iterator, number of a camera -> `open_source` -> Source -> frames, in order and once
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets import VideoInfo, check_image, iter_frames, probe_video, read_image
from hocp_mm.datasets.faces.boxes import usual_rate
from hocp_mm.datasets.faces.following import Frame
from hocp_mm.datasets.media.video import uneven_times
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.inputs import IMAGE_SUFFIXES

Input = str | Path | int | NDArray[np.uint8] | Iterable[Any]
"""A video or picture file, the number of a camera, an array ``[T, H, W, 3]``, or an iterable of frames."""
_LOOK_AHEAD = 9  # frames, by whose times the rate of a stream is known
_STILL_RATE = 25.0  # of what is no film; FFmpeg says it of pictures, too


@dataclass(frozen=True)
class Source:
    """Something to watch, opened.

    Attributes:
        name: Short: the stem of a file, ``camera 0``, ``array``, ``frames``.
        where: For messages: the path of a file, else the name.
        info: Size, rate and number of frames; ``num_frames`` is 0 where nobody knows it yet.
        rate: Frames per second of most of it.
        frames: Begins to read, and yields each frame with its number and its time in seconds after the first.
        times: When each frame is shown, float64 ``[F]``; None where nobody knows it yet.
        path: The file, if it is one.
    """

    name: str
    where: str
    info: VideoInfo
    rate: float
    frames: Callable[[], Generator[Frame, None, None]]
    times: NDArray[np.float64] | None = None
    path: Path | None = None

    def until(self, seconds: float | None) -> "Source":
        """Return the same, ended after some seconds of film; None for all of it.

        Raises:
            ValueError: If it is not above 0.
        """
        if seconds is None:
            return self
        if not seconds > 0:
            raise ValueError(f"seconds: must be above 0, got {seconds!r}.")

        def begin() -> Generator[Frame, None, None]:
            with closing(self.frames()) as frames:
                yield from itertools.takewhile(lambda frame: frame.time < seconds, frames)

        return replace(self, frames=begin, info=replace(self.info, num_frames=0))


def open_source(source: "Input | Source", fps: float | None = None) -> Source:
    """Look at what is to be watched, as far as that costs little: nothing but the first frames is read.

    Args:
        source: One of

            - a video or picture file; a picture is a clip of one frame, read by the reader of the data sets;
            - an array uint8 ``[T, H, W, 3]``, RGB, or ``[H, W, 3]``, a picture;
            - an iterable of frames, RGB uint8 ``[H, W, 3]`` of one size, or of pairs ``(seconds, frame)``;
            - the number of a camera, as OpenCV counts them; it ends when it is unplugged, or who reads stops;
            - what this function returned.
        fps: Frames per second of an array, or of frames without times; files and cameras bring their own.

    Returns:
        The source.

    Raises:
        MissingDataError: If there is no such file or camera.
        DataError: If a file cannot be read, or states no rate; or a stream holds no frame, or something else.
        ValueError: If an array is none of the above, or ``fps`` is missing, not positive, or given where it would
            change nothing.
    """
    if isinstance(source, Source):
        return source
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps: must be positive, got {fps!r}.")
    if isinstance(source, str | Path):
        _refuse_rate(fps, source, "the file says when each frame is shown")
        return _of_file(Path(source))
    if isinstance(source, int | np.integer) and not isinstance(source, bool):
        _refuse_rate(fps, f"camera {source}", "its frames have the time at which they come")
        return _of_camera(int(source))
    if isinstance(source, np.ndarray):
        return _of_array(source, fps)
    if isinstance(source, Iterable):
        return _of_stream(iter(source), fps, "frames")
    raise ValueError(
        "source: must be a file, an array [T, H, W, 3], an iterable of frames or the number of a camera, got "
        f"{type(source).__name__}."
    )


def open_raw(pipe: BinaryIO, width: int, height: int, fps: float) -> Source:
    """Open a pipe of pictures without any header, as ``ffmpeg -f rawvideo -pix_fmt rgb24 -`` writes them.

    Args:
        pipe: Bytes R, G, B of every pixel, row by row, frame by frame.
        width: Pixels of a frame.
        height: Pixels of a frame.
        fps: Frames per second.

    Returns:
        The source; it can be read once.

    Raises:
        DataError: If the pipe holds no frame. While it is read: if it ends within one.
        ValueError: If a number is not positive.
    """
    if width < 1 or height < 1 or not 0 < fps < math.inf:
        raise ValueError(f"open_raw: width, height and fps must be positive, got {width}, {height} and {fps}.")
    return _of_stream(_raw(pipe, (height, width, 3)), fps, "pipe")


def _raw(pipe: BinaryIO, shape: tuple[int, int, int]) -> Iterator[NDArray[np.uint8]]:
    size = math.prod(shape)
    for number in itertools.count():
        read = bytearray()
        while len(read) < size and (part := pipe.read(size - len(read))):  # a pipe may give what is there
            read += part
        if 0 < len(read) < size:
            raise DataError(
                f"pipe: must end with a whole frame of {shape[1]} x {shape[0]} pixels, {size} bytes, got {len(read)} "
                f"of them (frame {number})."
            )
        if not read:
            return
        yield np.frombuffer(read, np.uint8).reshape(shape)


class Newest:
    """Frames of what does not wait, such as a camera, read in a thread of their own: always the newest.

    Who is slower than the frames gets fewer of them, and never older ones. A context manager, an iterator of frames.

    Args:
        source: What to read.

    Attributes:
        left_out: Frames so far that nobody asked for in time.
    """

    def __init__(self, source: Source) -> None:
        self.left_out = 0
        self._frames = source.frames()
        self._ready = threading.Condition()
        self._frame: Frame | None = None
        self._over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Newest":
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop after the frame that is being read, and close the source."""
        self._over = True
        self._thread.join()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the newest frame, each once, until the source ends.

        Raises:
            HOCPError: What ended it.
        """
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._frame is not None or self._over)
                frame, self._frame = self._frame, None
            if frame is None:
                if self._error is not None:
                    raise self._error
                return
            yield frame

    def _read(self) -> None:
        try:
            with closing(self._frames):
                for frame in self._frames:
                    with self._ready:
                        self.left_out += self._frame is not None
                        self._frame = frame
                        self._ready.notify()
                    if self._over:
                        return
        except BaseException as error:  # handed to who reads
            self._error = error
        finally:
            with self._ready:
                self._over = True
                self._ready.notify()


def unopened(source: "Input | Source") -> Source:
    """Return what is known of a source that cannot be opened, its name; without frames."""
    if isinstance(source, Source):
        return source
    path = Path(source) if isinstance(source, str | Path) else None
    name = path.stem if path is not None else f"camera {source}" if isinstance(source, int) else type(source).__name__
    empty = VideoInfo(0, 1.0, 1, 1, "")
    return Source(name, name if path is None else str(path), empty, 1.0, lambda: (_ for _ in ()), None, path)


def _refuse_rate(fps: float | None, what: object, why: str) -> None:
    if fps is not None:
        raise ValueError(f"fps: is for arrays and frames without times, got {fps!r} for {what}; {why}.")


def _of_file(path: Path) -> Source:
    info = probe_video(path)
    if info.num_frames == 1 and path.suffix.lower() in IMAGE_SUFFIXES:
        size = check_image(path)
        info = VideoInfo(1, _STILL_RATE, size.width, size.height, info.codec)

        def look() -> Generator[Frame, None, None]:
            yield Frame(0, 0.0, read_image(path))  # as in training; a video decoder has other colours

        return Source(path.stem, str(path), info, _STILL_RATE, look, np.zeros(1), path)
    if not info.fps > 0:
        raise DataError(f"{path}: the file must state its frame rate.")
    uneven = uneven_times(path, info)
    # Stamps of even frames are rounded, to milliseconds in many files: by them no moment would be a frame's own.
    times = np.arange(info.num_frames) / info.fps if uneven is None else uneven

    def begin() -> Generator[Frame, None, None]:
        number = -1
        for number, picture in enumerate(iter_frames(path)):
            if number >= len(times):
                raise DataError(f"{path}: must have {len(times)} frames, but the stream has more.")
            yield Frame(number, float(times[number]), picture)
        if number + 1 < len(times):
            raise DataError(f"{path}: must have {len(times)} frames, but the stream ends after {number + 1}.")

    return Source(path.stem, str(path), info, usual_rate(info.fps, uneven), begin, times, path)


def _of_array(array: NDArray[Any], fps: float | None) -> Source:
    pictures = array[None] if array.ndim == 3 else array
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or pictures.shape[3] != 3 or 0 in pictures.shape:
        raise ValueError(f"array: must be uint8 [T, H, W, 3] or [H, W, 3], got {array.dtype} {list(array.shape)}.")
    if fps is None and len(pictures) > 1:
        raise ValueError(f"array: fps must say how many of its {len(pictures)} frames are a second, got none.")
    rate = fps or _STILL_RATE
    info = VideoInfo(len(pictures), rate, pictures.shape[2], pictures.shape[1], "rawvideo")
    times = np.arange(len(pictures)) / rate

    def begin() -> Generator[Frame, None, None]:
        yield from (
            Frame(n, when, picture) for n, (when, picture) in enumerate(zip(times.tolist(), pictures, strict=True))
        )

    return Source("array", "array", info, rate, begin, times)


def _of_stream(items: Iterator[Any], fps: float | None, name: str, close: Callable[[], object] = int) -> Source:
    """Open what can be read once, and whose length nobody knows."""
    first = list(itertools.islice(items, 1))
    if not first:
        raise DataError(f"{name}: must hold at least one frame, got none.")
    timed = isinstance(first[0], tuple)
    if timed and fps is not None:
        raise ValueError(f"fps: is for frames without times, got {fps!r} and pairs of a time and a frame ({name}).")
    if not timed and fps is None:
        raise ValueError(f"{name}: fps must say how many frames are a second, or each come with its time, got neither.")
    checked = _checked(itertools.chain(first, items), fps, name)
    ahead = list(itertools.islice(checked, _LOOK_AHEAD if timed else 1))
    gaps = np.diff([frame.time for frame in ahead])
    rate = fps or (float(1 / np.median(gaps)) if len(gaps) else _STILL_RATE)
    height, width = ahead[0].picture.shape[:2]
    info = VideoInfo(0, rate, width, height, "rawvideo", variable=timed)
    left = [itertools.chain(ahead, checked)]

    def begin() -> Generator[Frame, None, None]:
        if not left:
            raise DataError(f"{name}: can be read once, and was.")
        try:
            yield from left.pop()
        finally:
            close()

    return Source(name, name, info, rate, begin)


def _checked(items: Iterator[Any], fps: float | None, name: str) -> Iterator[Frame]:
    shape: tuple[int, ...] | None = None
    start = before = -math.inf
    for number, item in enumerate(items):
        seconds, picture = (number / fps, item) if fps is not None else _pair(item, number, name)
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
            what = (
                f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
            )
            raise DataError(f"{name}: a frame must be an array uint8 [H, W, 3], got {what} (frame {number}).")
        shape = shape or picture.shape
        if picture.shape != shape or shape[2] != 3 or 0 in shape:
            raise DataError(
                f"{name}: frames must be [H, W, 3] of one size, got {list(picture.shape)} (frame {number}; the first "
                f"is {list(shape)})."
            )
        if not before < seconds < math.inf:
            raise DataError(f"{name}: times must increase, got {seconds:g} s after {before:g} s (frame {number}).")
        start, before = (seconds if number == 0 else start), seconds
        yield Frame(number, seconds - start, picture)


def _pair(item: Any, number: int, name: str) -> tuple[float, Any]:
    try:
        seconds, picture = item
        return float(seconds), picture
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: must be pairs of a time in seconds and a frame (frame {number}).") from error


def _of_camera(number: int) -> Source:
    name = f"camera {number}"
    camera = cv2.VideoCapture(number)
    frames = _captured(camera, name)
    try:
        return _of_stream(frames, None, name, frames.close)
    except BaseException:
        frames.close()
        raise


def _captured(camera: Any, name: str) -> Generator[tuple[float, NDArray[np.uint8]], None, None]:
    """Yield what a camera sees, each picture with the time at which it came."""
    try:
        if not camera.isOpened():
            raise MissingDataError(f"{name}: cannot be opened; is it there, and used by no other program?")
        seen = False
        while True:
            there, picture = camera.read()
            if not there:
                break
            seen = True
            yield time.monotonic(), cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        if not seen:
            raise DataError(f"{name}: must give a picture, got none.")
    finally:
        camera.release()
