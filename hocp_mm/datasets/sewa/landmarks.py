"""The landmark files of SEWA: 49 points per frame, one text file each, in a zip."""

import codecs
import io
import re
import reprlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.media.files import read_bytes
from hocp_mm.errors import DataError

NUM_LANDMARKS = 49
_LARGEST_MEMBER = 1 << 20  # a frame takes 2 kB; a member that unpacks to gigabytes is damage, or an attack
_FARTHEST = 1e6  # pixels
_LEFTOVER = re.compile(r"(^|/)(__MACOSX/|\.[^/]*$)")  # what systems add when they pack a folder
_FRAME_NUMBER = re.compile(r"(\d+)[^\d./\\]*(?:\.\w+)?$")  # the last digits of the name before its suffix
_LONGEST_NAME = 1024  # in a zip it may have 65,535 characters, and the search above takes the square of its digits


def read_landmarks_zip(path: str | Path, num_frames: int, tolerance: int = 0) -> NDArray[np.float32]:
    """Read the 49 landmarks of every frame from a SEWA ``<KEY>_Landmarks.zip``.

    The bytes of the real files are not verified, so the reader asks for little: one text file per frame whose
    name ends in the frame number (zero-based; one-based where no file is numbered 0 and the last is numbered
    ``num_frames``), and in it one line of exactly 98 numbers x1 y1 … x49 y49, or else 49 lines of two
    numbers. Other lines (head pose, eyes) are passed over. A missing or empty file is a frame without a face,
    as are points that are not finite, or farther out than any picture is large.

    Args:
        path: Zip file.
        num_frames: Frames of the video.
        tolerance: Files beyond the end of the video that are passed over.

    Returns:
        Points in pixels, float32 ``[num_frames, 49, 2]``; NaN where there is no face.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is no zip, a file in it has no number or no landmarks, two share a number, or a
            number lies beyond the video.
    """
    raw = read_bytes(path, "landmarks file")
    landmarks = np.full((num_frames, 2 * NUM_LANDMARKS), np.nan, dtype=np.float32)
    try:
        # From memory: a set has hundreds of thousands of members, and seeking in the file costs as much as parsing.
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for frame, name in _number_members(path, archive, num_frames, tolerance).items():
                points = _parse_landmarks(f"{path}:{name}", _unpack(f"{path}:{name}", archive, name))
                if points is not None:
                    landmarks[frame] = points
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted
        raise DataError(f"{path}: not a readable zip file ({error}).") from error
    landmarks[~(np.abs(landmarks) < _FARTHEST).all(axis=1)] = np.nan  # nor where one is NaN
    return landmarks.reshape(num_frames, NUM_LANDMARKS, 2)


def _number_members(path: str | Path, archive: zipfile.ZipFile, num_frames: int, tolerance: int) -> dict[int, str]:
    """Map zero-based frame numbers to the names of the files in the zip."""
    members: dict[int, str] = {}
    for name in archive.namelist():
        if name.endswith("/") or _LEFTOVER.search(name):
            continue
        match = None if len(name) > _LONGEST_NAME else _FRAME_NUMBER.search(name)
        if match is None:
            raise DataError(f"{path}: names in it must end in the frame number, got {reprlib.repr(name)}.")
        number = int(match.group(1))
        if number in members:
            raise DataError(f"{path}: frame {number} has two files, {members[number]!r} and {name!r}.")
        members[number] = name
    if members and 0 not in members and max(members) == num_frames:
        members = {number - 1: name for number, name in members.items()}
    if members and max(members) >= num_frames + tolerance:
        raise DataError(
            f"{path}: frame numbers must lie in the video of {num_frames} frames, got {members[max(members)]!r}."
        )
    return {number: name for number, name in members.items() if number < num_frames}


def _unpack(where: str, archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the content of a member, of which no more is unpacked than a frame may have."""
    with archive.open(name) as member:
        content = member.read(_LARGEST_MEMBER + 1)
    if len(content) > _LARGEST_MEMBER:
        raise DataError(f"{where}: a frame must unpack to at most {_LARGEST_MEMBER} bytes, got more.")
    return content


def _parse_landmarks(where: str, raw: bytes) -> list[float] | None:
    """Return x1 y1 … x49 y49, or None where the file is empty."""
    plain = raw.removeprefix(codecs.BOM_UTF8).replace(b",", b" ").replace(b";", b" ")
    lines = [cells for line in plain.splitlines() if (cells := line.split())]
    if not lines:
        return None
    rows = [row for cells in lines if len(cells) == 2 * NUM_LANDMARKS and (row := _numbers(cells))]
    pairs = [pair for cells in lines if len(cells) == 2 and (pair := _numbers(cells))]
    if len(rows) == 1:
        return rows[0]
    if not rows and len(pairs) == NUM_LANDMARKS:
        return [value for pair in pairs for value in pair]
    raise DataError(
        f"{where}: a frame must have one line of {2 * NUM_LANDMARKS} numbers or {NUM_LANDMARKS} lines of 2, "
        f"got {len(rows)} and {len(pairs)}."
    )


def _numbers(cells: list[bytes]) -> list[float] | None:
    """Return the numbers of a line, or None where it holds something else."""
    try:
        return list(map(float, cells))
    except ValueError:
        return None
