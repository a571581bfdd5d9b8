"""AFEW-VA: clips of films as folders of PNG frames, with whole-number labels from -10 to 10 and 68 landmarks."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log

from hocp_mm.datasets.afew_va_files import AFEW_VA_RANGE, read_afew_va_actor, same_actor
from hocp_mm.datasets.afew_va_scan import ClipScan, scan_clip
from hocp_mm.datasets.affect_dataset import AffectDataset
from hocp_mm.datasets.affectnet_files import FIRST_INNER
from hocp_mm.datasets.faults import attempt
from hocp_mm.datasets.folds import Parts, count_folds, read_fold
from hocp_mm.datasets.image_frames import square_scale
from hocp_mm.datasets.splits import PARTS, check_no_leak, read_split_file
from hocp_mm.datasets.twins import Claim, label_claim, picture_claim, without_twins
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS

Faces = Literal["landmarks", "inner", "frame"]
_FIRST_LANDMARK = {"landmarks": 0, "inner": FIRST_INNER, "frame": None}
_DVD_SIZE = (720, 576)


@DATASETS.register_module()
class AFEWVADataset(AffectDataset):
    """Clips of AFEW-VA with one valence and arousal value per frame, in subject-independent folds.

    Labels and images are joined on the frame id: frame *k* of a record is the frame with id *k*. An id without a
    label or without a PNG is a frame that is not valid; both kinds are counted and named in the log. Every file of
    the part is checked before any training, and all faults are reported together.

    Args:
        data_root: Folder that holds one folder per clip (``001`` …); others, as ``001_cropped``, are passed over.
        split: ``"train"``, ``"val"`` or ``"test"`` of the fold, or a file of clip names (then ``fold`` is None).
        fold: Number of the fold, from 0: ``<data_root>/folds/fold_<fold>/`` (``tools/prepare/split_afew_va.py``).
        label_range: Scale of the labels, -10 to 10 in the release. On that scale labels must be whole numbers.
        pixel_aspect: Width of a pixel over its height. The release has frames of a wide DVD, 720x576, on which faces
            are a quarter too narrow; clips of another size are named in a warning. 1 leaves the pixels as they are.
        fps: Frames per second. The release does not say; it sets the times in CSV files and plots, nothing else.
        faces: ``"landmarks"`` crops by the 68 points, ``"inner"`` by those without the jaw line (the points that SEWA
            has: a network that saw other crops sees other faces); a frame without them takes the box between its
            neighbours.
            ``"frame"`` takes whole frames (images that are already cropped).
        check_images: Read every PNG and compare its checksums. False reads only the first of each clip; a damaged one
            then ends the run where it is met.
        **kwargs: Options of `AffectDataset`. ``on_fault="skip"`` makes a faulty frame (damaged PNG, impossible label
            or landmarks) invalid, and leaves out a clip only where the clip as a whole is faulty.

    Raises:
        MissingDataError: If the folder, the fold or the split file is missing; says how to get it.
        DataError: If the data break a rule; lists the first ten faults and counts all.
        ValueError: If an option is unknown or contradicts another.
    """

    RECORD_OPTIONS = (*AffectDataset.RECORD_OPTIONS, "fps")
    METAINFO = {**AffectDataset.METAINFO, "dataset_type": "AFEW-VA"}  # noqa: RUF012 - see AffectDataset

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        *,
        fold: int | None = None,
        label_range: tuple[float, float] = AFEW_VA_RANGE,
        pixel_aspect: float = 4 / 3,
        fps: float = 25.0,
        faces: Faces = "landmarks",
        check_images: bool = True,
        **kwargs: Any,
    ) -> None:
        if faces not in _FIRST_LANDMARK:
            raise ValueError(f"AFEWVADataset: faces must be one of {', '.join(_FIRST_LANDMARK)}, got {faces!r}.")
        if not (np.isfinite(fps) and fps > 0):
            raise ValueError(f"AFEWVADataset: fps must be positive, got {fps!r}.")
        if split in PARTS and (isinstance(fold, bool) or not isinstance(fold, int) or fold < 0):
            raise ValueError(
                f"AFEWVADataset: split={split!r} needs the number of a fold, 0 or more, got fold={fold!r}."
            )
        if split not in PARTS and fold is not None:
            raise ValueError(
                f"AFEWVADataset: split={split!r} is no part of a fold ({', '.join(PARTS)}), got fold={fold!r}."
            )
        self.root = Path(data_root)
        self.split = str(split)
        self.fold = fold
        square_scale(pixel_aspect)  # complains about its number
        self.pixel_aspect = float(pixel_aspect)
        self.fps = float(fps)
        self.faces: Faces = faces
        self.check_images = check_images
        metainfo = {"fold": fold, "pixel_aspect": self.pixel_aspect, **(kwargs.pop("metainfo", None) or {})}
        super().__init__(data_root, label_range=label_range, metainfo=metainfo, **kwargs)

    def load_videos(self) -> list[dict[str, Any]]:
        """Check all files of the part.

        Returns:
            Records in the order of the fold file.

        Raises:
            DataError: If there are faults and ``on_fault`` is ``"error"``, or nothing is left.
        """
        keys = self._read_split()
        where = (
            f"AFEWVADataset({self.split})" if self.fold is None else f"AFEWVADataset(fold {self.fold}, {self.split})"
        )
        scans: dict[str, ClipScan] = {}
        with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
            for key, scan in zip(keys, pool.map(self._scan, keys), strict=True):
                scans[key] = scan
                if len(scans) % 100 == 0:
                    print_log(f"{where}: {len(scans)} of {len(keys)} clips checked", logger="current")
        faults = [fault for scan in scans.values() for fault in scan.faults]
        records = [scan.record for scan in scans.values() if scan.record is not None]
        records = without_twins(records, faults, self._claims)
        used = {record["video"] for record in records}
        self.settle_faults(where, faults, len(records), [key for key in scans if key not in used])
        self._report(where, scans, records)
        return records

    def _claims(self, record: dict[str, Any]) -> Iterator[Claim]:
        """Name what no two clips may share."""
        key = record["video"]
        yield picture_claim(record, key)
        if record["boxes"] is not None:  # whole numbers alone repeat by chance, landmarks do not
            yield from label_claim(record, key, self.root / key / f"{key}.json")

    def _read_split(self) -> list[str]:
        if not self.root.is_dir():
            raise MissingDataError(
                f"AFEWVADataset: data_root {str(self.root)!r} does not exist (config key `data_root` of the data set). "
                f"AFEW-VA is given out at https://ibug.doc.ic.ac.uk/resources/afew-va-database/; unpack it so that "
                f"{self.root}/001/001.json exist, and run `python tools/prepare/split_afew_va.py {self.root}`. To try "
                "everything without it: `python tools/prepare/synthetic.py afew_va data/synthetic_afew_va`."
            )
        if self.fold is None:
            path = Path(self.split) if Path(self.split).is_file() else self.root / self.split
            keys = read_split_file(path)
            if paths := [key for key in keys if Path(key).name != key]:  # 001 and ./001 would be two clips of one name
                raise DataError(f"{path}: a clip must be the name of a folder, got {paths[0]!r}.")
            return keys
        if count_folds(self.root) == 0:
            raise MissingDataError(
                f"AFEWVADataset: {self.root / 'folds'} holds no folds; `python tools/prepare/split_afew_va.py "
                f"{self.root}` writes them."
            )
        parts = read_fold(self.root, self.fold)
        self._check_leak(parts)
        return parts[self.split]

    def _check_leak(self, parts: Parts) -> None:
        """Refuse a fold in which an actor is in two parts, by the JSON files as they are now."""
        actors: dict[str, str] = {}
        for key in sorted({key for keys in parts.values() for key in keys}):
            # A clip that cannot be read is reported by the data set of its own part; here it counts as somebody else.
            actor = attempt([], "labels", read_afew_va_actor, self.root / key / f"{key}.json")
            actors[key] = f"unknown actor of {key}" if actor is None else same_actor(actor)
        try:
            check_no_leak(parts, lambda key: actors[key])
        except DataError as error:
            raise DataError(f"{self.root / 'folds' / f'fold_{self.fold}'}: {error}") from error

    def _scan(self, key: str) -> ClipScan:
        """Read everything about one clip."""
        scan = scan_clip(self.root / key, self.label_range, _FIRST_LANDMARK[self.faces], self.check_images)
        if scan.record is not None:
            scan.record |= {"pixel_aspect": self.pixel_aspect, "fps": self.fps}
        return scan

    def _report(self, where: str, scans: dict[str, ClipScan], records: list[dict[str, Any]]) -> None:
        """Log what was found, and name everything that does not count."""
        named = {
            "labels without PNG": {key: scan.unseen for key, scan in scans.items() if scan.unseen},
            "PNG without label": {key: scan.unlabelled for key, scan in scans.items() if scan.unlabelled},
        }
        for what, ids in named.items():
            if ids:
                names = "; ".join(f"{key}: {_ranges(numbers)}" for key, numbers in ids.items())
                _warn(f"{where}: {sum(map(len, ids.values()))} {what}, these frames are not valid ({names})")
        sizes = Counter(scan.size for scan in scans.values() if scan.record is not None)
        others = [size for size in sizes if size[0] * _DVD_SIZE[1] != size[1] * _DVD_SIZE[0]]
        if others and self.pixel_aspect != 1:
            clips = {size: [key for key, scan in scans.items() if scan.record and scan.size == size] for size in others}
            names = "; ".join(f"{width}x{height}: {', '.join(keys)}" for (width, height), keys in clips.items())
            _warn(
                f"{where}: pixel_aspect={self.pixel_aspect:.4g} belongs to frames shaped as 720x576; these are not, "
                f"look whether their faces are too wide now ({names})"
            )
        affect = np.concatenate([record["affect"][record["valid"]] for record in records])
        found = np.concatenate([record["face_found"][record["valid"]] for record in records])
        (v_low, a_low), (v_high, a_high) = affect.min(axis=0), affect.max(axis=0)
        print_log(
            f"{where}: {len(records)} clips, {len({same_actor(record['subject']) for record in records})} actors, "
            f"{len(affect)} valid frames, valence {v_low:.2f} to {v_high:.2f}, arousal {a_low:.2f} to {a_high:.2f} "
            f"(scaled from {self.label_range}), face in {100 * found.mean():.1f} % of them, frames of "
            f"{', '.join(f'{width}x{height}' for width, height in sizes)}, pixel_aspect {self.pixel_aspect:.4g}",
            logger="current",
        )


def _warn(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)


def _ranges(numbers: list[int]) -> str:
    """Return increasing frame ids in short, as ``00001-00003, 00007``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first:05d}" if first == last else f"{first:05d}-{last:05d}" for first, last in runs)
