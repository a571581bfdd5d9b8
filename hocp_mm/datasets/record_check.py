"""One record against its contract (see `AffectDataset`)."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from hocp_mm.datasets.faults import Fault

_SLACK = 1e-6  # float32 rounding of a scaled label


def check_record(record: dict[str, Any], num_classes: int | None = None) -> list[Fault]:
    """Compare the arrays of a record with the contract.

    Args:
        record: As `AffectDataset.get_data_info` returns it.
        num_classes: Number of expressions, None if it is not known.

    Returns:
        One fault per broken rule, of the kinds ``"record"``, ``"labels"``, ``"faces"`` and ``"expression"``.
    """
    where = f"{record['filename']}: {record['video']}"
    count = record["num_frames"]
    if shapes := list(_wrong_shapes(record, count)):
        return [Fault(f"{where}: {text}.", "record") for text in shapes]
    faults: list[Fault] = []
    for rule in (_label_faults, _face_faults):
        faults += [Fault(f"{where}: {text}.", kind) for kind, text in rule(record)]
    expression = record.get("expression")
    if expression is not None:
        classes = np.broadcast_to(expression, count)
        above = num_classes is not None and classes.max() >= num_classes
        if classes.min() < -1 or above:
            text = f"expressions must be -1 to {'…' if num_classes is None else num_classes - 1}, got {classes.max()}"
            faults.append(Fault(f"{where}: {text}.", "expression"))
    return faults


def _wrong_shapes(record: dict[str, Any], count: int) -> Iterator[str]:
    if not isinstance(count, int | np.integer) or count < 1:
        yield f"num_frames must be 1 or more, got {count!r}"
        return
    expected: dict[str, tuple[tuple[int, ...], type[Any]]] = {
        "affect": ((count, 2), np.float32),
        "valid": ((count,), np.bool_),
        "face_found": ((count,), np.bool_),
    }
    if record["boxes"] is not None:
        expected["boxes"] = ((count, 4), np.float32)
    for name, (shape, kind) in expected.items():
        value = np.asarray(record[name])
        if value.shape != shape or value.dtype != kind:
            yield f"{name} must be {kind.__name__} {list(shape)}, got {value.dtype} {list(value.shape)}"
    files = record.get("frame_files")
    if files is not None and len(files) != count:
        yield f"frame_files must name {count} files, one per frame, got {len(files)}"


def _label_faults(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    affect, valid = record["affect"], record["valid"]
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
    files = record.get("frame_files")
    if files is not None:
        unseen = valid & ~np.array([bool(file) for file in files])
        if unseen.any():
            yield "labels", f"a frame without a picture must not be valid, but frame {int(np.argmax(unseen))} is"


def _face_faults(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    boxes, found = record["boxes"], record["face_found"]
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
