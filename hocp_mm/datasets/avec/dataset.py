"""The chats of SEWA as AVEC 2017, 2018 and 2019 label them: whole recordings, ten labels a second."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.avec.files import PARTITIONS, Join, labels_at, parse_avec_name, read_avec_csv
from hocp_mm.datasets.faces.given_boxes import expand_boxes, read_boxes_file
from hocp_mm.datasets.media.video import VideoInfo, frame_times, probe_video
from hocp_mm.datasets.records.dataset import AffectDataset, Scan, affect_ranges, require_known, scale_labels
from hocp_mm.datasets.records.faults import attempt
from hocp_mm.datasets.records.record import Record, RecordTable
from hocp_mm.datasets.records.twins import Claim
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS

_VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".webm")
_SPLITS = {"train": "Train", "val": "Devel", "test": "Test"}


@DATASETS.register_module()
class AVECDataset(AffectDataset):
    """Recordings of one partition of AVEC's cross-cultural emotion sub-challenge, one label per frame.

    Labels come ten times a second and videos 20 to 30 times, not always evenly: each frame gets the label of its
    own time (see `labels_at`). Frames beyond the last label stay in the video but do not count. Every file is checked
    when the data set is built.

    The challenge gave out labels, sound and features, but no pictures: the recordings are those of the SEWA data base,
    to be put into ``videos`` under AVEC's names.

    Args:
        data_root: Folder of the set.
        split: ``"train"``, ``"val"`` (Devel) or ``"test"``; the organisers kept the labels of most test parts.
        cultures: Cultures to take, such as ``("DE", "HU")``; None takes all that are there.
        labels: Folder of ``<name>.csv``, below ``data_root`` or absolute.
        videos: Folder of ``<name>.avi`` (or mp4, mkv, mov, webm), below ``data_root`` or absolute.
        join: How labels come to frames, ``"linear"`` or ``"hold"``.
        faces: ``"given"`` crops by ``boxes_file``, ``"frame"`` takes whole frames.
        boxes_file: JSON ``{name: [x1, y1, x2, y2]}`` or ``{name: [[…] or null, …]}``, below ``data_root`` or absolute.
        max_unlabelled: Seconds of video that may lie beyond the last label, or of labels beyond the last frame;
            more means that the two are not the same recording.
        **kwargs: Options of `AffectDataset`.

    Raises:
        MissingDataError: If a folder or file is missing; says where to get it.
        DataError: If the data break a rule; lists the first ten faults and counts all.
        ValueError: If an option is unknown.
    """

    RECORD_OPTIONS = (*AffectDataset.RECORD_OPTIONS, "join")
    FACTS = {"dataset_type": "AVEC"}  # noqa: RUF012 - see AffectDataset

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        *,
        cultures: Sequence[str] | None = None,
        labels: str = "labels",
        videos: str = "videos",
        join: Join = "linear",
        faces: Literal["given", "frame"] = "frame",
        boxes_file: str | None = None,
        max_unlabelled: float = 1.0,
        **kwargs: Any,
    ) -> None:
        require_known(
            "AVECDataset", split=(split, _SPLITS), join=(join, ("linear", "hold")), faces=(faces, ("given", "frame"))
        )
        if (faces == "given") != (boxes_file is not None):
            raise ValueError(
                f"AVECDataset: faces='given' and boxes_file go together, got {faces!r} and {boxes_file!r}."
            )
        if max_unlabelled < 0:
            raise ValueError(f"AVECDataset: max_unlabelled must be 0 or more, got {max_unlabelled}.")
        self.root = Path(data_root)
        self.split = split
        self.cultures = None if cultures is None else tuple(cultures)
        self.label_folder, self.video_folder = self.root / labels, self.root / videos
        self.join: Join = join
        self.boxes_file = None if boxes_file is None else self.root / boxes_file
        self.max_unlabelled = max_unlabelled
        super().__init__(data_root, **kwargs)

    def keys(self) -> list[str]:
        """Return the names of the partition's label files, and read the boxes file."""
        files = self._find_labels()
        self._check_folder()
        self.at_hand = {} if self.boxes_file is None else read_boxes_file(self.boxes_file)
        return [file.stem for file in files]

    @staticmethod
    def groups_of(key: str) -> dict[str, str]:
        """Tell the culture."""
        return {"culture": parse_avec_name(key).culture}

    def claims(self, record: Record) -> Iterator[Claim]:
        """Name what no two recordings may share; label files bear their name in every row."""
        yield Claim(record.key, record.key, record.filename, (record.filename,))

    def _find_labels(self) -> list[Path]:
        """Return the label files of the partition and its cultures."""
        if not self.label_folder.is_dir():
            raise MissingDataError(
                f"AVECDataset: {self.label_folder}: no such folder of label files (config keys `data_root`, `labels`). "
                "The AVEC challenges give them out with the SEWA data base, on licence request at "
                "https://db.sewaproject.eu."
            )
        partition = _SPLITS[self.split]
        files, names = [], []
        for file in sorted(self.label_folder.glob("*.csv")):
            if file.name.startswith(PARTITIONS):
                names.append(parse_avec_name(file.stem))
                files.append(file)
        there = sorted({name.culture for name in names if name.partition == partition})
        if unknown := sorted(set(self.cultures or ()) - set(there)):
            raise MissingDataError(
                f"{self.label_folder}: {partition} must have labels of {', '.join(unknown)}, "
                f"got {', '.join(there) or 'none'}."
            )
        if not there:
            hint = "; the organisers kept the labels of the test part" if partition == "Test" else ""
            raise MissingDataError(f"{self.label_folder}: {partition}_*.csv: no label file of this partition{hint}.")
        wanted = self.cultures or there
        return [
            file
            for file, name in zip(files, names, strict=True)
            if name.partition == partition and name.culture in wanted
        ]

    def _check_folder(self) -> None:
        if not self.video_folder.is_dir():
            raise MissingDataError(
                f"AVECDataset: {self.video_folder}: no such folder of recordings (config key `videos`). AVEC gives out "
                "labels and features but no pictures: take the video chats from the SEWA data base "
                "(https://db.sewaproject.eu) and put, or link, each one there under AVEC's name, as Devel_DE_01.avi."
            )

    def scan(self, key: str) -> Scan:
        """Read the files of one recording."""
        scan = Scan()
        faults, file = scan.faults, self.label_folder / f"{key}.csv"
        labels = attempt(faults, "labels", file, read_avec_csv, file)
        video = attempt(faults, "video", self.video_folder / f"{key}.avi", self._find_video, key)
        info = None if video is None else attempt(faults, "video", video, probe_video, video)
        scaled = None if labels is None else attempt(faults, "labels", file, self._scale, file, labels)
        if labels is not None and scaled is not None and video is not None and info is not None:
            scan.record = attempt(faults, "lengths", video, self._make_record, file, labels[0], scaled, video, info)
        return scan

    def _scale(self, file: Path, labels: tuple[NDArray[np.float64], NDArray[np.float64], int]) -> NDArray[np.float32]:
        _, raw, first_line = labels
        return np.stack([scale_labels(column, self.label_range, file, first_line) for column in raw.T], axis=1)

    def _find_video(self, name: str) -> Path:
        files = [file for suffix in _VIDEO_SUFFIXES if (file := self.video_folder / f"{name}{suffix}").is_file()]
        if len(files) > 1:
            raise DataError(f"{files[1]}: a recording must be one file, got another at {files[0]}.")
        if not files:
            raise MissingDataError(
                f"{self.video_folder / name}.avi: no such recording (nor {', '.join(_VIDEO_SUFFIXES[1:])}); AVEC gives "
                "out no pictures, the chat is in the SEWA data base."
            )
        return files[0]

    def _make_record(
        self,
        file: Path,
        times: NDArray[np.float64],
        scaled: NDArray[np.float32],
        video: Path,
        info: VideoInfo,
    ) -> Record:
        if info.fps <= 0:
            raise DataError(f"{video}: the file must state its frame rate, got {info.fps:g}.")
        shown = frame_times(video)
        if len(shown) != info.num_frames:
            raise DataError(f"{video}: {info.num_frames} frames must have one time each, got {len(shown)}.")
        if abs(shown[-1] - times[-1]) > self.max_unlabelled:
            raise DataError(
                f"{video}: video and labels must end within max_unlabelled={self.max_unlabelled:g} s, got a last frame "
                f"at {shown[-1]:.2f} s and a last label at {times[-1]:.2f} s in {file}."
            )
        affect, valid = labels_at(times, scaled, shown, self.join)
        boxes, found = None, np.ones(info.num_frames, dtype=np.bool_)
        if self.boxes_file is not None:
            boxes = expand_boxes(self.boxes_file, file.stem, self.at_hand.get(file.stem), info.num_frames)
            found = np.asarray(np.isfinite(boxes).all(axis=1))
            if not found.any():
                raise DataError(
                    f"{self.boxes_file}: a face must be found in at least one frame of {file.stem!r}, got none."
                )
        return Record(
            key=file.stem,
            filename=str(video),
            num_frames=info.num_frames,
            fps=info.fps,
            pixel_aspect=info.pixel_aspect,
            # AVEC names recordings, not people: which two are partners of one talk cannot be told.
            subject=file.stem,
            affect=affect,
            valid=valid,
            boxes=boxes,
            face_found=found,
            times=shown if info.variable else None,
        )

    def report(self, table: RecordTable, notes: Mapping[str, Any]) -> None:
        """Log what was found, and warn where frames have no label."""
        del notes
        affect, frames = table.affect[table.valid], len(table.valid)
        cultures = sorted({parse_avec_name(key).culture for key in table.keys})
        print_log(
            f"{self.name}: {len(table)} recordings ({', '.join(cultures)}), {frames} frames, {affect_ranges(affect)} "
            f"(scaled from {self.label_range}), labels joined by {self.join!r}",
            logger="current",
        )
        if bare := frames - len(affect):
            self.warn(f"{bare} frames lie before the first or after the last label and do not count")
