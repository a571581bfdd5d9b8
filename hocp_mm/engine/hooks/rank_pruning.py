"""Change ranks in the middle of a Runner's training: in the model and in everything else that has its shapes."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import torch
from mmengine import dist
from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hocp_mm.engine.wrapping import rewrap_, unwrapped
from hocp_mm.errors import HOCPError
from hocp_mm.layers.component_cuts import keep_components_
from hocp_mm.layers.rank_matching import match_ranks_
from hocp_mm.layers.rank_selection import check_prunable, surviving_components
from hocp_mm.layers.selection import Patterns, cp_layers


def check_runner(runner: Runner, layers: Patterns | None, where: str) -> None:
    """Refuse at the start of training what pruning could not deal with in its middle.

    Args:
        runner: The runner, about to train.
        layers: Patterns on layer names; None takes every HO-CP layer.
        where: Name of the operation, for errors.

    Raises:
        NotImplementedError: If the model is compiled, in a wrapper of another kind than DistributedDataParallel,
            holds an average of itself or has layers that cannot be pruned, or an average has other layers.
        ValueError: If there is no HO-CP layer, or no optimizer has the lambda of any.
    """
    model = unwrapped(runner.model)
    if is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel):
        raise NotImplementedError(
            f"{where}: the model must be bare or in DistributedDataParallel, got {type(runner.model).__name__}."
        )
    if runner.cfg.get("compile") not in (None, False) or any(_is_compiled(module) for module in model.modules()):
        raise NotImplementedError(f"{where}: shapes change in training, so the model must not be compiled, got one.")
    if any(isinstance(module, BaseAveragedModel) for module in model.modules()):
        raise NotImplementedError(f"{where}: the model must not hold an average of itself (EMAHook may), got one.")
    selected = dict(cp_layers(model, layers, where=where))
    check_prunable(model, layers)
    for averaged in _averages(runner):
        copies = {name: getattr(m, "rank", 0) for name, m in averaged.module.named_modules() if name in selected}
        if copies != {name: layer.rank for name, layer in selected.items()}:
            raise NotImplementedError(f"{where}: the average of EMAHook must have the model's layers, got others.")
    lambdas = {id(layer.weights) for layer in selected.values()}
    if lambdas.isdisjoint(id(p) for o in optimizers_of(runner) for group in o.param_groups for p in group["params"]):
        raise ValueError(
            f"{where}: an optimizer must have the lambda of some layer, got none of {len(selected)} "
            f"(such as '{next(iter(selected))}')."
        )


def optimizers_of(runner: Runner) -> list[torch.optim.Optimizer]:
    """Return PyTorch's optimizers inside a runner's wrapper.

    Args:
        runner: The runner, about to train.

    Returns:
        One, or as many as an ``OptimWrapperDict`` has.
    """
    wrapper = cast("Any", runner.optim_wrapper)
    wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [one.optimizer for one in wrappers]


def match_(runner: Runner, state: Mapping[str, Any], wrapped: Collection[nn.Parameter]) -> dict[str, tuple[int, int]]:
    """Give a runner's model, and averages of it, the ranks of a state dict.

    Args:
        runner: The runner; its model changes, and is wrapped anew.
        state: The state dict that is loaded next.
        wrapped: Parameters whose gradients a distributed wrapper must know, besides those that train now.

    Returns:
        Old and new rank of each layer of the model that changed.
    """
    ranks = match_ranks_(unwrapped(runner.model), state)
    for averaged in _averages(runner):
        match_ranks_(averaged.module, state)
        _remember_parameters(averaged)
    if ranks:
        rewrap_(runner, wrapped)
    return ranks


def prune_(
    runner: Runner, threshold: float, min_rank: int, layers: Patterns | None, wrapped: Collection[nn.Parameter]
) -> str:
    """Prune a runner's model, its optimizers' state and averages of it, in the same way in all processes.

    Args:
        runner: The runner; its model changes, and is wrapped anew.
        threshold: As in :func:`hocp_mm.layers.prune_ranks_`, and so the next two.
        min_rank: Components that each layer keeps at least.
        layers: Patterns on layer names.
        wrapped: Parameters whose gradients a distributed wrapper must know, besides those that train now.

    Returns:
        An account: one line for all, one for each layer.
    """
    model = unwrapped(runner.model)
    selected = dict(cp_layers(model, layers, where="prune_ranks_"))
    before = {name: (layer.rank, _size(layer)) for name, layer in selected.items()}
    whole = _size(model)
    kept = _agreed_components(model, threshold, min_rank, layers)
    keep_components_(model, kept, optimizers_of(runner))
    for averaged in _averages(runner):
        # The same components: their averages are what they would be without pruning. Of the others, whose lambda is
        # zero by now, the average would fade.
        keep_components_(averaged.module, kept)
        _remember_parameters(averaged)
    if kept:
        rewrap_(runner, wrapped)
    lines = [f"{len(kept)} of {len(selected)} layers pruned, {whole:,} -> {_size(model):,} parameters in the model"]
    width = max(map(len, selected))
    for name, layer in selected.items():
        rank, size = before[name]
        lines.append(f"{name:{width}}  rank {rank:5} -> {layer.rank:5}  parameters {size:11,} -> {_size(layer):11,}")
    return "\n  ".join(lines)


def _agreed_components(
    model: nn.Module, threshold: float, min_rank: int, layers: Patterns | None
) -> dict[str, torch.Tensor]:
    """Let all processes keep what rank 0 keeps, or raise what it raises; none may wait for the others in vain."""
    try:
        kept = surviving_components(model, threshold, min_rank=min_rank, layers=layers)
        found: list[Any] = [{name: index.tolist() for name, index in kept.items()}]
    except ValueError as error:
        found = [str(error)]
    dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], str):
        raise HOCPError(found[0])
    return {name: torch.tensor(index) for name, index in found[0].items()}


def _averages(runner: Runner) -> Iterator[BaseAveragedModel]:
    for hook in runner.hooks:
        averaged = getattr(hook, "ema_model", None) if isinstance(hook, EMAHook) else None
        if averaged is not None:
            yield averaged


def _remember_parameters(averaged: BaseAveragedModel) -> None:
    """Let an average refer to its new tensors: with buffers, it remembers a state dict, which has the old ones."""
    module = averaged.module
    averaged.avg_parameters = module.state_dict() if averaged.update_buffers else dict(module.named_parameters())


def _is_compiled(module: nn.Module) -> bool:
    # By attribute: importing torch._dynamo to ask for its OptimizedModule takes a second.
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
