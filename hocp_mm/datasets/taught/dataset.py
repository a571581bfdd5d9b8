"""A folder of videos with the labels that a network gave them (``tools/label_videos.py``)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from hocp_mm.datasets.media.video import VideoInfo, probe_video, uneven_times
from hocp_mm.datasets.records.dataset import AffectDataset, Scan, affect_ranges
from hocp_mm.datasets.records.faults import attempt
from hocp_mm.datasets.records.record import Record, RecordTable
from hocp_mm.datasets.records.twins import Claim
from hocp_mm.datasets.splits import read_split_file
from hocp_mm.datasets.taught.files import TaughtLabels, read_taught_csv
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS


@DATASETS.register_module()
class TaughtVideoDataset(AffectDataset):
    """Videos of faces, each frame with the valence and arousal that a teacher saw in it, and how sure it was.

    A label counts as much in the loss as it is confident, and not at all below ``min_confidence``. Only for training:
    scores against a teacher say how alike student and teacher are, not how good they are.

    Args:
        data_root: Folder of the videos, and of folders of them.
        split: ``"train"`` for all videos that have labels, or a file of their names (``show/a.mp4``), one a line.
        labels_root: Folder of ``<name>.csv`` (see `hocp_mm.datasets.taught.files`), as the tool wrote it.
        min_confidence: Labels with less do not count at all, in [0, 1].
        weighted: Whether labels count by their confidence, or all alike.
        **kwargs: Options of `AffectDataset`.

    Raises:
        MissingDataError: If a folder or file is missing; says how to get it.
        DataError: If the data break a rule; lists the first ten faults and counts all.
        ValueError: If an option is out of its range.
    """

    RECORD_OPTIONS = (*AffectDataset.RECORD_OPTIONS, "min_confidence", "weighted")
    FACTS = {"dataset_type": "TaughtVideo"}  # noqa: RUF012 - see AffectDataset

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        *,
        labels_root: str,
        min_confidence: float = 0.0,
        weighted: bool = True,
        **kwargs: Any,
    ) -> None:
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"TaughtVideoDataset: min_confidence must lie in [0, 1], got {min_confidence}.")
        self.root, self.labels_root, self.split = Path(data_root), Path(labels_root), str(split)
        self.min_confidence, self.weighted = float(min_confidence), bool(weighted)
        if tuple(kwargs.get("label_range", (-1, 1))) != (-1, 1):
            raise ValueError(f"TaughtVideoDataset: label_range is (-1, 1), got {kwargs['label_range']}.")
        super().__init__(data_root, **kwargs)

    def keys(self) -> list[str]:
        """Return the names of the videos, relative to their folder."""
        for folder, option in ((self.root, "data_root"), (self.labels_root, "labels_root")):
            if not folder.is_dir():
                raise MissingDataError(
                    f"TaughtVideoDataset: {folder}: no such folder (config key `{option}`); a network labels videos by "
                    f"`python tools/label_videos.py {self.root} --checkpoint FILE --out {self.labels_root}`."
                )
        if self.split != "train":
            return read_split_file(self.split)
        files = (file for file in self.labels_root.rglob("*.csv") if not file.name.startswith("."))
        found = sorted(file.relative_to(self.labels_root).with_suffix("").as_posix() for file in files)
        if not found:
            raise MissingDataError(f"{self.labels_root}: must hold <name of a video>.csv, got no such file.")
        return found

    def _labels(self, key: str) -> Path:
        return self.labels_root / f"{key}.csv"

    def claims(self, record: Record) -> Iterator[Claim]:
        """Name what no two videos may share."""
        yield Claim(record.key, record.key, record.filename, (record.filename,))
        yield Claim(record.key, record.key, self._labels(record.key), (self._labels(record.key),))

    def scan(self, key: str) -> Scan:
        """Read the files of one video."""
        scan = Scan()
        video, file = self.root / key, self._labels(key)
        info = attempt(scan.faults, "video", video, probe_video, video)
        labels = attempt(scan.faults, "labels", file, read_taught_csv, file)
        if info is not None and labels is not None:
            scan.record = attempt(scan.faults, "lengths", file, self._make_record, key, video, info, file, labels)
        return scan

    def _make_record(self, key: str, video: Path, info: VideoInfo, file: Path, labels: TaughtLabels) -> Record:
        if not info.fps > 0:
            raise DataError(f"{video}: the file must state its frame rate, got {info.fps:g}.")
        if len(labels.times) != info.num_frames:
            raise DataError(f"{file}: must have the {info.num_frames} rows of {video}, got {len(labels.times)}.")
        uneven = uneven_times(video, info)
        shown = np.arange(info.num_frames) / info.fps if uneven is None else uneven
        away = np.abs(labels.times - shown) > 0.25 / info.fps
        if away.any():
            row = int(away.argmax())
            raise DataError(
                f"{file}, line {row + 2}: time_s must be when {video} shows frame {row}, {shown[row]:.4f} s, got "
                f"{labels.times[row]:.4f}; these are labels of another video."
            )
        valid = (labels.confidence > 0) & (labels.confidence >= self.min_confidence)
        if not valid.any():
            raise DataError(
                f"{file}: a label must be confident enough (min_confidence={self.min_confidence:g}) in at least one "
                f"frame, got {labels.confidence.max():.3g} at most."
            )
        return Record(
            key=key,
            filename=str(video),
            num_frames=info.num_frames,
            fps=info.fps,
            subject=key,  # nobody says who is in two videos
            affect=np.where(valid[:, None], labels.affect, np.float32(0)),
            valid=valid,
            boxes=labels.boxes,
            face_found=labels.face_found,
            pixel_aspect=info.pixel_aspect,
            times=uneven,
            weight=np.where(valid, labels.confidence, np.float32(0)) if self.weighted else None,
        )

    def report(self, table: RecordTable, notes: Mapping[str, Any]) -> None:
        """Log what was found."""
        del notes
        share = 100 * table.valid.mean()
        print_log(
            f"{self.name}: {len(table)} videos, {len(table.valid)} frames, {share:.0f} % with a label, "
            f"{affect_ranges(table.affect[table.valid])}",
            logger="current",
        )
