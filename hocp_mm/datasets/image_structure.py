"""Whether the bytes of an image file are whole, found without decoding the pixels.

Every chunk of a PNG carries a checksum, which decoders check in part or not at all. A JPEG carries none, but its
markers say where each part and the whole ends.
"""

import re
import struct
import zlib
from pathlib import Path

from hocp_mm.errors import DataError

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8"
# In the data of a scan FF is followed by 00 (stuffing), D0 to D7 (restarts) or FF (fill); all else is a marker.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)


def check_structure(path: str | Path, raw: bytes) -> bool:
    """Refuse a PNG or JPEG that is damaged or cut.

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
    return False


def _check_png(path: str | Path, raw: bytes) -> None:
    """Compare every chunk with its checksum, up to the one that ends the file."""
    place = len(_PNG_START)
    while True:
        if place + 12 > len(raw):
            raise DataError(f"{path}: the PNG is cut: its end chunk is missing after {len(raw)} bytes.")
        length, kind = struct.unpack_from(">I4s", raw, place)
        end = place + 12 + length
        if end > len(raw):
            raise DataError(f"{path}: the PNG is cut: a chunk ends at byte {end}, the file at {len(raw)}.")
        if zlib.crc32(memoryview(raw)[place + 4 : end - 4]) != int.from_bytes(raw[end - 4 : end], "big"):
            raise DataError(f"{path}: the PNG is damaged: the checksum of the chunk at byte {place} is wrong.")
        if kind == b"acTL":
            raise DataError(f"{path}: a frame must be one picture, got an animated PNG.")
        if kind == b"IEND":
            return
        place = end


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
