"""SEWA DB v0.2, the released segments: folders with an Xvid AVI, label csvs and, mostly, landmarks."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.faces.boxes import landmark_boxes
from hocp_mm.datasets.faces.given_boxes import check_boxes_inside, expand_boxes, read_boxes_file
from hocp_mm.datasets.media.video import VideoInfo, probe_video
from hocp_mm.datasets.records.dataset import AffectDataset, scale_labels
from hocp_mm.datasets.records.faults import Fault, attempt
from hocp_mm.datasets.records.twins import Claim, without_twins
from hocp_mm.datasets.sewa.files import contradictions, parse_sewa_key, read_affect_csv
from hocp_mm.datasets.sewa.landmarks import read_landmarks_zip
from hocp_mm.datasets.splits.splits import PARTS, check_no_leak, read_split_file
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS

Labels = Literal["A", "V", "AV"]
Faces = Literal["landmarks", "given", "frame"]


def _conversation(key: str) -> str:
    """Return the conversation of a key; a name of another form, which the scan refuses, is one by itself."""
    parts = attempt([], "name", parse_sewa_key, key)
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
    METAINFO = {**AffectDataset.METAINFO, "dataset_type": "SEWA"}  # noqa: RUF012 - see AffectDataset

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
        for name, value, known in (
            ("labels", labels, ("A", "V", "AV")),
            ("faces", faces, ("landmarks", "given", "frame")),
        ):
            if value not in known:
                raise ValueError(f"SEWADataset: {name} must be one of {', '.join(known)}, got {value!r}.")
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
        self._given: dict[str, Any] = {}
        super().__init__(data_root, **kwargs)

    def load_videos(self) -> list[dict[str, Any]]:
        """Check all files of the split and return its records, in the order of the split file."""
        keys = self._read_split()
        where = f"SEWADataset({self.split})"
        if self.boxes_file is not None:
            self._given = read_boxes_file(self.boxes_file)
        faults: list[Fault] = []
        videos: list[dict[str, Any]] = []
        for number, (record, found) in enumerate(self._scan_all(keys), start=1):
            faults += found
            videos += [record] if record else []
            if number % 100 == 0:
                print_log(f"{where}: {number} of {len(keys)} videos checked", logger="current")
        self._given = {}
        videos = without_twins(videos, faults, self._claims)
        used = {video["video"] for video in videos}
        self.settle_faults(where, faults, len(videos), [key for key in keys if key not in used])
        self._report(where, videos)
        return videos

    def _scan_all(self, keys: list[str]) -> Iterator[tuple[dict[str, Any] | None, list[Fault]]]:
        with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
            yield from pool.map(self._scan, keys)

    def _claims(self, video: dict[str, Any]) -> Iterator[Claim]:
        """Name the files that no two recordings may share."""
        key, folder = video["video"], self.root / video["video"]
        parts = parse_sewa_key(key)
        recording = (parts.conversation, parts.person, parts.first, parts.last)  # several segments may be one
        files = [video["filename"], *([] if self.faces == "frame" else [self._face_source(key)])]
        for dimension, values in zip(("Valence", "Arousal"), video["affect"].T, strict=True):
            if np.ptp(values) > 0:  # traces of people who moved nothing may be equal
                files.append(folder / f"{key}_{dimension}_{self.labels}_Aligned.csv")
        yield from (Claim(key, recording, file, (file,)) for file in files if file != self.boxes_file)

    def _read_split(self) -> list[str]:
        if not self.root.is_dir():
            raise MissingDataError(
                f"SEWADataset: data_root {str(self.root)!r} does not exist (config key `data_root` of the data set). "
                f"SEWA DB v0.2 is given out on licence request at https://db.sewaproject.eu; unpack it so that "
                f"{self.root}/<KEY>/<KEY>.avi exist, and run `python tools/prepare/split_sewa.py {self.root}`. "
                "To try everything without it, `make demo` writes a synthetic set of the same layout."
            )
        named = self.split in PARTS
        path = self.root / "splits" / f"{self.split}.txt" if named else Path(self.split)
        if not named and not path.is_file():
            path = self.root / self.split
        if not path.is_file():
            raise MissingDataError(
                f"SEWADataset: split file {path} does not exist; `python tools/prepare/split_sewa.py {self.root}` "
                "writes train, val and test."
            )
        keys = read_split_file(path)
        if path.stem in PARTS:
            siblings = [file for part in PARTS if (file := path.with_name(f"{part}{path.suffix}")).is_file()]
            parts = {file.name: read_split_file(file, allow_empty=True) for file in siblings}
            try:
                check_no_leak(parts, _conversation)
            except DataError as error:
                raise DataError(f"{path.parent}: {error}") from error
        return keys

    def _scan(self, key: str) -> tuple[dict[str, Any] | None, list[Fault]]:
        """Return the record of one video, or None and its faults."""
        faults: list[Fault] = []
        folder = self.root / key
        parts = attempt(faults, "name", parse_sewa_key, key)
        if parts is None:
            return None, faults
        if not folder.is_dir():
            return None, [Fault(f"{folder}: the split names this video, but there is no such folder.", "video missing")]
        video = folder / f"{key}.avi"
        info = attempt(faults, "video", probe_video, video)
        columns = []
        for dimension in ("Valence", "Arousal"):
            csv = folder / f"{key}_{dimension}_{self.labels}_Aligned.csv"
            columns.append((csv, attempt(faults, "labels", self._read_labels, csv, dimension.lower(), parts.first)))
        (_, valence), (_, arousal) = columns
        boxes = None
        if info is not None and attempt(faults, "lengths", self._check_lengths, video, info, columns):
            boxes = attempt(faults, "faces", self._read_boxes, key, folder, info)
        if faults or info is None or valence is None or arousal is None:
            return None, faults
        count = min(info.num_frames, len(valence), len(arousal))
        boxes = None if boxes is None else boxes[:count]
        found = np.ones(count, dtype=np.bool_) if boxes is None else np.isfinite(boxes).all(axis=1)
        if not found.any():
            text = f"{video}: a face must be found in at least one frame, got none ({self._face_source(key)})."
            return None, [Fault(text, "faces")]
        record = {
            "video": key,
            "filename": str(video),
            "num_frames": count,
            "fps": info.fps,
            "subject": parts.conversation,
            "affect": np.stack([valence[:count], arousal[:count]], axis=1),
            "valid": np.ones(count, dtype=np.bool_),
            "boxes": boxes,
            "face_found": found,
            "lengths": (info.num_frames, len(valence), len(arousal)),
            "doubt": contradictions(folder, parts),
        }
        return record, []

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
        by_hand = self.faces == "given" or (key in self._given and not landmarks.is_file())
        return self.boxes_file if by_hand and self.boxes_file is not None else landmarks

    def _read_boxes(self, key: str, folder: Path, info: VideoInfo) -> NDArray[np.float32] | None:
        """Return ``[num_frames, 4]``, or None for whole frames."""
        if self.faces == "frame":
            return None
        source = self._face_source(key)
        if source == self.boxes_file:
            boxes = expand_boxes(source, key, self._given.get(key), info.num_frames)
        elif source.is_file():
            boxes = landmark_boxes(read_landmarks_zip(source, info.num_frames, self.length_tolerance))
        else:
            raise MissingDataError(
                f"{source}: no such landmarks file; set boxes_file for this video, or faces='frame' if it is cropped."
            )
        check_boxes_inside(boxes, info.width, info.height, source, key)
        return boxes

    def _report(self, where: str, videos: list[dict[str, Any]]) -> None:
        """Log what was found, and name the videos that were cut."""
        cut = []
        if doubts := [doubt for video in videos if (doubt := video.pop("doubt"))]:
            named = ", ".join(doubts[:3]) + (", …" if len(doubts) > 3 else "")
            text = f"{where}: metadata.ini contradicts the folder's name in {len(doubts)} of {len(videos)}: {named}"
            print_log(text, logger="current", level=logging.WARNING)
        for video in videos:
            frames, *labels = video.pop("lengths")
            if set(labels) != {frames}:
                cut.append(f"{video['video']} ({frames} frames, {labels[0]} and {labels[1]} labels)")
        if cut:
            text = f"{where}: {len(cut)} videos cut to the shorter of video and labels: {', '.join(cut)}"
            print_log(text, logger="current", level=logging.WARNING)
        affect = np.concatenate([video["affect"] for video in videos])
        found = np.concatenate([video["face_found"] for video in videos])
        (v_low, a_low), (v_high, a_high) = affect.min(axis=0), affect.max(axis=0)
        print_log(
            f"{where}: {len(videos)} videos, {len({video['subject'] for video in videos})} conversations, "
            f"{len(affect)} frames, valence {v_low:.2f} to {v_high:.2f}, arousal {a_low:.2f} to {a_high:.2f} "
            f"(scaled from {self.label_range}), face in {100 * found.mean():.1f} % of frames",
            logger="current",
        )
