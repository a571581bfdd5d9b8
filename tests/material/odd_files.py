"""Odd but legal video files, some 200 of them, each with its truth: what a reader must make of it, or refuse.

The plan (`PLAN`) is fixed; every file is made on the fly with PyAV, is smaller than 100 kB and shows few, tiny pictures
that carry their number, a white, a black, a red and a blue cell, so that a wrong frame, a mirrored or a miscoloured
one is seen. The truth comes from how a file is made, never from reading it.

    for file in odd_files(folder):
        ...  # file.path, file.kind, file.frames, file.times, file.width, file.height, file.pixel_aspect, file.refused
        assert not faults_of(file)
"""

import contextlib
import io
import os
import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hocp_mm.datasets.media.images import ORIENTATION
from hocp_mm.datasets.media.seek import seek_table
from hocp_mm.datasets.media.video import DECODERS, iter_frames, probe_video, read_frames, video_times
from hocp_mm.errors import HOCPError
from tests.material.odd_videos import copy_packets, join_streams, rewrite_matrix

ROWS, COLUMNS = 3, 4
WIDTH, HEIGHT = 64, 48
COUNT, GOP = 28, 13  # two jumps are worth it
_ONE = 1 << 16
os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings otherwise
NTSC = Fraction(30000, 1001)
RATES = (8, Fraction(25, 2), 24, 25, NTSC, 50, 60)


@dataclass(frozen=True)
class OddFile:
    """A file and what is true of it.

    Attributes:
        path: The file.
        kind: Row of the table in ``docs/videos.md``.
        frames: Numbers that its pictures show, in order; empty where they are too small to carry any.
        times: Seconds of each frame after the first.
        width: Pixels of an upright frame.
        height: Pixels of an upright frame.
        pixel_aspect: Width of a pixel of an upright frame over its height.
        fps: Frames per second.
        variable: Frames do not come evenly.
        refused: Part of the one error that is right for it, empty if it must be read.
        tolerance: Seconds by which the container rounds times.
        coloured: Its red and blue cells are red and blue.
        working_folder: Folder from which ``path``, which is relative, leads to it; None for an absolute one.
    """

    path: Path
    kind: str
    frames: tuple[int, ...] = ()
    times: tuple[float, ...] = ()
    width: int = 0
    height: int = 0
    pixel_aspect: float = 1.0
    fps: float = 25.0
    variable: bool = False
    refused: str = ""
    tolerance: float = 1e-4
    coloured: bool = True
    working_folder: Path | None = None


def draw(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Return the picture of a number below 256: cells white, black, red and blue, then its bits, ``[H, W, 3]``.

    Grain that changes with the number keeps the packets of small pictures from being as small as placeholders.
    """
    picture = np.zeros((height, width, 3), np.int64)
    colours = [(235, 235, 235), (16, 16, 16), (220, 30, 30), (30, 30, 220)]
    colours += [(235, 235, 235) if number >> bit & 1 else (16, 16, 16) for bit in range(8)]
    for cell, colour in enumerate(colours):
        (row, column) = divmod(cell, COLUMNS)
        rows = slice(row * height // ROWS, (row + 1) * height // ROWS)
        picture[rows, column * width // COLUMNS : (column + 1) * width // COLUMNS] = colour
    grain = np.random.default_rng(number).integers(-14, 15, (height // 4 + 1, width // 4 + 1))
    picture += grain.repeat(4, axis=0).repeat(4, axis=1)[:height, :width, None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def read(picture: NDArray[np.uint8], coloured: bool = True) -> int:
    """Return the number of a picture; -1 if its first four cells are not what they must be."""
    height, width = picture.shape[:2]
    cells = []
    for cell in range(ROWS * COLUMNS):
        y, x = (cell // COLUMNS * 2 + 1) * height // (2 * ROWS), (cell % COLUMNS * 2 + 1) * width // (2 * COLUMNS)
        cells.append(picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0))
    white, black, red, blue = cells[:4]
    right = white.min() > 180 and black.max() < 75
    if coloured:
        right &= red[0] - max(red[1:]) > 80 and blue[2] - max(blue[:2]) > 80
    return sum(int(cell.mean() > 127) << bit for bit, cell in enumerate(cells[4:])) if right else -1


KINDS: dict[str, str] = {
    "variable rate": "gaps, screen recordings, phones, dropped frames of an AVI, two frames of one time stamp",
    "pixels that are not square": "16:15 to 2:1, said by the stream, the container, or as a size to show (WebM)",
    "turned or mirrored": "display matrix by 0, 90, 180, 270 degrees and mirrored; EXIF of motion JPEG, all eight",
    "odd sizes": "1x1, 2x2, 3x5, 17x3, 33x35, 63x47, 65x49, 8191x16",
    "with sound": "AAC, Opus, MP2, MP3, PCM, FLAC, WMA beside the film",
    "with a cover picture": "before or behind the film; alone it is no film",
    "two films": "FFmpeg's choice",
    "pixel formats": "grey, 4:1:0 to 4:4:4, RGB, alpha, palette, 8 to 16 bits",
    "interlaced": "both fields in one frame",
    "high dynamic range": "PQ and HLG, BT.2020, 10 bits",
    "edit lists": "frames left out at the start (within a group of pictures) and the end, a late start, negative times",
    "structure": "fragments, live WebM, late, negative and wrapped stamps, joined files, cuts before a key frame, "
    "packed bitstreams, pictures not coded or hidden",
    "data behind the end": "768 bytes",
    "names": "$ % ? # - : | quotes, a line break, 240 bytes, bytes that are no UTF-8, no or a wrong suffix; relative "
    "names that look like protocols",
    "single pictures": "JPEG, PNG, WebP with EXIF; BMP, GIF, TIFF, PPM, AVIF; a name like that of a series",
    "animations": "GIF, APNG, WebP",
    "refused": "empty, noise, text, HTML, subtitles, sound, addresses, cut, slanted, of changing size",
}
"""What each kind holds; containers follow below."""

Maker = Callable[[Path], OddFile]
PLAN: dict[str, Maker] = {}
"""What is made, by the name of the file where the name itself is not what is odd."""


def odd_files(folder: Path) -> list[OddFile]:
    """Make all files in a folder, in the order of the plan."""
    return [make_odd_file(folder, name) for name in PLAN]


def make_odd_file(folder: Path, name: str) -> OddFile:
    """Make one file of the plan in a folder of its own below ``folder``."""
    own = folder / f"{list(PLAN).index(name):03d}"
    own.mkdir(parents=True)
    return PLAN[name](own)


@contextlib.contextmanager
def working_folder(file: OddFile) -> Iterator[None]:
    """Go where a relative name leads to its file."""
    here = Path.cwd()
    os.chdir(file.working_folder or here)
    try:
        yield
    finally:
        os.chdir(here)


def faults_of(file: OddFile) -> list[str]:
    """Read a file in every way, and return what is not as it must be; nothing if all is right or rightly refused."""
    with working_folder(file):
        try:
            faults = _compare(file)
        except HOCPError as error:
            text = str(error)
            right = file.refused and file.refused in text and str(file.path) in text
            return [] if right else [f"is refused: {text}"]
    return [f"must be refused ({file.refused})"] if file.refused else faults


def _compare(file: OddFile) -> list[str]:
    info = probe_video(file.path)
    times = video_times(file.path, info)
    frames = list(iter_frames(file.path))
    got = {
        "num_frames": (info.num_frames, len(file.times)),
        "frames": (len(frames), len(file.times)),
        "size": ((info.width, info.height), (file.width, file.height)),
        "shapes": ({frame.shape for frame in frames}, {(file.height, file.width, 3)}),
        "pixel_aspect": (round(info.pixel_aspect, 6), round(file.pixel_aspect, 6)),
        "variable": (info.variable, file.variable),
    }
    if file.frames:
        got["numbers"] = (tuple(read(frame, file.coloured) for frame in frames), file.frames)
    faults = [f"{name} must be {right}, got {found}" for name, (found, right) in got.items() if found != right]
    if not abs(info.fps / file.fps - 1) < 1e-3:
        faults.append(f"fps must be {file.fps}, got {info.fps}")
    if len(times) != len(file.times) or np.abs(times - np.array(file.times)).max() > file.tolerance:
        faults.append(f"times must be {file.times}, got {times.tolist()}")
    order = np.random.default_rng(0).integers(0, info.num_frames, 12)
    for decoder in DECODERS:
        if decoder == "decord" or (decoder == "seek" and seek_table(file.path).refusal):
            continue
        pictures = read_frames(file.path, order, decoder)
        if not all(np.array_equal(picture, frames[k]) for picture, k in zip(pictures, order, strict=True)):
            faults.append(f"decoder={decoder!r} gives other frames than reading in order")
    return faults


# No key frames but those asked for: the grain of every picture looks like a cut.
_FINE = {"qmin": "1", "qmax": "3", "sc_threshold": "1000000000"}
_X265 = "log-level=none:pools=none:frame-threads=1:scenecut=0"
_CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "yuv420p", {"preset": "ultrafast", "bf": "2", "crf": "20", "sc_threshold": "0"}),
    "hevc": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": f"{_X265}:bframes=2"}),
    "av1": ("libsvtav1", "yuv420p", {"preset": "8", "crf": "4", "svtav1-params": "lp=1:pred-struct=1"}),
    "vp8": ("libvpx", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "b": "500k"}),
    "vp9": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "b": "500k"}),
    "mpeg4": ("mpeg4", "yuv420p", {**_FINE, "bf": "2"}),
    "xvid": ("mpeg4", "yuv420p", {**_FINE, "bf": "2"}),
    "msmpeg4": ("msmpeg4", "yuv420p", _FINE),
    "h263": ("h263", "yuv420p", _FINE),
    "mpeg1": ("mpeg1video", "yuv420p", {**_FINE, "bf": "2"}),
    "mpeg2": ("mpeg2video", "yuv420p", {**_FINE, "bf": "2"}),
    "flv1": ("flv", "yuv420p", _FINE),
    "wmv1": ("wmv1", "yuv420p", _FINE),
    "wmv2": ("wmv2", "yuv420p", _FINE),
    "mjpeg": ("mjpeg", "yuvj420p", _FINE),
    "prores": ("prores_ks", "yuv422p10le", {}),
    "ffv1": ("ffv1", "yuv420p", {}),
    "huffyuv": ("huffyuv", "yuv422p", {}),
    "utvideo": ("utvideo", "yuv420p", {}),
    "qtrle": ("qtrle", "rgb24", {}),
    "png": ("png", "rgb24", {}),
    "raw": ("rawvideo", "yuv420p", {}),
    "snow": ("snow", "yuv420p", {"qscale": "1", "strict": "-2"}),
    "gif": ("gif", "rgb8", {}),
    "apng": ("apng", "rgb24", {}),
}
_ROUNDED = {".mkv": 6e-4, ".webm": 6e-4, ".flv": 6e-4, ".wmv": 6e-4, ".asf": 6e-4, ".gif": 6e-3, ".nut": 1e-6}


def _film(
    path: Path,
    kind: str,
    codec: str,
    *,
    rate: int | Fraction = 25,
    milliseconds: Sequence[int] | None = None,
    count: int = COUNT,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    picture: Callable[[int], NDArray[Any]] | None = None,
    source: str = "rgb24",
    pix_fmt: str = "",
    aspect: Fraction | None = None,
    audio: str = "",
    gop: int = GOP,
    first: int = 0,
    format: str | None = None,
    options: Mapping[str, str] | None = None,
    muxing: Mapping[str, str] | None = None,
    prepare: Callable[[Any], None] | None = None,
) -> OddFile:
    """Write a film of evenly spaced or timed frames, with sound if asked, and return its truth.

    Args:
        path: File; its suffix chooses the container unless ``format`` does.
        kind: See `OddFile`.
        codec: Key of `_CODECS`.
        rate: Frames per second.
        milliseconds: Time of each frame instead.
        count: Number of frames.
        size: Width and height.
        picture: Draws a number; None for `draw`.
        source: Format of these drawings.
        pix_fmt: Format in the file, empty for that of `_CODECS`.
        aspect: Width of a pixel over its height.
        audio: Encoder of the sound, empty for none.
        gop: Frames from key frame to key frame.
        first: Time stamp of the first frame.
        format: Container.
        options: More for the encoder.
        muxing: More for the container.
        prepare: Takes the stream before its first frame.
    """
    encoder, usual, settings = _CODECS[codec]
    start = random.Random(path.name).randrange(256 - count)
    numbers = tuple(range(start, start + count))
    base = Fraction(1, 1000) if milliseconds is not None else 1 / Fraction(rate)
    ticks = list(milliseconds) if milliseconds is not None else list(range(count))
    make = picture or (lambda number: draw(number, *size))
    with av.open(str(path), "w", format=format, options=dict(muxing or {})) as container:
        stream = container.add_stream(encoder, rate=Fraction(rate), options={**settings, **(options or {})})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt or usual
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if codec == "xvid":
            stream.codec_context.codec_tag = "XVID"
        if milliseconds is not None:
            stream.codec_context.time_base = base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if prepare:
            prepare(stream)
        sound = container.add_stream(audio, rate=48000, bit_rate=64000) if audio else None
        for number, tick in zip(numbers, ticks, strict=True):
            frame = _frame(make(number), source)
            frame.pts, frame.time_base = tick + first, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_sound(container, sound, float(base * (ticks[-1] + 1)))
    seconds = [float(base * (tick - ticks[0])) for tick in ticks]
    fps = (count - 1) / seconds[-1] if milliseconds is not None and count > 1 else float(rate)
    return OddFile(
        path, kind, numbers, tuple(seconds), *size, float(aspect or 1), fps,
        variable=_uneven(seconds, fps),
        tolerance=_ROUNDED.get(path.suffix, 1e-4), coloured="gray" not in (pix_fmt or usual),
    )  # fmt: skip


def _frame(values: NDArray[Any], source: str) -> av.VideoFrame:
    """Return a frame of a drawing; PyAV 17 knows no way from an array to 10 bits."""
    if source != "yuv420p10le":
        return av.VideoFrame.from_ndarray(values, format=source)
    height, width = values.shape[0] * 2 // 3, values.shape[1]
    frame, start = av.VideoFrame(width, height, source), 0
    for plane in frame.planes:
        count = plane.height * plane.width
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : plane.width] = values.ravel()[start : start + count].reshape(plane.height, plane.width)
        plane.update(rows.tobytes())
        start += count
    return frame


def _timed(film: OddFile, path: Path, frames: Sequence[int], times: Sequence[float]) -> OddFile:
    """Return the truth of a file made of another: which frames are left, when they are shown."""
    fps = film.fps if all(abs(t * film.fps - k) < 0.5 for k, t in enumerate(times)) else (len(times) - 1) / times[-1]
    tolerance = _ROUNDED.get(path.suffix, 1e-4)
    return replace(
        film, path=path, frames=tuple(frames), times=tuple(times), fps=fps, variable=_uneven(times, fps),
        tolerance=tolerance,
    )  # fmt: skip


def _uneven(times: Sequence[float], fps: float) -> bool:
    return any(abs(t * fps - k) >= 0.5 for k, t in enumerate(times))


def _write_sound(container: Any, stream: Any, seconds: float) -> None:
    """Write a tone."""
    size = 1024
    layout = stream.codec_context.layout.name
    channels = stream.codec_context.layout.nb_channels
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=stream.rate)
    for start in range(0, int(seconds * stream.rate), size):
        tone = 0.1 * np.sin(np.arange(start, start + size) / 20)
        frame = av.AudioFrame.from_ndarray(np.tile(tone, (channels, 1)).astype(np.float32), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, start, Fraction(1, stream.rate)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def _add(name: str, maker: Maker) -> None:
    assert name not in PLAN, name
    PLAN[name] = maker


def _add_film(name: str, kind: str, codec: str, change: Callable[[OddFile], OddFile] | None = None, **how: Any) -> None:
    """Plan a film, and what is done to it once it is written."""

    def make(folder: Path) -> OddFile:
        film = _film(folder / name, kind, codec, **how)
        return change(film) if change else film

    _add(name, make)


_HOLDS: dict[str, tuple[str, ...]] = {
    "mp4": ("h264", "hevc", "mpeg4", "av1", "vp9", "mjpeg"),
    "mov": ("h264", "prores", "mjpeg", "qtrle", "png", "mpeg4", "hevc"),
    "m4v": ("h264", "mpeg4"),
    "3gp": ("h264", "mpeg4", "h263"),
    "mkv": ("h264", "hevc", "ffv1", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "mpeg2", "raw", "snow"),
    "webm": ("vp8", "vp9", "av1"),
    "avi": ("xvid", "mpeg4", "mjpeg", "h264", "huffyuv", "raw", "msmpeg4", "ffv1", "utvideo"),
    "ts": ("h264", "hevc", "mpeg2"),
    "mts": ("h264",),
    "m2ts": ("h264",),
    "mjpeg": ("mjpeg",),
    "mpg": ("mpeg1", "mpeg2"),
    "vob": ("mpeg2",),
    "flv": ("flv1", "h264"),
    "wmv": ("wmv1", "wmv2", "msmpeg4"),
    "ogv": ("vp8",),
    "nut": ("ffv1", "mpeg4"),
    "mxf": ("mpeg2",),
    "y4m": ("raw",),
    "h264": ("h264",),
    "hevc": ("hevc",),
    "raw.m4v": ("mpeg4",),
    "m1v": ("mpeg1",),
    "m2v": ("mpeg2",),
    "ivf": ("vp8", "vp9", "av1"),
}  # fmt: skip
_STANDARD_RATES = (24, 25, NTSC, 50, 60)
_ALL_RATES = (
    "mp4/h264", "mkv/h264", "avi/xvid", "webm/vp8", "ts/h264", "mov/mjpeg", "h264/h264", "hevc/hevc", "m1v/mpeg1",
    "raw.m4v/mpeg4",
)  # fmt: skip


def _plan_containers() -> None:
    """Every container with every codec that it commonly holds, the rates taking turns; some with all of them."""
    turn = 0
    KINDS.update({f"container {suffix}": ", ".join(codecs) for suffix, codecs in _HOLDS.items()})
    for suffix, codecs in _HOLDS.items():
        for codec in codecs:
            allowed = _STANDARD_RATES if codec in ("mpeg1", "mpeg2", "h263") or suffix == "mxf" else RATES
            allowed = (25,) if suffix in ("mxf", "mjpeg") else (NTSC,) if codec == "h263" else allowed
            rates = allowed if f"{suffix}/{codec}" in _ALL_RATES else (allowed[turn % len(allowed)],)
            turn += 1
            for rate in rates:
                name = f"{codec}_{float(rate):.4g}.{suffix}"
                # The small sizes of H.263 have pixels of 12:11 by their standard.
                how: dict[str, Any] = {"size": (176, 144), "aspect": Fraction(12, 11)} if codec == "h263" else {}
                how |= {"count": 16} if codec == "raw" else {}
                how |= {"format": "m4v"} if suffix == "raw.m4v" else {}
                _add_film(name, f"container {suffix}", codec, rate=rate, **how)


def _sums(steps: Sequence[int]) -> list[int]:
    return [sum(steps[:index]) for index in range(COUNT)]


_GAPS = _sums([33, 34, 33, 33, 367] * 6)
_SCREEN = _sums([16, 17, 17, 350, 1000, 1000] * 5)
_PHONE = _sums([33, 34] * 8 + [50] * 12)


def _plan_variable() -> None:
    for suffix, codec in (("mp4", "h264"), ("mkv", "h264"), ("webm", "vp8"), ("webm", "vp9"), ("mov", "mjpeg")):
        for name, times in (("gaps", _GAPS), ("screen", _SCREEN), ("phone", _PHONE)):
            _add_film(f"{name}_{codec}.{suffix}", "variable rate", codec, milliseconds=times)
    for suffix, codec in (("flv", "flv1"), ("ts", "h264"), ("wmv", "wmv2"), ("nut", "ffv1"), ("mkv", "av1")):
        _add_film(f"gaps_{codec}.{suffix}", "variable rate", codec, milliseconds=_GAPS)
    _add_film("gaps.gif", "variable rate", "gif", milliseconds=[10 * (time // 10) for time in _GAPS], pix_fmt="rgb8")
    for codec in ("mjpeg", "xvid", "h264", "msmpeg4", "huffyuv", "ffv1"):
        _add(f"dropped_{codec}.avi", lambda folder, codec=codec: _dropped(folder, codec))
    _add("ties.mkv", _ties)


def _dropped(folder: Path, codec: str) -> OddFile:
    """An AVI says "no new picture" by an empty packet: screen recorders, and FFmpeg itself where the rate varies."""
    only_p = {"bf": "0"} if codec in ("xvid", "h264") else {}
    film = _film(folder / "whole.avi", "variable rate", codec, options=only_p)
    path = folder / "dropped.avi"
    ticks = [index + index // 3 + (5 if index > 8 else 0) for index in range(COUNT)]
    _restamped(film.path, path, ticks)  # the muxer fills the gaps
    return _timed(film, path, film.frames, [tick / 25 for tick in ticks])


def _ties(folder: Path) -> OddFile:
    """A recorder that rounds to milliseconds gives two frames one time; they are spread up to the next."""
    film = _film(folder / "whole.mkv", "variable rate", "vp8")
    path = folder / "ties.mkv"
    _restamped(film.path, path, [80 * (index // 2) for index in range(COUNT - 3)] + [2000, 2000, 2060])
    times = [*(index / 25 for index in range(COUNT - 3)), 2, 2.03, 2.06]
    return _timed(film, path, film.frames, times)


def _restamped(source: Path, target: Path, stamps: Sequence[int]) -> Path:
    """Copy a file whose packets come in the order of display, giving them other time stamps in its own unit."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet, stamp in zip((p for p in old.demux(video=0) if p.size), stamps, strict=True):
            packet.stream, packet.pts, packet.dts = stream, stamp, stamp
            new.mux(packet)
    return target


def _plan_shapes() -> None:
    aspects = (Fraction(16, 15), Fraction(64, 45), Fraction(8, 9), Fraction(128, 117), Fraction(64, 51), Fraction(2))
    for index, aspect in enumerate(aspects):
        suffix, codec = (("mp4", "h264"), ("mkv", "mpeg4"), ("avi", "mpeg4"))[index % 3]
        _add_film(f"aspect{index}.{suffix}", "pixels that are not square", codec, aspect=aspect)
    for codec in ("vp8", "vp9"):
        _add_film(f"aspect_{codec}.webm", "pixels that are not square", codec, _shown_wide, size=(96, 64))
    _add_film("aspect_hevc.mov", "pixels that are not square", "hevc", aspect=Fraction(4, 3))
    _add_film("aspect_ts.ts", "pixels that are not square", "h264", aspect=Fraction(1, 2))
    for suffix, codec in (("mp4", "h264"), ("mov", "mjpeg"), ("mp4", "hevc"), ("mov", "h264")):
        for turn, how in _TURNS.items():
            if codec == "h264" or turn in (90, 180):
                aspect = Fraction(3, 2) if (suffix, codec) == ("mov", "h264") else None
                name = f"turned_{turn}_{codec}.{suffix}"
                _add_film(
                    name, "turned or mirrored", codec, lambda film, how=how: _turned(film, how), aspect=aspect,
                    picture=lambda number, turn=how[1]: turn(draw(number, *how_size(turn))),
                    size=(WIDTH, HEIGHT),
                )  # fmt: skip
    sizes = ((1, 1), (2, 2), (3, 5), (17, 3), (33, 35), (63, 47), (8191, 16), (96, 64))
    for width, height in sizes:
        many = width >= 32 and height >= 32
        small = None if many else lambda n, w=width, h=height: np.full((h, w, 3), 20 * (n % 10), np.uint8)
        change = None if many else lambda film: replace(film, frames=())
        _add_film(
            f"size_{width}x{height}.mkv", "odd sizes", "ffv1", change, size=(width, height), picture=small,
            pix_fmt="bgr0", count=10 if many else 4,
        )  # fmt: skip
    _add_film("size_33x35.webm", "odd sizes", "vp8", size=(33, 35))
    _add_film("size_63x47.avi", "odd sizes", "mpeg4", size=(63, 47))
    _add_film("size_65x49.mp4", "odd sizes", "h264", size=(65, 49), pix_fmt="yuv444p")


def _shown_wide(film: OddFile) -> OddFile:
    """WebM says how wide a picture is to be shown, not how wide a pixel is."""
    raw = bytearray(film.path.read_bytes())
    # In the place of the language, 7 bytes: DisplayWidth 120 in the element of the picture, and 3 bytes of nothing.
    language = raw.index(b"\x22\xb5\x9c\x83und")
    del raw[language : language + 7]
    video = raw.index(b"\xb0\x81\x60\xba\x81\x40") - 2  # PixelWidth 96, PixelHeight 64
    assert raw[video] == 0xE0
    size = raw[video + 1] - 0x80
    raw[video + 1] += 4
    raw[video + 2 + size : video + 2 + size] = b"\x54\xb0\x81\x78" + b"\xec\x81\x00"
    film.path.write_bytes(raw)
    return replace(film, pixel_aspect=1.25)


def _unturned(picture: NDArray[np.uint8], quarters: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.rot90(picture, -quarters))


# By what a player does: matrix in the file, how a picture is stored so that it comes upright, whether axes change.
_TURNS: dict[Any, tuple[tuple[int, int, int, int], Callable[[NDArray[np.uint8]], NDArray[np.uint8]], bool]] = {
    0: ((_ONE, 0, 0, _ONE), lambda picture: picture, False),
    90: ((0, -_ONE, _ONE, 0), lambda picture: _unturned(picture, 1), True),
    180: ((-_ONE, 0, 0, -_ONE), lambda picture: _unturned(picture, 2), False),
    270: ((0, _ONE, -_ONE, 0), lambda picture: _unturned(picture, 3), True),
    "mirrored": ((-_ONE, 0, 0, _ONE), lambda picture: np.ascontiguousarray(picture[:, ::-1]), False),
    "flipped": ((_ONE, 0, 0, -_ONE), lambda picture: np.ascontiguousarray(picture[::-1]), False),
}


def how_size(turn: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> tuple[int, int]:
    """Return width and height to draw in, so that what is stored is ``WIDTH`` x ``HEIGHT``."""
    stored = turn(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).shape
    return (WIDTH, HEIGHT) if stored[:2] == (HEIGHT, WIDTH) else (HEIGHT, WIDTH)


def _turned(film: OddFile, how: tuple[tuple[int, int, int, int], Any, bool]) -> OddFile:
    matrix, _, swapped = how
    rewrite_matrix(film.path, *matrix)
    if not swapped:
        return film
    return replace(film, width=film.height, height=film.width, pixel_aspect=1 / film.pixel_aspect)


def _plan_streams() -> None:
    sounds = (
        ("mp4", "h264", "aac"), ("mkv", "h264", "libopus"), ("webm", "vp8", "libopus"), ("avi", "xvid", "libmp3lame"),
        ("ts", "h264", "mp2"), ("mov", "mjpeg", "pcm_s16le"), ("mpg", "mpeg2", "mp2"), ("mkv", "ffv1", "flac"),
        ("wmv", "wmv2", "wmav2"), ("flv", "flv1", "libmp3lame"),
    )  # fmt: skip
    for suffix, codec, audio in sounds:
        count = 8 if audio == "pcm_s16le" else COUNT
        _add_film(f"sound_{audio}_{codec}.{suffix}", "with sound", codec, audio=audio, count=count)
    for suffix in ("mp4", "mkv"):
        for first in (True, False):
            name = f"cover_{'first' if first else 'last'}.{suffix}"
            _add(name, lambda folder, s=suffix, f=first: _cover(folder, s, f))
    _add("cover_alone.mp4", _cover_alone)
    _add("two_films.mkv", _two_films)


def jpeg(orientation: int = 1, number: int = 7) -> bytes:
    """Return a JPEG that is to be turned by its EXIF tag."""
    exif, content = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    Image.fromarray(draw(number)).save(content, "JPEG", quality=95, subsampling=0, exif=exif)
    return content.getvalue()


def _cover(folder: Path, suffix: str, first: bool) -> OddFile:
    film = _film(folder / "film.mp4", "with a cover picture", "h264")
    path = folder / f"song.{suffix}"
    join_streams(path, *([jpeg(), film.path] if first else [film.path, jpeg()]))
    return replace(film, path=path, tolerance=_ROUNDED.get(f".{suffix}", 1e-4))


def _cover_alone(folder: Path) -> OddFile:
    path = join_streams(folder / "song.mp4", jpeg())
    return OddFile(path, "with a cover picture", refused="the file must hold a video stream, got a cover picture alone")


def _two_films(folder: Path) -> OddFile:
    """FFmpeg takes the first where the file does not say which has more bits."""
    small = _film(folder / "small.mp4", "two films", "h264", size=(32, 32))
    large = _film(folder / "large.mp4", "two films", "h264", size=(96, 64))
    path = join_streams(folder / "two.mkv", large.path, small.path)
    return _timed(large, path, large.frames, large.times)


def _plan_pixels() -> None:
    formats = (
        ("gray", "ffv1"), ("gray10le", "ffv1"), ("yuv422p", "ffv1"), ("yuv444p", "ffv1"), ("yuv420p10le", "ffv1"),
        ("yuv444p12le", "ffv1"), ("yuva420p", "ffv1"), ("bgra", "ffv1"), ("yuv410p", "ffv1"), ("yuv411p", "ffv1"),
        ("rgb48le", "ffv1"),
    )  # fmt: skip
    _add_film("gbrp.avi", "pixel formats", "utvideo", pix_fmt="gbrp")
    for pix_fmt, codec in formats:
        _add_film(f"{pix_fmt}.mkv", "pixel formats", codec, pix_fmt=pix_fmt, size=(96, 64), count=4)
    for pix_fmt in ("yuv422p", "yuv444p", "yuv420p10le"):
        _add_film(f"h264_{pix_fmt}.mp4", "pixel formats", "h264", pix_fmt=pix_fmt)
    _add_film("hevc_10.mp4", "pixel formats", "hevc", pix_fmt="yuv420p10le")
    _add_film("bgr24.avi", "pixel formats", "raw", pix_fmt="bgr24", count=6)
    _add_film("interlaced.mpg", "interlaced", "mpeg2", options={"flags": "+ildct+ilme"})
    _add_film("interlaced.mp4", "interlaced", "h264", options={"flags": "+ildct+ilme", "x264-params": "interlaced=1"})
    for name, transfer in (("pq", 16), ("hlg", 18)):
        for suffix, codec in (("mp4", "hevc"), ("mkv", "ffv1")):
            _add_film(
                f"{name}_{codec}.{suffix}", "high dynamic range", codec, pix_fmt="yuv420p10le", size=(96, 64),
                picture=lambda number, t=transfer: hdr_signal(draw(number, 96, 64), t), source="yuv420p10le",
                prepare=lambda stream, t=transfer: _tag(stream, t),
                options={"crf": "4", "x265-params": f"{_X265}:colorprim=9:transfer={transfer}:colormatrix=9"}
                if codec == "hevc" else {},
            )  # fmt: skip


def _tag(stream: Any, transfer: int) -> None:
    context = stream.codec_context
    context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, transfer, 9, 1


def hdr_signal(picture: NDArray[np.uint8], transfer: int) -> NDArray[np.uint16]:
    """Return a picture of a usual screen as 10-bit PQ or HLG in BT.2020, ``[H * 3 / 2, W]`` (yuv420p10le).

    Written after ITU-R BT.2100, BT.2087 and BT.2408, not after the reader.
    """
    light = (picture / 255.0) ** 2.4
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    nits = 203 * light @ to_2020.T
    if transfer == 16:
        y = (nits / 10000) ** (2610 / 16384)
        signal = ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)
    else:
        luminance = nits @ np.array([0.2627, 0.6780, 0.0593])
        scene = nits / 1000 * (np.maximum(luminance, 1e-9)[..., None] / 1000) ** ((1 - 1.2) / 1.2)
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)
    red, green, blue = np.moveaxis(signal, -1, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    chroma = [(blue - luma) / 1.8814, (red - luma) / 1.4746]
    height, width = luma.shape
    halves = [plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for plane in chroma]
    planes = [876 * luma + 64, *(896 * half + 512 for half in halves)]
    rows = np.concatenate([np.clip(np.rint(plane), 0, 1023).astype(np.uint16).ravel() for plane in planes])
    return rows.reshape(height * 3 // 2, width)


def _plan_edits() -> None:
    for codec in ("h264", "mpeg4", "hevc"):
        _add_film(f"edit_start_{codec}.mp4", "edit lists", codec, lambda film: _edited(film, 3, 0), gop=8)
    _add_film("edit_end.mp4", "edit lists", "h264", lambda film: _edited(film, 0, 3), gop=8)
    _add_film("edit_both.mov", "edit lists", "h264", lambda film: _edited(film, 2, 2), gop=8)
    # Time begins at 0 in an mp4: what lies before is left out by an edit list.
    _add_film(
        "negative.mp4", "edit lists", "h264", lambda film: _timed(film, film.path, film.frames[5:], film.times[:-5]),
        first=-5, muxing={"avoid_negative_ts": "disabled"},
    )  # fmt: skip
    _add_film("edit_delay.mp4", "edit lists", "h264", lambda film: film, first=25)


def _edited(film: OddFile, start: int, end: int) -> OddFile:
    """Rewrite the one edit of an mp4: leave out frames at its start (within a group of pictures) or at its end."""
    raw = bytearray(film.path.read_bytes())
    mvhd, mdhd, elst = (raw.index(name) + 8 for name in (b"mvhd", b"mdhd", b"elst"))
    movie_scale, track_scale = (struct.unpack_from(">I", raw, place + 8)[0] for place in (mvhd, mdhd))
    assert struct.unpack_from(">I", raw, elst)[0] == 1, "one edit"
    _, begin = struct.unpack_from(">Ii", raw, elst + 4)
    count = len(film.frames) - start - end
    begin += round(start * track_scale / film.fps)
    struct.pack_into(">Ii", raw, elst + 4, round(count * movie_scale / film.fps), begin)
    film.path.write_bytes(raw)
    kept = film.frames[start : start + count]
    return replace(film, frames=kept, times=film.times[:count])


def _plan_structures() -> None:
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    _add_film("fragments.mp4", "structure", "h264", muxing=fragments)
    _add_film("dash.mp4", "structure", "h264", muxing={"movflags": "frag_keyframe+empty_moov+default_base_moof"})
    _add_film("faststart.mp4", "structure", "h264", muxing={"movflags": "faststart"})
    _add_film("live.webm", "structure", "vp8", muxing={"live": "1"})
    _add_film("live.mkv", "structure", "h264", muxing={"live": "1"})
    _add_film("negative.ts", "structure", "h264", first=-5, muxing={"avoid_negative_ts": "disabled"})
    _add_film("late.mkv", "structure", "h264", first=2500)
    _add_film("late.ts", "structure", "h264", first=2500)
    # 33 bits of 1/90000 s end after 95443.72 s, in the middle of this film.
    _add_film("wrapped.ts", "structure", "h264", muxing={"output_ts_offset": "95442.1"})
    _add_film("wrapped.mpg", "structure", "mpeg2", muxing={"output_ts_offset": "95443.0"})
    for suffix, codec in (("mp4", "h264"), ("avi", "xvid"), ("mkv", "h264"), ("mov", "mjpeg"), ("ts", "mpeg2")):
        _add_film(f"more_behind.{suffix}", "data behind the end", codec, _lengthened)
    for smoothly in (True, False):
        _add(f"joined_{'well' if smoothly else 'badly'}.ts", lambda folder, s=smoothly: _joined(folder, s))
    for codec in ("h264", "hevc", "mpeg4", "msmpeg4", "flv1", "wmv1", "wmv2", "mpeg1", "mpeg2", *_NEED_A_KEY):
        suffix = {"flv1": "flv", "wmv1": "wmv", "wmv2": "wmv"}.get(codec, "mkv")
        _add(f"no_key_{codec}.{suffix}", lambda folder, c=codec, s=suffix: _no_key(folder, c, s))
    _add("packed.avi", _packed)
    _add("not_coded.avi", _not_coded)
    _add("hidden.webm", _hidden)
    _add("whole_gop.avi", lambda folder: _film(folder / "one_gop.avi", "structure", "xvid", gop=300, count=40))
    for turn in range(1, 9):
        _add(f"exif_{turn}.avi", lambda folder, turn=turn: _exif(folder, turn))


def _lengthened(film: OddFile) -> OddFile:
    with film.path.open("ab") as file:
        file.write(bytes(range(256)) * 3)
    return film


def _joined(folder: Path, smoothly: bool) -> OddFile:
    """Two recordings of a camera, joined byte by byte: the stamps start again.

    Packets of 188 bytes are counted modulo 16 for each stream; a gap in these counts is a loss.
    """
    films = [_film(folder / f"{part}.ts", "structure", "h264") for part in "ab"]
    raw = bytearray(b"".join(film.path.read_bytes() for film in films))
    counts: dict[int, int] = {}
    for start in range(0, len(raw), 188):
        stream = int.from_bytes(raw[start + 1 : start + 3], "big") & 0x1FFF
        if smoothly and raw[start + 3] & 0x10:
            counts[stream] = (counts.get(stream, -1) + 1) % 16
        if smoothly:
            raw[start + 3] = raw[start + 3] & 0xF0 | counts.get(stream, 0)
    path = folder / "joined.ts"
    path.write_bytes(raw)
    frames = films[0].frames + films[1].frames
    refused = "" if smoothly else "the file must hold whole frames"
    return replace(films[0], path=path, frames=frames, times=tuple(k / 25 for k in range(len(frames))), refused=refused)


_NEED_A_KEY = ("vp8", "vp9", "snow")


def _no_key(folder: Path, codec: str, suffix: str) -> OddFile:
    """A cut that starts between key frames: nothing is shown before the first one, or FFmpeg gives up."""
    only_p = {} if codec in _NEED_A_KEY else {"bf": "0"}
    film = _film(folder / f"whole.{suffix}", "structure", codec, options=only_p)
    path = copy_packets(film.path, folder / f"no_key.{suffix}", lambda index: index >= 5)
    if codec in _NEED_A_KEY:
        return replace(film, path=path, refused="the file was cut before its first key frame")
    return _timed(film, path, film.frames[GOP:], film.times[:-GOP])


def _packets(path: Path) -> Iterator[Any]:
    with av.open(str(path)) as container:
        yield from (packet for packet in container.demux(video=0) if packet.size)


_NOT_CODED = b"\x00\x00\x01\xb6" + int("0101" + "00001" + "1" + "0" + "01111", 2).to_bytes(2, "big")


def _rewritten(source: Path, target: Path, contents: Sequence[bytes]) -> Path:
    """Write an AVI with the stream of another and other contents of its packets, one per frame."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.time_base = old.streams.video[0].time_base  # PyAV 17.0 takes a finer one
        keys = [packet.is_keyframe for packet in old.demux(video=0) if packet.size]
        for tick, content in enumerate(contents):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts = stream, tick, tick
            packet.is_keyframe = keys[min(tick, len(keys) - 1)]
            packet.time_base = old.streams.video[0].time_base
            new.mux(packet)
    return target


def _packed(folder: Path) -> OddFile:
    """Xvid and DivX put a B picture behind the P picture that it leans on, and a placeholder where it should be."""
    film = _film(folder / "whole.avi", "structure", "xvid", options={"bf": "1"}, gop=50)
    raw = [bytes(packet) for packet in _packets(film.path)]
    kinds = [content[content.index(b"\x00\x00\x01\xb6") + 4] >> 6 for content in raw]  # 0 I, 1 P, 2 B
    contents = []
    for index, content in enumerate(raw):
        if kinds[index] == 2:
            contents[-1] += content
            contents.append(_NOT_CODED)
        else:
            contents.append(content)
    at = contents[0].index(b"\x00\x00\x01\xb6")
    contents[0] = contents[0][:at] + b"\x00\x00\x01\xb2DivX503b1393p" + contents[0][at:]
    return replace(film, path=_rewritten(film.path, folder / "packed.avi", contents))


def _not_coded(folder: Path) -> OddFile:
    """A picture that is "not coded" is none: its place in time stays empty."""
    film = _film(folder / "whole.avi", "structure", "xvid", options={"bf": "0"}, gop=50)
    raw = [bytes(packet) for packet in _packets(film.path)]
    at = 3
    path = _rewritten(film.path, folder / "not_coded.avi", [*raw[:at], _NOT_CODED, *raw[at:]])
    return _timed(film, path, film.frames, [k / 25 + (0.04 if k >= at else 0) for k in range(COUNT)])


def _hidden(folder: Path) -> OddFile:
    """VP8 has pictures that others lean on but nobody sees, in packets of their own."""
    film = _film(folder / "whole.webm", "structure", "vp8", gop=50)
    path = folder / "hidden.webm"
    with av.open(str(film.path)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for index, packet in enumerate(p for p in old.demux(video=0) if p.size):
            data = bytearray(bytes(packet))
            data[0] &= ~16 if index in (4, 5, 20) else 255
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)
    shown = [k for k in range(COUNT) if k not in (4, 5, 20)]
    return _timed(film, path, [film.frames[k] for k in shown], [film.times[k] for k in shown])


def _exif(folder: Path, orientation: int) -> OddFile:
    """A camera's motion JPEG, each picture with its EXIF tag; stored so that it comes upright."""
    path = folder / f"camera_{orientation}.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        contents = [_exif_picture(number, orientation) for number in range(4)]
        swapped = orientation >= 5
        stream.width, stream.height = (HEIGHT, WIDTH) if swapped else (WIDTH, HEIGHT)
        stream.pix_fmt = "yuvj420p"
        for number, content in enumerate(contents):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts = stream, number, number
            container.mux(packet)
    return OddFile(path, "turned or mirrored", (0, 1, 2, 3), (0, 0.04, 0.08, 0.12), WIDTH, HEIGHT)


def _exif_picture(number: int, orientation: int, kind: str = "JPEG") -> bytes:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    picture, content, exif = Image.fromarray(draw(number)), io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    stored = picture.transpose(undo[orientation]) if orientation > 1 else picture
    how = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    stored.save(content, kind, exif=exif, **how)
    return content.getvalue()


_NAMES = (
    "$HOME and $(id).mp4", "%03d.mp4", "what?.mp4", "#1.mp4", "-i.mp4", "--help.mp4", "two\nlines.mp4",
    "x" * 240 + ".mp4", os.fsdecode(b"\xff\xfe.mp4"),
    "Gespräch 日本.mp4", "quo'te\".mp4", "back\\slash.mp4", "[a-z]*.mp4", "no suffix",
    "film.txt", "film.jpg", " .mp4", "a|b&c;d.mp4",
)  # fmt: skip
_RELATIVE = ("12:30 interview.mp4", "file:x.mp4", "concat:a|b.mp4", "data:x.mp4", "pipe:0", "http:x.mp4", "-i.mp4")


def _plan_names() -> None:
    for index, name in enumerate(_NAMES):
        _add(f"name {index}", lambda folder, name=name: _named(folder, name))
    for index, name in enumerate(_RELATIVE):
        _add(f"relative name {index}", lambda folder, name=name: _relative(folder, name))


def _named(folder: Path, name: str) -> OddFile:
    film = _film(folder / "film.mp4", "names", "h264", count=4)
    return replace(film, path=film.path.rename(folder / name))


def _relative(folder: Path, name: str) -> OddFile:
    return replace(_named(folder, name), path=Path(name), working_folder=folder)


def _plan_pictures() -> None:
    for suffix, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
        for orientation in (1, 3, 6):
            name = f"still_{orientation}.{suffix}"
            _add(name, lambda folder, k=kind, o=orientation, n=name: _still(folder / n, _exif_picture(7, o, k)))
    for suffix, kind in (("bmp", "BMP"), ("gif", "GIF"), ("tiff", "TIFF"), ("ppm", "PPM")):
        _add(f"still.{suffix}", lambda folder, s=suffix, k=kind: _still(folder / f"still.{s}", _plain(k)))
    for suffix, kind in (("jpg", "JPEG"), ("png", "PNG")):
        _add(f"beside a series.{suffix}", lambda folder, s=suffix, k=kind: _beside_a_series(folder, s, k))
    # Phones put the light of the highlights, cameras a second view, behind the picture.
    _add("two_pictures.jpg", lambda folder: _still(folder / "two.jpg", _plain("JPEG") + jpeg(number=9)))
    _add("still.avif", _avif)
    for suffix, kind in (("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP")):
        _add(f"animated.{suffix}", lambda folder, s=suffix, k=kind: _animation(folder / f"animated.{s}", k))


def _beside_a_series(folder: Path, suffix: str, kind: str) -> OddFile:
    """A name that FFmpeg takes for all pictures of a series, which lie beside it."""
    for number in range(3):
        (folder / f"{number:03d}.{suffix}").write_bytes(_exif_picture(20 + number, 1, kind))
    return _still(folder / f"%03d.{suffix}", _plain(kind))


def _avif(folder: Path) -> OddFile:
    film = _film(folder / "still.avif", "single pictures", "av1", count=1, size=(96, 64))
    return replace(film, fps=1)  # it is shown for a second


def _plain(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(draw(7)).save(content, kind)
    return content.getvalue()


def _still(path: Path, content: bytes) -> OddFile:
    path.write_bytes(content)
    return OddFile(path, "single pictures", (7,), (0.0,), WIDTH, HEIGHT)


def _animation(path: Path, kind: str) -> OddFile:
    pictures = [Image.fromarray(draw(number)) for number in range(6)]
    durations = [40, 80, 40, 200, 40, 40]
    more = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(path, kind, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **more)
    times = tuple(sum(durations[:k]) / 1000 for k in range(6))
    refused = "animated WebP" if kind == "WEBP" else ""
    return OddFile(
        path, "animations", tuple(range(6)), times, WIDTH, HEIGHT, fps=5 / times[-1], variable=True, refused=refused
    )


def _plan_refusals() -> None:
    _add("empty.mp4", lambda folder: _bytes(folder / "empty.mp4", b"", "not a readable video file"))
    _add("noise.mp4", lambda folder: _bytes(folder / "noise.mp4", bytes(range(256)) * 40, "not a readable video file"))
    _add("notes.txt", lambda folder: _bytes(folder / "notes.txt", b"10:30 smiles\n" * 99, "not a readable video file"))
    _add("page.mp4", lambda f: _bytes(f / "page.mp4", b"<!DOCTYPE html><p>404" * 99, "not a readable video file"))
    srt = b"1\n00:00:00,000 --> 00:00:02,000\nhello\n\n"
    _add("talk.srt", lambda folder: _bytes(folder / "talk.srt", srt, "must hold a video stream, got none"))
    _add("slanted.mp4", _slanted)
    _add("cut.mp4", _cut)
    _add("sound.wav", _sound_alone)
    _add("grows.h264", _grows)
    for address in ("http://example.org/talk.mp4", "rtsp://camera.local/1", "https://example.org/watch?v=1"):
        _add(address.split(":")[0], lambda folder, a=address: OddFile(Path(a), "refused", refused="download the video"))


def _bytes(path: Path, content: bytes, refused: str) -> OddFile:
    path.write_bytes(content)
    return OddFile(path, "refused", refused=refused)


def _slanted(folder: Path) -> OddFile:
    film = _film(folder / "slanted.mp4", "refused", "h264")
    rewrite_matrix(film.path, 46341, 46341, -46341, 46341)
    return replace(film, refused="a display matrix must turn by quarter turns")


def _cut(folder: Path) -> OddFile:
    film = _film(folder / "cut.mp4", "refused", "h264")
    film.path.write_bytes(film.path.read_bytes()[:-400])  # the index of an mp4 is at its end
    return replace(film, refused="not a readable video file")


def _sound_alone(folder: Path) -> OddFile:
    path = folder / "sound.wav"
    with av.open(str(path), "w") as container:
        _write_sound(container, container.add_stream("pcm_s16le", rate=8000, layout="mono"), 0.2)
    return OddFile(path, "refused", refused="the file must hold a video stream, got none")


def _grows(folder: Path) -> OddFile:
    films = [_film(folder / f"{w}.h264", "refused", "h264", size=(w, h)) for w, h in ((64, 48), (96, 64))]
    path = folder / "grows.h264"
    path.write_bytes(b"".join(film.path.read_bytes() for film in films))
    return replace(films[0], path=path, refused="all frames must have one size")


_plan_containers()
_plan_variable()
_plan_shapes()
_plan_streams()
_plan_pixels()
_plan_edits()
_plan_structures()
_plan_names()
_plan_pictures()
_plan_refusals()
