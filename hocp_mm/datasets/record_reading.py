"""Every frame of one record against its files, and one clip through a pipeline."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.decoding_check import check_random_access
from hocp_mm.datasets.faults import Fault, attempt
from hocp_mm.datasets.image_frames import read_image
from hocp_mm.datasets.source_files import check_file
from hocp_mm.datasets.store.pack import picture_size
from hocp_mm.datasets.video import Decoder, probe_video
from hocp_mm.errors import DataError, MissingDataError


@dataclass(frozen=True)
class Reading:
    """What reading all frames of a record showed.

    Attributes:
        way: How its frames are read: ``"images"``, ``"video, by jumps"``, ``"video, in order"``, ``"face crops"``;
            empty if they cannot be.
        faults: What is wrong with them.
    """

    way: str
    faults: tuple[Fault, ...]


def read_record(record: dict[str, Any], decoder: Decoder = "auto") -> Reading:
    """Read every frame of a record from its files once.

    Args:
        record: A record that keeps the contract.
        decoder: What reads videos (see `hocp_mm.datasets.read_frames`).

    Returns:
        The way it is read, and its faults: of the kinds ``"image"``, ``"video"``, ``"crops"``, ``"lengths"`` and
        ``"faces"``; a file that is missing has `` missing`` behind its kind.
    """
    try:
        if "pack" in record:
            return _read_pack(record)
        if record.get("frame_files") is not None:
            return _read_images(record)
        return _read_video(record, decoder)
    except Exception as error:  # decoders raise almost anything; the other records are still to be read
        text = f"{record['filename']}: reading {record['video']} fails ({type(error).__name__}: {error})."
        return Reading("", (Fault(text, "crash"),))


def _outside(record: dict[str, Any], width: int, height: int) -> list[Fault]:
    """Return the fault of boxes that do not meet the frame at all."""
    boxes = record["boxes"]
    if boxes is None:
        return []
    away = (boxes[:, :2] >= (width, height)).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
    if not away.any():
        return []
    frame = int(np.argmax(away))
    text = (
        f"{record['filename']}: faces must lie in the {width}x{height} frame, got {boxes[frame].tolist()} in frame "
        f"{frame} ({int(away.sum())} such frames)."
    )
    return [Fault(text, "faces")]


def _read_images(record: dict[str, Any]) -> Reading:
    faults: list[Fault] = []
    first: tuple[str, tuple[int, ...]] | None = None
    for file in record["frame_files"]:
        picture = attempt(faults, "image", read_image, file) if file else None
        if picture is None:
            continue
        if first is None:
            first = file, picture.shape
            faults += _outside(record, picture.shape[1], picture.shape[0])
        elif picture.shape != first[1]:
            text = (
                f"{file}: all frames of a clip must have one size, got {picture.shape[1]}x{picture.shape[0]} after "
                f"{first[1][1]}x{first[1][0]} ({first[0]})."
            )
            faults.append(Fault(text, "image"))
    return Reading("images" if first else "", tuple(faults))


def _read_video(record: dict[str, Any], decoder: Decoder) -> Reading:
    faults: list[Fault] = []
    path = record["filename"]
    access = attempt(faults, "video", lambda: check_random_access(path, decoder=decoder))
    info = attempt(faults, "video", probe_video, path) if access else None
    if access is None or info is None:
        return Reading("", tuple(faults))
    if access.fault:
        faults.append(Fault(access.fault, "video"))
    if access.differing:
        text = (
            f"{path}: random access must give the frames of sequential reading, but {len(access.differing)} of "
            f"{len(access.checked)} differ: {', '.join(map(str, access.differing))}."
        )
        faults.append(Fault(text, "video"))
    if access.num_frames < record["num_frames"]:
        text = f"{path}: must hold the {record['num_frames']} frames of its record, got {access.num_frames}."
        faults.append(Fault(text, "lengths"))
    faults += _outside(record, info.width, info.height)
    by_jumps = decoder == "seek" or (decoder == "auto" and access.jumps)
    way = "decord" if decoder == "decord" else f"video, {'by jumps' if by_jumps else 'in order'}"
    return Reading(way, tuple(faults))


def _read_pack(record: dict[str, Any]) -> Reading:
    """Compare the bytes of each picture with its checksum, so that all damaged ones are named."""
    faults: list[Fault] = []
    table, path = record["pack"], record["filename"]
    shown = np.flatnonzero(np.asarray(table.sizes) > 0)
    try:
        check_file(path, "pack")
        with Path(path).open("rb") as file:
            for frame in shown.tolist():
                file.seek(int(table.offsets[frame]))
                data = file.read(int(table.sizes[frame]))
                if text := _picture_fault(data, int(table.checksums[frame]), record["crop"].size):
                    faults.append(Fault(f"{path}: frame {frame} of {record['video']!r} {text}.", "crops"))
    except MissingDataError:
        text = f"{path}: no such pack; the store must be copied whole, or prepared again."
        return Reading("", (Fault(text, "crops missing"),))
    except (DataError, OSError) as error:  # a folder, a named pipe, a disk that fails
        text = str(error) if isinstance(error, DataError) else f"{path}: the pack cannot be read ({error.strerror})."
        return Reading("", (*faults, Fault(text, "crops")))
    unseen = record["valid"].copy()
    unseen[shown] = False
    if unseen.any():
        text = f"{path}: a frame without a picture must not be valid, but frame {int(np.argmax(unseen))} is."
        faults.append(Fault(text, "labels"))
    return Reading("face crops", tuple(faults))


def _picture_fault(data: bytes, checksum: int, side: int) -> str:
    """Return what is wrong with the bytes of one crop, empty if nothing is."""
    if zlib.crc32(data) != checksum:
        return "differs from its checksum in the index; copy the pack again, or prepare it again"
    size = picture_size(data)
    if size not in (None, (side, side)):  # not decoded: it may fill the memory
        return f"must be {side}x{side} pixels, got {size[0]}x{size[1]}"
    whole = size is not None and cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) is not None
    return "" if whole else "is no picture"


def check_clip(pipeline: Callable[[dict[str, Any]], Any], record: dict[str, Any]) -> Reading:
    """Send one clip through a pipeline.

    Args:
        pipeline: Of a data set.
        record: What enters it.

    Returns:
        No way of reading, and one fault, of kind ``"pipeline"``, if the pipeline fails or gives no packed clip.
    """
    try:
        packed = pipeline(record)
        texts = _wrong_clip(packed)
    except Exception as error:  # a transform of the config may raise anything
        texts = [f"the pipeline must give a clip, but fails ({type(error).__name__}: {error})"]
    return Reading("", tuple(Fault(f"{record['filename']}: {record['video']}: {text}.", "pipeline") for text in texts))


def _wrong_clip(packed: Any) -> Sequence[str]:
    """Name what the network could not take."""
    if not isinstance(packed, dict) or not {"inputs", "data_samples"} <= packed.keys():
        kind = ", ".join(map(str, packed)) if isinstance(packed, dict) else type(packed).__name__
        return [f"the pipeline must end in inputs and data_samples, got {kind}"]
    shape = tuple(packed["inputs"].shape)
    sample: Any = packed["data_samples"]
    if len(shape) != 4 or shape[0] != 3:
        return [f"inputs must be [3, T, H, W], got {list(shape)}"]
    if len(sample.frame_inds) != shape[1]:
        return [f"inputs and labels must have the same frames, got {shape[1]} and {len(sample.frame_inds)}"]
    affect: NDArray[np.float32] | None = sample.gt_affect.numpy() if "gt_affect" in sample else None
    if affect is None:
        return ["the clip must carry labels, got none"]
    counts = sample.gt_valid.numpy()
    return [] if np.isfinite(affect[counts]).all() else ["labels of valid frames must be finite"]
