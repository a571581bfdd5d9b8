"""Annotated video: the face boxes, a dot on the valence-arousal circumplex with its trail, bars and numbers."""

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError
from hocp_mm.structures.timeline import AffectTimeline
from hocp_mm.system.files import replacing
from hocp_mm.visualization.affect_marks import AffectMarker, FaceMark
from hocp_mm.visualization.film import Film


class OverlayWriter:
    """Writes an annotated MP4 while the pictures of a video go by; a context manager.

    Pictures keep their size, their times and the shape of their pixels; odd sizes gain one row or column, as H.264
    needs even ones. The file appears complete when the block ends well, or not at all. Memory does not grow with the
    length of the video.

    Args:
        path: MP4 file; its folder is created.
        width: Pixels of a picture.
        height: Pixels of a picture.
        fps: Frames per second of the video; the mean rate where they come unevenly. The last picture is shown for one
            frame.
        pixel_aspect: Width of a pixel over its height.
        audio: File whose first sound is taken over: copied where players take its codec from an MP4, else encoded as
            AAC. Its own film is what the pictures come from: the first one gives the time of both.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        fps: float,
        pixel_aspect: float = 1.0,
        audio: str | Path | None = None,
    ) -> None:
        for name, value in (("width", width), ("height", height), ("fps", fps), ("pixel_aspect", pixel_aspect)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"OverlayWriter: {name} must be positive, got {value!r}.")
        self._path = Path(path)
        self._size, self._fps, self._aspect, self._audio = (width, height), fps, pixel_aspect, audio
        self._marker = AffectMarker(width, height, pixel_aspect)
        self._canvas = np.empty((height + height % 2, width + width % 2, 3), np.uint8)
        self._time = -math.inf
        self._stack = ExitStack()

    def __enter__(self) -> "OverlayWriter":
        """Begin the file."""
        with ExitStack() as stack:
            draft = stack.enter_context(replacing(self._path))
            size = self._canvas.shape[1], self._canvas.shape[0]
            film = Film(draft, str(self._path), size, self._fps, self._aspect, self._audio)
            self._film = stack.enter_context(film)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the file, or remove it after an exception.

        Raises:
            ValueError: If no picture was written.
        """
        if error is None and self._time == -math.inf:
            with self._stack:
                raise ValueError(f"OverlayWriter: at least one picture must be written, got none ({self._path}).")
        self._stack.__exit__(kind, error, trace)

    def write(self, picture: NDArray[np.uint8], time: float, faces: Sequence[FaceMark]) -> None:
        """Add one picture.

        Args:
            picture: RGB uint8 ``[H, W, 3]`` as read from the file; it is copied.
            time: Seconds after the first picture, later than the last.
            faces: Who is on it. Every one has a box, the first one the panel; where nobody is seen, one without affect
                keeps the panel and says so. None at all leave the picture as it is.

        Raises:
            ValueError: If the picture has another size, or the time does not increase.
        """
        width, height = self._size
        if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
            raise ValueError(
                f"OverlayWriter: a picture must be uint8 {(height, width, 3)}, got {picture.dtype} {picture.shape}."
            )
        if not self._time < time < math.inf:
            raise ValueError(f"OverlayWriter: times must increase, got {time!r} after {self._time!r} ({self._path}).")
        self._time = time
        self._canvas[:height, :width] = picture
        self._canvas[height:, :width] = picture[-1:]
        self._canvas[:, width:] = self._canvas[:, width - 1 : width]
        self._marker.draw(self._canvas[:height, :width], time, faces)
        self._film.write(self._canvas, time)


def write_overlay(
    frames: Iterable[NDArray[np.uint8]],
    timeline: AffectTimeline,
    boxes: NDArray[np.float32] | None,
    out_path: str | Path,
    *,
    pixel_aspect: float = 1.0,
    audio: str | Path | None = None,
) -> Path:
    """Write an annotated MP4 with all frames of a video, at the times of a timeline.

    Args:
        frames: All frames of the video from frame 0 on, RGB uint8 ``[H, W, 3]`` of one size.
        timeline: What to write on them; a frame without a row passes unmarked, at a time between its neighbours'.
        boxes: One box per row of the timeline, float ``[F, 4]`` as (x1, y1, x2, y2) in pixels, NaN for none.
        out_path: MP4 file; its folder is created.
        pixel_aspect: Width of a pixel over its height.
        audio: File whose first sound is taken over, see `OverlayWriter`.

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
    last = int(timeline.frames[-1])
    time_of = _Clock(timeline)
    written = 0
    with ExitStack() as stack:
        writer: OverlayWriter | None = None
        for written, frame in enumerate(frames, start=1):
            if writer is None:
                height, width = frame.shape[:2]
                writer = OverlayWriter(
                    out_path, width=width, height=height, fps=timeline.fps, pixel_aspect=pixel_aspect, audio=audio
                )
                stack.enter_context(writer)
            row = row_of.get(written - 1)
            faces = () if row is None else (_mark(timeline, row, None if boxes is None else boxes[row]),)
            writer.write(frame, time_of(written - 1), faces)
        if written <= last:
            raise DataError(
                f"write_overlay: the timeline of {timeline.video} goes to frame {last}, "
                f"but the video ends after {written} frames."
            )
    return out_path


class _Clock:
    """Times of all frames of a video, from those that a timeline has rows for."""

    def __init__(self, timeline: AffectTimeline) -> None:
        self._frames, self._times, self._fps = timeline.frames, timeline.time_s, timeline.fps
        if self._frames[0] > 0:  # frame 0 is at 0, or as early as it must be for its successors to fit
            self._frames = np.concatenate(([0], self._frames))
            self._times = np.concatenate(([min(0.0, float(self._times[0]) - 1e-3)], self._times))

    def __call__(self, frame: int) -> float:
        beyond = frame - int(self._frames[-1])
        if beyond > 0:
            return float(self._times[-1]) + beyond / self._fps
        return float(np.interp(frame, self._frames, self._times))


def _mark(timeline: AffectTimeline, row: int, box: NDArray[np.float32] | None) -> FaceMark:
    known = timeline.target is not None and timeline.valid is not None and timeline.valid[row]
    return FaceMark(
        box,
        timeline.pred[row],
        timeline.face_found is None or bool(timeline.face_found[row]),
        None if timeline.person is None else int(timeline.person[row]) or None,
        timeline.target[row] if known and timeline.target is not None else None,
    )
