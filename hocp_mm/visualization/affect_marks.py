"""Marks on one picture: the corners of face boxes, and a panel with the circumplex, the dot's trail, bars and numbers.

Everything is laid out in square pixels as they are displayed, and stretched into those of the picture at the end, so
that a circle is round whatever the shape of a pixel.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_Image = NDArray[np.uint8]
_Colour = tuple[int, int, int]
_Pair = tuple[float, float]

# RGB, read on a dark panel: Okabe-Ito sky blue and orange, told apart in every common colour blindness.
_COLOURS: tuple[_Colour, _Colour] = ((86, 180, 233), (240, 165, 40))
_PANEL, _LINE, _TEXT, _DOT, _GROOVE = (18, 20, 24), (120, 124, 132), (238, 238, 238), (255, 255, 255), (70, 74, 82)
_FACE, _HELD = (255, 255, 255), (150, 150, 150)
_UNITS = (146, 62)  # width and height of the panel where the shorter side of the video is 240 pixels
_CENTRE, _RADIUS = 31, 25
_BARS, _BAR_TOPS = (66, 138), (6.0, 33.0)
_EM, _SMALL_EM = 10.8, 9.5
_GROUND, _INK = 0.75, 60  # opacity of the dark ground; what is lighter than this is ink, which is opaque
_TRAIL_SECONDS, _TRAIL_STEP = 1.2, 0.02  # at 200 frames/s every fourth one is a point of the trail
_SHIFT = 4  # OpenCV's fixed point: 1/16 of a pixel


@dataclass(frozen=True)
class FaceMark:
    """What to draw of one person on one picture.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the file; None or NaN for the whole frame, which has no mark.
        affect: (valence, arousal), meant for [-1, 1]; None or NaN where there is no number.
        seen: False where the box is held or interpolated: it is grey.
        person: Number of the person, written on the box and the panel.
        target: Ground truth (valence, arousal), a ring on the circumplex; None or NaN for none.
    """

    box: Sequence[float] | NDArray[np.floating[Any]] | None
    affect: Sequence[float] | NDArray[np.floating[Any]] | None
    seen: bool = True
    person: int | None = None
    target: Sequence[float] | NDArray[np.floating[Any]] | None = None


def face_marks(faces: Iterable[Any], affect: Mapping[int, Any], target: Any = None) -> list[FaceMark]:
    """Return what to draw on a frame: first those who are watched, then all others, or that nobody is watched.

    Args:
        faces: Everybody in it, each with ``person``, ``box`` and ``seen`` (`hocp_mm.datasets.faces.following.Face`).
        affect: Valence and arousal by number of those who are watched.
        target: Ground truth (valence, arousal), if there is one.
    """
    faces = sorted(faces, key=lambda face: face.person not in affect)
    named = len(faces) > 1 or any(face.person > 1 for face in faces)
    found = [
        FaceMark(face.box, affect.get(face.person), face.seen, face.person if named else None, target) for face in faces
    ]
    return found if affect else [FaceMark(None, None, False, None, target), *found]


class AffectMarker:
    """Draws the marks of one video, picture after picture, and remembers the trail of the dot.

    Args:
        width: Pixels of a picture.
        height: Pixels of a picture.
        pixel_aspect: Width of a pixel over its height.
    """

    def __init__(self, width: int, height: int, pixel_aspect: float = 1.0) -> None:
        self._stretch = max(pixel_aspect, 1.0), max(1 / pixel_aspect, 1.0)  # to square pixels; one of them is 1
        self._unit = min(width * self._stretch[0], height * self._stretch[1]) / 240
        # A small panel is drawn at twice its size and shrunk; a large one needs no more than OpenCV's own smooth edges.
        self._fine = 2 if self._unit < 5 else 1
        self._blank = self._blank_panel()
        self._size = tuple(max(round(n * self._unit / by), 1) for n, by in zip(_UNITS, self._stretch, strict=True))
        self._trail: deque[tuple[float, _Pair]] = deque()
        self._person: int | None = None

    def draw(self, canvas: _Image, time: float, faces: Sequence[FaceMark]) -> None:
        """Draw on one picture, in place.

        The box of every face has its corners marked, and its number and values where there are several. The panel is
        that of the first face: the dot moves on the circumplex, valence to the right and arousal up, with the last
        1.2 seconds as its trail, which begins anew after a gap and with another person.

        Args:
            canvas: RGB uint8 ``[H, W, 3]``.
            time: Seconds, later than at the last call.
            faces: Of this picture; without any it stays as it is.
        """
        for face in faces:
            self._draw_box(canvas, face, len(faces) > 1)
        first = faces[0] if faces else None
        affect = None if first is None else _finite(first.affect)
        if first is None or affect is None or first.person != self._person:
            self._trail.clear()
        self._person = None if first is None else first.person
        if first is None:
            return
        if affect is not None:
            while self._trail and self._trail[0][0] < time - _TRAIL_SECONDS:
                self._trail.popleft()
            if len(self._trail) > 1 and time - self._trail[-2][0] < _TRAIL_STEP:
                self._trail.pop()
            self._trail.append((time, affect))
        self._blend(canvas, self._panel(time, first, affect))

    def _draw_box(self, canvas: _Image, face: FaceMark, several: bool) -> None:
        box = _finite(face.box)
        if box is None:
            return
        # Beyond the picture nothing is drawn; far beyond, a whole number would overflow.
        height, width = canvas.shape[:2]
        x1, x2 = (round(min(max(x, -width), 2 * width)) for x in box[::2])
        y1, y2 = (round(min(max(y, -height), 2 * height)) for y in box[1::2])
        by_x, by_y = self._stretch
        arm = max(0.18 * min((x2 - x1) * by_x, (y2 - y1) * by_y), 3)
        stroke = max(round(2 * self._unit), 1)
        arm_x, arm_y, thick_x, thick_y = (
            max(round(n), 1) for n in (arm / by_x, arm / by_y, stroke / by_x, stroke / by_y)
        )
        # The four corners only: a full rectangle hides the chin and the brows.
        bars = []
        for x, out_x in ((x1, -1), (x2, 1)):
            for y, out_y in ((y1, -1), (y2, 1)):
                end_x, end_y = x + out_x * (thick_x // 2), y + out_y * (thick_y // 2)
                bars.append((end_x, end_y, end_x - out_x * (arm_x + thick_x), end_y - out_y * thick_y))
                bars.append((end_x, end_y, end_x - out_x * thick_x, end_y - out_y * (arm_y + thick_y)))
        for edge, colour in ((max(round(0.5 * self._unit), 1), (0, 0, 0)), (0, _FACE if face.seen else _HELD)):
            for xa, ya, xb, yb in bars:
                left, right = (max(x + by, 0) for x, by in ((min(xa, xb), -edge), (max(xa, xb), edge)))
                top, bottom = (max(y + by, 0) for y, by in ((min(ya, yb), -edge), (max(ya, yb), edge)))
                canvas[top:bottom, left:right] = colour
        if face.person is not None or several:
            self._draw_label(canvas, face, several, (x1, y1, y2))

    def _draw_label(self, canvas: _Image, face: FaceMark, several: bool, place: tuple[int, int, int]) -> None:
        """Write the number of a person, and among several the values, above the box, or below it at the top edge."""
        words = [] if face.person is None else [(str(face.person), _TEXT)]
        if several:
            words += zip(_numbers(_finite(face.affect)), _COLOURS, strict=True)
        masks = [(self._text(word, _SMALL_EM), colour) for word, colour in words]
        gap_x, gap_y = (max(round(3 * self._unit / by), 1) for by in self._stretch)
        width = sum(mask.shape[1] for mask, _ in masks) + (len(masks) + 1) * gap_x
        height = masks[0][0].shape[0] + gap_y // 2 * 2
        x1, y1, y2 = place
        above = y1 - height - gap_y
        top = above if above >= 0 else y2 + gap_y
        left = max(min(x1, canvas.shape[1] - width), 0)
        _mix(canvas, np.full((height, width), round(255 * _GROUND), np.uint8), left, top, _PANEL)
        for mask, colour in masks:
            left += gap_x
            _mix(canvas, mask, left, top + gap_y // 2, colour)
            left += mask.shape[1]

    def _text(self, text: str, em: float) -> _Image:
        return _text_mask(text, round(em * self._unit, 2), self._stretch)

    def _blank_panel(self) -> _Image:
        """Return what is the same on every panel, in square pixels, enlarged."""
        unit = self._unit * self._fine
        width, height = (max(round(n * self._unit), 1) * self._fine for n in _UNITS)
        canvas = np.full((height, width, 3), _PANEL, dtype=np.uint8)
        thin = max(round(0.7 * unit), 1)
        cv2.circle(canvas, self._spot((0, 0)), _fixed(_RADIUS * unit), _LINE, thin, cv2.LINE_AA, _SHIFT)
        for start, stop in (((-1, 0), (1, 0)), ((0, -1), (0, 1))):
            cv2.line(canvas, self._spot(start), self._spot(stop), _LINE, thin, cv2.LINE_AA, _SHIFT)
        for name, colour, top in zip(("valence", "arousal"), _COLOURS, _BAR_TOPS, strict=True):
            mask = _text_mask(name, round(_EM * unit, 2), (1.0, 1.0))
            _mix(canvas, mask, round(_BARS[0] * unit), round((top - 2) * unit), colour)
            self._draw_bar(canvas, top, _BARS[0], _BARS[1], _GROOVE)
        return canvas

    def _panel(self, time: float, face: FaceMark, affect: _Pair | None) -> _Image:
        """Return the panel in pixels of the picture, opaque."""
        unit = self._unit * self._fine
        canvas = self._blank.copy()
        if affect is not None:
            trail = list(self._trail)
            for (_, start), (then, stop) in pairwise(trail):
                fade = 1 - (time - then) / _TRAIL_SECONDS
                colour = tuple(round(a + (b - a) * 0.8 * fade) for a, b in zip(_LINE, _DOT, strict=True))
                thick = max(round(1.6 * unit * fade), 1)
                cv2.line(canvas, self._spot(start), self._spot(stop), colour, thick, cv2.LINE_AA, _SHIFT)
        target = _finite(face.target)
        if target is not None:
            ring = max(round(unit), 1)
            cv2.circle(canvas, self._spot(target), _fixed(3.8 * unit), _TEXT, ring, cv2.LINE_AA, _SHIFT)
        if affect is not None:
            cv2.circle(canvas, self._spot(affect), _fixed(3 * unit), _DOT, cv2.FILLED, cv2.LINE_AA, _SHIFT)
            middle = sum(_BARS) / 2
            for value, colour, top in zip(affect, _COLOURS, _BAR_TOPS, strict=True):
                end = middle + (_BARS[1] - middle) * min(max(value, -1.0), 1.0)
                self._draw_bar(canvas, top, middle, end, colour)
        panel = canvas
        if panel.shape[1::-1] != self._size:
            panel = np.asarray(cv2.resize(canvas, self._size, interpolation=cv2.INTER_AREA), np.uint8)
        self._write(panel, face, affect)
        return panel

    def _write(self, panel: _Image, face: FaceMark, affect: _Pair | None) -> None:
        in_x, in_y = (self._unit / by for by in self._stretch)
        for number, top in zip(_numbers(affect), _BAR_TOPS, strict=True):
            mask = self._text(number, _EM)
            _mix(panel, mask, round(_BARS[1] * in_x) - mask.shape[1], round((top - 2) * in_y), _TEXT)
        if face.person is not None:
            _mix(panel, self._text(str(face.person), _SMALL_EM), round(3 * in_x), round(in_y), _TEXT)
        if affect is None:
            mask = self._text("no face", _SMALL_EM)
            x, y = (round(_CENTRE * by - n / 2) for by, n in zip((in_x, in_y), mask.shape[::-1], strict=True))
            _mix(panel, np.full_like(mask, 255), x, y, _PANEL)  # off the axes, which would cross it out
            _mix(panel, mask, x, y, _TEXT)

    def _spot(self, affect: _Pair) -> tuple[int, int]:
        unit = self._unit * self._fine
        valence, arousal = (min(max(value, -1.0), 1.0) for value in affect)
        return _fixed((_CENTRE + _RADIUS * valence) * unit), _fixed((_CENTRE - _RADIUS * arousal) * unit)

    def _draw_bar(self, canvas: _Image, top: float, start: float, stop: float, colour: _Colour) -> None:
        unit = self._unit * self._fine
        first, last = ((_fixed(x * unit), _fixed((top + 15.5) * unit)) for x in (start, stop))
        cv2.line(canvas, first, last, colour, max(round(3.4 * unit), 1), cv2.LINE_AA, _SHIFT)

    def _blend(self, canvas: _Image, panel: _Image) -> None:
        """Lay the panel over the lower left corner; its dark ground lets the video through."""
        gap_x, gap_y = (round(6 * self._unit / by) for by in self._stretch)
        top = max(canvas.shape[0] - gap_y - panel.shape[0], 0)
        window = canvas[top : top + panel.shape[0], gap_x : gap_x + panel.shape[1]]
        if window.size == 0:
            return
        panel = panel[: window.shape[0], : window.shape[1]]
        _, ink = cv2.threshold(cv2.cvtColor(panel, cv2.COLOR_RGB2GRAY), _INK, 255, cv2.THRESH_BINARY)
        window[:] = cv2.copyTo(panel, ink, cv2.addWeighted(window, 1 - _GROUND, panel, _GROUND, 0))


def _finite(values: Sequence[float] | NDArray[np.floating[Any]] | None) -> Any:
    """Return plain numbers, or None where one of them is none."""
    if values is None:
        return None
    numbers = tuple(float(value) for value in values)
    return numbers if all(map(np.isfinite, numbers)) else None


def _numbers(affect: _Pair | None) -> list[str]:
    if affect is None:
        return ["--", "--"]
    return [f"{value:+.2f}" for value in affect]


def _fixed(value: float) -> int:
    return round(value * (1 << _SHIFT))


@lru_cache(maxsize=2048)
def _text_mask(text: str, em: float, stretch: _Pair) -> _Image:
    """Return how much ink lies on each pixel, ``[h, w]``: one line of text, its height that of the font."""
    large = 4 if em < 40 else 1
    font = _font(max(round(em * large), 1))
    ascent, descent = font.getmetrics()
    bold = round(0.02 * em * large)
    width, height = max(round(font.getlength(text)), 1) + 2 * bold, ascent + descent + 2 * bold
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).text((bold, bold), text, fill=255, font=font, stroke_width=bold)
    size = tuple(max(round(n / large / by), 1) for n, by in zip((width, height), stretch, strict=True))
    return np.asarray(cv2.resize(np.asarray(picture), size, interpolation=cv2.INTER_AREA), np.uint8)


@lru_cache(maxsize=64)
def _font(size: int) -> Any:
    # Pillow brings this one; OpenCV's own fonts differ between its versions 4 and 5.
    return ImageFont.load_default(size)


def _mix(canvas: _Image, mask: _Image, left: int, top: int, colour: _Colour) -> None:
    """Lay ink of one colour on a canvas, in place; what would lie beside it is left out."""
    height, width = canvas.shape[:2]
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + mask.shape[1], width), min(top + mask.shape[0], height)
    if x1 >= x2 or y1 >= y2:
        return
    window, ink = canvas[y1:y2, x1:x2], mask[y1 - top : y2 - top, x1 - left : x2 - left, None].astype(np.int32)
    window[:] = window + ((np.array(colour, np.int32) - window) * ink + 127) // 255
