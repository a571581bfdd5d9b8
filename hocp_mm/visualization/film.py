"""An MP4 written while its pictures go by: each at its own time, encoded beside the caller's work, with sound."""

import logging
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.system.reading import check_file, full_name
from hocp_mm.visualization.sound import Sound, add_sound

_LOG = logging.getLogger(__name__)

# Measured on a talking head against "veryfast" with crf 20: half the time, the face as near to the source, files a
# third larger at 640x360 and smaller at 4K. Without B-frames pictures are decoded in the order in which they are shown,
# which keeps uneven times exact in every player.
_X264 = {"crf": "24", "preset": "superfast", "bf": "0", "aq-mode": "0"}
# A small picture costs more with threads beside that of the film; each one of x264's holds pictures.
_PIXELS_WORTH_THREADS, _MOST_THREADS = 1280 * 720, 4
_WAITING = 2  # pictures between the caller and the encoder, and the arrays that they take turns in
# Ticks a second, of which MPEG-4 counts 16 bits, and an MP4 31 from one picture to the next.
_TICKS, _MOST_TICKS, _MOST_TICKS_MPEG4, _LONGEST = 90_000, 1_000_000, 65_535, (1 << 31) - 1
_SLOWEST = Fraction(1, _LONGEST)
_BT601, _LIMITED = 6, 1  # FFmpeg's numbers for the matrix and the range of OpenCV's I420


class Film:
    """A film in an MP4 file, complete when the block ends well.

    Args:
        path: Draft to write.
        name: File for messages.
        size: Width and height of the pictures in pixels, both even.
        fps: Pictures per second, in whose parts time is counted; says how long the last picture is shown.
        pixel_aspect: Width of a pixel over its height.
        audio: File whose first sound is copied, or encoded anew.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no file.
    """

    def __init__(
        self, path: Path, name: str, size: tuple[int, int], fps: float, pixel_aspect: float, audio: str | Path | None
    ) -> None:
        self._name = name
        if audio is not None:
            check_file(audio, "audio source")
        codec, options, most = "libx264", _X264, _MOST_TICKS
        if not _has_encoder(codec):
            _LOG.warning("write_overlay: this PyAV has no libx264; writing %s with mpeg4 instead.", name)
            codec, options, most = "mpeg4", {"qscale": "3"}, _MOST_TICKS_MPEG4
        # Of pictures that come once in an hour, too; both numbers have 31 bits.
        rate = Fraction(fps).limit_denominator(1001) or max(Fraction(fps).limit_denominator(_LONGEST), _SLOWEST)
        # Even times of this rate become whole ticks, all others the nearest.
        ticks = min(rate.numerator * max(min(_TICKS, most) // rate.numerator, 1), most)
        self._tick, self._length = Fraction(1, ticks), min(max(round(ticks / fps), 1), _LONGEST)
        self._container: Any = av.open(full_name(path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream: Any = self._container.add_stream(codec, rate=rate, options=options)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._tick
        context = self._stream.codec_context
        context.time_base = self._tick
        context.sample_aspect_ratio = _ratio(pixel_aspect)
        large = codec == "libx264" and size[0] * size[1] > _PIXELS_WORTH_THREADS
        context.thread_count = min(os.cpu_count() or 1, _MOST_THREADS) if large else 1
        context.colorspace, context.color_range = _BT601, _LIMITED
        self._sound: Sound | None = None if audio is None else add_sound(self._container, audio, name)
        self._last = -1
        self._encoder = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._planes = deque(np.empty((size[1] * 3 // 2, size[0]), np.uint8) for _ in range(_WAITING))

    def __enter__(self) -> "Film":
        """Return the film."""
        return self

    def write(self, picture: NDArray[np.uint8], time: float) -> None:
        """Add a picture; waits while the encoder is behind.

        Args:
            picture: RGB uint8 ``[H, W, 3]``, free to be changed afterwards.
            time: Seconds after the start, later than the last.

        Raises:
            DataError: If the last one would be shown for longer than an MP4 can say, hours.
            Exception: Whatever went wrong with the pictures before.
        """
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        ticks = max(round(time / self._tick), self._last + 1)
        if self._last >= 0 and ticks - self._last > _LONGEST:
            longest = float(_LONGEST * self._tick)
            rule = f"a picture must last {longest:.0f} s at most in an MP4"
            raise DataError(f"{self._name}: {rule}, got one until {time} s.")
        self._last = ticks
        # The source had its colours at half the size already, so OpenCV may take every second one, as it does.
        self._planes.rotate()
        planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420, dst=self._planes[0]), np.uint8)
        self._waiting.append(self._encoder.submit(self._encode, planes, self._last))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the film, or drop it where the block failed."""
        try:
            if kind is None:
                while self._waiting:
                    self._waiting.popleft().result()
                self._mux(None)
                if self._sound is not None:
                    self._sound.write_until(float((self._last + self._length) * self._tick))
                self._container.close()
        finally:
            self._encoder.shutdown(wait=True, cancel_futures=True)
            if self._sound is not None:
                self._sound.close()
            try:
                self._container.close()
            except (FFmpegError, OSError):
                if kind is None:  # else the draft goes, whatever is in it
                    raise

    def _encode(self, planes: NDArray[np.uint8], ticks: int) -> None:
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = ticks, self._tick
        self._mux(frame)
        if self._sound is not None:
            self._sound.write_until(float(ticks * self._tick))

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._length  # counts for the last one; the others last until the next
            self._container.mux(packet)


def _ratio(pixel_aspect: float) -> Fraction:
    """Return a fraction of small numbers near a ratio."""
    if pixel_aspect < 1:
        return 1 / _ratio(1 / pixel_aspect)
    return Fraction(pixel_aspect).limit_denominator(1000)


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:  # av.codec.codec.UnknownCodecError
        return False
    return True
