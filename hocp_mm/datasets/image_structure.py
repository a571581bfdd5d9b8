"""Whether the bytes of an image file are whole, found without decoding the pixels.

Every chunk of a PNG carries a checksum, which decoders check in part or not at all, and its header says how much the
pixels unpack to. A JPEG carries no checksum, but its markers say where each part and the whole ends.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from hocp_mm.errors import DataError

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
