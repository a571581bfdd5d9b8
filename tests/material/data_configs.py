"""Configs over tiny data sets, as short as they can be."""

from pathlib import Path
from typing import Any

from mmengine.config import Config


def dataset_config(kind: str, root: Path, clip_len: int = 4, size: int = 32, **options: Any) -> dict[str, Any]:
    """Return the config of a data set; with ``test_mode`` in windows."""
    test_mode = options.get("test_mode", False)
    mode = "window" if test_mode else "random"
    pipeline = [
        {"type": "hocp_mm.SampleClip", "clip_len": clip_len, "mode": mode},
        {"type": "hocp_mm.LoadFaceClip", "size": size},
        {"type": "hocp_mm.PackAffectInputs"},
    ]
    windows = {"windows": {"clip_len": clip_len, "stride": clip_len}} if test_mode else {}
    return {"type": f"hocp_mm.{kind}", "data_root": str(root), "pipeline": pipeline, **windows, **options}


def joined(dataset: Any) -> list[Any]:
    """Return the configs of the data sets that one is joined from; itself, if it is no ``ConcatDataset``."""
    return list(dataset["datasets"]) if "datasets" in dataset else [dataset]


def loaders(**datasets: Any) -> Config:
    """Return a config with one loader for each data set."""
    parts = {f"{split}_dataloader": {"batch_size": 2, "dataset": dataset} for split, dataset in datasets.items()}
    return Config({"default_scope": "hocp_mm", **parts})
