"""The sound of a film, carried over into another one of the same pictures: copied where MP4 can hold it."""

import io
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.stream import Disposition
from numpy.typing import NDArray

from hocp_mm.system.reading import full_name

_LOG = logging.getLogger(__name__)

_COPIED = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})  # what players take from an MP4
_ENCODER = "aac"
_AAC_RATES = frozenset({96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000})
_RUN_UP = 0.1  # seconds of sound before the first picture, not heard, from which a decoder starts cleanly
_SLACK = 0.05  # seconds by which the times of sound may be off before silence fills the gap

# What a damaged sound raises, from reading on; the disk's errors are others.
_DAMAGE = (FFmpegError, ValueError, ArithmeticError)

_Timed = tuple[float, Any]  # seconds after the first picture, packet


class Sound:
    """Packets of sound, written as far as the pictures have come.

    Args:
        packets: What to write, timed.
        source: Open container that they come from.
        container: Open container to write to.
        name: File that they come from, for messages.
    """

    def __init__(self, packets: Iterator[_Timed], source: Any, container: Any, name: str) -> None:
        self._packets, self._source, self._container, self._name = packets, source, container, name
        self._next = self._read()

    def write_until(self, seconds: float) -> None:
        """Write what begins before a time; damage ends the sound with a line in the log, not the film.

        Args:
            seconds: After the first picture.
        """
        while self._next is not None and self._next[0] < seconds:
            try:
                self._container.mux(self._next[1])
            except (InvalidDataError, ArgumentError) as error:  # no error of the disk
                self._next = self._give_up(error)
            else:
                self._next = self._read()

    def close(self) -> None:
        """Close the source."""
        self._next = None
        self._source.close()

    def _read(self) -> _Timed | None:
        try:
            return next(self._packets, None)
        except _DAMAGE as error:
            return self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _LOG.warning("%s: its sound is damaged; the overlay is silent from there on (%s).", self._name, error)


def add_sound(container: Any, path: str | Path, name: str) -> Sound | None:
    """Give a film that is about to be written the first sound of a file, in time with that file's own film.

    Copied without loss where players take its codec from an MP4, else encoded as AAC. One line in the log says why
    where there is none.

    Args:
        container: Open for writing, without a packet yet.
        path: The file.
        name: File that is written, for messages.

    Returns:
        The sound; None where there is none.
    """
    source = None
    try:
        start, copied = _examine(path)
        source = av.open(full_name(path))
        sound: Any = source.streams.audio[0]
        if copied:
            stream = container.add_stream_from_template(sound)
            return Sound(_copy(source, sound, stream, start), source, container, str(path))
        rate = sound.rate if sound.rate in _AAC_RATES else 48000
        layout = "mono" if sound.channels == 1 else "stereo"
        av.Codec(_ENCODER, "w")  # complains where there is none, before the film has a track for it
        stream = container.add_stream(_ENCODER, rate=rate, layout=layout)
        _LOG.info("%s: its sound (%s) is encoded as AAC.", path, sound.codec_context.name)
        return Sound(_encode(source, sound, stream, start), source, container, str(path))
    except _NoSoundError as error:
        _LOG.info("%s is silent: %s has no sound.", name, error)
    except _DAMAGE as error:
        _LOG.warning("%s is silent: the sound of %s cannot be read (%s).", name, path, error)
    if source is not None:
        source.close()
    return None


class _NoSoundError(Exception):
    """A file has no sound."""


def _examine(path: str | Path) -> tuple[float, bool]:
    """Return when the first picture of a file is shown, in seconds of its clock, and whether its sound can be copied.

    Raises:
        _NoSoundError: If it has none.
        ValueError: If its codec is unknown.
    """
    with av.open(full_name(path)) as source:
        if not source.streams.audio:
            raise _NoSoundError(str(path))
        sound: Any = source.streams.audio[0]
        if sound.codec_context is None:
            raise ValueError("an unknown codec")
        copied = sound.codec_context.name.removesuffix("float") in _COPIED and _fits(source, sound)
    with av.open(full_name(path)) as source:
        films = [film for film in source.streams.video if Disposition.attached_pic not in Disposition(film.disposition)]
        best = source.streams.best("video")
        film: Any = best if best in films else next(iter(films), None)
        first = None if film is None else next(source.decode(film), None)
        start = 0.0 if first is None or first.time is None else float(first.time)
    return start, copied


def _fits(source: Any, sound: Any) -> bool:
    """Tell whether an MP4 takes a sound as it is, by trying."""
    try:
        with av.open(io.BytesIO(), "w", format="mp4") as trial:
            stream = trial.add_stream_from_template(sound)
            trial.start_encoding()  # without a packet, too
            for packet, _ in zip(_packets(source, sound), range(3), strict=False):
                packet.stream = stream
                trial.mux(packet)
    except _DAMAGE:
        return False
    return True


def _packets(source: Any, sound: Any) -> Iterator[Any]:
    """Yield the packets of a sound that have content and a time later than those before."""
    last = None
    for packet in source.demux(sound):
        if packet.size and packet.pts is not None and packet.dts is not None and (last is None or packet.dts > last):
            last = packet.dts
            yield packet


def _copy(source: Any, sound: Any, stream: Any, start: float) -> Iterator[_Timed]:
    # Samples, since an AVI counts whole packets.
    ticks = sound.time_base * sound.rate
    shift = round(start * sound.rate)
    for packet in _packets(source, sound):
        pts, dts, length = (round(n * ticks) for n in (packet.pts, packet.dts, packet.duration or 0))
        packet.pts, packet.dts, packet.duration = pts - shift, dts - shift, length
        packet.time_base, packet.stream = Fraction(1, sound.rate), stream
        if packet.pts >= -_RUN_UP * sound.rate:
            yield packet.pts / sound.rate, packet


def _encode(source: Any, sound: Any, stream: Any, start: float) -> Iterator[_Timed]:
    context = stream.codec_context
    rate, layout = context.sample_rate, context.layout.name
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    written = 0  # samples

    def encoded(samples: NDArray[np.float32] | None) -> Iterator[_Timed]:
        nonlocal written
        frame = None
        if samples is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, written, Fraction(1, rate)
            written += samples.shape[1]
        for packet in stream.encode(frame):
            yield float(packet.pts * packet.time_base), packet

    for packet in _packets(source, sound):
        for piece in (fine for frame in packet.decode() for fine in resampler.resample(frame)):
            samples = np.asarray(piece.to_ndarray(), np.float32)
            first = written if piece.time is None else round((piece.time - start) * rate)
            slack = _SLACK * rate if written else 0
            while first - written > slack:
                yield from encoded(np.zeros((len(samples), min(first - written, rate)), np.float32))
            overlap = written - first
            samples = samples[:, overlap:] if overlap > slack else samples
            if samples.shape[1]:
                yield from encoded(samples)
    yield from encoded(None)
