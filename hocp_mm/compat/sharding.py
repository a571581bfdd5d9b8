"""Parameters, gradients and the optimizer's state in shards over all processes: FSDP2 in MMEngine's Runner."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from mmengine import dist
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from hocp_mm.errors import HOCPError
from hocp_mm.layers import name_matcher
from hocp_mm.registry import HOOKS

WHERE = "ShardHook"


@HOOKS.register_module()
class ShardHook(Hook):
    r"""Keep one part of every parameter, gradient and optimizer state in each process, for networks that are large.

    Training is that of ``DistributedDataParallel``, and checkpoints are those of one process: every tool reads them,
    and a run goes on from them in any number of processes, sharded or not. In one process the hook does nothing.

    Fault: ``MMFullyShardedDataParallel`` in the Runner saves what rank 0 has of each parameter, under other shapes, and
        needs ``FlexibleRunner``, whose strategy asks for a GPU (``device_id``) and renames the optimizer's state.
    Where: MMEngine 0.10.7 and 0.11.0rc3.
    Cure: ``torch.distributed.fsdp.fully_shard``, which keeps the model's class and the names of its parameters, right
        before the first iteration, when weights are loaded and the optimizer is made. Needs torch 2.6.

    Args:
        units: Patterns on names of modules that are sharded on their own, such as ``r"^backbone\.net\.layer\d$"``.
            The parameters of one unit are whole at a time, while it computes; without units, those of all the network.

    Raises:
        HOCPError: When training begins: without torch 2.6, with a hook that this one does not go with, or if a pattern
            matches no module.
    """

    # Before the other hooks look at the parameters.
    priority = "HIGHEST"

    def __init__(self, units: str | Sequence[str] = ()) -> None:
        self.units = [units] if isinstance(units, str) else list(units)
        self._whole: dict[str, Any] = {}
        self._model: nn.Module | None = None

    def before_train(self, runner: Runner) -> None:
        """Shard the model and the state of its optimizers, which may come from a checkpoint.

        Raises:
            HOCPError: If it cannot be done.
        """
        if dist.get_world_size() == 1 or runner.model is self._model:  # a second call of `train`
            return
        model = cast("nn.Module", runner.model.module if is_model_wrapper(runner.model) else runner.model)
        units = self._check(runner, model)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        # The wrapper's hooks on gradients go with the parameters that they are on.
        runner.model = self._model = model
        shard_(model, units)
        sharded = dict(model.named_parameters())
        for optimizer in _optimizers(runner):
            _follow_(optimizer, {old: sharded[name] for old, name in names.items()})
        whole = sum(parameter.numel() for parameter in sharded.values())
        runner.logger.info(
            f"{WHERE}: {whole:,} parameters in shards over {dist.get_world_size()} processes, {len(units)} units."
        )
        self._save_whole(runner)

    def _check(self, runner: Runner, model: nn.Module) -> list[nn.Module]:
        try:
            from torch.distributed.fsdp import fully_shard  # noqa: F401
        except ImportError:
            raise HOCPError(f"{WHERE}: torch must be 2.6 or newer, got {torch.__version__}.") from None
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) or type(hook).__name__ == "RankSelectionHook":
                raise HOCPError(
                    f"{WHERE}: no other hook may keep or change whole parameters, got {type(hook).__name__}."
                )
        if runner.cfg.get("compile") not in (None, False):
            raise HOCPError(f"{WHERE}: the model must not be compiled, got compile={runner.cfg['compile']!r}.")
        units: list[nn.Module] = []
        for pattern in self.units:
            matches = name_matcher(pattern)
            found = [module for name, module in model.named_modules() if name and matches(name)]
            if not found:
                raise HOCPError(f"{WHERE}: each pattern in units must match a module, got {pattern!r}.")
            units += [module for module in found if module not in units]
        return units

    def _save_whole(self, runner: Runner) -> None:
        """Let all processes gather the parts before rank 0 writes a checkpoint."""
        write = runner.save_checkpoint

        def save_checkpoint(*args: Any, **kwargs: Any) -> None:
            self._whole = {"state_dict": whole(cast("nn.Module", runner.model).state_dict())}
            if kwargs.get("save_optimizer", True):
                self._whole["optimizer"] = whole(cast("Any", runner.optim_wrapper).state_dict())
            write(*args, **kwargs)
            self._whole = {}

        cast("Any", runner).save_checkpoint = save_checkpoint

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Put whole tensors where rank 0 has parts."""
        checkpoint.update(self._whole)


def shard_(model: nn.Module, units: Sequence[nn.Module]) -> None:
    """Turn the parameters of a model into shards over all processes, in place (``DTensor``).

    Args:
        model: The model; it is the outermost unit. All processes must hold the same values.
        units: Modules in it that are sharded on their own.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    # From inside out, as fully_shard asks for. Always in parts after use: what looks at parameters finds one kind.
    for unit in [*reversed(units), model]:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def whole(tree: Any) -> Any:
    """Gather all shards in nested dicts, lists and tuples; all processes must call it.

    Args:
        tree: A state dict.

    Returns:
        The same with plain tensors on the CPU.
    """
    if isinstance(tree, Tensor):
        return getattr(tree, "full_tensor", tree.detach)().detach().cpu()
    if isinstance(tree, dict):
        return type(tree)((key, whole(value)) for key, value in tree.items())
    return type(tree)(whole(value) for value in tree) if isinstance(tree, (list, tuple)) else tree


def _follow_(optimizer: torch.optim.Optimizer, sharded: dict[int, nn.Parameter]) -> None:
    """Give an optimizer the sharded parameters, by id of the whole ones, and its state in the same shards."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    state = dict(optimizer.state)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for index, parameter in enumerate(group["params"]):
            new = cast("DTensor", sharded[id(parameter)])
            group["params"][index] = new
            if parameter in state:
                # A step count is a tensor, too, of no parameter's shape.
                optimizer.state[cast("Tensor", new)] = {
                    key: distribute_tensor(value, new.device_mesh, new.placements)
                    if isinstance(value, Tensor) and value.shape == new.shape and value.dim()
                    else value
                    for key, value in state[parameter].items()
                }


def _optimizers(runner: Runner) -> list[torch.optim.Optimizer]:
    wrapper = cast("Any", runner.optim_wrapper)
    return [each.optimizer for each in (wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper])]
