"""One clip of AFEW-VA, checked: labels, boxes and images joined on the frame id."""

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.afew_va_files import AFEWVAClip, find_frame_images, read_afew_va_json
from hocp_mm.datasets.faces import landmark_boxes
from hocp_mm.datasets.faults import Fault, attempt
from hocp_mm.datasets.image_frames import ImageInfo, check_image


@dataclass
class ClipScan:
    """What was found out about one clip.

    Attributes:
        record: The record (see `AffectDataset`), or None for a clip that cannot be used.
        faults: What breaks a rule: single frames, or, if there is no record, the clip.
        unseen: Ids with a label but no PNG.
        unlabelled: Ids with a PNG but no label.
        size: Width and height of the frames.
    """

    record: dict[str, Any] | None = None
    faults: list[Fault] = field(default_factory=list)
    unseen: list[int] = field(default_factory=list)
    unlabelled: list[int] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)


def scan_clip(
    folder: Path, label_range: tuple[float, float], first_landmark: int | None, check_images: bool
) -> ClipScan:
    """Read everything about one clip; faults are collected, not raised.

    Args:
        folder: Folder of the clip.
        label_range: Lowest and highest label.
        first_landmark: Make boxes of the landmarks from this one on; None: the record has no boxes.
        check_images: Check every PNG to its end; otherwise only the first one.

    Returns:
        Record and faults. The record lacks what the data set adds: ``pixel_aspect`` and ``fps``.
    """
    scan = ClipScan()
    if not folder.is_dir():
        scan.faults.append(Fault(f"{folder}: the split names this clip, but there is no such folder.", "video missing"))
        return scan
    json_file = folder / f"{folder.name}.json"
    clip = attempt(scan.faults, "labels", read_afew_va_json, json_file, label_range)
    files = attempt(scan.faults, "image", find_frame_images, folder)
    if clip is None or files is None:
        return scan
    scan.faults += [Fault(text, "labels") for text in clip.faults.values()]
    labelled = clip.affect.keys() | clip.faults.keys()
    scan.unseen, scan.unlabelled = sorted(labelled - files.keys()), sorted(files.keys() - labelled)
    if text := _shift(folder, labelled, files.keys()):
        scan.faults.append(Fault(text, "lengths"))
        return scan
    count = max(labelled | files.keys()) + 1
    files = _usable_images(scan, files, check_images)
    boxes = None if first_landmark is None else _landmark_boxes(scan, json_file, clip, count, first_landmark)
    if not files.keys() & clip.affect.keys():
        text = f"{folder}: a clip must have a frame with both label and usable PNG, got none."
        scan.faults.append(Fault(text, "lengths"))
    elif boxes is not None and not np.isfinite(boxes).any():
        scan.faults.append(Fault(f"{json_file}: a clip must have landmarks in at least one frame, got none.", "faces"))
    else:
        scan.record = _record(folder, clip, files, boxes, count, label_range)
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


def _usable_images(scan: ClipScan, files: dict[int, str], check_all: bool) -> dict[int, str]:
    """Set the size of the clip's frames and return the files that can be used."""
    infos: dict[int, ImageInfo] = {}
    usable = dict(files)
    for number, file in files.items():
        info = attempt(scan.faults, "image", check_image, file)
        if info is None:
            del usable[number]
            continue
        infos[number] = info
        if not check_all:
            break
    if not infos:
        return {}
    usual = Counter(infos.values()).most_common(1)[0][0]
    scan.size = (usual.width, usual.height)
    for number, info in infos.items():
        if info != usual:
            text = (
                f"{files[number]}: all frames of a clip must have one size, got {info.width}x{info.height} among "
                f"{usual.width}x{usual.height}."
            )
            scan.faults.append(Fault(text, "image"))
            del usable[number]
    return usable


def _landmark_boxes(
    scan: ClipScan, json_file: Path, clip: AFEWVAClip, count: int, first_landmark: int
) -> NDArray[np.float32]:
    """Return the box of each frame, NaN without landmarks; drops the labels of frames with impossible ones."""
    boxes = np.full((count, 4), np.nan, dtype=np.float32)
    width, height = scan.size
    for number, points in list(clip.landmarks.items()):
        if points is None:
            continue
        box = landmark_boxes(points[None, first_landmark:])[0]
        inside = box[0] < width and box[1] < height and box[2] > 0 and box[3] > 0  # false for NaN: no area
        if inside:
            boxes[number] = box
        elif scan.size != (0, 0):
            text = (
                f"{json_file}: frame '{number:05d}': landmarks must span a face in the {width}x{height} frame, got "
                f"{points.min(axis=0).tolist()} to {points.max(axis=0).tolist()}."
            )
            scan.faults.append(Fault(text, "faces"))
            del clip.affect[number], clip.landmarks[number]
    return boxes


def _record(
    folder: Path,
    clip: AFEWVAClip,
    files: dict[int, str],
    boxes: NDArray[np.float32] | None,
    count: int,
    label_range: tuple[float, float],
) -> dict[str, Any]:
    low, high = label_range
    affect = np.zeros((count, 2), dtype=np.float32)
    valid = np.zeros(count, dtype=np.bool_)
    for number, values in clip.affect.items():
        affect[number] = [2 * (value - low) / (high - low) - 1 for value in values]
        valid[number] = number in files
    seen = np.array([number in files for number in range(count)])
    return {
        "video": folder.name,
        "filename": str(folder.absolute()),
        "frame_files": [files.get(number, "") for number in range(count)],
        "num_frames": count,
        "subject": clip.actor,
        "affect": affect,
        "valid": valid,
        "boxes": boxes,
        "face_found": seen if boxes is None else seen & np.isfinite(boxes).all(axis=1),
    }
