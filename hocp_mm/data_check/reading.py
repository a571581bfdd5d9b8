"""One record against its contract and its files, every frame of it, and one clip through a pipeline."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hocp_mm.datasets.media.pack import PackTable, picture_size
from hocp_mm.datasets.media.self_check import check_random_access
from hocp_mm.datasets.media.video import Decoder, probe_video
from hocp_mm.datasets.records.faults import Fault, attempt, fault_of
from hocp_mm.datasets.records.record import Record
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.system.reading import check_file

_SLACK = 1e-6  # float32 rounding of a scaled label


def check_record(record: Record, num_classes: int | None = None) -> list[Fault]:
    """Compare the arrays of a record with the contract.

    Args:
        record: The record.
        num_classes: Number of expressions, None if it is not known.

    Returns:
        One fault per broken rule, of the kinds ``"record"``, ``"labels"``, ``"faces"`` and ``"expression"``.
    """
    where = f"{record.filename}: {record.key}"
    count = record.num_frames
    if shapes := list(_wrong_shapes(record, count)):
        return [Fault(record.filename, f"{where}: {text}.", "record") for text in shapes]
    faults: list[Fault] = []
    for rule in (_label_faults, _face_faults):
        faults += [Fault(record.filename, f"{where}: {text}.", kind) for kind, text in rule(record)]
    expression = record.expression
    if expression is not None:
        classes = np.broadcast_to(expression, count)
        above = num_classes is not None and classes.max() >= num_classes
        if classes.min() < -1 or above:
            text = f"expressions must be -1 to {'…' if num_classes is None else num_classes - 1}, got {classes.max()}"
            faults.append(Fault(record.filename, f"{where}: {text}.", "expression"))
    return faults


def _wrong_shapes(record: Record, count: int) -> Iterator[str]:
    if not isinstance(count, int | np.integer) or count < 1:
        yield f"num_frames must be 1 or more, got {count!r}"
        return
    expected: dict[str, tuple[tuple[int, ...], type[Any]]] = {
        "affect": ((count, 2), np.float32),
        "valid": ((count,), np.bool_),
        "face_found": ((count,), np.bool_),
    }
    if record.boxes is not None:
        expected["boxes"] = ((count, 4), np.float32)
    for name, (shape, kind) in expected.items():
        value = np.asarray(getattr(record, name))
        if value.shape != shape or value.dtype != kind:
            yield f"{name} must be {kind.__name__} {list(shape)}, got {value.dtype} {list(value.shape)}"
    files = record.frame_files
    if files is not None and len(files) != count:
        yield f"frame_files must name {count} files, one per frame, got {len(files)}"


def _label_faults(record: Record) -> Iterator[tuple[str, str]]:
    affect, valid = record.affect, record.valid
    if not valid.any():
        yield "labels", f"at least one frame must have a label that counts, got none of {len(valid)}"
    wrong = valid & ~((np.abs(affect) <= 1 + _SLACK).all(axis=1))  # NaN compares as false
    if wrong.any():
        frame = int(np.argmax(wrong))
        count = f"{int(wrong.sum())} such frames"
        yield (
            "labels",
            f"labels must be finite and in [-1, 1], but frame {frame} has {affect[frame].tolist()} ({count})",
        )
    files = record.frame_files
    if files is not None:
        unseen = valid & ~np.array([bool(file) for file in files])
        if unseen.any():
            yield "labels", f"a frame without a picture must not be valid, but frame {int(np.argmax(unseen))} is"


def _face_faults(record: Record) -> Iterator[tuple[str, str]]:
    boxes, found = record.boxes, record.face_found
    if not found.any():
        yield "faces", f"a face must be found in at least one frame, got none of {len(found)}"
    if boxes is None:
        return
    if not np.isfinite(boxes).all(axis=1).any():
        yield "faces", f"at least one frame must have a box, got none of {len(boxes)}"
    bare = found & ~np.isfinite(boxes).all(axis=1)
    if bare.any():
        yield "faces", f"a frame with a face must have a box, but frame {int(np.argmax(bare))} has none"
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    if flat.any():
        frame = int(np.argmax(flat))
        yield "faces", f"boxes must be (x1, y1, x2, y2) with an area, got {boxes[frame].tolist()} in frame {frame}"


@dataclass(frozen=True)
class Reading:
    """What reading all frames of a record showed.

    Attributes:
        way: How its frames are read: ``"images"``, ``"video, by jumps"``, ``"video, in order"``, ``"face crops"``;
            empty if they cannot be.
        faults: What is wrong with them.
        variable: They are a video whose frames do not come evenly.
    """

    way: str
    faults: tuple[Fault, ...]
    variable: bool = False


def read_record(record: Record, decoder: Decoder = "auto") -> Reading:
    """Read every frame of a record from its files once.

    Args:
        record: A record that keeps the contract.
        decoder: What reads videos (see `hocp_mm.datasets.read_frames`).

    Returns:
        The way it is read, and its faults: of the kinds ``"image"``, ``"video"``, ``"crops"``, ``"lengths"`` and
        ``"faces"``; a file that is missing has `` missing`` behind its kind.
    """
    try:
        if record.pack is not None and record.crop is not None:
            return _read_pack(record, record.pack, record.crop.size)
        return _read_video(record, decoder) if record.frame_files is None else _read_images(record)
    except Exception as error:  # decoders raise almost anything; the other records are still to be read
        text = f"{record.filename}: reading {record.key} fails ({type(error).__name__}: {error})."
        return Reading("", (Fault(record.filename, text, "crash"),))


def _outside(record: Record, width: int, height: int) -> list[Fault]:
    """Return the fault of boxes that do not meet the frame at all."""
    boxes = record.boxes
    if boxes is None:
        return []
    away = (boxes[:, :2] >= (width, height)).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
    if not away.any():
        return []
    frame = int(np.argmax(away))
    text = (
        f"{record.filename}: faces must lie in the {width}x{height} frame, got {boxes[frame].tolist()} in frame "
        f"{frame} ({int(away.sum())} such frames)."
    )
    return [Fault(record.filename, text, "faces")]


def _read_images(record: Record) -> Reading:
    faults: list[Fault] = []
    seen = False

    def add(file: str, error: HOCPError) -> None:
        faults.append(fault_of(error, "image", file))

    for picture in record.frames().every(add):
        if picture is not None and not seen:
            seen = True
            faults += _outside(record, picture.shape[1], picture.shape[0])
    return Reading("images" if seen else "", tuple(faults))


def _read_video(record: Record, decoder: Decoder) -> Reading:
    faults: list[Fault] = []
    path = record.filename
    access = attempt(faults, "video", path, lambda: check_random_access(path, decoder=decoder))
    info = attempt(faults, "video", path, probe_video, path) if access else None
    if access is None or info is None:
        return Reading("", tuple(faults))
    if access.fault:
        faults.append(Fault(path, access.fault, "video"))
    if access.differing:
        text = (
            f"{path}: random access must give the frames of sequential reading, but {len(access.differing)} of "
            f"{len(access.checked)} differ: {', '.join(map(str, access.differing))}."
        )
        faults.append(Fault(path, text, "video"))
    if access.num_frames < record.num_frames:
        text = f"{path}: must hold the {record.num_frames} frames of its record, got {access.num_frames}."
        faults.append(Fault(path, text, "lengths"))
    faults += _outside(record, info.width, info.height)
    by_jumps = decoder == "seek" or (decoder == "auto" and access.jumps)
    way = "decord" if decoder == "decord" else f"video, {'by jumps' if by_jumps else 'in order'}"
    return Reading(way, tuple(faults), info.variable)


def _read_pack(record: Record, table: PackTable, side: int) -> Reading:
    """Compare the bytes of each picture with its checksum, so that all damaged ones are named."""
    faults: list[Fault] = []
    path = record.filename
    shown = np.flatnonzero(np.asarray(table.sizes) > 0)
    try:
        check_file(path, "pack")
        with Path(path).open("rb") as file:
            for frame in shown.tolist():
                file.seek(int(table.offsets[frame]))
                data = file.read(int(table.sizes[frame]))
                if text := _picture_fault(data, int(table.checksums[frame]), side):
                    faults.append(Fault(path, f"{path}: frame {frame} of {record.key!r} {text}.", "crops"))
    except MissingDataError:
        text = f"{path}: no such pack; the store must be copied whole, or prepared again."
        return Reading("", (Fault(path, text, "crops missing"),))
    except (DataError, OSError) as error:  # a folder, a named pipe, a disk that fails
        text = str(error) if isinstance(error, DataError) else f"{path}: the pack cannot be read ({error.strerror})."
        return Reading("", (*faults, Fault(path, text, "crops")))
    unseen = record.valid.copy()
    unseen[shown] = False
    if unseen.any():
        text = f"{path}: a frame without a picture must not be valid, but frame {int(np.argmax(unseen))} is."
        faults.append(Fault(path, text, "labels"))
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
    file, key = record["filename"], record["video"]
    return Reading("", tuple(Fault(file, f"{file}: {key}: {text}.", "pipeline") for text in texts))


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
