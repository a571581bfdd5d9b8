"""Options of a config that concern all of its data sets at once: ``fold`` and ``store``."""

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.registry import DATASETS

SPLITS = ("train", "val", "test")

# Options that mean the same for a raw data set and for a store of it; those of mmengine's BaseDataset follow.
_KEPT = (
    "split",
    "fold",
    "pipeline",
    "clips_per_video",
    "windows",
    "test_mode",
    "on_fault",
    "metainfo",
    "filter_cfg",
    "indices",
    "serialize_data",
    "lazy_init",
    "max_refetch",
)
# What a raw data set is built with to be asked for its options: nothing that reads files or builds transforms.
_ASKED = ("split", "fold")


def share_fold(cfg: Config, options: Mapping[str, Any]) -> None:
    """Hand a ``fold`` among the options on to every data set that has one; refuse folds that differ.

    mmengine replaces variables by their values when it parses, so that a new value of ``fold`` would reach nobody; and
    a network trained on one fold has seen the test people of another.

    Args:
        cfg: The config, changed in place.
        options: What was given on the command line.

    Raises:
        HOCPError: If the folds differ, ``fold`` is given twice, or no data set has one.
    """
    datasets = [(loader, dataset) for loader, dataset in _datasets(cfg) if "fold" in dataset]
    if "fold" in options:
        if not datasets:
            raise HOCPError(f"config: fold={options['fold']!r} needs a data set with folds, got none.")
        if any(key.endswith("dataset.fold") for key in options):
            raise HOCPError("config: give fold once, for all data sets, or for each of them, got both.")
        for _, dataset in datasets:
            dataset["fold"] = options["fold"]
    if len({dataset["fold"] for _, dataset in datasets}) > 1:
        folds = ", ".join(f"{loader} {dataset['fold']}" for loader, dataset in datasets)
        raise HOCPError(f"config: all data sets must read one fold, got {folds}; set --cfg-options fold=K.")
    if datasets:
        cfg.fold = datasets[0][1]["fold"]


def use_store(cfg: Config) -> None:
    """Put a store of face crops in the place of every data set of ours, where the config has a key ``store``.

    A store is made from one data set (``tools/prepare``). The options that say how a raw folder is read become what
    the store is expected to be prepared with (``expected``), the defaults of the raw data set included: a store of
    other labels is refused when it is opened.

    Args:
        cfg: The config, changed in place; ``store`` is the folder, below the working directory or absolute.

    Raises:
        MissingDataError: If there is no such folder.
        HOCPError: If no loader has a data set that a store can replace, or several classes of them.
    """
    store = cfg.get("store")
    if store is None:
        return
    if not isinstance(store, str | Path) or not Path(store).is_dir():
        raise MissingDataError(
            f"config: store={store!r} must be a folder of face crops; `python tools/prepare/<data set>.py` writes one."
        )
    from hocp_mm.datasets import AffectDataset, FaceCropDataset

    found = [
        (loader, dataset, _class_of(dataset.get("type"), cfg.get("default_scope")))
        for loader, dataset in _datasets(cfg)
    ]
    ours = [item for item in found if isinstance(item[2], type) and issubclass(item[2], AffectDataset)]
    if not ours:
        raise HOCPError(f"config: store={str(store)!r} needs a loader with a data set of hocp_mm, got none.")
    # Joined ones of two folders would become the same store twice.
    roots = {os.path.normpath(str(dataset.get("data_root"))) for _, dataset, _ in ours}
    replaced: set[str] = set()
    for loader, dataset, kind in ours:
        if issubclass(kind, FaceCropDataset):
            replaced.add((dataset.get("expected") or {}).get("dataset", kind.__name__))
            dataset["data_root"] = str(store)
            continue
        replaced.add(kind.__name__)
        kept = {name: value for name, value in dataset.items() if name in _KEPT}
        expected = _expected(loader, kind, dataset)
        dataset.clear()
        dataset.update(type=f"hocp_mm.{FaceCropDataset.__name__}", data_root=str(store), expected=expected, **kept)
    if len(roots) > 1:
        names = " and ".join(sorted(map(repr, roots)))
        raise HOCPError(f"config: a store holds one data set, got the folders {names} to replace.")
    if len(replaced) > 1:
        raise HOCPError(f"config: a store holds one data set, got {' and '.join(sorted(replaced))} to replace.")


def _datasets(cfg: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each data set of the loaders' configs, wrapped ones included, with the name of its loader."""
    for split in SPLITS:
        name = f"{split}_dataloader"
        for found in _below(cfg.get(name)):
            yield name, found


def _below(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, list | tuple):
        for item in config:
            yield from _below(item)
    elif isinstance(config, dict):
        for key in ("dataset", "datasets"):
            inner = config.get(key)
            yield from [inner] if isinstance(inner, dict) else [item for item in inner or () if isinstance(item, dict)]
            yield from _below(inner)


def _class_of(kind: Any, scope: str | None) -> Any:
    """Return what stands under ``type`` as a class, or None."""
    if not isinstance(kind, str):
        return kind
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.get(kind)


def _expected(loader: str, raw: type[Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a store must have been prepared with, defaults included.

    Raises:
        DataError: If the raw data set does not take its options.
    """
    options = {name: value for name, value in dataset.items() if name != "type" and name not in _KEPT}
    options |= {name: dataset[name] for name in _ASKED if name in dataset}
    try:
        asked = raw(**copy.deepcopy(options), lazy_init=True)  # lazy: reads no file
    except (TypeError, ValueError) as error:
        raise DataError(f"config: {loader}: {error}") from error
    shaping = {name: getattr(asked, name) for name in ("faces", "pixel_aspect") if hasattr(asked, name)}
    return {"dataset": raw.__name__, **asked.record_options(), **shaping}
