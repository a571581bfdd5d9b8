"""The network of a config, built in one way: without the weights that it would start from."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from hocp_mm.registry import MODELS

# What makes a network load weights, and what says nothing to that. MViT wants a list where there is nothing.
_STARTS: dict[str, Any] = {"init_cfg": [], "pretrained": None, "pretrained2d": False, "checkpoint": None}


def build_model(cfg: Config, part: str | None = None) -> Any:
    """Build the network of a config with random weights; nothing is read or fetched.

    Args:
        cfg: The config. One from a checkpoint is built within ``bounded_building`` of `hocp_mm.apis.recorded_config`.
        part: Build this part of the model alone, such as ``"backbone"``.

    Returns:
        The module.
    """
    model = cfg["model"] if part is None else cfg["model"][part]
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        return MODELS.build(without_starts(model))


def without_starts(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a network, without the weights that it or a part of it would start from.

    Args:
        model: Config whose weights come from elsewhere.

    Returns:
        A copy, without whatever a constructor or ``init_weights`` would load.
    """

    def emptied(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                name: copy.copy(_STARTS[name]) if name in _STARTS else emptied(item) for name, item in value.items()
            }
        return type(value)(map(emptied, value)) if isinstance(value, list | tuple) else value

    return emptied(model)
