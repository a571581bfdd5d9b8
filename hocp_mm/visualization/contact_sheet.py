"""One picture of what a network is shown: clips in rows, labels under each frame."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hocp_mm.system.files import replacing
from hocp_mm.visualization.timeline_plot import COLOURS

_INK, _SOFT, _GOOD, _BAD, _RULE = "#222222", "#767676", "#1B7837", "#B2182B", "#E4E4E4"
_MINUS = "\N{MINUS SIGN}"  # as wide as a digit, unlike the hyphen
_MARGIN, _TOP, _GAP, _LINE = 24, 82, 10, 18
_LEAST_SIDE = 120  # smaller pictures are enlarged by a whole factor, each pixel to a block of one colour

Span = tuple[str, str]
"""A text and its colour."""


@dataclass(frozen=True)
class SheetClip:
    """A clip as a pipeline delivers it.

    Attributes:
        frames: RGB, uint8 ``[T, H, W, 3]``.
        video: Key of the record.
        frame_inds: Frame numbers, int ``[T]``; -1 is padding.
        affect: (valence, arousal) in [-1, 1], float ``[T, 2]``.
        valid: Where the label counts, bool ``[T]``.
        face_found: Where a face was found, bool ``[T]``.
        num_frames: Frames of the whole record.
        subject: Person, empty if not known.
        expressions: Name per frame, empty for none; None for a set without expressions.
    """

    frames: NDArray[np.uint8]
    video: str
    frame_inds: NDArray[np.int64]
    affect: NDArray[np.float32]
    valid: NDArray[np.bool_]
    face_found: NDArray[np.bool_]
    num_frames: int
    subject: str = ""
    expressions: tuple[str, ...] | None = None

    def caption(self, place: int) -> list[list[Span]]:
        """Return the lines under a frame.

        Args:
            place: Position in the clip, from 0.

        Returns:
            Coloured texts, line by line: frame number (unless the record is one picture), labels, marks, expression.
        """
        frame = int(self.frame_inds[place])
        if frame < 0:
            return [[("padding", _SOFT)]]
        valence, arousal = self.affect[place].tolist()
        counts = bool(self.valid[place])
        inks = (COLOURS["valence"], COLOURS["arousal"]) if counts else (_SOFT, _SOFT)
        lines: list[list[Span]] = [
            *([[(f"frame {frame}", _INK)]] if self.num_frames > 1 else []),
            [(f"V {_number(valence)}", inks[0]), (f"A {_number(arousal)}", inks[1])],
            [_mark("valid", counts), _mark("face", bool(self.face_found[place]))],
        ]
        if self.expressions is not None:
            lines.append([(self.expressions[place] or "no expression", _INK if self.expressions[place] else _SOFT)])
        return lines

    @property
    def heading(self) -> str:
        """Key, frames, and person of the clip."""
        inside = self.frame_inds[self.frame_inds >= 0]
        where = f"frames {inside.min()} to {inside.max()} of {self.num_frames}" if len(inside) else "padding only"
        person = f"  ·  subject {self.subject}" if self.subject else ""
        return f"{self.video}  ·  {where}{person}"


@dataclass(frozen=True)
class ContactSheet:
    """A drawn sheet.

    Attributes:
        picture: RGB, uint8 ``[height, width, 3]``.
        places: Left and top pixel of each frame, by clip and position in it.
        zoom: Side of the block that shows one pixel of a frame.
    """

    picture: NDArray[np.uint8]
    places: tuple[tuple[tuple[int, int], ...], ...]
    zoom: int

    def save(self, path: str | Path) -> Path:
        """Write the picture; the suffix of ``path`` chooses the format. The folder is created."""
        path = Path(path)
        # In memory first: of a full disk Pillow itself says no more than "encoder error".
        content = io.BytesIO()
        Image.fromarray(self.picture).save(content, Image.registered_extensions()[path.suffix.lower()])
        with replacing(path) as draft:
            draft.write_bytes(content.getbuffer())
        return path


def draw_contact_sheet(clips: Sequence[SheetClip], title: str, subtitle: str = "", columns: int = 8) -> ContactSheet:
    """Draw clips in rows; clips of a single frame stand side by side.

    Frames are shown pixel by pixel, small ones enlarged by a whole factor, so that each pixel of the sheet is one of
    the pipeline. Labels that do not count are grey.

    Args:
        clips: What to draw, at least one; all frames of one size, and expressions for all clips or for none.
        title: First line.
        subtitle: Second line.
        columns: Clips of a single frame in a row.

    Returns:
        The sheet.

    Raises:
        ValueError: If there is no clip, or their frames differ in size.
    """
    sizes = {clip.frames.shape[1:3] for clip in clips}
    if len(sizes) != 1:
        raise ValueError(f"draw_contact_sheet: all frames must have one size, got {sorted(sizes) or 'no clip'}.")
    layout = _lay_out(clips, title, subtitle, columns)
    sheet = Image.new("RGB", layout.size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=_font(20, bold=True))
    draw.text((_MARGIN, _MARGIN + 26), subtitle, fill=_SOFT, font=_font(13))
    places: list[tuple[tuple[int, int], ...]] = []
    for number, row in enumerate(layout.rows):
        x, y = _MARGIN, _TOP + number * layout.row_height
        draw.line([(_MARGIN, y - 4), (layout.size[0] - _MARGIN, y - 4)], fill=_RULE)
        if not layout.images:
            draw.text((_MARGIN, y + 2), row[0].heading, fill=_INK, font=_font(13, bold=True))
        for clip in row:
            corners = [(x + place * layout.step, y + layout.head) for place in range(len(clip.frames))]
            places.append(tuple(corners))
            for place, corner in enumerate(corners):
                _draw_frame(sheet, draw, clip, place, corner, layout)
            x = corners[-1][0] + layout.step
    return ContactSheet(np.array(sheet, dtype=np.uint8), tuple(places), layout.zoom)


@dataclass(frozen=True)
class _Layout:
    """Where things go, in pixels.

    Attributes:
        rows: Clips from top to bottom; several in a row only if they are images.
        images: Whether all clips have a single frame; their keys then stand under the frames, not above the rows.
        zoom: Side of the block of a pixel.
        step: From one frame to the next.
        head: Height of the heading of a row.
        row_height: From one row to the next.
        size: Of the sheet.
    """

    rows: Sequence[Sequence[SheetClip]]
    images: bool
    zoom: int
    step: int
    head: int
    row_height: int
    size: tuple[int, int]


def _lay_out(clips: Sequence[SheetClip], title: str, subtitle: str, columns: int) -> _Layout:
    height, width = clips[0].frames.shape[1:3]
    zoom = max(1, -(-_LEAST_SIDE // max(width, height)))
    images = all(len(clip.frames) == 1 for clip in clips)
    rows = [clips[n : n + columns] for n in range(0, len(clips), columns)] if images else [[clip] for clip in clips]
    captions = [clip.caption(place) for clip in clips for place in range(len(clip.frames))]
    text_width = max(
        sum(int(_font(13).getlength(text)) + 8 for text, _ in line) for lines in captions for line in lines
    )
    step = max(width * zoom, text_width) + _GAP
    head = 0 if images else _LINE + 8
    row_height = head + height * zoom + (max(map(len, captions)) + images) * _LINE + 6 + 2 * _GAP
    texts = [(title, _font(20, bold=True)), (subtitle, _font(13))]
    texts += [] if images else [(clip.heading, _font(13, bold=True)) for clip in clips]
    across = max(sum(len(clip.frames) for clip in row) for row in rows)
    inner = max(across * step - _GAP, *(int(font.getlength(text)) + 1 for text, font in texts))
    return _Layout(rows, images, zoom, step, head, row_height, (inner + 2 * _MARGIN, _TOP + len(rows) * row_height))


def _draw_frame(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    clip: SheetClip,
    place: int,
    corner: tuple[int, int],
    layout: _Layout,
) -> None:
    """Paste one frame, and below it what is known about it."""
    x, y = corner
    pixels = clip.frames[place].repeat(layout.zoom, axis=0).repeat(layout.zoom, axis=1)
    sheet.paste(Image.fromarray(pixels), corner)
    y += len(pixels) + 4
    lines = clip.caption(place)
    if layout.images:
        lines = [[(_fitting(clip.video, layout.step - _GAP), _INK)], *lines]
    for line in lines:
        start = x
        for text, colour in line:
            draw.text((start, y), text, fill=colour, font=_font(13))
            start += int(_font(13).getlength(text)) + 8
        y += _LINE


def _fitting(text: str, width: int) -> str:
    """Return the end of a text that fits: keys of images are paths, which differ at the end."""
    font, start = _font(13), 0
    while start < len(text) - 1 and font.getlength(f"…{text[start:]}" if start else text) > width:
        start += 1
    return f"…{text[start:]}" if start else text


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", _MINUS)  # the sum turns -0 into 0


def _mark(name: str, yes: bool) -> Span:
    return (f"\N{CHECK MARK} {name}", _GOOD) if yes else (f"\N{BALLOT X} {name}", _BAD)


@lru_cache(maxsize=8)
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    # matplotlib's own copy of DejaVu Sans: there on every machine, and it has check marks.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
