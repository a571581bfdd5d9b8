"""Small films with sound, and what is in the ones written."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 48000


@dataclass
class Content:
    """What a film holds, as PyAV reads it; times in seconds."""

    pictures: list[np.ndarray]
    times: list[float]
    length: float
    shape: tuple[int, int]  # width and height as displayed
    sound: list[tuple[float, bytes]]
    codecs: tuple[str, ...]


def read(path: Path) -> Content:
    """Read a film."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        aspect = stream.sample_aspect_ratio or 1
        shape = (round(stream.width * aspect), stream.height)
        length = float(stream.duration * stream.time_base)
        codecs = tuple(s.codec_context.name for s in container.streams)
    pictures = [frame.to_ndarray(format="rgb24") for frame in frames]
    return Content(pictures, [frame.time for frame in frames], length, shape, packets(path), codecs)


def packets(path: Path) -> list[tuple[float, bytes]]:
    """Return time and bytes of every packet of the first sound."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        found = container.demux(container.streams.audio[0])
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in found if packet.size]


def loudness(path: Path) -> np.ndarray:
    """Return the loudness of every hundredth of a second, from 0 on."""
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        samples = np.zeros(20 * RATE)
        for frame in container.decode(sound):
            for piece in resampler.resample(frame):
                start = max(round(piece.time * RATE), 0)
                values = piece.to_ndarray().ravel()
                samples[start : start + len(values)] = values
    return np.abs(samples.reshape(-1, RATE // 100)).max(axis=1)


def make_film(path: Path, codec: str | None, seconds: float = 1.0, start: float = 0.0, beep: float = 0.5) -> Path:
    """Write a film at 25 pictures a second whose sound begins at 0, its pictures at ``start``.

    The sound, twice as loud from ``beep`` seconds of the clock on, lasts half a second longer than the pictures.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"g": "25", "preset": "ultrafast"})
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = None
        if codec is not None:
            audio = container.add_stream(codec, rate=RATE, layout="mono")
            size = 480
            for first in range(0, round((start + seconds + 0.5) * RATE), size):
                t = np.arange(first, first + size) / RATE
                wave = np.sin(2 * np.pi * 440 * t) * np.where(t < beep, 0.1, 0.8)
                frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
                resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=RATE)
                for piece in resampler.resample(frame):
                    container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
        for index in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8 * index % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round((start + index / 25) * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path
