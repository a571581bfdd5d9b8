"""Weights from a file into the model of a config: all of them, or one error that says which do not belong to it.

mmengine loads what fits and logs the rest: a test would then score random layers.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from mmengine.logging import print_log
from torch import nn

from hocp_mm.checkpoints import follow_ranks_, read_checkpoint, reading_once, unwrap_state_dict
from hocp_mm.checkpoints.reading import RAW
from hocp_mm.compat.checkpoint_loading import hand_over
from hocp_mm.engine.wrapping import rewrap_, unwrapped
from hocp_mm.errors import CheckpointError
from hocp_mm.launch.config import few

if TYPE_CHECKING:
    from mmengine.runner import Runner


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a model that it fits exactly, but for ranks, which the model takes from the checkpoint.

    Args:
        model: Model, wrapped for distributed training or not; a wrapped one is for inference afterwards.
        path: Checkpoint file.

    Raises:
        CheckpointError: If the file cannot be read, or any key is missing, unexpected or of another shape.
    """
    state = read_fitting(model, path)
    unwrapped(model).load_state_dict(state, strict=True)


def fit_runner_(runner: "Runner", path: str | Path) -> None:
    """Make sure that a runner starts or goes on from a checkpoint, whose ranks its model takes.

    The runner is handed what was compared with its model, and loads it strictly: MMEngine would look for weights in one
    place only, take a prefix off their names, and train from random weights where that gives nothing that fits.

    Args:
        runner: Its model may be wrapped for distributed training; the wrapper is made anew where ranks change.
        path: Checkpoint file.

    Raises:
        CheckpointError: If the file cannot be read, or any key is missing, unexpected or of another shape.
    """
    from mmengine.hooks import EMAHook  # here, where it costs inference nothing

    before = _shapes(runner.model)
    with reading_once():
        state = read_fitting(runner.model, path)
        raw = hand_over(str(path), state).get(RAW)
    if raw is not None and runner._resume and any(isinstance(hook, EMAHook) for hook in runner.hooks):
        _require_raw(raw, state, path)
    if _shapes(runner.model) != before:
        rewrap_(runner)
    cast("Any", runner).load_checkpoint = partial(runner.load_checkpoint, strict=True, revise_keys=[])


def _require_raw(raw: Mapping[str, Any], state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Make sure that `EMAHook` finds the weights that are trained, which it swaps with their average, one by one."""
    inside = {name.removeprefix("module."): value for name, value in raw.items() if name.startswith("module.")}
    odd = [name for name in state if getattr(inside.get(name), "shape", None) != state[name].shape]
    odd += [name for name in inside if name not in state]
    if odd:
        raise CheckpointError(
            f"checkpoint {path}: {RAW} must have the names and shapes of the weights, got {few(odd)}."
        )
    text = f"checkpoint {path}: training goes on with the weights under '{RAW}', and with the others as their average."
    print_log(text, logger="current")


def read_fitting(model: nn.Module, path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights in a checkpoint and compare names and shapes with those of a model.

    mmengine loads what fits and logs the rest: a test would then score random layers. Ranks alone may differ from the
    model's: the network may have been pruned (``hocp_mm.RankSelectionHook``). The model then takes those of the
    checkpoint, and a line in the log says so.

    Args:
        model: Model that should receive the weights, wrapped for distributed training or not; its ranks may change.
        path: Checkpoint file.

    Returns:
        The state dict, under the names of the bare model.

    Raises:
        CheckpointError: If the file cannot be read, or any key is missing, unexpected or of another shape.
    """
    state = unwrap_state_dict(read_checkpoint(path), path)
    for note in state.notes:
        print_log(f"checkpoint {path}: {note}.", logger="current")
    bare = unwrapped(model)
    ranks = follow_ranks_(bare, state, str(path))
    own = _shapes(bare)
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    mismatched = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name])}"
        for name in own
        if name in state and state[name].shape != own[name]
    ]
    if missing or unexpected or mismatched:
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
        account = "; ".join(f"{len(names)} {kind}: {few(names)}" for kind, names in kinds.items() if names)
        raise CheckpointError(
            f"checkpoint {path}: the weights belong to another architecture than the config ({account})."
        )
    if ranks:
        changes = few([f"{name} {old} -> {new}" for name, (old, new) in ranks.items()])
        text = f"checkpoint {path}: {len(ranks)} layers take its ranks instead of the config's ({changes})."
        print_log(text, logger="current", level=logging.WARNING)
    return state


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in unwrapped(model).state_dict().items()}
