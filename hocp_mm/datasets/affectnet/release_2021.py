"""The release of March 2021: crops of 224x224 pixels, and four little npy files for each.

    train_set/images/<id>.jpg    train_set/annotations/<id>_{exp,val,aro,lnd}.npy    val_set/ likewise

The values are arrays without dimension that hold a *string* or a number; ``lnd`` holds 136 numbers, x and y in turn, in
pixels of the crop. Over a million files are read once; what they say is kept in the folder of the package
(``HOCP_MM_CACHE``) and taken from there as long as names, sizes and times of all files are the same. Nothing is ever
unpickled.
"""

import ast
import math
import os
import re
import stat
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.affectnet.index import FILES, folder_state, index_file, load_index, pack, save_index, unpack
from hocp_mm.datasets.affectnet.rows import BOX_LAYOUT, LAST_CLASS, NUM_LANDMARKS, AffectNetRows, box_columns
from hocp_mm.datasets.records.faults import Fault, attempt
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.reading import parse_number

_KINDS = ("exp", "val", "aro", "lnd")
_NAME = re.compile(r"(.+)_(exp|val|aro|lnd)\.npy", re.DOTALL)
_MAGIC = b"\x93NUMPY"
_CHUNK = 2048
_LAYOUT = {"expression": ("int16", ()), "affect": ("float64", (2,)), **BOX_LAYOUT}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def read_affectnet_folder(part: Path, cache: bool = True) -> AffectNetRows:
    """Read the annotations of one part, or take them from an earlier reading of the same files.

    Args:
        part: ``train_set`` or ``val_set``.
        cache: Keep what was read, and look for it. Only a reading without faults is kept.

    Returns:
        All rows without a fault, in the order of their names.

    Raises:
        MissingDataError: If a folder is missing.
        DataError: If there is no annotation at all.
    """
    annotations, images = part / "annotations", part / "images"
    for folder in (annotations, images):
        if not folder.is_dir():
            raise MissingDataError(f"{folder}: no such folder (a part has images/ and annotations/).")
    store = index_file(annotations) if cache else None
    # Taken before the files are read: what changes meanwhile makes the kept index worthless, not wrong.
    state = folder_state(annotations) if store else ""
    known = None if store is None else load_index(store, state, _LAYOUT)
    faults: list[Fault] = []
    if known is None:
        known, faults = _read_all(annotations)
        if store is not None and not faults:
            save_index(store, state, known)
    return _with_images(annotations, images, known, faults)


def _with_images(annotations: Path, images: Path, index: dict[str, NDArray[Any]], faults: list[Fault]) -> AffectNetRows:
    """Join annotations and images on their names."""
    names: dict[str, str] = {}
    doubled: set[str] = set()
    for name in _listing(images):
        stem, dot, suffix = name.rpartition(".")
        if not stem or dot + suffix.lower() not in _IMAGE_SUFFIXES:
            continue
        if stem in names:
            text = f"{images}: an image must have one file, got {names[stem]!r} and {name!r}."
            faults.append(Fault(images, text, "image"))
            doubled.add(stem)  # which of them the labels belong to would be a guess
        names[stem] = name
    ids = unpack(index[FILES])
    listed = np.fromiter((stem in names for stem in ids), np.bool_, len(ids))
    there = listed & np.fromiter((stem not in doubled for stem in ids), np.bool_, len(ids))
    for row in np.flatnonzero(~listed):
        file = f"{images / ids[row]}.jpg"
        faults.append(Fault(file, f"{file}: no such image file, but it has annotations.", "image missing"))
    boxes = {name: index[name][there] for name in ("landmarks", "inner")}
    return AffectNetRows(
        source=annotations,
        images=images,
        files=[names[stem] for stem, found in zip(ids, there, strict=True) if found],
        lines=None,
        expression=index["expression"][there],
        affect=index["affect"][there],
        boxes=boxes,
        faults=faults,
        extra_images=len(names.keys() - set(ids)),
    )


def _listing(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        # Names with a dot in front are what systems leave behind: ._0_val.npy of a Mac is no annotation.
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _read_all(annotations: Path) -> tuple[dict[str, NDArray[Any]], list[Fault]]:
    """Read every file, in threads: on a disk that must seek, or across a network, waiting is most of the time."""
    kinds: dict[str, int] = {}
    for name in _listing(annotations):
        if match := _NAME.fullmatch(name):
            kinds[match[1]] = kinds.get(match[1], 0) | 1 << _KINDS.index(match[2])
    if not kinds:
        raise DataError(f"{annotations}: must hold files named like 0_exp.npy, got none.")
    ids = sorted(kinds)
    chunks = [ids[first : first + _CHUNK] for first in range(0, len(ids), _CHUNK)]
    print_log(f"AffectNet: reading the annotations of {len(ids)} images in {annotations}", logger="current")
    with ThreadPoolExecutor(max_workers=min(16, 4 * (os.cpu_count() or 1))) as pool:
        parts = list(pool.map(lambda chunk: _read_chunk(annotations, chunk, kinds), chunks))
    faults = [fault for part in parts for fault in part[1]]
    joined = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    kept = [part[2] for part in parts]
    joined[FILES] = pack([stem for stems in kept for stem in stems])
    return joined, faults


def _read_chunk(
    annotations: Path, ids: Sequence[str], kinds: dict[str, int]
) -> tuple[dict[str, NDArray[Any]], list[Fault], list[str]]:
    """Return the columns of some images, the faults and the images that have none."""
    faults: list[Fault] = []
    kept: list[str] = []
    values: list[tuple[float, float, float]] = []
    points = np.full((len(ids), 2 * NUM_LANDMARKS), np.nan)
    for stem in ids:
        before = len(faults)
        files = [f"{annotations}{os.sep}{stem}_{kind}.npy" for kind in _KINDS]
        row = [
            attempt(faults, "labels", file, _read_value, file, kind, kinds[stem])
            for kind, file in zip(_KINDS[:3], files, strict=False)
        ]
        marks = attempt(faults, "faces", files[3], _read_landmarks, files[3]) if kinds[stem] & 8 else None
        if len(faults) > before:
            continue
        if marks is not None:
            points[len(kept)] = marks
        kept.append(stem)
        values.append((row[0] or 0.0, row[1] or 0.0, row[2] or 0.0))
    table = np.array(values, dtype=np.float64).reshape(-1, 3)
    columns = {"expression": table[:, 0].astype(np.int16), "affect": table[:, 1:]}
    columns |= box_columns(points[: len(kept)].reshape(-1, NUM_LANDMARKS, 2))
    return columns, faults, kept


def _read_value(path: str, kind: str, kinds: int) -> float:
    """Return class, valence or arousal of one image."""
    if not kinds & 1 << _KINDS.index(kind):
        raise MissingDataError(f"{path}: no such annotation file, but the image has others.")
    array = read_npy(path)
    if array.size != 1:
        raise DataError(f"{path}: must hold one value, got shape {array.shape}.")
    content = _to_list(path, array.ravel())[0]
    value = _to_float(path, content)
    if kind == "exp" and not (value == round(value) and 0 <= value <= LAST_CLASS):
        raise DataError(f"{path}: expression must be a class from 0 to {LAST_CLASS}, got {content!r}.")
    return value


def _read_landmarks(path: str) -> NDArray[np.float64]:
    """Return the 136 numbers of one image."""
    array = read_npy(path).ravel()
    if array.size != 2 * NUM_LANDMARKS:
        raise DataError(f"{path}: must hold {2 * NUM_LANDMARKS} landmark numbers, got {array.size}.")
    if array.dtype.kind in "US":
        return np.array([_to_float(path, value) for value in _to_list(path, array)])
    points = array.astype(np.float64)
    if not np.isfinite(points).all():
        raise DataError(f"{path}: values must be finite numbers, got {points[~np.isfinite(points)][0]}.")
    return points


def _to_list(path: str, values: NDArray[Any]) -> list[Any]:
    try:
        return values.tolist()
    except (ValueError, SystemError) as error:  # bytes that are no character, by the version of Python
        raise DataError(f"{path}: not readable as text ({error}).") from error


def _to_float(path: str, value: object) -> float:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    number = parse_number(text if isinstance(text, str) else str(text))
    if not np.isfinite(number):
        raise DataError(f"{path}: values must be finite numbers, got {value!r}.")
    return number


def read_npy(path: str) -> NDArray[Any]:
    """Read a small npy file of numbers or strings; never unpickles.

    ``numpy.load`` does the same in ten times the time, most of it for a header that is the same in every file.

    Args:
        path: File.

    Returns:
        The array, read only.

    Raises:
        DataError: If it is not such a file, or is cut.
        MissingDataError: If there is no such file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # or a named pipe would be waited for
        try:
            mode = os.fstat(handle).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a folder says so itself
                raise DataError(f"{path}: not a readable file (Is a named pipe or a device).")
            raw = os.read(handle, 1 << 20)
        finally:
            os.close(handle)
    except FileNotFoundError as error:
        raise MissingDataError(f"{path}: no such annotation file.") from error
    except OSError as error:
        raise DataError(f"{path}: not a readable file ({error.strerror}).") from error
    wide = raw[6:7] != b"\x01"
    start = 12 if wide else 10
    if not raw.startswith(_MAGIC) or len(raw) < start:
        raise DataError(f"{path}: not an npy file, it begins with {raw[:8]!r}.")
    end = start + struct.unpack_from("<I" if wide else "<H", raw, 8)[0]
    try:
        dtype, shape = _parse_header(raw[start:end])
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: not a readable npy header ({error}).") from error
    size = dtype.itemsize * math.prod(shape)
    if len(raw) - end != size:
        raise DataError(f"{path}: must hold {size} bytes of values, got {len(raw) - end}.")
    return np.frombuffer(raw, dtype, offset=end, count=-1 if size else 0).reshape(shape)


@lru_cache(maxsize=4096)
def _parse_header(raw: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    header = ast.literal_eval(raw.decode("latin-1").strip())
    dtype, shape = np.dtype(header["descr"]), tuple(header["shape"])
    if dtype.kind not in "USiuf" or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"values must be numbers or strings, got {header['descr']!r} of shape {shape}")
    if header["fortran_order"] and len(shape) > 1:
        raise ValueError("values must be in C order")
    return dtype, shape
