"""The directory of a zip archive, checked before anything in it is believed.

``torch.load`` takes sizes and places from the directory, and never looks at checksums. A reader that is lenient about a
damaged directory finds other weights than another one; so only archives are read whose parts agree with each other, as
all that PyTorch and ordinary zip programs write do: records one after the other, then the directory, then its end.

    local header, record | local header, record | … | directory | (zip64 end, its locator) | end record
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hocp_mm.checkpoints._plain_data import echo
from hocp_mm.errors import CheckpointError

__all__ = ["check_archive"]

MOST_RECORDS = 1 << 16  # a model has fewer tensors, and torch writes a record for each
# Weights hardly shrink. What grows more than this is a bomb, or zeros.
MOST_INFLATION, FREE_INFLATION = 16, 64 << 20

_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _SIZES_BEHIND = 1 << 0, 1 << 3
_FOLDER = 1 << 4  # of the attributes of DOS
_FULL = 0xFFFFFFFF  # "see the zip64 field"
_BLOCK = 1 << 20
_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")


class _Entry(NamedTuple):
    """What the directory says about a record."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    place: int  # of the local header


class _DamageError(Exception):
    """What is wrong; `check_archive` adds the file."""


def check_archive(file: Path) -> dict[str, int]:
    """Read a zip file's directory and every byte of its records.

    Args:
        file: A file that begins with a local header.

    Returns:
        Bytes of each record after inflation, by name, in the order of the directory.

    Raises:
        CheckpointError: If the directory contradicts itself, the local headers or a checksum; if names are no plain
            relative paths or occur twice; if records overlap, or inflate beyond ``MOST_INFLATION``.
    """
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        try:
            entries = list(_read_directory(stream, size))
            _check_names(entries)
            _check_inflation(entries, size)
            _check_records(stream, entries)
        except (_DamageError, struct.error, zlib.error) as error:
            raise CheckpointError(
                f"{file}: damaged ({error}, {size} bytes in all); download or copy it again."
            ) from error
    return {entry.name.decode(): entry.size for entry in entries}


def _at(stream: BinaryIO, place: int, length: int) -> bytes:
    if place < 0:
        raise _DamageError("the file is cut off")
    stream.seek(place)
    data = stream.read(length)
    if len(data) != length:
        raise _DamageError("the file is cut off")
    return data


def _read_directory(stream: BinaryIO, size: int) -> Iterator[_Entry]:
    """Yield the entries; the directory must fill the space before the end record, which must be at the very end."""
    end = size - _END.size
    magic, disk, first_disk, here, count, length, place, comment = _END.unpack(_at(stream, end, _END.size))
    if magic != b"PK\x05\x06" or comment:
        raise _DamageError("the file is cut off, or something was appended to it")
    locator = _at(stream, max(end - _LOCATOR.size, 0), _LOCATOR.size)
    if locator.startswith(b"PK\x06\x07"):
        _, disk64, place64, disks = _LOCATOR.unpack(locator)
        end -= _LOCATOR.size + _END64.size
        magic, rest, *_, one, other, here64, count64, length64, start64 = _END64.unpack(_at(stream, end, _END64.size))
        narrow = ((here, here64, 0xFFFF), (count, count64, 0xFFFF), (length, length64, _FULL), (place, start64, _FULL))
        agree = all(short in (long, full) for short, long, full in narrow)
        right = magic == b"PK\x06\x06" and rest == _END64.size - 12 and place64 == end and disks <= 1
        if not agree or not right or disk64 or one or other:
            raise _DamageError("its two end records disagree")
        here, count, length, place = here64, count64, length64, start64
    if disk or first_disk or here != count or place + length != end:
        raise _DamageError("its directory is not where the end record says")
    if count > MOST_RECORDS:
        raise _DamageError(f"it has {count} records, the most is {MOST_RECORDS}")
    data, offset = _at(stream, place, length), 0
    for _ in range(count):
        entry, offset = _read_entry(data, offset)
        yield entry
    if offset != length:
        raise _DamageError("its directory has another number of records")


def _read_entry(data: bytes, offset: int) -> tuple[_Entry, int]:
    fields = _ENTRY.unpack_from(data, offset)
    magic, _, _, flags, method, _, _, crc, packed, size, named, extra, comment, disk, _, kind, place = fields
    if magic != b"PK\x01\x02" or disk:
        raise _DamageError("its directory has no record where one should be")
    offset += _ENTRY.size
    name, field = data[offset : offset + named], data[offset + named : offset + named + extra]
    values = iter(_zip64_values(field))
    try:  # the field holds those values alone that do not fit, in this order
        size, packed, place = (next(values) if value == _FULL else value for value in (size, packed, place))
    except (StopIteration, RuntimeError):
        raise _DamageError("a size is missing in its directory") from None
    # torch leaves memory as it was where a folder's content should go.
    if size and (kind & _FOLDER or name.endswith(b"/")):
        raise _DamageError("a folder in it has content")
    return _Entry(name, flags, method, crc, packed, size, place), offset + named + extra + comment


def _zip64_values(field: bytes) -> tuple[int, ...]:
    offset = 0
    while offset + 4 <= len(field):
        kind, length = struct.unpack_from("<2H", field, offset)
        if kind == 1:
            return struct.unpack_from(f"<{length // 8}Q", field, offset + 4)
        offset += 4 + length
    return ()


def _check_names(entries: list[_Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        try:
            name = entry.name.decode()
        except UnicodeDecodeError:
            raise _DamageError(f"a record's name is no text: {echo(entry.name, 100)}") from None
        parts = name.removesuffix("/").split("/")
        if not name.isprintable() or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
            raise _DamageError(f"a record's name is no plain path: {echo(name, 100)}")
        if name.lower() in seen:  # torch finds names whatever their case
            raise _DamageError(f"two records are called {echo(name, 100)}")
        seen.add(name.lower())


def _check_inflation(entries: list[_Entry], size: int) -> None:
    for entry in entries:
        if entry.method not in (_STORED, _DEFLATED) or entry.flags & _ENCRYPTED:
            raise _DamageError(f"{echo(entry.name.decode(), 100)} is encrypted, or packed by method {entry.method}")
        if entry.method == _STORED and entry.packed != entry.size:
            raise _DamageError(f"{echo(entry.name.decode(), 100)} has two sizes")
    inflated, most = sum(entry.size for entry in entries), MOST_INFLATION * size + FREE_INFLATION
    if inflated > most:
        raise _DamageError(f"its records would inflate to {inflated} bytes, the most is {most}")


def _check_records(stream: BinaryIO, entries: list[_Entry]) -> None:
    """Compare local headers with the directory, and contents with checksums."""
    # torch.serialization.set_crc32_options(False) writes zeros: such a file makes no claim.
    claims = any(entry.crc for entry in entries)
    behind = 0
    for entry in sorted(entries, key=lambda entry: entry.place):
        name = echo(entry.name.decode(), 100)
        magic, _, flags, method, _, _, crc, packed, size, named, extra = _LOCAL.unpack(
            _at(stream, entry.place, _LOCAL.size)
        )
        here = (crc, packed, size)
        there = (entry.crc, entry.packed, entry.size)
        unknown = (0, _FULL) if flags & _SIZES_BEHIND else (_FULL,)
        agree = all(own == given or own in unknown for own, given in zip(here, there, strict=True))
        if magic != b"PK\x03\x04" or (flags, method) != (entry.flags, entry.method) or not agree:
            raise _DamageError(f"the header of {name} is not what the directory says")
        if entry.place < behind or _at(stream, entry.place + _LOCAL.size, named) != entry.name:
            raise _DamageError(f"{name} is not where the directory says")
        behind = entry.place + _LOCAL.size + named + extra + entry.packed
        stream.seek(entry.place + _LOCAL.size + named + extra)
        crc = _inflated_crc(stream, entry) if entry.method == _DEFLATED else _stored_crc(stream, entry.packed)
        if claims and crc != entry.crc:
            raise _DamageError(f"the checksum of {name} is wrong")


def _blocks(stream: BinaryIO, length: int) -> Iterator[memoryview]:
    """Yield a record in blocks, each valid until the next."""
    buffer = memoryview(bytearray(min(_BLOCK, length)))
    while length:
        count = stream.readinto(buffer[:length])  # pyright: ignore[reportAttributeAccessIssue]
        if not count:
            raise _DamageError("the file is cut off")
        yield buffer[:count]
        length -= count


def _stored_crc(stream: BinaryIO, length: int) -> int:
    crc = 0
    for block in _blocks(stream, length):
        crc = zlib.crc32(block, crc)
    return crc


def _inflated_crc(stream: BinaryIO, entry: _Entry) -> int:
    inflate, crc, size = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
    for block in _blocks(stream, entry.packed):
        data: bytes | memoryview = block
        while data and not inflate.eof:
            part = inflate.decompress(data, _BLOCK)
            data, size, crc = inflate.unconsumed_tail, size + len(part), zlib.crc32(part, crc)
            if size > entry.size:
                break
    if size != entry.size or not inflate.eof:
        raise _DamageError(f"{echo(entry.name.decode(), 100)} does not inflate to its {entry.size} bytes")
    return crc
