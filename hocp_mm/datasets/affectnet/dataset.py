"""AffectNet: single images of faces with valence, arousal and one of eight expressions."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.affectnet.layout import find_csv, find_images, find_part
from hocp_mm.datasets.affectnet.release_2017 import read_affectnet_csv
from hocp_mm.datasets.affectnet.release_2021 import read_affectnet_folder
from hocp_mm.datasets.affectnet.rows import (
    EXPRESSIONS,
    AffectNetRows,
    Classes,
    expression_names,
    image_keys,
    renumber,
    select_rows,
    summary,
)
from hocp_mm.datasets.media.images import check_image
from hocp_mm.datasets.records.dataset import AffectDataset, Reading, affect_ranges, scale_labels
from hocp_mm.datasets.records.faults import Fault, attempt
from hocp_mm.datasets.records.record import RecordTable
from hocp_mm.errors import DataError
from hocp_mm.registry import DATASETS

_THREADS = 8


def drop_out_of_range(rows: AffectNetRows, keep: NDArray[np.bool_], label_range: tuple[float, float]) -> list[Fault]:
    """Name kept rows whose labels lie outside the scale.

    Args:
        rows: All rows.
        keep: Kept rows, bool ``[N]``; changed.
        label_range: Lowest and highest value.

    Returns:
        One text per label.
    """
    low, high = label_range
    outside = keep[:, None] & ((rows.affect < low) | (rows.affect > high))
    faults: list[Fault] = []
    for row, column in np.argwhere(outside).tolist():
        name = ("valence", "arousal")[column]
        text = (
            f"{rows.where(row)}: {name} must lie in label_range ({low:g}, {high:g}) or be -2 (invalid), "
            f"got {rows.affect[row, column]:g}."
        )
        faults.append(Fault(rows.file_of(row), text, "labels"))
    keep &= ~outside.any(axis=1)
    return faults


def drop_missing_files(rows: AffectNetRows, keep: NDArray[np.bool_]) -> list[Fault]:
    """Name kept rows without an image file; lists each folder once instead of asking for each file.

    Args:
        rows: All rows.
        keep: Kept rows, bool ``[N]``; changed.

    Returns:
        One text per row.
    """
    folders: dict[str, list[int]] = {}
    for row in np.flatnonzero(keep).tolist():
        folders.setdefault(rows.files[row].rpartition("/")[0], []).append(row)
    faults: list[Fault] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        listings = pool.map(lambda folder: _names(rows.images / folder), folders)
        for own, names in zip(folders.values(), listings, strict=True):
            for row in own:
                if rows.files[row].rpartition("/")[2] not in names:
                    file = rows.images / rows.files[row]
                    text = f"{file}: no such image file ({rows.where(row)})."
                    faults.append(Fault(file, text, "image missing"))
                    keep[row] = False
    return faults


def drop_damaged_images(rows: AffectNetRows, keep: NDArray[np.bool_], box: str | None) -> list[Fault]:
    """Check the image files of kept rows from the first byte to the last, and that faces lie in them.

    Args:
        rows: All rows.
        keep: Kept rows, bool ``[N]``; changed.
        box: Key of the boxes that images are cropped by, or None.

    Returns:
        One text per row.
    """
    kept = np.flatnonzero(keep).tolist()
    faults: list[Fault] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for row, found in zip(kept, pool.map(lambda row: _check_image(rows, row, box), kept), strict=True):
            faults += found
            keep[row] = not found
    return faults


def _check_image(rows: AffectNetRows, row: int, box: str | None) -> list[Fault]:
    faults: list[Fault] = []
    path = rows.images / rows.files[row]
    info = attempt(faults, "image", path, check_image, path)
    if info is None or box is None:
        return faults
    x1, y1, x2, y2 = rows.boxes[box][row].tolist()
    if x1 >= info.width or y1 >= info.height or x2 <= 0 or y2 <= 0:
        text = (
            f"{rows.where(row)}: the face must lie in the {info.width}x{info.height} image {path}, "
            f"got the box {[round(side, 1) for side in (x1, y1, x2, y2)]}."
        )
        faults.append(Fault(rows.file_of(row), text, "faces"))
    return faults


def _names(folder: Path) -> frozenset[str]:
    """Return the names in a folder; none if it is missing or cannot be read, so that its files are missing."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


Release = Literal["2017", "2021"]
Faces = Literal["box", "landmarks", "inner", "frame"]
_OPTIONS = {
    "release": ("2017", "2021"),
    "split": ("train", "val"),
    "classes": (8, 7, "emonet5", "va_only"),
    "faces": ("box", "landmarks", "inner", "frame"),
}


@DATASETS.register_module()
class AffectNetDataset(AffectDataset):
    """Images of AffectNet as clips of one frame, with valence, arousal and ``expression``.

    The split is the official one; a test part was never published. Rows that the release itself declares useless are
    dropped and counted by reason (classes that were not chosen, -2 or NULL for valence or arousal, no face box); what
    must not be (a cell that is no number, a missing image, 135 landmarks, a value outside the scale) is a fault. All
    faults are reported together before any training.

    The full release gives 287,651 training images and 4,000 (2017) or 3,999 (2021) for validation with 8 classes.

    Args:
        data_root: Folder of the set. 2017: with ``training.csv``, ``validation.csv`` and
            ``Manually_Annotated_Images``, directly or below ``Manually_Annotated``. 2021: with ``train_set`` and
            ``val_set``.
        split: ``"train"`` or ``"val"``.
        release: ``"2017"`` (csv, images of any size with a face box) or ``"2021"`` (npy, crops of 224x224).
        classes: ``8``: classes 0 to 7; ``7``: without contempt; ``"emonet5"``: neutral, happy, sad, surprise and anger
            (renumbered 4); ``"va_only"``: also rows of class 8 (none), all without an expression. Rows of other
            classes are dropped.
        faces: What is cropped: ``"box"`` of the csv file (default for 2017), the box of all 68 ``"landmarks"``, that
            of the ``"inner"`` ones without the jaw line (the points that SEWA has), or the whole ``"frame"`` (default
            for 2021, which has no boxes).
        emonet_clean: Keep only labels that agree with each other by EmoNet's rules (see `emonet_rules`). Scores on
            that set cannot be compared with those on the whole one.
        verify_images: Check every image file from its first byte to its last at the start; None: in test mode only,
            where no image can be replaced.
        labels_file: csv file instead of that of the split (2017), below ``data_root`` or absolute.
        image_folder: Folder that its paths are relative to.
        index_cache: Keep what csv or npy files say in the folder of the package (``HOCP_MM_CACHE``), and take it from
            there as long as the files are the same.
        **kwargs: Options of `AffectDataset`. ``on_fault="skip"`` leaves faulty rows out; ``label_range`` stays (-1, 1)
            unless your copy was rescaled.

    Raises:
        MissingDataError: If a folder or file is missing; says where to get it.
        DataError: If the data break a rule; lists the first ten faults and counts all.
        ValueError: If an option is unknown or contradicts another.
    """

    RECORD_OPTIONS = (*AffectDataset.RECORD_OPTIONS, "release", "classes", "emonet_clean")
    FACTS = {"dataset_type": "AffectNet"}  # noqa: RUF012 - see AffectDataset

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        *,
        release: Release = "2017",
        classes: Classes = 8,
        faces: Faces | None = None,
        emonet_clean: bool = False,
        verify_images: bool | None = None,
        labels_file: str | None = None,
        image_folder: str | None = None,
        index_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        faces = faces or ("box" if release == "2017" else "frame")
        given = {"release": release, "split": split, "classes": classes, "faces": faces}
        for name, value in given.items():
            if value not in _OPTIONS[name]:
                known = ", ".join(map(repr, _OPTIONS[name]))
                raise ValueError(f"AffectNetDataset: {name} must be one of {known}, got {value!r}.")
        if release == "2021" and faces == "box":
            raise ValueError("AffectNetDataset: faces='box' needs release='2017'; that of 2021 has crops and no boxes.")
        if release == "2021" and (labels_file or image_folder):
            raise ValueError("AffectNetDataset: labels_file and image_folder belong to release='2017'.")
        if emonet_clean and tuple(kwargs.get("label_range", (-1, 1))) != (-1, 1):
            raise ValueError("AffectNetDataset: emonet_clean=True has rules for label_range (-1, 1), got another one.")
        self.root, self.split, self.release = Path(data_root), split, release
        self.classes: Classes = classes
        self.faces: Faces = faces
        self.emonet_clean, self.index_cache = emonet_clean, index_cache
        self.labels_file, self.image_folder = labels_file, image_folder
        self.verify_images = bool(kwargs.get("test_mode")) if verify_images is None else verify_images
        super().__init__(data_root, facts={"expressions": expression_names(classes)}, **kwargs)

    @property
    def name(self) -> str:
        """Name of this part, for messages."""
        return f"AffectNetDataset({self.release} {self.split})"

    def read(self) -> Reading:
        """Read, check and select the rows of the split: all at once, as they are too many to be scanned one by one.

        Returns:
            One record for each row that is kept.

        Raises:
            DataError: If no row is of use.
        """
        if self.release == "2021":
            rows = read_affectnet_folder(find_part(self.root, self.split), self.index_cache)
        else:
            csv = find_csv(self.root, self.split, self.labels_file)
            images, landmarks = find_images(self.root, self.image_folder), self.faces in ("landmarks", "inner")
            rows = read_affectnet_csv(csv, images, landmarks, self.index_cache)
        box = None if self.faces == "frame" else self.faces
        keep, dropped = select_rows(rows, self.classes, box, self.emonet_clean)
        faults = [*rows.faults, *drop_out_of_range(rows, keep, self.label_range), *drop_missing_files(rows, keep)]
        if self.verify_images:
            faults += drop_damaged_images(rows, keep, box)
        if not keep.any() and (self.on_fault == "skip" or not faults):
            reasons = summary(dropped | ({"faults": len(faults)} if faults else {}))
            raise DataError(f"{rows.source}: at least one row must be of use, got none of {len(rows)} ({reasons}).")
        kept = np.flatnonzero(keep)
        affect = [scale_labels(rows.affect[kept, column], self.label_range, rows.source) for column in (0, 1)]
        files = [rows.files[row] for row in kept]
        table = RecordTable.of_images(
            folder=rows.images,
            keys=image_keys(rows.files, kept),
            files=files,
            affect=np.stack(affect, axis=1),
            expressions=renumber(rows.expression[kept], self.classes),
            boxes=None if box is None else rows.boxes[box][kept],
        )
        classes = rows.expression[kept]
        counts = {name: int((classes == number).sum()) for number, name in enumerate(EXPRESSIONS)}
        notes = {
            "rows": len(rows) + len(rows.faults),
            "classes": {name: count for name, count in counts.items() if count},
            "dropped": dropped,
            "rows share their image with another": len(files) - len(set(files)),
            "images without annotations": rows.extra_images,
        }
        return Reading(table, faults, notes=notes)

    def report(self, table: RecordTable, notes: Mapping[str, Any]) -> None:
        """Log what was found and what was left out."""
        told = [
            f"{len(table)} of {notes['rows']} rows kept ({summary(notes['classes'])})",
            f"dropped: {summary(notes['dropped']) or 'none'}",
            f"faults left out: {len(self.faults)}",
            affect_ranges(table.affect),
            f"scaled from {self.label_range}",
            f"faces: {self.faces}",
        ]
        extra = ("rows share their image with another", "images without annotations")
        told += [f"{notes[what]} {what}" for what in extra if notes[what]]
        print_log(f"{self.name}: {'; '.join(told)}", logger="current")
