"""What a data set hands to the training: each frame with its picture and labels, or the error that ends it.

Runs in a process of its own (see `tests.fault_injection.engine`); everything it returns is plain.
"""

import logging
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import MMLogger

from hocp_mm.data_check import check_data
from hocp_mm.datasets import transforms  # noqa: F401 - registers them
from hocp_mm.errors import HOCPError
from hocp_mm.registry import DATASETS, TRANSFORMS
from tests.fault_injection.layouts import Layout
from tests.material.sewa_files import read_number

SIDE = 48
DATASETS.import_from_location()  # or every process would look for the classes anew
TRANSFORMS.import_from_location()
Pairs = dict[tuple[str, int], tuple[int, bytes, bytes]]
"""By record and frame, those that count: the number that the picture shows, the bytes of the labels, and the crop."""


@dataclass
class Checked:
    """What the check of a set said.

    Attributes:
        faults: Kind and text of each fault.
        crash: Traceback of an exception.
    """

    faults: list[tuple[str, str]] = field(default_factory=list)
    crash: str = ""


@dataclass
class Delivery:
    """How one run over a set went.

    Attributes:
        pairs: Everything that was delivered.
        error: Text of the `HOCPError` that ended it.
        at_start: Whether that came before the first sample.
        crash: Traceback of any other exception.
        faults: What the set lists as skipped, by kind and text.
        log: Its lines.
    """

    pairs: Pairs = field(default_factory=dict)
    error: str = ""
    at_start: bool = False
    crash: str = ""
    faults: list[tuple[str, str]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def config_of(layout: Layout, root: Path, changes: Any, part: str = "train") -> dict[str, Any]:
    """Return the config of a data set that takes each record whole, as one random clip."""
    steps = [
        {"type": "hocp_mm.SampleClip", "clip_len": layout.longest},
        {"type": "hocp_mm.LoadFaceClip", "size": SIDE, "margin": 1.0},
        {"type": "hocp_mm.PackAffectInputs"},
    ]
    own = layout.options | (layout.val_options if part == "val" else {})
    return {**own, "data_root": str(root), "pipeline": steps, **changes}


def deliver(config: dict[str, Any]) -> Delivery:
    """Build a data set and take every sample once."""
    told = Delivery(at_start=True)
    MMLogger.get_current_instance().handlers = [_Lines(told.log)]
    try:
        dataset = DATASETS.build(config)
        told.faults = [(fault.kind, str(fault)) for fault in dataset.faults]
        told.at_start = False
        for index in range(len(dataset)):
            _take(told.pairs, dataset[index])
    except HOCPError as error:
        told.error = str(error)
    except Exception:
        told.crash = traceback.format_exc()
    return told


def check(train: dict[str, Any], val: dict[str, Any]) -> Checked:
    """Run the check over both parts, in this process."""
    loaders = {f"{part}_dataloader": {"dataset": config} for part, config in (("train", train), ("val", val))}
    told = Checked()
    try:
        report = check_data(Config(loaders), workers=0)
        told.faults = [(fault.kind, str(fault)) for fault in report.faults]
    except Exception:
        told.crash = traceback.format_exc()
    return told


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.INFO)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _take(pairs: Pairs, packed: dict[str, Any]) -> None:
    sample = packed["data_samples"]
    crops = packed["inputs"].permute(1, 2, 3, 0).numpy()
    labels = sample.gt_affect.numpy()
    classes = sample.gt_expression.numpy() if "gt_expression" in sample else np.full(len(labels), -1)
    for place, frame in enumerate(sample.frame_inds):
        if sample.gt_valid[place]:
            text = labels[place].tobytes() + int(classes[place]).to_bytes(2, "big", signed=True)
            pairs[str(sample.video), int(frame)] = (read_number(crops[place]), text, crops[place].tobytes())
