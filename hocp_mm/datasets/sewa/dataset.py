"""SEWA DB v0.2, the released segments: folders with an Xvid AVI, label csvs and, mostly, landmarks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import landmark_boxes
from hocp_mm.datasets.faces.given_boxes import check_boxes_inside, expand_boxes, read_boxes_file
from hocp_mm.datasets.media.video import VideoInfo, probe_video, uneven_times
from hocp_mm.datasets.records.dataset import (
    AffectDataset,
    Partition,
    Scan,
    affect_ranges,
    require_known,
    scale_labels,
)
from hocp_mm.datasets.records.faults import Fault, attempt
from hocp_mm.datasets.records.record import Record, RecordTable
from hocp_mm.datasets.records.twins import Claim
from hocp_mm.datasets.sewa.files import contradictions, parse_sewa_key, read_affect_csv, read_landmarks_zip
from hocp_mm.datasets.splits import PARTS, check_folders, read_split_file, split_path
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS

Labels = Literal["A", "V", "AV"]
Faces = Literal["landmarks", "given", "frame"]


def _conversation(key: str) -> str:
    """Return the conversation of a key; a name of another form, which the scan refuses, is one by itself."""
    parts = attempt([], "name", key, parse_sewa_key, key)
    return key if parts is None else parts.conversation


@DATASETS.register_module()
class SEWADataset(AffectDataset):
    """Segments of SEWA with one valence and arousal value per frame.

    Every file of the split is checked when the data set is built, in threads, before any training: folders,
    frame counts, labels, boxes and leaks between the parts. All faults are reported together; no video is
    left out silently.

    Args:
        data_root: Folder that holds one folder per segment.
        split: ``"train"``, ``"val"`` or ``"test"`` (``<data_root>/splits/<split>.txt``), or a file of keys.
        labels: What the annotators had: ``"V"`` video, ``"A"`` audio, ``"AV"`` both.
        faces: ``"landmarks"`` crops by ``<KEY>_Landmarks.zip``, ``"given"`` by ``boxes_file``, ``"frame"`` takes
            whole frames (video that is already cropped).
        boxes_file: JSON ``{KEY: [x1, y1, x2, y2]}`` or ``{KEY: [[…] or null, …]}`` with one entry per frame,
            below ``data_root`` or absolute. With ``faces="landmarks"`` it serves the folders that have no zip.
        length_tolerance: Frames by which labels and video may differ; both are then cut to the shorter and
            the videos are named in a warning.
        **kwargs: Options of `AffectDataset`.

    Raises:
        MissingDataError: If the folder, the split file or the boxes file is missing; says where to get it.
        DataError: If the data break a rule; lists the first ten faults and counts all.
        ValueError: If an option is unknown.
    """

    RECORD_OPTIONS = (*AffectDataset.RECORD_OPTIONS, "labels")
    FACTS = {"dataset_type": "SEWA"}  # noqa: RUF012 - see AffectDataset

    def __init__(
        self,
        data_root: str,
        split: str = "train",
        *,
        labels: Labels = "V",
        faces: Faces = "landmarks",
        boxes_file: str | None = None,
        length_tolerance: int = 0,
        **kwargs: Any,
    ) -> None:
        require_known("SEWADataset", labels=(labels, ("A", "V", "AV")), faces=(faces, ("landmarks", "given", "frame")))
        if faces == "given" and boxes_file is None:
            raise ValueError("SEWADataset: faces='given' needs boxes_file, got None.")
        if length_tolerance < 0:
            raise ValueError(f"SEWADataset: length_tolerance must be 0 or more, got {length_tolerance}.")
        self.root = Path(data_root)
        self.split = str(split)
        self.labels: Labels = labels
        self.faces: Faces = faces
        self.boxes_file = None if boxes_file is None else self.root / boxes_file
        self.length_tolerance = length_tolerance
        super().__init__(data_root, **kwargs)

    @staticmethod
    def groups_of(key: str) -> dict[str, str]:
        """Tell person and culture; the subject is the conversation of two people."""
        parts = parse_sewa_key(key)
        return {"person": parts.person, "culture": parts.culture}

    def claims(self, record: Record) -> Iterator[Claim]:
        """Name the files that no two recordings may share."""
        key, folder = record.key, self.root / record.key
        parts = parse_sewa_key(key)
        recording = (parts.conversation, parts.person, parts.first, parts.last)  # several segments may be one
        files = [Path(record.filename), *([] if self.faces == "frame" else [self._face_source(key)])]
        for dimension, values in zip(("Valence", "Arousal"), record.affect.T, strict=True):
            if np.ptp(values) > 0:  # traces of people who moved nothing may be equal
                files.append(folder / f"{key}_{dimension}_{self.labels}_Aligned.csv")
        yield from (Claim(key, recording, file, (file,)) for file in files if file != self.boxes_file)

    def keys(self) -> list[str]:
        """Return the keys of the split file, and read the boxes file."""
        if not self.root.is_dir():
            raise MissingDataError(
                f"SEWADataset: data_root {str(self.root)!r} does not exist (config key `data_root` of the data set). "
                f"SEWA DB v0.2 is given out on licence request at https://db.sewaproject.eu; unpack it so that "
                f"{self.root}/<KEY>/<KEY>.avi exist, and run `python tools/prepare/split_sewa.py {self.root}`. "
                "To try everything without it, `make demo` writes a synthetic set of the same layout."
            )
        path = split_path(self.root, self.split)
        if not path.is_file():
            raise MissingDataError(
                f"SEWADataset: split file {path} does not exist; `python tools/prepare/split_sewa.py {self.root}` "
                "writes train, val and test."
            )
        keys = read_split_file(path)
        check_folders(keys, self.root, path)
        self.at_hand = {} if self.boxes_file is None else read_boxes_file(self.boxes_file)
        return keys

    def partition(self) -> Partition | None:
        """Return the split files that stand beside that of the part."""
        path = split_path(self.root, self.split)
        if path.stem not in PARTS:
            return None
        siblings = [file for part in PARTS if (file := path.with_name(f"{part}{path.suffix}")).is_file()]
        parts = {file.name: read_split_file(file, allow_empty=True) for file in siblings}
        return Partition(parts, _conversation, path.parent)

    def scan(self, key: str) -> Scan:
        """Read the files of one segment."""
        faults: list[Fault] = []
        scan = Scan(faults=faults)
        folder = self.root / key
        parts = attempt(faults, "name", key, parse_sewa_key, key)
        if parts is None:
            return scan
        if not folder.is_dir():
            text = f"{folder}: the split names this video, but there is no such folder."
            faults.append(Fault(folder, text, "video missing"))
            return scan
        video = folder / f"{key}.avi"
        info = attempt(faults, "video", video, probe_video, video)
        columns = []
        for dimension in ("Valence", "Arousal"):
            csv = folder / f"{key}_{dimension}_{self.labels}_Aligned.csv"
            labels = attempt(faults, "labels", csv, self._read_labels, csv, dimension.lower(), parts.first)
            columns.append((csv, labels))
        (_, valence), (_, arousal) = columns
        boxes = None
        if info is not None and attempt(faults, "lengths", video, self._check_lengths, video, info, columns):
            boxes = attempt(faults, "faces", self._face_source(key), self._read_boxes, key, info)
        if faults or info is None or valence is None or arousal is None:
            return scan
        count = min(info.num_frames, len(valence), len(arousal))
        times = uneven_times(video, info)
        boxes = None if boxes is None else boxes[:count]
        found = np.ones(count, dtype=np.bool_) if boxes is None else np.asarray(np.isfinite(boxes).all(axis=1))
        if not found.any():
            text = f"{video}: a face must be found in at least one frame, got none ({self._face_source(key)})."
            faults.append(Fault(video, text, "faces"))
            return scan
        scan.record = Record(
            key=key,
            filename=str(video),
            num_frames=count,
            fps=info.fps,
            pixel_aspect=info.pixel_aspect,
            subject=parts.conversation,
            affect=np.stack([valence[:count], arousal[:count]], axis=1),
            valid=np.ones(count, dtype=np.bool_),
            boxes=boxes,
            face_found=found,
            times=None if times is None else times[:count],
        )
        scan.notes = {
            "lengths": (info.num_frames, len(valence), len(arousal)),
            "doubt": contradictions(folder, parts),
        }
        return scan

    def _read_labels(self, csv: Path, dimension: str, first_frame: int) -> NDArray[np.float32]:
        try:
            values, first_line = read_affect_csv(csv, dimension, first_frame)
        except MissingDataError as error:
            others = sorted(file.name for file in csv.parent.glob(f"*_{dimension.capitalize()}_*_Aligned.csv"))
            hint = f"the folder has {', '.join(others)}: set `labels`" if others else f"the folder has no {dimension}"
            raise MissingDataError(f"{csv}: no such label file ({hint}).") from error
        return scale_labels(values, self.label_range, csv, first_line)

    def _check_lengths(
        self, video: Path, info: VideoInfo, columns: list[tuple[Path, NDArray[np.float32] | None]]
    ) -> bool:
        """Return true, or refuse labels that cannot belong to the frames of the video."""
        if info.fps <= 0:
            raise DataError(f"{video}: the file must state its frame rate, got {info.fps:g}.")
        counts = [(csv, len(labels)) for csv, labels in columns if labels is not None]
        if any(abs(info.num_frames - count) > self.length_tolerance for _, count in counts):
            cut = info.header_frames > info.num_frames
            hint = f"; its header promises {info.header_frames} frames, so the video is truncated" if cut else ""
            raise DataError(
                f"{video}: {info.num_frames} frames must match the labels within length_tolerance="
                f"{self.length_tolerance}, got {' and '.join(f'{count} in {csv}' for csv, count in counts)}{hint}."
            )
        return True

    def _face_source(self, key: str) -> Path:
        """Name the file that says where the face of a video is."""
        landmarks = self.root / key / f"{key}_Landmarks.zip"
        by_hand = self.faces == "given" or (key in self.at_hand and not landmarks.is_file())
        return self.boxes_file if by_hand and self.boxes_file is not None else landmarks

    def _read_boxes(self, key: str, info: VideoInfo) -> NDArray[np.float32] | None:
        """Return ``[num_frames, 4]``, or None for whole frames."""
        if self.faces == "frame":
            return None
        source = self._face_source(key)
        if source == self.boxes_file:
            boxes = expand_boxes(source, key, self.at_hand.get(key), info.num_frames)
        elif source.is_file():
            boxes = landmark_boxes(read_landmarks_zip(source, info.num_frames, self.length_tolerance))
        else:
            raise MissingDataError(
                f"{source}: no such landmarks file; set boxes_file for this video, or faces='frame' if it is cropped."
            )
        check_boxes_inside(boxes, info.width, info.height, source, key)
        return boxes

    def report(self, table: RecordTable, notes: Mapping[str, Any]) -> None:
        """Log what was found, and name the videos that were cut."""
        notes = {key: notes[key] for key in table.keys}
        if doubts := [note["doubt"] for note in notes.values() if note["doubt"]]:
            named = ", ".join(doubts[:3]) + (", …" if len(doubts) > 3 else "")
            self.warn(f"metadata.ini contradicts the folder's name in {len(doubts)} of {len(table)}: {named}")
        cut = []
        for key, note in notes.items():
            frames, *labels = note["lengths"]
            if set(labels) != {frames}:
                cut.append(f"{key} ({frames} frames, {labels[0]} and {labels[1]} labels)")
        if cut:
            self.warn(f"{len(cut)} videos cut to the shorter of video and labels: {', '.join(cut)}")
        print_log(
            f"{self.name}: {len(table)} videos, {len(set(table.subjects))} conversations, "
            f"{len(table.affect)} frames, {affect_ranges(table.affect)} "
            f"(scaled from {self.label_range}), face in {100 * table.face_found.mean():.1f} % of frames",
            logger="current",
        )
