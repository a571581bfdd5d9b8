"""Exact random access: jump to a key frame, but only in a file on which every jump was tried and compared.

Seeking goes by time stamps, and a file may lie about them, repeat them, or hold pictures after a key frame that
still refer to pictures before it. So a file is read once in order (time stamp and checksum of every picture) and
once more by jumps; only if each jump lands where it should and each picture after it is the same, bit by bit, is
the file read by jumps at all. At each later read the time stamps are compared with the table again.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from hocp_mm.datasets.media.decoding import Pictures, decode, open_video, said_by, to_rgb
from hocp_mm.errors import DataError

# Jumps closer than this save nothing over decoding on (a jump costs about as much as this many pictures).
_FRAMES_WORTH_A_JUMP = 12


@dataclass(frozen=True, eq=False)
class SeekTable:
    """Where a file may be entered.

    Attributes:
        pts: Time stamp of each frame, int64 ``[F]``.
        entries: Frame numbers of the key frames that jumps go to, in increasing order, the first is 0.
        kind: Codec and container, for the log.
        refusal: Why the file must be read in order, empty if it need not.
    """

    pts: NDArray[np.int64]
    entries: NDArray[np.int64]
    kind: str
    refusal: str = ""


def seek_table(path: str | Path) -> SeekTable:
    """Return the table of a file; made once per file and process, and anew when the file changes."""
    stat = Path(path).stat()
    return _prove(str(path), stat.st_mtime_ns, stat.st_size)


def read_by_jumps(path: str | Path, frames: NDArray[np.integer], table: SeekTable) -> NDArray[np.uint8]:
    """Read frames by way of the nearest entry before each.

    Args:
        path: Video file.
        frames: Frame numbers, sorted and free of repeats, at least one.
        table: Table of this file, without a refusal.

    Returns:
        RGB pictures, uint8 ``[n, H, W, 3]``.

    Raises:
        DataError: If a frame lies beyond the end, or the file does not give what its table says.
    """
    count = len(table.pts)
    if frames[-1] >= count:
        raise DataError(f"{path}: frame {frames[-1]} was asked for, but the stream ends after {count} frames.")
    pictures = Pictures(path, frames)
    with open_video(path) as (container, stream):
        try:
            while pictures.wants is not None:
                entry = int(table.entries[np.searchsorted(table.entries, pictures.wants, side="right") - 1])
                _read_on(path, container, stream, table, entry, pictures)
        except FFmpegError as error:
            raise DataError(f"{path}: frame {pictures.wants} cannot be decoded ({said_by(error)}).") from error
    return pictures.array


def _read_on(path: str | Path, container: Any, stream: Any, table: SeekTable, entry: int, pictures: Pictures) -> None:
    """Jump to an entry and take wanted frames until there are all, or the next one is better reached by a jump."""
    for index, frame in _enter(path, container, stream, table, entry):
        if index == pictures.wants:
            pictures.add(frame)
            wants = pictures.wants
            if wants is None or table.entries[np.searchsorted(table.entries, wants, side="right") - 1] > index:
                return
    raise DataError(f"{path}: frame {pictures.wants} was not found again; was the file changed while it was read?")


def _enter(
    path: str | Path, container: Any, stream: Any, table: SeekTable, entry: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the frames from ``entry`` on with their numbers, which must come without gaps."""
    container.seek(int(table.pts[entry]), stream=stream, backward=True)
    expected: int | None = None
    for frame in container.decode(stream):
        index = _number_of(frame, table.pts)
        if expected is None and index is not None and index < entry:
            continue  # the jump fell short, or pictures before the key frame are shown first: not to be trusted
        expected = entry if expected is None else expected
        if index != expected:
            raise DataError(f"{path}: a jump to frame {entry} gives frame {index} where {expected} should be.")
        yield expected, frame
        expected += 1


def _number_of(frame: av.VideoFrame, pts: NDArray[np.int64]) -> int | None:
    """Return the number of the frame with this time stamp, None if there is none."""
    if frame.pts is None:
        return None
    index = int(np.searchsorted(pts, frame.pts))
    return index if index < len(pts) and pts[index] == frame.pts else None


@lru_cache(maxsize=4096)
def _prove(path: str, mtime_ns: int, size: int) -> SeekTable:
    """Make the table of a file; ``mtime_ns`` and ``size`` end the cached verdict when the file changes."""
    empty = np.zeros(0, dtype=np.int64)
    with open_video(path) as (container, stream):
        kind = f"{stream.codec_context.name} in {Path(path).suffix.lower() or container.format.name}"
    pts: list[int | None] = []
    keys: list[int] = []
    sums: list[int] = []
    try:
        for index, frame in enumerate(decode(path)):
            pts.append(frame.pts)
            sums.append(zlib.crc32(to_rgb(path, index, frame).data))
            keys += [index] if frame.key_frame else []
    except DataError as error:
        return SeekTable(empty, empty, kind, f"not all of it can be decoded ({error})")
    known = np.array([stamp for stamp in pts if stamp is not None], dtype=np.int64)
    if len(known) < len(pts) or (np.diff(known) <= 0).any():
        return SeekTable(empty, empty, kind, "its time stamps are missing or do not increase")
    entries = _thin(keys)
    if len(entries) < 2 or entries[0] != 0:
        return SeekTable(empty, empty, kind, "it has no key frame after the first to jump to")
    table = SeekTable(known, entries, kind)
    fault = _fault_of_jumps(path, table, sums)
    return SeekTable(empty, empty, kind, fault) if fault else table


def _thin(keys: list[int]) -> NDArray[np.int64]:
    """Drop key frames that follow too closely on the one before."""
    kept: list[int] = []
    for key in keys:
        if not kept or key - kept[-1] >= _FRAMES_WORTH_A_JUMP:
            kept.append(key)
    return np.array(kept, dtype=np.int64)


def _fault_of_jumps(path: str, table: SeekTable, sums: list[int]) -> str:
    """Try every jump, the last one first, and compare every picture up to the next entry; return the first fault."""
    ends = [*table.entries[1:].tolist(), len(sums)]
    try:
        with open_video(path) as (container, stream):
            for entry, end in reversed(list(zip(table.entries.tolist(), ends, strict=True))):
                index = entry - 1
                for index, frame in _enter(path, container, stream, table, entry):
                    if index == end:
                        break
                    if zlib.crc32(to_rgb(path, index, frame).data) != sums[index]:
                        return f"frame {index} looks different after a jump to frame {entry}"
                if index + 1 < end:
                    return f"a jump to frame {entry} ends after frame {index}"
    except (DataError, FFmpegError) as error:
        return f"a jump fails ({error})"
    return ""
