"""Videos of every awkward kind, written with PyAV; pictures carry their number (see `tests.material.sewa_files`)."""

import contextlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from tests.material.sewa_files import draw_number

_ONE = 1 << 16
# What FFmpeg writes for an angle, counter-clockwise; PyAV can set one from 18 on only.
_TURNS = {90: (0, -_ONE, _ONE, 0), 180: (-_ONE, 0, 0, -_ONE), 270: (0, _ONE, -_ONE, 0)}


def write_video(
    path: Path,
    codec: str,
    count: int,
    *,
    draw: Callable[[int], NDArray[np.uint8]] = draw_number,
    source: str = "rgb24",
    pix_fmt: str = "yuv420p",
    milliseconds: Sequence[int] | None = None,
    rotation: int | None = None,
    pixel_aspect: Fraction | None = None,
    gop: int = 50,
    options: dict[str, str] | None = None,
) -> Path:
    """Write ``count`` pictures at 25 per second, or at the given times; only an mp4 can be turned (degrees)."""
    height, width = draw(0).shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = gop
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(draw(index), format=source)
            frame.pts = index if milliseconds is None else milliseconds[index]
            frame.time_base = Fraction(1, 25 if milliseconds is None else 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if rotation is not None:
        rewrite_matrix(path, *_TURNS[rotation % 360])
    return path


def rewrite_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write another matrix into the track header of an mp4 (16.16 fixed point, big endian)."""
    raw = bytearray(path.read_bytes())
    body = raw.index(b"tkhd") + 4
    start = body + 4 + 4 * 9  # version and flags, then times, id, duration, reserved, layer and volume (version 0)
    rows = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    raw[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in rows)
    path.write_bytes(raw)


def copy_packets(source: Path, target: Path, keep: Callable[[int], bool]) -> Path:
    """Copy some packets of a video without decoding them, by their number in the file."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for index, packet in enumerate(old.demux(video=0)):
            if packet.dts is not None and keep(index):
                packet.stream = stream
                new.mux(packet)
    return target


def join_streams(path: Path, *sources: Path | bytes) -> Path:
    """Write one file with the films of others and, from bytes, pictures that are attached to it, in that order."""
    with contextlib.ExitStack() as stack:
        new = stack.enter_context(av.open(str(path), "w"))
        packets = []
        for source in sources:
            if isinstance(source, bytes):
                stream = new.add_stream("mjpeg")
                stream.width, stream.height, stream.pix_fmt = 40, 30, "yuvj420p"
                stream.disposition = Disposition.attached_pic.value  # PyAV 17.0 wants a number
                packet = av.Packet(source)
                packet.pts = packet.dts = 0
                packet.time_base = Fraction(1, 25)
                packets.append((stream, [packet]))
            else:
                old = stack.enter_context(av.open(str(source)))
                stream = new.add_stream_from_template(old.streams.video[0])
                packets.append((stream, [packet for packet in old.demux(video=0) if packet.size]))
        for stream, parts in packets:
            for packet in parts:
                packet.stream = stream
                new.mux(packet)
    return path


def write_mjpeg(path: Path, pictures: Sequence[bytes], size: tuple[int, int]) -> Path:
    """Write JPEG files as they are, EXIF included, into an AVI, as cameras do."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        (stream.width, stream.height), stream.pix_fmt = size, "yuvj420p"
        for number, picture in enumerate(pictures):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts = stream, number, number
            container.mux(packet)
    return path
