"""AFEW-VA: clips of films as folders of PNG frames, with whole-number labels from -10 to 10 and 68 landmarks."""

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from hocp_mm.datasets.afew_va.files import (
    AFEW_VA_RANGE,
    AFEWVAClip,
    find_frame_images,
    read_afew_va_actor,
    read_afew_va_json,
)
from hocp_mm.datasets.faces.boxes import FIRST_INNER, landmark_boxes
from hocp_mm.datasets.faces.crops import square_scale
from hocp_mm.datasets.media.images import ImageInfo, check_image
from hocp_mm.datasets.records.dataset import AffectDataset, Partition, Scan, affect_ranges, require_known
from hocp_mm.datasets.records.faults import Fault, attempt
from hocp_mm.datasets.records.record import Record, RecordTable
from hocp_mm.datasets.records.twins import Claim, label_claim, picture_claim
from hocp_mm.datasets.splits import PARTS, check_folders, count_folds, read_fold, read_split_file, split_path
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.registry import DATASETS
from hocp_mm.structures import same_actor


def scan_clip(
    folder: Path,
    label_range: tuple[float, float],
    first_landmark: int | None,
    check_images: bool,
    fps: float,
    pixel_aspect: float,
) -> Scan:
    """Read everything about one clip; faults are collected, not raised.

    Args:
        folder: Folder of the clip.
        label_range: Lowest and highest label.
        first_landmark: Make boxes of the landmarks from this one on; None: the record has no boxes.
        check_images: Check every PNG to its end; otherwise only the first one.
        fps: Frames per second, which no file says.
        pixel_aspect: Width of a pixel over its height, which no file says.

    Returns:
        Record and faults. Its notes: ``unseen``, ids with a label but no PNG; ``unlabelled``, ids with a PNG but no
        label; ``size``, width and height of the frames.
    """
    scan = Scan(notes={"unseen": [], "unlabelled": [], "size": (0, 0)})
    if not folder.is_dir():
        text = f"{folder}: the split names this clip, but there is no such folder."
        scan.faults.append(Fault(folder, text, "video missing"))
        return scan
    json_file = folder / f"{folder.name}.json"
    clip = attempt(scan.faults, "labels", json_file, read_afew_va_json, json_file, label_range)
    files = attempt(scan.faults, "image", folder, find_frame_images, folder)
    if clip is None or files is None:
        return scan
    scan.faults += [Fault(json_file, text, "labels") for text in clip.faults.values()]
    labelled = clip.affect.keys() | clip.faults.keys()
    scan.notes["unseen"] = sorted(labelled - files.keys())
    scan.notes["unlabelled"] = sorted(files.keys() - labelled)
    if text := _shift(folder, labelled, files.keys()):
        scan.faults.append(Fault(folder, text, "lengths"))
        return scan
    count = max(labelled | files.keys()) + 1
    files = _usable_images(scan, files, check_images)
    boxes = None if first_landmark is None else _landmark_boxes(scan, json_file, clip, count, first_landmark)
    if not files.keys() & clip.affect.keys():
        text = f"{folder}: a clip must have a frame with both label and usable PNG, got none."
        scan.faults.append(Fault(folder, text, "lengths"))
    elif boxes is not None and not np.isfinite(boxes).any():
        text = f"{json_file}: a clip must have landmarks in at least one frame, got none."
        scan.faults.append(Fault(json_file, text, "faces"))
    else:
        scan.record = _record(folder, clip, files, boxes, count, label_range, fps, pixel_aspect)
    return scan


def _shift(folder: Path, labelled: Set[int], seen: Set[int]) -> str:
    """Return the fault of labels and frames that are numbered the same but for their start, as from zero and one."""
    start, other = min(labelled), min(seen, default=-1)
    if abs(start - other) != 1 or {number - start for number in labelled} != {number - other for number in seen}:
        return ""
    return (
        f"{folder}: labels and frames must be numbered alike, but the {len(labelled)} labels start at {start:05d} and "
        f"as many PNG at {other:05d}: were the frames extracted anew?"
    )


def _usable_images(scan: Scan, files: dict[int, str], check_all: bool) -> dict[int, str]:
    """Set the size of the clip's frames and return the files that can be used."""
    infos: dict[int, ImageInfo] = {}
    usable = dict(files)
    for number, file in files.items():
        info = attempt(scan.faults, "image", file, check_image, file)
        if info is None:
            del usable[number]
            continue
        infos[number] = info
        if not check_all:
            break
    if not infos:
        return {}
    usual = Counter(infos.values()).most_common(1)[0][0]
    scan.notes["size"] = (usual.width, usual.height)
    for number, info in infos.items():
        if info != usual:
            text = (
                f"{files[number]}: all frames of a clip must have one size, got {info.width}x{info.height} among "
                f"{usual.width}x{usual.height}."
            )
            scan.faults.append(Fault(files[number], text, "image"))
            del usable[number]
    return usable


def _landmark_boxes(
    scan: Scan, json_file: Path, clip: AFEWVAClip, count: int, first_landmark: int
) -> NDArray[np.float32]:
    """Return the box of each frame, NaN without landmarks; drops the labels of frames with impossible ones."""
    boxes = np.full((count, 4), np.nan, dtype=np.float32)
    width, height = scan.notes["size"]
    for number, points in list(clip.landmarks.items()):
        if points is None:
            continue
        box = landmark_boxes(points[None, first_landmark:])[0]
        inside = box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0  # false for NaN: no area
        if inside:
            boxes[number] = box
        elif (width, height) != (0, 0):
            text = (
                f"{json_file}: frame '{number:05d}': landmarks must span a face in the {width}x{height} frame, got "
                f"{points.min(axis=0).tolist()} to {points.max(axis=0).tolist()}."
            )
            scan.faults.append(Fault(json_file, text, "faces"))
            del clip.affect[number], clip.landmarks[number]
    return boxes


def _record(
    folder: Path,
    clip: AFEWVAClip,
    files: dict[int, str],
    boxes: NDArray[np.float32] | None,
    count: int,
    label_range: tuple[float, float],
    fps: float,
    pixel_aspect: float,
) -> Record:
    low, high = label_range
    affect = np.zeros((count, 2), dtype=np.float32)
    valid = np.zeros(count, dtype=np.bool_)
    for number, values in clip.affect.items():
        affect[number] = [2 * (value - low) / (high - low) - 1 for value in values]
        valid[number] = number in files
    seen = np.array([number in files for number in range(count)])
    return Record(
        key=folder.name,
        filename=str(folder.absolute()),
        frame_files=tuple(files.get(number, "") for number in range(count)),
        num_frames=count,
        fps=fps,
        subject=clip.actor,
        affect=affect,
        valid=valid,
        boxes=boxes,
        face_found=seen if boxes is None else seen & np.isfinite(boxes).all(axis=1),
        pixel_aspect=pixel_aspect,
    )


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
    FACTS = {"dataset_type": "AFEW-VA"}  # noqa: RUF012 - see AffectDataset

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
        require_known("AFEWVADataset", faces=(faces, _FIRST_LANDMARK))
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
        facts = {"fold": fold, "pixel_aspect": self.pixel_aspect}
        super().__init__(data_root, label_range=label_range, facts=facts, **kwargs)

    @property
    def name(self) -> str:
        """Name of this part, for messages."""
        fold = "" if self.fold is None else f"fold {self.fold}, "
        return f"AFEWVADataset({fold}{self.split})"

    def claims(self, record: Record) -> Iterator[Claim]:
        """Name what no two clips may share."""
        yield picture_claim(record, record.key)
        if record.boxes is not None:  # whole numbers alone repeat by chance, landmarks do not
            yield from label_claim(record, record.key, self.root / record.key / f"{record.key}.json")

    def keys(self) -> list[str]:
        """Return the names of the clips, in the order of the fold file."""
        if not self.root.is_dir():
            raise MissingDataError(
                f"AFEWVADataset: data_root {str(self.root)!r} does not exist (config key `data_root` of the data set). "
                f"AFEW-VA is given out at https://ibug.doc.ic.ac.uk/resources/afew-va-database/; unpack it so that "
                f"{self.root}/001/001.json exist, and run `python tools/prepare/split_afew_va.py {self.root}`. To try "
                "everything without it: `python tools/prepare/synthetic.py afew_va data/synthetic_afew_va`."
            )
        if self.fold is None:
            path = split_path(self.root, self.split)
            keys = read_split_file(path)
            check_folders(keys, self.root, path)
            if paths := [key for key in keys if Path(key).name != key]:  # 001 and ./001 would be two clips of one name
                raise DataError(f"{path}: a clip must be the name of a folder, got {paths[0]!r}.")
            return keys
        if count_folds(self.root) == 0:
            raise MissingDataError(
                f"AFEWVADataset: {self.root / 'folds'} holds no folds; `python tools/prepare/split_afew_va.py "
                f"{self.root}` writes them."
            )
        keys = read_fold(self.root, self.fold)[self.split]
        check_folders(keys, self.root, self.root / "folds" / f"fold_{self.fold}" / f"{self.split}.txt")
        return keys

    def partition(self) -> Partition | None:
        """Return the parts of the fold, and their actors by the JSON files as they are now."""
        if self.fold is None:
            return None
        parts = read_fold(self.root, self.fold)
        actors: dict[str, str] = {}
        for key in sorted({key for keys in parts.values() for key in keys}):
            # A clip that cannot be read is reported by the data set of its own part; here it counts as somebody else.
            file = self.root / key / f"{key}.json"
            actor = attempt([], "labels", file, read_afew_va_actor, file)
            actors[key] = f"unknown actor of {key}" if actor is None else same_actor(actor)
        return Partition(parts, actors.__getitem__, self.root / "folds" / f"fold_{self.fold}")

    def scan(self, key: str) -> Scan:
        """Read the files of one clip."""
        first = _FIRST_LANDMARK[self.faces]
        return scan_clip(self.root / key, self.label_range, first, self.check_images, self.fps, self.pixel_aspect)

    def report(self, table: RecordTable, notes: Mapping[str, Any]) -> None:
        """Log what was found, and name everything that does not count."""
        named = {"unseen": "labels without PNG", "unlabelled": "PNG without label"}
        for note, what in named.items():
            ids = {key: numbers for key, noted in notes.items() if (numbers := noted[note])}
            if ids:
                names = "; ".join(f"{key}: {_ranges(numbers)}" for key, numbers in ids.items())
                self.warn(f"{sum(map(len, ids.values()))} {what}, these frames are not valid ({names})")
        clips: dict[tuple[int, int], list[str]] = {}
        for key in table.keys:
            clips.setdefault(notes[key]["size"], []).append(key)
        others = [size for size in clips if size[0] * _DVD_SIZE[1] != size[1] * _DVD_SIZE[0]]
        if others and self.pixel_aspect != 1:
            names = "; ".join(f"{width}x{height}: {', '.join(clips[width, height])}" for width, height in others)
            self.warn(
                f"pixel_aspect={self.pixel_aspect:.4g} belongs to frames shaped as 720x576; these are "
                f"not, look whether their faces are too wide now ({names})"
            )
        affect, found = table.affect[table.valid], table.face_found[table.valid]
        print_log(
            f"{self.name}: {len(table)} clips, {len(set(map(same_actor, table.subjects)))} actors, "
            f"{len(affect)} valid frames, {affect_ranges(affect)} "
            f"(scaled from {self.label_range}), face in {100 * found.mean():.1f} % of them, frames of "
            f"{', '.join(f'{width}x{height}' for width, height in clips)}, pixel_aspect {self.pixel_aspect:.4g}",
            logger="current",
        )


def _ranges(numbers: list[int]) -> str:
    """Return increasing frame ids in short, as ``00001-00003, 00007``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first:05d}" if first == last else f"{first:05d}-{last:05d}" for first, last in runs)
