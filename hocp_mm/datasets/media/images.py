"""Image files: exact pixels, or one error that names the file.

Every chunk of a PNG carries a checksum, which decoders check in part or not at all, and its header says how much the
pixels unpack to. A JPEG carries no checksum, but its markers say where each part and the whole ends.

The usual decoders give a picture for half a file: OpenCV fills the rest of a cut JPEG with grey, Pillow checks no
checksum of a PNG's end and turns 16-bit grey into white. Here the whole file is checked first (`check_image`: every
chunk of a PNG against its checksum, a JPEG up to its end marker), then decoded by Pillow with these rules:

    grey        repeated in R, G and B
    palette     replaced by its colours
    alpha       laid over black, transparent colours of a palette or a grey value too
    16 bits     the high byte of each value, so that 8-bit pictures stored as v * 257 or v * 256 come back as v
    EXIF        turned upright, as viewers and OpenCV do; width, height, boxes and landmarks are those of the
                upright picture
    several     the first picture of a JPEG with a second one behind it (MPO); an animation is refused
    colour      values as stored; ICC profiles and gamma are not applied

A JPEG has no checksum: damage in the middle of its data that leaves the markers whole cannot be seen by any reader.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hocp_mm.errors import DataError
from hocp_mm.system.reading import read_bytes

_PNG_START = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_JPEG_START = b"\xff\xd8"
# In the data of a scan FF is followed by 00 (stuffing), D0 to D7 (restarts) or FF (fill); all else is a marker.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)


def check_structure(path: str | Path, raw: bytes) -> bool:
    """Refuse a PNG, JPEG or BMP that is damaged or cut.

    Args:
        path: Name of the file, for the message.
        raw: All of its bytes.

    Returns:
        Whether the format could be checked without decoding; false for all others.

    Raises:
        DataError: If the file is damaged, cut, or an animation.
    """
    if raw.startswith(_PNG_START):
        _check_png(path, raw)
        return True
    if raw.startswith(_JPEG_START):
        _check_jpeg(path, raw)
        return True
    if raw.startswith(b"BM") and len(raw) < (promised := int.from_bytes(raw[2:6], "little")):
        raise DataError(f"{path}: the BMP is cut: it promises {promised} bytes, got {len(raw)}.")
    return False


def check_png_pixels(path: str | Path, raw: bytes) -> None:
    """Refuse a PNG whose pixels unpack to less than its header promises; takes as long as decoding it.

    Args:
        path: Name of the file, for the message.
        raw: All of its bytes, which `check_structure` has accepted.

    Raises:
        DataError: If pixels are missing.
    """
    inflate, missing = zlib.decompressobj(), 0
    for _, kind, content in _png_chunks(path, raw):
        if kind == b"IHDR":
            missing = _pixel_bytes(content)
        if kind == b"IDAT" and missing > 0:
            try:
                missing -= len(inflate.decompress(content, missing))
            except zlib.error as error:
                raise DataError(f"{path}: the PNG is damaged: its pixels cannot be unpacked ({error}).") from error
    if missing > 0:
        raise DataError(f"{path}: the PNG lacks {missing} bytes of its pixels.")


def _check_png(path: str | Path, raw: bytes) -> None:
    """Compare every chunk with its checksum."""
    for place, kind, content in _png_chunks(path, raw):
        end = place + 12 + len(content)
        if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(raw[end - 4 : end], "big"):
            raise DataError(f"{path}: the PNG is damaged: the checksum of the chunk at byte {place} is wrong.")
        if (kind == b"IHDR") != (place == len(_PNG_START)) or (kind == b"IHDR" and len(content) != 13):
            raise DataError(f"{path}: the PNG is damaged: it must begin with its header.")
        if kind == b"acTL":
            raise DataError(f"{path}: a frame must be one picture, got an animated PNG.")


def _png_chunks(path: str | Path, raw: bytes) -> Iterator[tuple[int, bytes, memoryview]]:
    """Yield place, kind and content of every chunk up to the one that ends the file."""
    place = len(_PNG_START)
    while True:
        if place + 12 > len(raw):
            raise DataError(f"{path}: the PNG is cut: its end chunk is missing after {len(raw)} bytes.")
        length, kind = struct.unpack_from(">I4s", raw, place)
        end = place + 12 + length
        if end > len(raw):
            raise DataError(f"{path}: the PNG is cut: a chunk ends at byte {end}, the file at {len(raw)}.")
        yield place, kind, memoryview(raw)[place + 8 : end - 4]
        if kind == b"IEND":
            return
        place = end


def _pixel_bytes(header: memoryview) -> int:
    """Return how many bytes the pixels of a PNG unpack to."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS.get(colour, 0)
    total = 0
    for left, top, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)  # each row begins with the number of its filter
    return total


def _check_jpeg(path: str | Path, raw: bytes) -> None:
    """Walk over the segments and scans up to the end marker."""
    place, scans = 2, 0
    while True:
        match = _JPEG_MARKER.search(raw, place) if scans else _JPEG_MARKER.match(raw, place)
        if match is None:
            cut = f"is cut: its end marker is missing after {len(raw)} bytes"
            raise DataError(f"{path}: the JPEG {cut if scans or place >= len(raw) else 'is damaged in its header'}.")
        marker, place = match.group(1)[0], match.end()
        if marker == 0xD9 and scans:
            return
        if place + 2 > len(raw):
            continue  # the search above finds nothing more and complains
        length = int.from_bytes(raw[place : place + 2], "big")
        if length < 2 or place + length > len(raw):
            raise DataError(f"{path}: the JPEG is cut or damaged: a segment at byte {place} ends beyond the file.")
        place += length
        scans += marker == 0xDA


# Named one by one: Pillow would hand other content to external programs (EPS) or read it from other files.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_MAX_PIXELS = 100_000_000  # a header that promises more is damage, or an attack on the memory
ORIENTATION = 0x0112
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class ImageInfo:
    """Size of an image in pixels, turned upright."""

    width: int
    height: int


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read one image file by the rules of this module.

    Args:
        path: PNG, JPEG, BMP, TIFF or WebP.

    Returns:
        RGB, uint8 ``[H, W, 3]``.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the file is damaged, cut, empty, no image, or of a kind without a rule.
    """
    raw = _read_whole(path)
    check_structure(path, raw)
    picture = _open(path, raw)
    try:
        picture.load()
        upright = _upright(picture)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise DataError(f"{path}: the image cannot be decoded ({error}).") from error
    if picture.format == "PNG" and _may_lack_rows(picture):
        check_png_pixels(path, raw)
    return _to_rgb(path, upright)


def check_image(path: str | Path) -> ImageInfo:
    """Check a file from its first byte to its last without decoding the pixels of PNG and JPEG.

    Takes a small part of the time of reading it; formats other than PNG and JPEG are decoded.

    Args:
        path: Image file.

    Returns:
        Size of the upright picture.

    Raises:
        MissingDataError: If there is no such file.
        DataError: As `read_image`.
    """
    raw = _read_whole(path)
    if not check_structure(path, raw):
        height, width = read_image(path).shape[:2]
        return ImageInfo(width, height)
    picture = _open(path, raw)
    width, height = picture.size
    # Pillow decodes a whole PNG to look for a rotation; most have none of the chunks that may hold one.
    may_be_turned = picture.format != "PNG" or any(mark in raw for mark in (b"eXIf", b"Raw profile", b"adobe.xmp"))
    turned = may_be_turned and picture.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)  # by a quarter
    return ImageInfo(height, width) if turned else ImageInfo(width, height)


def held_frames(frame_files: Sequence[str] | NDArray[np.integer]) -> NDArray[np.int64]:
    """Return for each frame the number of the frame to show: itself, or where it has no file the last one with one.

    Before the first frame with a file that one is shown.

    Args:
        frame_files: A path per frame, empty where there is none; or the bytes of each frame's picture, 0 for none.

    Returns:
        Frame numbers with a file, int64 ``[F]``.

    Raises:
        ValueError: If no frame has a file.

    Example:
        >>> held_frames(["", "b.png", "", "d.png"]).tolist()
        [1, 1, 1, 3]
    """
    given = frame_files if isinstance(frame_files, np.ndarray) else [bool(file) for file in frame_files]
    usable = np.flatnonzero(given)
    if len(usable) == 0:
        raise ValueError(f"held_frames: at least one frame must have a file, got none of {len(frame_files)}.")
    place = np.searchsorted(usable, np.arange(len(frame_files)), side="right") - 1
    return usable[np.maximum(place, 0)].astype(np.int64)


def iter_images(
    frame_files: Sequence[str], indices: Sequence[int] | NDArray[np.integer]
) -> Iterator[NDArray[np.uint8]]:
    """Yield frames of one clip, one in memory at a time.

    Args:
        frame_files: A path per frame.
        indices: Frame numbers, each with a file.

    Yields:
        RGB, uint8 ``[H, W, 3]``, all of one size.

    Raises:
        DataError: If a file cannot be read, or has another size than the first one.
    """
    first: tuple[str, tuple[int, ...]] | None = None
    for index in indices:
        file = frame_files[index]
        frame = read_image(file)
        first = first or (file, frame.shape)
        check_same_size(file, frame.shape, *first)
        yield frame


def check_same_size(file: str, shape: tuple[int, ...], first_file: str, first_shape: tuple[int, ...]) -> None:
    """Refuse a frame of another size than the first one of its clip.

    Args:
        file: File of the frame.
        shape: ``(H, W, 3)``.
        first_file: File of the first frame.
        first_shape: Its shape.

    Raises:
        DataError: If the shapes differ.
    """
    if shape != first_shape:
        raise DataError(
            f"{file}: all frames of a clip must have one size, got {shape[1]}x{shape[0]} after "
            f"{first_shape[1]}x{first_shape[0]} ({first_file})."
        )


def _read_whole(path: str | Path) -> bytes:
    raw = read_bytes(path, "image file")
    if not raw:
        raise DataError(f"{path}: an image file must hold a picture, got 0 bytes.")
    return raw


def _open(path: str | Path, raw: bytes) -> Image.Image:
    """Read the header and refuse what has no rule."""
    try:
        picture = Image.open(io.BytesIO(raw), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: an image must have at most {_MAX_PIXELS} pixels ({error}).") from error
    except Exception as error:  # Pillow's readers of headers raise almost anything on damaged ones
        raise DataError(
            f"{path}: not a readable image ({', '.join(_FORMATS)} are), it begins with {raw[:8]!r}."
        ) from error
    width, height = picture.size
    if width * height > _MAX_PIXELS:
        raise DataError(f"{path}: an image must have at most {_MAX_PIXELS} pixels, got {width}x{height}.")
    pictures = getattr(picture, "n_frames", 1)
    if pictures > 1 and picture.format != "MPO":
        raise DataError(f"{path}: a frame must be one picture, got {picture.format} with {pictures}.")
    return picture


def _may_lack_rows(picture: Image.Image) -> bool:
    """Tell whether the last row is all zeros, as Pillow leaves the rows that a PNG does not have."""
    width, height = picture.size
    return "interlace" in picture.info or not np.asarray(picture.crop((0, height - 1, width, height))).any()


def _upright(picture: Image.Image) -> Image.Image:
    if picture.getexif().get(ORIENTATION, 1) == 1:
        return picture
    return ImageOps.exif_transpose(picture)


def _to_rgb(path: str | Path, picture: Image.Image) -> NDArray[np.uint8]:
    mode = picture.mode
    if mode in _SIXTEEN_BITS or (mode == "I" and picture.format == "PNG"):
        if "transparency" in picture.info:
            raise DataError(f"{path}: a 16-bit image must not have a transparent colour, got one; store alpha instead.")
        values = np.asarray(picture)  # Pillow's own way to 8 bits makes everything above 255 white
        grey = (values >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if mode not in ("1", "L", "P", "RGB", "LA", "La", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"):
        raise DataError(f"{path}: an image must have grey, palette or RGB values of 8 or 16 bits, got mode {mode!r}.")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        layers = np.asarray(picture.convert("RGBA"))
        alpha = layers[..., 3:].astype(np.uint16)
        return ((layers[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return np.array(picture if mode == "RGB" else picture.convert("RGB"), dtype=np.uint8)
