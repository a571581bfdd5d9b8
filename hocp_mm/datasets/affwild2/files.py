"""Files of Aff-Wild2, the valence-arousal track of the ABAW challenges.

- ``<annotations>/VA_Estimation_Challenge/{Train_Set,Validation_Set}/<video>.txt``: the line ``valence,arousal``, then
  one ``<v>,<a>`` per video frame; -5 marks frames to disregard.
- ``cropped_aligned/<video>/00001.jpg``: face crops; picture k belongs to line k after the header, so both count from
  one. Pictures are missing where no face was found.
- ``<video>_left.txt`` and ``<video>_right.txt`` are the two people of one video.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.system.files import write_text
from hocp_mm.system.reading import parse_number, read_text

HEADER = "valence,arousal"
TRACK = "VA_Estimation_Challenge"
SETS = {"train": "Train_Set", "val": "Validation_Set"}
_IMAGE = re.compile(r"(\d+)\.jpe?g", re.IGNORECASE)
_PERSON = re.compile(r"_(left|right)$")


class CropListing(NamedTuple):
    """Pictures of one folder.

    Attributes:
        files: Path of the picture of each frame, '' where there is none or none that can be read.
        empty: Pictures that cannot be: files of zero bytes, folders, links to nowhere.
        beyond: Pictures numbered beyond the last frame.
    """

    files: list[str]
    empty: int
    beyond: int


def video_of(name: str) -> str:
    """Return the video that a label file belongs to.

    Example:
        >>> video_of("16-30-1920x1080_left"), video_of("left_turn")
        ('16-30-1920x1080', 'left_turn')
    """
    return _PERSON.sub("", name)


def find_label_files(root: str | Path, split: str, annotations: str | None = None) -> list[Path]:
    """Return the label files of one official part, sorted by name.

    Args:
        root: Folder of the set.
        split: ``"train"`` or ``"val"``.
        annotations: Folder that holds ``Train_Set`` and ``Validation_Set``, below ``root`` or absolute. None
            looks for the only ``VA_Estimation_Challenge`` in ``root`` or in a folder of it.

    Returns:
        At least one text file.

    Raises:
        MissingDataError: If there is no such folder.
        DataError: If there are several (annotations of two years), or the part holds no label file.
        ValueError: If ``split`` is unknown.
    """
    root = Path(root)
    if split not in SETS:
        raise ValueError(f"find_label_files: split must be one of {', '.join(SETS)}, got {split!r}.")
    if annotations is not None:
        folders = [root / annotations]
    else:
        folders = sorted(folder for pattern in (TRACK, f"*/{TRACK}") for folder in root.glob(pattern))
    if len(folders) > 1:
        raise DataError(
            f"{root}: one folder of annotations must be chosen, got {', '.join(map(str, folders))}: set `annotations`."
        )
    if not folders or not (folders[0] / SETS[split]).is_dir():
        where = folders[0] / SETS[split] if folders else root / f"<Nth ABAW Annotations>/{TRACK}/{SETS[split]}"
        raise MissingDataError(f"{where}: no such folder of label files (config key `annotations` of the data set).")
    files = sorted(file for file in (folders[0] / SETS[split]).glob("*.txt") if not file.name.startswith("."))
    if not files:
        raise DataError(f"{folders[0] / SETS[split]}: must hold <video>.txt files, got none.")
    return files


def read_va_file(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read the labels of one person in one video.

    Args:
        path: ``<video>.txt``; LF or CRLF, with or without byte order mark.

    Returns:
        (valence, arousal) per frame in the units of the file, float64 ``[F, 2]``, and where they count, bool
        ``[F]``: both at least -1, so that -5 in one of them disregards the frame.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If the first line is not ``valence,arousal``, there is no further line, or a line is not two
            finite numbers.
    """
    path = Path(path)
    lines = read_text(path, "label file").rstrip().splitlines()
    header = lines[0].replace(" ", "").lower() if lines else ""
    if header != HEADER:
        got = repr(lines[0][:80]) if lines else "an empty file"
        raise DataError(f"{path}: the first line must be {HEADER!r}, got {got}.")
    if len(lines) == 1:
        raise DataError(f"{path}: a label file must hold one line per frame, got none.")
    values = np.empty((len(lines) - 1, 2))
    for row, line in enumerate(lines[1:]):
        cells = line.split(",", 2)
        values[row] = [parse_number(cell) for cell in cells] if len(cells) == 2 else np.nan
        if not np.isfinite(values[row]).all():
            raise DataError(f"{path}: a line must be two finite numbers, but line {row + 2} is {line[:80]!r}.")
    return values, (values[:, 0] >= -1) & (values[:, 1] >= -1)


def find_crops(roots: Sequence[Path], name: str) -> Path:
    """Return the folder of pictures of one label file: its own, or else the one of its video.

    Args:
        roots: ``cropped_aligned`` and its like.
        name: Name of the label file without suffix.

    Returns:
        The folder.

    Raises:
        MissingDataError: If there is none.
        DataError: If two roots have it.
    """
    for candidate in dict.fromkeys((name, video_of(name))):
        folders = [root / candidate for root in roots if (root / candidate).is_dir()]
        if len(folders) > 1:
            raise DataError(f"{folders[1]}: a video may have one folder of crops, got another at {folders[0]}.")
        if folders:
            return folders[0]
    raise MissingDataError(
        f"{roots[0] / name}: no such folder of crops"
        + (f", nor in {', '.join(str(root) for root in roots[1:])}" if len(roots) > 1 else "")
        + " (config key `images` of the data set)."
    )


def list_crops(folder: Path, num_frames: int) -> CropListing:
    """Assign the pictures of a folder to frames by their number, which counts from one.

    Args:
        folder: Folder of ``%05d.jpg``; other files that are no JPEG are passed over.
        num_frames: Frames that have a label line.

    Returns:
        One entry per frame.

    Raises:
        DataError: If a JPEG has no number or the number 0, or two have the same number.
    """
    files, empty, beyond = [""] * num_frames, [], 0
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}).") from error
    for entry in found:
        if entry.name.startswith(".") or not entry.name.lower().endswith((".jpg", ".jpeg")):
            continue
        match = _IMAGE.fullmatch(entry.name)
        number = int(match.group(1)) if match else 0
        if number < 1:
            raise DataError(f"{entry.path}: pictures must be numbered from 1 like 00001.jpg.")
        if number > num_frames:
            beyond += 1
            continue
        if files[number - 1]:
            raise DataError(f"{entry.path}: picture {number} must be one file, got another at {files[number - 1]}.")
        files[number - 1] = str(Path(entry.path).absolute())
        empty += [] if _has_content(entry) else [number - 1]
    for frame in empty:
        files[frame] = ""
    return CropListing(files, len(empty), beyond)


def _has_content(entry: os.DirEntry[str]) -> bool:
    """Return whether this is a file with bytes in it, and not a link to nowhere or to itself, or a folder."""
    try:
        return entry.is_file() and entry.stat().st_size > 0
    except OSError:
        return False


def write_va_file(
    path: str | Path, frames: Sequence[int] | NDArray[np.integer], pred: NDArray[np.floating], num_frames: int
) -> Path:
    """Write predictions as the challenge asks for them: its header, then one line for every frame of the video.

    Frames without a prediction are filled by linear interpolation, before the first and after the last one by
    repetition. The file appears complete or not at all.

    Args:
        path: ``<video>.txt``; its folder is created.
        frames: Zero-based numbers of the frames that were predicted from a picture, strictly increasing.
        pred: (valence, arousal) of each of them in [-1, 1], ``[n, 2]``.
        num_frames: Frames of the video.

    Returns:
        The file.

    Raises:
        ValueError: If there is no frame, the lengths differ, a frame lies outside of the video, or a prediction
            outside of [-1, 1].
    """
    path, inds, values = Path(path), np.asarray(frames), np.asarray(pred, dtype=np.float64)
    if inds.ndim != 1 or not len(inds) or values.shape != (len(inds), 2):
        raise ValueError(
            f"{path}: one (valence, arousal) per frame, at least one, got {inds.shape} and {values.shape}."
        )
    if inds[0] < 0 or inds[-1] >= num_frames or (np.diff(inds) <= 0).any():
        raise ValueError(f"{path}: frames must increase strictly within [0, {num_frames - 1}].")
    if not (np.abs(values) <= 1).all():  # NaN is no number up to 1 either
        row = int(np.argmax(~(np.abs(values) <= 1).all(axis=1)))
        raise ValueError(f"{path}: predictions must lie in [-1, 1], got {values[row].tolist()} at frame {inds[row]}.")
    every = np.arange(num_frames)
    valence, arousal = (np.interp(every, inds, column) for column in values.T)
    rows = "".join(f"{v:.6f},{a:.6f}\n" for v, a in zip(valence, arousal, strict=True))
    write_text(path, f"{HEADER}\n{rows}", newline="\n")
    return path
