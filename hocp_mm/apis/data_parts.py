"""The data sets of a config's loaders, wrapped and joined ones included."""

import copy
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from hocp_mm.datasets import AffectDataset
from hocp_mm.datasets.part_building import PartConfig
from hocp_mm.errors import HOCPError


def part_configs(cfg: Config, splits: Sequence[str]) -> list[PartConfig]:
    """Find the data sets of the loaders, wrapped and joined ones included.

    Args:
        cfg: Config with ``{train,val,test}_dataloader``.
        splits: Loaders to look at; one that the config does not have is passed over.

    Returns:
        One description per data set, with ``on_fault="skip"``.

    Raises:
        HOCPError: If there is no loader, or a data set is none of this package.
    """
    found: list[PartConfig] = []
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        leaves = [] if loader is None else _leaves(copy.deepcopy(loader["dataset"]))
        for number, leaf in enumerate(leaves, start=1):
            plain = leaf.to_dict() if hasattr(leaf, "to_dict") else dict(leaf)
            name = split if len(leaves) == 1 else f"{split} {number}"
            part = PartConfig(name, split, plain, cfg.get("default_scope"), cfg.get("custom_imports"))
            _require_own(part)
            found.append(part)
            plain.update(on_fault="skip", lazy_init=True)
    if not found:
        raise HOCPError(f"check: the config must have one of {', '.join(f'{split}_dataloader' for split in splits)}.")
    return found


def _leaves(config: Any) -> list[Any]:
    """Return the data sets inside of wrappers, in order."""
    if isinstance(config, list | tuple):
        return [leaf for item in config for leaf in _leaves(item)]
    inner = [config[key] for key in ("dataset", "datasets") if isinstance(config.get(key), dict | list | tuple)]
    return [leaf for item in inner for leaf in _leaves(item)] if inner else [config]


def _require_own(part: PartConfig) -> None:
    with DefaultScope.overwrite_default_scope(part.scope):
        kind = part.config.get("type")
        found: Any = DATASETS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(found, type) and issubclass(found, AffectDataset)):
        raise HOCPError(
            f"check: {part.split}_dataloader must hold data sets of hocp_mm, which know their records, got {kind!r}."
        )
