"""Exact frames out of video files: frame *k* is the *k*-th decoded frame, never a guess from time stamps.

Decoding in order is right on every container, and converting only the wanted frames makes it cheap near the start
of a file. Deep inside a long file it is not, so a file that is read again and again is examined once: where jumps to
its key frames prove exact on every frame, clips are read by jumps from then on (``decoder="auto"``).

The popular alternative is wrong: decord 0.6.0 returns other frames than asked, silently, on Xvid AVIs with B-frames
(the codec of SEWA). Time stamps are no substitute for counting either: the first frame of such an AVI has pts 1.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from hocp_mm.datasets.media.decoding import check_size, decode, films, open_video, orientation, read_in_order, to_rgb
from hocp_mm.datasets.media.decord import read_with_decord
from hocp_mm.datasets.media.hdr import TRANSFERS
from hocp_mm.datasets.media.seek import read_by_jumps, seek_table
from hocp_mm.datasets.media.stamps import read_stamps
from hocp_mm.errors import DataError
from hocp_mm.system.refusals import visible

Decoder = Literal["auto", "pyav", "seek", "decord"]
DECODERS = ("auto", "pyav", "seek", "decord")

_WIDEST_PIXEL = 16
_RATE_OF_A_PICTURE = Fraction(25)  # FFmpeg's
# Making a table decodes, converts and compares every frame twice: about four times a decode that converts few.
_PRICE_OF_A_TABLE = 4

_spent: dict[str, tuple[int, int]] = {}  # file -> frames decoded in order so far, last frame known to exist
_told: set[str] = set()  # keys of `_say_once`


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds, found by decoding its first frame only.

    Attributes:
        num_frames: Number of frames that a complete decode gives.
        fps: Frames per second: what the header says where the time stamps agree with it or are missing, else the mean,
            ``num_frames - 1`` over the time from the first to the last; 0 if nothing says it.
        width: Pixels of an upright frame, as `read_frames` returns it.
        height: Pixels of an upright frame.
        codec: FFmpeg's name of the codec, ``mpeg4`` for Xvid.
        header_frames: Number of frames that the header promises, 0 if it does not say.
        pixel_aspect: Width of a pixel of an upright frame over its height; 1 if the file does not say, or says more
            than 16 or less than 1/16.
        variable: Frames do not come evenly: one of them is half a frame or more away from its number over ``fps``,
            counted from the first; `video_times` gives their times.
    """

    num_frames: int
    fps: float
    width: int
    height: int
    codec: str
    header_frames: int = 0
    pixel_aspect: float = 1.0
    variable: bool = False


def probe_video(path: str | Path) -> VideoInfo:
    """Count the frames of a video and read its format.

    Packets are counted, not decoded (about 5 ms per 1000 frames), where each of them surely gives a frame (see
    `hocp_mm.datasets.media.stamps`); else the file is decoded once, so that the count is always the one that
    `read_frames` can serve.

    Args:
        path: Video file.

    Returns:
        Count and format.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is no video, holds no frame, or ends in the middle of one.
    """
    with open_video(path) as (_, stream):
        average, guessed = (Fraction(rate or 0) for rate in (stream.average_rate, stream.guessed_rate))
        coded = Fraction(stream.codec_context.framerate or 0)
        codec, promised = stream.codec_context.name, stream.frames
    stamps = read_stamps(path)
    # Of the single picture of a GIF the guess is the unit of its clock.
    single = len(stamps.values) == 1 and not average
    said = (average, _RATE_OF_A_PICTURE if single else guessed)
    if not stamps.are_times:
        # The average is FFmpeg's default of 25, the guess what the pictures say, for some codecs in fields.
        said = (coded if coded == guessed / 2 else guessed, average)
    fps, variable = stamps.rate(*said)
    first = next(decode(path), None)
    if first is None:
        raise DataError(f"{path}: a video must hold at least one frame, got none.")
    width, height = first.width, first.height
    with open_video(path) as (container, stream):
        aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        streams = [film.index for film in films(path, container)]
    if not 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL:
        # Nobody made such pixels, and a frame made square by them fills the memory.
        text = f"{path}: pixels {aspect:.3g} times as wide as high are taken for square."
        _say_once(f"pixels of {path}", text, logging.WARNING)
        aspect = 1.0
    if len(streams) > 1:
        others = ", ".join(map(str, streams[1:]))
        text = f"has {len(streams)} video streams, stream {streams[0]} is read (FFmpeg's choice), not {others}."
        _say_once(str(path), f"{path}: {text}", logging.WARNING)
    curve = TRANSFERS.get(int(first.color_trc))
    if curve:
        text = f"high dynamic range ({curve}) is shown as on a usual screen (first such file: {path})"
        _say_once(curve, f"decoding: {text}")
    turned = orientation(path)
    if turned == (False, True, True):
        text = f"{path}: says that it is upside down and is turned by 180 degrees; some cameras say so wrongly."
        _say_once("upside down", f"{text} If faces stand on their heads, write the file anew without that mark.")
    if turned[0]:
        width, height, aspect = height, width, 1 / aspect
    return VideoInfo(len(stamps.values), float(fps), width, height, codec, promised, aspect, variable)


def frame_times(path: str | Path) -> NDArray[np.float64]:
    """Return when each frame is shown, in seconds after the first; uneven where the frame rate varies.

    Args:
        path: Video file.

    Returns:
        Seconds, float64 ``[num_frames]``, strictly increasing from 0.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is damaged, holds no frame, or its time stamps are missing or do not increase.
    """
    stamps = read_stamps(path)
    if stamps.fault:
        raise DataError(f"{path}: {stamps.fault}.")
    return np.asarray((stamps.values - stamps.values[0]) * float(stamps.base), dtype=np.float64)


def video_times(path: str | Path, info: VideoInfo) -> NDArray[np.float64]:
    """Return when each frame is shown, in seconds after the first, for every file that `probe_video` reads.

    From the time stamps, wherever each frame has one and none lies before the one in front of it. Frames of one and
    the same stamp (a recorder rounds to milliseconds) are spread evenly up to the next one. Elsewhere frame k is
    shown at ``k / info.fps``: elementary streams (``.h264``, ``.m2v``) have no stamps, and those of recordings
    that were joined byte by byte (transport streams) start again in the middle.

    Args:
        path: Video file.
        info: What `probe_video` said of it.

    Returns:
        Seconds, float64 ``[num_frames]``, strictly increasing from 0.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is damaged, or several frames have neither time stamps nor a rate.
    """
    stamps = read_stamps(path)
    count = len(stamps.values)
    if count > 1 and not stamps.are_times and not info.fps > 0:
        raise DataError(f"{path}: the file must state its frame rate or times, got {info.fps:g} frames per second.")
    interval = 1 / info.fps if info.fps > 0 else 1.0
    if not stamps.are_times:
        return np.asarray(np.arange(count) * interval, dtype=np.float64)
    times = (stamps.values - stamps.values[0]) * float(stamps.base)
    distinct = np.flatnonzero(np.diff(times, prepend=-1.0))
    after = times[-1] + interval
    spread = np.interp(np.arange(count), np.append(distinct, count), np.append(times[distinct], after))
    return np.asarray(spread, dtype=np.float64)


def uneven_times(path: str | Path, info: VideoInfo) -> NDArray[np.float64] | None:
    """Return `video_times` of a video whose frames do not come evenly; None where frame k is shown at ``k / fps``."""
    return video_times(path, info) if info.variable else None


def read_frames(
    path: str | Path, indices: Sequence[int] | NDArray[np.integer], decoder: Decoder = "auto"
) -> NDArray[np.uint8]:
    """Return exactly the frames asked for, upright RGB (see `hocp_mm.datasets.media.decoding.to_rgb`).

    Memory holds these frames and the pictures that the decoder needs, however long the file is. The pixels do not
    depend on ``decoder``, except for the rounding of decord's own colour conversion.

    Args:
        path: Video file.
        indices: Zero-based frame numbers in any order, repeats allowed, ``[n]``.
        decoder: ``"auto"`` decodes in order until that has cost as much in this process as a proof of jumps, then
            jumps if the file passes; ``"pyav"`` always decodes in order; ``"seek"`` jumps to key frames and
            ``"decord"`` uses decord, both refused for a file on which its random access differs from sequential
            reading (checked once per file and process).

    Returns:
        RGB frames, uint8 ``[n, H, W, 3]``, in the order of ``indices``.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file ends before a wanted frame, cannot be decoded, changes its picture size, or
            fails the self-check of the decoder asked for.
        ValueError: If an index is negative or ``decoder`` is unknown.
    """
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
        raise ValueError(f"read_frames: indices must be whole numbers [n], got {wanted.dtype} {wanted.shape}.")
    if wanted.size and wanted.min() < 0:
        raise ValueError(f"read_frames: indices must be 0 or more, got {wanted.min()} ({path}).")
    if decoder not in DECODERS:
        raise ValueError(f"read_frames: decoder must be one of {', '.join(DECODERS)}, got {decoder!r}.")
    if wanted.size == 0:
        info = probe_video(path)
        return np.empty((0, info.height, info.width, 3), dtype=np.uint8)
    frames, position = np.unique(wanted, return_inverse=True)
    pictures = _read(path, frames, decoder)
    # np.unique sorted them and dropped repeats; `position` says where each one goes.
    return pictures if np.array_equal(frames, wanted) else pictures[position]


def iter_frames(path: str | Path) -> Iterator[NDArray[np.uint8]]:
    """Yield every frame of a video in order, upright RGB uint8 ``[H, W, 3]``; holds one at a time.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file cannot be opened, or a frame cannot be decoded or has another size than the first.
    """
    first: tuple[int, ...] | None = None
    for index, frame in enumerate(decode(path)):
        picture = to_rgb(path, index, frame)
        first = first or picture.shape
        check_size(path, index, picture.shape, first)
        yield picture


def _read(path: str | Path, frames: NDArray[np.integer], decoder: Decoder) -> NDArray[np.uint8]:
    """Read sorted frames without repeats."""
    if decoder == "decord":
        return read_with_decord(path, frames)
    if decoder == "pyav" or (decoder == "auto" and not _jumps_pay(path, int(frames[-1]))):
        return read_in_order(path, frames)
    with open_video(path):
        pass  # complains if there is no such file
    table = seek_table(path)
    if table.refusal and decoder == "seek":
        raise DataError(f"{path}: must be decoded in order: {table.refusal}. Use decoder='auto'.")
    if decoder == "auto":
        _tell(path, table.kind, table.refusal)
    return read_in_order(path, frames) if table.refusal else read_by_jumps(path, frames, table)


def _jumps_pay(path: str | Path, last: int) -> bool:
    """Return whether a proof of jumps has been paid for by what decoding in order has cost."""
    # Whoever rents until the rent equals the price, and buys then, never pays more than twice the best choice.
    spent, end = _spent.get(str(path), (0, 0))
    end = max(end, last + 1)
    if spent >= _PRICE_OF_A_TABLE * end:
        return True
    _spent[str(path)] = (spent + last + 1, end)
    return False


def _tell(path: str | Path, kind: str, refusal: str) -> None:
    """Log once per kind of file how it is read; of the data loader workers the first one speaks."""
    way = f"is decoded in order, because {refusal}" if refusal else "is read by jumps to key frames, proven exact"
    worker = get_worker_info()
    if worker is None or worker.id == 0:
        _say_once(f"{kind} {bool(refusal)}", f"decoding: {kind} {way} (first such file: {path})")


def _say_once(key: str, text: str, level: int = logging.INFO) -> None:
    """Log a text, but nothing more of the same key in this process."""
    if key not in _told:
        _told.add(key)
        print_log(visible(text), logger="current", level=level)  # names of files may hold line breaks
