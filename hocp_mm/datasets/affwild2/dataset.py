"""Aff-Wild2, the valence-arousal track: face crops in numbered images, one label line per frame of the video."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.affwild2.files import SETS, find_crops, find_label_files, list_crops, read_va_file, video_of
from hocp_mm.datasets.media.video import probe_video, uneven_times
from hocp_mm.datasets.records.dataset import (
    AffectDataset,
    Partition,
    Scan,
    affect_ranges,
    require_known,
    scale_labels,
)
from hocp_mm.datasets.records.faults import attempt
from hocp_mm.datasets.records.record import Record, RecordTable
from hocp_mm.datasets.records.twins import Claim, label_claim, picture_claim
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS

_VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")


@DATASETS.register_module()
class AffWild2Dataset(AffectDataset):
    """Videos of Aff-Wild2 in its official parts, one record per label file.

    A record has as many frames as the label file has lines. Line k after the header meets picture k (both count from
    one), joined by number and never by position; frames marked -5 and frames without a picture do not count
    (``valid`` false), but keep their place in time. Every file is checked when the data set is built.

    Args:
        data_root: Folder of the set.
        split: ``"train"`` (Train_Set) or ``"val"`` (Validation_Set); labels of the test part are not given out.
        annotations: Folder with Train_Set and Validation_Set, below ``data_root`` or absolute; None finds the only
            ``VA_Estimation_Challenge`` (see `find_label_files`).
        images: Folders of crops, below ``data_root`` or absolute; later years add ``cropped_aligned_new_50_vids``.
        videos: Folder of the videos themselves, below ``data_root`` or absolute. With it the frame rate comes from
            each video, and the number of labels is compared with its frames.
        fps: Frames per second where ``videos`` is None: the crops do not tell.
        length_tolerance: Frames by which pictures or video may exceed the labels, or the video fall short of
            them. Labels beyond the end of the video do not count.
        **kwargs: Options of `AffectDataset`.

    Raises:
        MissingDataError: If a folder is missing; says which option names it.
        DataError: If the data break a rule; lists the first ten faults and counts all.
        ValueError: If an option is out of its range.
    """

    RECORD_OPTIONS = (*AffectDataset.RECORD_OPTIONS, "fps")
    FACTS = {"dataset_type": "AffWild2"}  # noqa: RUF012 - see AffectDataset

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        *,
        annotations: str | None = None,
        images: str | Sequence[str] = ("cropped_aligned",),
        videos: str | None = None,
        fps: float = 30.0,
        length_tolerance: int = 0,
        **kwargs: Any,
    ) -> None:
        require_known("AffWild2Dataset", split=(split, SETS))
        if not fps > 0 or length_tolerance < 0:
            raise ValueError(
                f"AffWild2Dataset: fps must be positive and length_tolerance 0 or more, got {fps} and "
                f"{length_tolerance}."
            )
        if tuple(kwargs.get("label_range", (-1, 1))) != (-1, 1):
            raise ValueError(
                f"AffWild2Dataset: label_range must be (-1, 1), as marks are told from labels by being below -1, got "
                f"{tuple(kwargs['label_range'])}."
            )
        self.root = Path(data_root)
        self.split = split
        self.annotations = annotations
        self.images = [self.root / name for name in ([images] if isinstance(images, str) else images)]
        if not self.images:
            raise ValueError("AffWild2Dataset: images must name at least one folder of crops, got none.")
        self.videos = None if videos is None else self.root / videos
        self.fps = float(fps)
        self.length_tolerance = length_tolerance
        super().__init__(data_root, **kwargs)

    def keys(self) -> list[str]:
        """Return the names of the part's label files, sorted."""
        if not self.root.is_dir():
            raise MissingDataError(
                f"AffWild2Dataset: data_root {str(self.root)!r} does not exist (config key `data_root` of the data "
                "set). Aff-Wild2 is given out on request at https://ibug.doc.ic.ac.uk/resources/aff-wild2/."
            )
        files = find_label_files(self.root, self.split, self.annotations)
        for folder in (*self.images, *([] if self.videos is None else [self.videos])):
            if not folder.is_dir():
                raise MissingDataError(f"AffWild2Dataset: {folder}: no such folder (config keys `images`, `videos`).")
        self.at_hand = {file.stem: file for file in files}
        return list(self.at_hand)

    def claims(self, record: Record) -> Iterator[Claim]:
        """Name what no two videos may share; the two people of one may share its pictures, but no labels."""
        yield picture_claim(record, record.subject)
        yield from label_claim(record, record.key, self.at_hand[record.key])

    def partition(self) -> Partition:
        """Return the label files of both parts: the two people of a video may not be in different ones."""
        folder = next(iter(self.at_hand.values())).parent.parent
        parts = {
            name: [file.stem for file in sorted((folder / name).glob("*.txt"))]
            for name in SETS.values()
            if (folder / name).is_dir()
        }
        return Partition(parts, video_of, folder)

    def scan(self, key: str) -> Scan:
        """Read one label file and what belongs to it."""
        scan = Scan()
        faults, file = scan.faults, self.at_hand[key]
        labels = attempt(faults, "labels", file, read_va_file, file)
        folder = attempt(faults, "image", self.images[0] / key, find_crops, self.images, key)
        if labels is None or folder is None:
            return scan
        affect = attempt(faults, "labels", file, self._scale, file, *labels)
        place = file if self.videos is None else self.videos / video_of(key)
        rate = attempt(faults, "video", place, self._probe, file, len(labels[0]))
        if affect is not None and rate is not None:
            attempt(faults, "lengths", folder, self._add_record, scan, file, folder, *labels, affect, *rate)
        return scan

    def _scale(self, file: Path, values: NDArray[np.float64], counts: NDArray[np.bool_]) -> NDArray[np.float32]:
        # Marks are not labels: 0 stands in for them, within every scale that holds 0, and does not count.
        low, high = self.label_range
        kept = np.where(counts[:, None], values, (low + high) / 2)
        return np.stack([scale_labels(column, self.label_range, file, first_line=2) for column in kept.T], axis=1)

    def _add_record(
        self,
        scan: Scan,
        file: Path,
        folder: Path,
        values: NDArray[np.float64],
        counts: NDArray[np.bool_],
        affect: NDArray[np.float32],
        fps: float,
        length: int,
        times: NDArray[np.float64] | None,
    ) -> None:
        num_frames = len(values)
        crops = list_crops(folder, num_frames)
        if crops.beyond > self.length_tolerance:
            raise DataError(
                f"{folder}: pictures must not exceed the {num_frames} labels in {file} by more than "
                f"length_tolerance={self.length_tolerance}, got {crops.beyond} beyond."
            )
        shown = np.array([bool(path) for path in crops.files], dtype=np.bool_)
        valid = counts & shown & (np.arange(num_frames) < length)
        if not valid.any():
            raise DataError(
                f"{file}: at least one frame must have a label and a picture, got {int(counts.sum())} labels and "
                f"{int(shown.sum())} pictures in {folder}."
            )
        scan.record = Record(
            key=file.stem,
            filename=str(folder),
            frame_files=tuple(crops.files),
            num_frames=num_frames,
            fps=fps,
            subject=video_of(file.stem),
            affect=affect,
            valid=valid,
            boxes=None,
            face_found=shown,
            times=times,
        )
        scan.notes = {
            "marked": int((~counts).sum()),
            "marked otherwise than by -5": int((values[~counts].min(axis=1) != -5).sum()),
            "without picture": int((counts & ~shown).sum()),
            "empty pictures": crops.empty,
            "pictures beyond the labels": crops.beyond,
        }

    def _probe(self, file: Path, num_frames: int) -> tuple[float, int, NDArray[np.float64] | None]:
        """Return rate, frames and uneven times of the video of a label file, as far as they are known."""
        if self.videos is None:
            return self.fps, num_frames, None
        name = video_of(file.stem)
        candidates = [path for suffix in _VIDEO_SUFFIXES if (path := self.videos / f"{name}{suffix}").is_file()]
        if not candidates:
            raise MissingDataError(f"{self.videos / name}: no such video ({', '.join(_VIDEO_SUFFIXES)}).")
        info = probe_video(candidates[0])
        if info.fps <= 0:
            raise DataError(f"{candidates[0]}: the file must state its frame rate, got {info.fps:g}.")
        if abs(info.num_frames - num_frames) > self.length_tolerance:
            raise DataError(
                f"{candidates[0]}: {info.num_frames} frames must match the labels within length_tolerance="
                f"{self.length_tolerance}, got {num_frames} in {file}."
            )
        times = uneven_times(candidates[0], info)
        return info.fps, info.num_frames, times if info.num_frames == num_frames else None

    def report(self, table: RecordTable, notes: Mapping[str, Any]) -> None:
        """Log what was found and what does not count, and warn of folders that serve several people."""
        used = [notes[key] for key in table.keys]
        sums = {what: sum(note[what] for note in used) for what in used[0]}
        print_log(
            f"{self.name}: {len(table)} label files, {len(set(table.subjects))} videos, "
            f"{len(table.valid)} frames, {int(table.valid.sum())} of them valid "
            f"({', '.join(f'{count} {what}' for what, count in sums.items())}), "
            f"{affect_ranges(table.affect[table.valid])}",
            logger="current",
        )
        users: dict[str, list[str]] = {}
        for record in table:
            users.setdefault(record.filename, []).append(record.key)
        shared = [f"{' and '.join(names)} ({folder})" for folder, names in users.items() if len(names) > 1]
        if shared:
            self.warn(
                f"{len(shared)} folders of crops serve several people, whose labels then meet the same pictures: "
                f"{', '.join(shared)}"
            )
