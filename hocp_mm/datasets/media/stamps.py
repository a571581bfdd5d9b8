"""When frames are shown: the time stamps of a file, belonging to exactly the frames that decoding gives.

Packets are looked at, not decoded (about 5 ms per 1000 frames), as long as each of them surely gives one frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from hocp_mm.datasets.media.decoding import decode, open_video, said_by
from hocp_mm.errors import DataError
from hocp_mm.system.reading import check_file

# An MPEG-4 picture header alone takes 7 bytes; FFmpeg calls a packet up to 19 bytes a "not coded" picture.
_SMALLEST_PICTURE = 20
# Elementary streams of MPEG-1 and 2 have no stamps; FFmpeg makes some up, not all of them right.
_MAKES_UP = "mpegvideo"
_MOST_HELD_BACK = 16  # pictures, in H.264 and HEVC


@dataclass(frozen=True, eq=False)
class Stamps:
    """The time stamps of all frames of a file, in the order in which decoding gives them.

    Attributes:
        values: One per frame, int64 ``[F]`` in units of ``base``; zeros if one is missing.
        base: Seconds.
        missing: Number of the first frame without one, None if each has one.
    """

    values: NDArray[np.int64]
    base: Fraction
    missing: int | None = None

    @property
    def fault(self) -> str:
        """Why they do not give each frame a time of its own; empty if they do."""
        if self.missing is not None:
            return f"every frame must have a time stamp, but frame {self.missing} has none"
        steps = np.diff(self.values)
        if (steps <= 0).any():
            frame = 1 + int(np.argmax(steps <= 0))
            return f"time stamps must increase, but frame {frame} does not come after the one before it"
        return ""

    @property
    def are_times(self) -> bool:
        """Whether there is one for each frame, none of them before the one in front of it."""
        return self.missing is None and bool((np.diff(self.values) >= 0).all())

    def is_even(self, rate: Fraction) -> bool:
        """Return whether each frame k comes less than half a frame from k / rate after the first.

        Args:
            rate: Frames per second, above 0.
        """
        # In whole numbers: a float would decide at random where a stamp was rounded to just half a frame.
        ticks = self.base * rate
        over, under = ticks.numerator, ticks.denominator
        first, *later = self.values.tolist()
        return all(abs(2 * ((stamp - first) * over - k * under)) < under for k, stamp in enumerate(later, start=1))

    def rate(self, *promised: Fraction) -> tuple[Fraction, bool]:
        """Return the frames per second of a file, and whether its frames come unevenly.

        Args:
            promised: What its header says, the most trusted first; 0 for nothing.

        Returns:
            The first that all stamps agree with; their mean where there is none; where there are no stamps, or all are
            one, the first that says anything, or 0.
        """
        said = [rate for rate in promised if rate > 0]
        span = int(self.values[-1] - self.values[0])
        if not self.are_times or span == 0:
            return next(iter(said), Fraction(0)), False
        for rate in said:
            if self.is_even(rate):
                return rate, False
        mean = (len(self.values) - 1) / (span * self.base)
        return mean, not self.is_even(mean)


def read_stamps(path: str | Path) -> Stamps:
    """Return the time stamps of exactly the frames that decoding gives; read once while the file stays as it is.

    Where a packet may give no picture (dropped frames of variable rate AVIs, placeholders of packed bitstreams,
    hidden pictures of VP8, frames cut away by an edit list, a start without key frame) or the order of
    the stamps is in doubt, the file is decoded instead.

    Args:
        path: Video file.

    Returns:
        At least one.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is no video, holds no frame, or ends in the middle of one.
    """
    stat = check_file(path, "video file")
    return _read_stamps(str(path), stat.st_mtime_ns, stat.st_size)


# A set of thousands of videos is read in threads, each file by `probe_video` and then by `video_times`.
@lru_cache(maxsize=32)
def _read_stamps(path: str, mtime_ns: int, size: int) -> Stamps:
    """Read the stamps; ``mtime_ns`` and ``size`` end the cached answer when the file changes."""
    with open_video(path) as (container, stream):
        base, made_up = stream.time_base, container.format.name == _MAKES_UP
    stamps = _packet_stamps(path)
    if stamps is None:
        stamps = [frame.pts for frame in decode(path)]
    if not stamps:
        raise DataError(f"{path}: a video must hold at least one frame, got none.")
    if made_up:
        return Stamps(np.zeros(len(stamps), np.int64), base, 0)
    if None in stamps:
        return Stamps(np.zeros(len(stamps), np.int64), base, stamps.index(None))
    return Stamps(np.array(stamps, np.int64), base)


def _packet_stamps(path: str) -> list[int | None] | None:
    """Return the time stamps of all packets in the order of display; None where only decoding can tell."""
    shown: list[int | None] = []
    decoded: list[int | None] = []
    certain, started, first_pts = True, False, None
    with open_video(path) as (container, stream):
        codec, avi = stream.codec_context.name, container.format.name == "avi"
        try:
            for packet in container.demux(stream):
                if packet.size == 0 and packet.dts is None:
                    continue  # PyAV ends every stream with an empty packet that flushes the decoder
                if packet.is_corrupt:
                    raise DataError(
                        f"{path}: the file must hold whole frames, but it ends or breaks inside frame {len(shown)} "
                        f"(its header promises {stream.frames}); copy it again."
                    )
                if not shown:
                    started, first_pts = packet.is_keyframe, packet.pts
                # Pictures shown before the first key frame lean on pictures that the file does not hold.
                leading = None not in (first_pts, packet.pts) and packet.pts < first_pts
                certain &= packet.size >= _SMALLEST_PICTURE and not packet.is_discard and started and not leading
                # VP8 has pictures that others lean on but nobody sees; this bit says "show".
                certain &= codec != "vp8" or packet.size == 0 or bool(memoryview(packet)[0] & 16)
                shown.append(packet.pts)
                decoded.append(packet.dts)
        except FFmpegError as error:
            raise DataError(f"{path}: cannot be read after {len(shown)} frames ({said_by(error)}).") from error
    if not certain or not _increases(decoded):
        return None
    if None not in decoded:
        # Frames are shown in the order of their stamps; an AVI has none (FFmpeg makes some up for H.264), there they
        # are shown one by one at the times of decoding, all later by as many as the decoder holds back.
        return sorted(decoded if avi or None in shown else shown)  # pyright: ignore[reportArgumentType]
    if None in shown:
        return shown if shown.count(None) == len(shown) else None
    # Matroska has no times of decoding, FFmpeg guesses most of them. Decoders hold back a few pictures, not more.
    order = np.argsort(np.array(shown, np.int64), kind="stable")
    return sorted(shown) if (np.abs(order - np.arange(len(order))) <= _MOST_HELD_BACK).all() else None  # pyright: ignore


def _increases(stamps: Sequence[int | None]) -> bool:
    known = [stamp for stamp in stamps if stamp is not None]
    return all(before <= after for before, after in pairwise(known))
