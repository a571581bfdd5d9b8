"""decord, for those who ask for it: read only after it has passed `random access == sequential` on the very file.

decord 0.6.0 returns other frames than asked, silently, on Xvid AVIs with B-frames (the codec of SEWA). It is
never chosen by itself: jumps between key frames (`hocp_mm.datasets.media.seek`) are exact on those files too,
and faster on every kind of file that was measured (16 frames anywhere in 3,000 of 320x240, milliseconds by jumps,
decord, in order: Xvid with B-frames 24, 83 and wrong, 120; H.264 with a key frame every 250 frames 150, 186, 1734;
all intra 81, 105, 3995).
"""

import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.media.decoding import decode, orientation, to_rgb
from hocp_mm.errors import DataError
from hocp_mm.system.reading import check_file, full_name

# decord 0.6.0 hangs on transport streams until it is killed, so they are not even opened for the self-check.
_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm")
# Grey levels, on average; rounding is one or two.
_LARGEST_DIFFERENCE = 4


def read_with_decord(path: str | Path, frames: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Read frames by decord's random access.

    Args:
        path: Video file.
        frames: Frame numbers, sorted and free of repeats, at least one.

    Returns:
        RGB pictures, uint8 ``[n, H, W, 3]``.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If decord must not read this file, or a frame lies beyond its end.
    """
    stat = check_file(path, "video file")
    fault = _decord_fault(str(path), stat.st_mtime_ns, stat.st_size)
    if fault:
        raise DataError(f"{path}: decord cannot be trusted with this file: {fault}. Use decoder='auto'.")
    import decord  # optional: it has no wheels for many platforms

    reader = decord.VideoReader(full_name(path))
    if frames[-1] >= len(reader):
        raise DataError(f"{path}: frame {frames[-1]} was asked for, but the stream ends after {len(reader)} frames.")
    return reader.get_batch(frames.tolist()).asnumpy()


@lru_cache(maxsize=4096)
def _decord_fault(path: str, mtime_ns: int, size: int) -> str:
    """Return why decord must not read this file, or an empty text.

    Random access is compared with a sequential pass over every frame, in a fixed scattered order; checksums
    keep the memory flat. ``mtime_ns`` and ``size`` make the cached verdict end when the file changes.
    """
    if Path(path).suffix.lower() not in _SUFFIXES:
        return f"only {', '.join(_SUFFIXES)} are tried, others can hang it"
    try:
        import decord
    except ImportError:
        return "it is not installed"
    try:
        if any(orientation(path)):
            return "it turns pictures in its own way, and this file says to turn them"
        count = sum(1 for _ in decode(path))
        in_order = [zlib.crc32(decord_frame.asnumpy()) for decord_frame in decord.VideoReader(full_name(path))]
        if len(in_order) != count:
            return f"it sees {len(in_order)} frames of {count}"
        reader = decord.VideoReader(full_name(path))
        # High dynamic range, above all.
        difference = reader[0].asnumpy().astype(np.int16) - to_rgb(path, 0, next(decode(path)))
        if np.abs(difference).mean() > _LARGEST_DIFFERENCE:
            return "it shows other colours"
        for index in np.random.default_rng(0).permutation(count).tolist():
            if zlib.crc32(reader[index].asnumpy()) != in_order[index]:
                return f"random access to frame {index} returns another picture than sequential reading"
    except Exception as error:  # its own errors have no base but this; unknown codecs, no length in the header, …
        return f"it fails on it ({(str(error).strip().splitlines() or [type(error).__name__])[-1][:200]})"
    return ""
