"""Labels to draw predictions against, read as the network's own data set reads them."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from hocp_mm.datasets import parse_sewa_key, read_affect_csv
from hocp_mm.datasets.records.dataset import scale_labels
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.launch import LOADERS
from hocp_mm.structures import AffectTimeline


def with_ground_truth(timeline: AffectTimeline, folder: str | Path, cfg: Mapping[str, Any] | Config) -> AffectTimeline:
    """Return the timeline with the labels of its video as target.

    Args:
        timeline: Predictions of every frame of a video; its name is the first part of the label files' names.
        folder: Folder with ``<video>_{Valence,Arousal}_<kind>_Aligned.csv``, one row per frame, as in SEWA.
        cfg: Config of the network; its data set says which kind of labels (``V`` if nothing) and their range.

    Returns:
        A new timeline, all frames valid.

    Raises:
        MissingDataError: If a label file is missing.
        DataError: If a label file breaks a rule, or has another length than the video.
    """
    kind, low, high = _labels_of(cfg)
    columns = []
    for dimension in ("valence", "arousal"):
        path = Path(folder) / f"{timeline.video}_{dimension.capitalize()}_{kind}_Aligned.csv"
        if not path.is_file():
            raise MissingDataError(f"ground truth: no such label file: {path}.")
        values, first_line = read_affect_csv(path, dimension, _first_frame(timeline.video))
        if len(values) != len(timeline):
            raise DataError(f"ground truth: {path} has {len(values)} labels, but the video has {len(timeline)} frames.")
        columns.append(scale_labels(values, (low, high), path, first_line))
    return replace(timeline, target=np.stack(columns, axis=1))


def _labels_of(cfg: Mapping[str, Any] | Config) -> tuple[str, float, float]:
    """Return kind and range of the labels that a config, perhaps a stranger's, says.

    Raises:
        HOCPError: If it says neither; the kind becomes part of a file's name.
    """
    dataset = next((loader.get("dataset") for name in LOADERS if isinstance(loader := cfg.get(name), Mapping)), {})
    dataset = dataset if isinstance(dataset, Mapping) else {}
    raw = dataset.get("expected")  # a store of face crops names those of the raw data set
    dataset = {**dataset, **(raw if isinstance(raw, Mapping) else {})}
    kind, span = dataset.get("labels", "V"), dataset.get("label_range", (-1.0, 1.0))
    if not (isinstance(kind, str) and re.fullmatch(r"[\w-]{1,100}", kind)):
        raise HOCPError(f"ground truth: the config's labels must be a word such as 'V', got {kind!r:.100}.")
    numbers = isinstance(span, list | tuple) and len(span) == 2 and all(isinstance(end, int | float) for end in span)
    if not (numbers and -1e9 < span[0] < span[1] < 1e9):
        raise HOCPError(f"ground truth: the config's label_range must be two numbers, got {span!r:.100}.")
    return kind, *span


def _first_frame(video: str) -> int:
    """Return the frame number that the first row may bear; only SEWA's own names know another than 0."""
    try:
        return parse_sewa_key(video).first
    except DataError:
        return 0
