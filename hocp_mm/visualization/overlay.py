"""Annotated video: the face box, a dot on the valence-arousal circumplex with its trail, bars and numbers."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.structures.timeline import AffectTimeline
from hocp_mm.system.files import replacing

_LOG = logging.getLogger(__name__)
_Image = NDArray[np.uint8]
_Colour = tuple[int, int, int]

# RGB, read on a dark panel: Okabe-Ito sky blue and orange, told apart in every common colour blindness.
_VALENCE, _AROUSAL = (86, 180, 233), (240, 165, 40)
_PANEL, _LINE, _TEXT, _DOT = (18, 20, 24), (120, 124, 132), (238, 238, 238), (255, 255, 255)
_FACE, _HELD = (255, 255, 255), (150, 150, 150)
_UNITS = (146, 62)  # width and height of the panel where the shorter side of the video is 240 pixels
_TRAIL_SECONDS = 1.2
_SUPERSAMPLE = 3  # cv2's small text is only readable when it is drawn large and shrunk


def write_overlay(
    frames: Iterable[_Image], timeline: AffectTimeline, boxes: NDArray[np.float32] | None, out_path: str | Path
) -> Path:
    """Write an annotated MP4 with the frames and the frame rate of the source.

    Frames come in as an iterable, so that decoding keeps its one home and a long video is never held in
    memory. They are written at the constant rate ``timeline.fps``; sound is not copied. Odd sizes gain one
    row or column, as H.264 needs even ones. The file appears complete or not at all.

    Args:
        frames: All frames of the video from frame 0 on, RGB uint8 ``[H, W, 3]`` of one size.
        timeline: What to write on them; a frame without a row passes unmarked.
        boxes: One box per row of the timeline, float ``[F, 4]`` as (x1, y1, x2, y2) in pixels, NaN for none.
        out_path: MP4 file; its folder is created.

    Returns:
        The path written.

    Raises:
        ValueError: If there is not one box per row of the timeline.
        DataError: If the video ends before the timeline does.
    """
    out_path = Path(out_path)
    if boxes is not None and boxes.shape != (len(timeline), 4):
        raise ValueError(f"write_overlay: boxes must have shape {(len(timeline), 4)}, got {boxes.shape}.")
    row_of = {int(frame): row for row, frame in enumerate(timeline.frames)}
    written = 0
    with _mp4_writer(out_path, Fraction(timeline.fps).limit_denominator(1001)) as write:
        for written, frame in enumerate(frames, start=1):
            row = row_of.get(written - 1)
            write(frame if row is None else draw_affect(frame, timeline, row, None if boxes is None else boxes[row]))
        if written <= timeline.frames[-1]:
            raise DataError(
                f"write_overlay: the timeline of {timeline.video} goes to frame {timeline.frames[-1]}, "
                f"but the video ends after {written} frames."
            )
    return out_path


def draw_affect(
    frame: _Image, timeline: AffectTimeline, row: int, box: NDArray[np.floating[Any]] | None = None
) -> _Image:
    """Return a copy of a frame with the face box and the affect of one row of the timeline.

    The dot moves on the circumplex, valence to the right and arousal up, with the last 1.2 seconds as its
    trail; a ring marks the ground truth where there is one. The box is grey where no face was found and
    the rectangle is only held.

    Args:
        frame: RGB uint8 ``[H, W, 3]``.
        timeline: Affect of the video.
        row: Row of the timeline that belongs to this frame.
        box: (x1, y1, x2, y2) in pixels, or NaN or None for no box.

    Returns:
        RGB uint8 ``[H, W, 3]``.
    """
    canvas = np.ascontiguousarray(frame).copy()
    height, width = canvas.shape[:2]
    scale = min(height, width) / 240
    if box is not None and np.isfinite(box).all():
        seen = timeline.face_found is None or bool(timeline.face_found[row])
        _draw_corners(canvas, box, _FACE if seen else _HELD, scale)
    panel = _draw_panel(timeline, row, scale)
    gap = round(6 * scale)
    top, left = max(height - gap - panel.shape[0], 0), max(gap, 0)
    window = canvas[top : top + panel.shape[0], left : left + panel.shape[1]]
    opaque = panel[: window.shape[0], : window.shape[1]]
    window[:] = cv2.addWeighted(window, 0.25, opaque, 0.75, 0)
    # Ink stays fully opaque; only the dark ground lets the video through.
    ink = (opaque.max(axis=2, keepdims=True) > 60) * np.float32(1)
    window[:] = (window * (1 - ink) + opaque * ink).astype(np.uint8)
    return canvas


def _draw_corners(canvas: _Image, box: NDArray[np.floating[Any]], colour: _Colour, scale: float) -> None:
    """Mark the four corners only: a full rectangle hides the chin and the brows."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    arm = max(round(0.18 * min(x2 - x1, y2 - y1)), 3)
    width = max(round(1.6 * scale), 1)
    for shade, thick in (((0, 0, 0), width + 2), (colour, width)):
        for x, y, dx, dy in ((x1, y1, 1, 1), (x2, y1, -1, 1), (x1, y2, 1, -1), (x2, y2, -1, -1)):
            cv2.line(canvas, (x, y), (x + dx * arm, y), shade, thick, cv2.LINE_AA)
            cv2.line(canvas, (x, y), (x, y + dy * arm), shade, thick, cv2.LINE_AA)


def _draw_panel(timeline: AffectTimeline, row: int, scale: float) -> _Image:
    unit = scale * _SUPERSAMPLE
    size = (max(round(_UNITS[0] * scale), 1), max(round(_UNITS[1] * scale), 1))
    canvas = np.full((size[1] * _SUPERSAMPLE, size[0] * _SUPERSAMPLE, 3), _PANEL, dtype=np.uint8)
    _draw_circumplex(canvas, timeline, row, unit)
    for name, value, colour, top in (
        ("valence", timeline.pred[row, 0], _VALENCE, 6.0),
        ("arousal", timeline.pred[row, 1], _AROUSAL, 33.0),
    ):
        _draw_bar(canvas, name, float(value), colour, top, unit)
    return np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _draw_circumplex(canvas: _Image, timeline: AffectTimeline, row: int, unit: float) -> None:
    centre, radius = 31 * unit, 25 * unit

    def spot(affect: Sequence[float] | NDArray[np.float32]) -> tuple[int, int]:
        valence, arousal = np.clip(affect, -1, 1)
        return round(centre + radius * float(valence)), round(centre - radius * float(arousal))

    thin, middle = max(round(0.7 * unit), 1), round(centre)
    cv2.circle(canvas, (middle, middle), round(radius), _LINE, thin, cv2.LINE_AA)
    for start, stop in (((-1, 0), (1, 0)), ((0, -1), (0, 1))):
        cv2.line(canvas, spot(start), spot(stop), _LINE, thin, cv2.LINE_AA)
    first = max(row - round(_TRAIL_SECONDS * timeline.fps), 0)
    for i in range(first, row):
        fade = (i - first + 1) / (row - first + 1)
        colour = tuple(round(a + (b - a) * 0.8 * fade) for a, b in zip(_LINE, _DOT, strict=True))
        thickness = max(round(1.6 * unit * fade), 1)
        cv2.line(canvas, spot(timeline.pred[i]), spot(timeline.pred[i + 1]), colour, thickness, cv2.LINE_AA)
    if timeline.target is not None and timeline.valid is not None and timeline.valid[row]:
        cv2.circle(canvas, spot(timeline.target[row]), round(3.8 * unit), _TEXT, max(round(unit), 1), cv2.LINE_AA)
    cv2.circle(canvas, spot(timeline.pred[row]), round(3 * unit), _DOT, cv2.FILLED, cv2.LINE_AA)


def _draw_bar(canvas: _Image, name: str, value: float, colour: _Colour, top: float, unit: float) -> None:
    left, right, bar = 66 * unit, 138 * unit, (top + 15.5) * unit
    font, size, stroke = cv2.FONT_HERSHEY_SIMPLEX, 0.36 * unit, max(round(0.9 * unit), 1)
    number = f"{value:+.2f}"
    # OpenCV 4 and 5 draw this font in different widths: shrink it until both texts fit on the line.
    wide = sum(cv2.getTextSize(text, font, size, stroke)[0][0] for text in (name, "-0.00")) + 5 * unit
    size *= min(1.0, (right - left) / wide)
    base = round((top + 9.5) * unit)
    cv2.putText(canvas, name, (round(left), base), font, size, colour, stroke, cv2.LINE_AA)
    shift = cv2.getTextSize(number, font, size, stroke)[0][0]
    cv2.putText(canvas, number, (round(right - shift), base), font, size, _TEXT, stroke, cv2.LINE_AA)
    half, middle = (right - left) / 2, (left + right) / 2
    cv2.line(
        canvas, (round(left), round(bar)), (round(right), round(bar)), (70, 74, 82), round(3.4 * unit), cv2.LINE_AA
    )
    end = middle + half * float(np.clip(value, -1, 1))
    cv2.line(canvas, (round(middle), round(bar)), (round(end), round(bar)), colour, round(3.4 * unit), cv2.LINE_AA)


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:  # av.codec.codec.UnknownCodecError
        return False
    return True


@contextmanager
def _mp4_writer(path: Path, rate: Fraction) -> Iterator[Any]:
    """Yield ``write(frame)``; the file takes its name only when the block ends without an error."""
    codec, options = "libx264", {"crf": "20", "preset": "veryfast"}
    if not _has_encoder(codec):
        _LOG.warning("write_overlay: this PyAV has no libx264; writing %s with mpeg4 instead.", path)
        codec, options = "mpeg4", {"qscale": "3"}
    with (
        replacing(path) as draft,
        av.open(str(draft), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = "yuv420p"

        def write(frame: _Image) -> None:
            height, width = frame.shape[:2]
            even = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            if stream.codec_context.is_open is False:
                stream.width, stream.height = even.shape[1], even.shape[0]
            picture = av.VideoFrame.from_ndarray(np.asarray(even, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(picture))

        yield write
        container.mux(stream.encode(None))
