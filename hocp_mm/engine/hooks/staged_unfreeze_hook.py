"""Train a network in stages: temporal factors and head first, then everything."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, cast

from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner, get_priority
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from hocp_mm.engine.hooks.stage import WHERE, Stage, read_stages
from hocp_mm.registry import HOOKS

# In the optimizer's parameter groups, and so in checkpoints.
_LR_KEY = "stage_lr_mult"


@HOOKS.register_module()
class StagedUnfreezeHook(Hook):
    """Freeze and unfreeze parameters by stage; safe on resume, since the stage follows from the epoch.

    A stage may begin anywhere, in the middle of an epoch or of a cycle of gradient accumulation: gradients gathered
    so far of parameters that it freezes are dropped, so that neither they nor momentum nor weight decay move a frozen
    parameter; the cycle goes on, and a parameter that begins to train in it has the gradient of the rest of it.

    The learning rate in force is what the schedulers would give without this hook, times the stage's factor: around
    each of their steps the factor is taken out, since some of them compute from absolute rates. The factor stays in
    the optimizer's parameter groups, and so in checkpoints: a resumed run neither forgets it nor applies it twice.

    Distributed training needs ``find_unused_parameters=True`` in the config where a stage freezes anything.

    Args:
        stages: Mappings with the fields of :class:`Stage`; the first begins at 0 and ``begin`` increases.
        by_epoch: Count epochs; False counts iterations.

    Raises:
        ValueError: If a field of a stage is unknown or out of range, or the stages do not begin at 0 in order.
        TypeError: If a field is of another kind.
    """

    # After optimizers exist and checkpoints are loaded.
    priority = "HIGH"

    def __init__(self, stages: Sequence[Mapping[str, object]], by_epoch: bool = True) -> None:
        self.stages = read_stages(stages)
        self.by_epoch = by_epoch
        self._active: Stage | None = None
        self._model: nn.Module | None = None
        self._free: frozenset[str] = frozenset()
        self._everything = False  # whether the stage trains all that may train
        self._held: set[_BatchNorm] = set()
        self._factors: list[float] = []

    def before_train(self, runner: Runner) -> None:
        """Enter the stage of a resumed run and check that every later one can work."""
        model = _unwrapped(runner)
        if self._model is not model:  # a second call of `train` finds what the first one froze
            self._model = model
            self._held.clear()
            self._free = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
        self._check(runner, model)
        if not any(isinstance(hook, _AroundSchedulers) and hook.owner is self for hook in runner.hooks):
            self._surround_schedulers(runner)
            for optimizer in _optimizers(runner):
                optimizer.register_step_pre_hook(_drop_gradients_of_frozen)
        self._active = None
        self._enter(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Enter the stage of this epoch."""
        self._enter(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Enter the stage of this iteration, and keep norms in evaluation mode after ``model.train()``."""
        self._enter(runner)
        if self._active is None or not self._active.norm_eval:
            return
        for module in _unwrapped(runner).modules():
            if not isinstance(module, _BatchNorm) or not module.training:
                continue
            if self._everything or _is_frozen(module):
                module.training = False  # not eval(): an activation or dropout inside goes on
                self._held.add(module)

    def _check(self, runner: Runner, model: nn.Module) -> None:
        """Let what cannot work end the run now, not at the epoch of its stage."""
        for stage in self.stages:
            self._group_factors(runner, model, stage)
        freezing = [stage.begin for stage in self.stages if stage.trained(model, self._free) != self._free]
        wrapper = cast("Any", runner.model)
        if freezing and is_model_wrapper(wrapper):
            if not getattr(wrapper, "find_unused_parameters", True):
                raise ValueError(f"{WHERE}: distributed training of frozen stages needs find_unused_parameters=True.")
            if getattr(wrapper, "static_graph", False):
                raise ValueError(f"{WHERE}: distributed training of frozen stages needs static_graph=False.")
        if self.by_epoch and len(self.stages) > 1 and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(f"{WHERE}: an IterBasedTrainLoop counts iterations, got by_epoch=True.")
        end = runner.max_epochs if self.by_epoch else runner.max_iters
        for stage in self.stages:
            if stage.begin >= end:
                runner.logger.warning(
                    f"{WHERE}: the stage from {self._unit} {stage.begin} never begins, training ends before "
                    f"{self._unit} {end}."
                )

    @property
    def _unit(self) -> str:
        return "epoch" if self.by_epoch else "iteration"

    def _enter(self, runner: Runner) -> None:
        progress = runner.epoch if self.by_epoch else runner.iter
        stage = [s for s in self.stages if s.begin <= progress][-1]
        if stage is self._active:
            return
        model = _unwrapped(runner)
        names, count = stage.trained(model, self._free), 0
        self._everything = names == self._free
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
            if name in names:
                count += parameter.numel()
            elif parameter.grad is not None:
                parameter.grad.zero_()
        for norm in self._held:
            norm.training = True
        self._held.clear()
        self._active = stage
        self._factors = self._group_factors(runner, model, stage)
        self._scale(runner, self._factors)
        runner.logger.info(
            f"{WHERE}: from {self._unit} {stage.begin} train {stage.train} ({count:,} parameters), "
            f"learning rate x{stage.lr_mult}, norm statistics {'frozen' if stage.norm_eval else 'updated'}."
        )

    def _surround_schedulers(self, runner: Runner) -> None:
        hooks = [hook for hook in runner.hooks if isinstance(hook, ParamSchedulerHook)]
        if not hooks:
            return
        first, last = min(get_priority(h.priority) for h in hooks), max(get_priority(h.priority) for h in hooks)
        if first == 0:
            raise ValueError(f"{WHERE}: ParamSchedulerHook must have a priority below HIGHEST, got HIGHEST.")
        # Among equals the order is that of registration, so the second one follows the last scheduler hook.
        runner.register_hook(_AroundSchedulers(self, lambda: self._scale(runner, [])), priority=first - 1)
        runner.register_hook(_AroundSchedulers(self, lambda: self._scale(runner, self._factors)), priority=last)

    def _scale(self, runner: Runner, factors: list[float]) -> None:
        """Put factors on the learning rates, group by group, in place of those in force; none stands for 1."""
        groups = _param_groups(runner)
        for group, factor in zip(groups, factors or [1.0] * len(groups), strict=True):
            group["lr"] *= factor / group.get(_LR_KEY, 1.0)
            group[_LR_KEY] = factor

    def _group_factors(self, runner: Runner, model: nn.Module, stage: Stage) -> list[float]:
        groups = _param_groups(runner)
        if not isinstance(stage.lr_mult, Mapping):
            return [float(stage.lr_mult)] * len(groups)
        by_name = stage.factors(model)
        by_id = {id(parameter): by_name[name] for name, parameter in model.named_parameters()}
        found = [{by_id.get(id(parameter), 1.0) for parameter in group["params"]} for group in groups]
        if any(len(factors) > 1 for factors in found):
            raise ValueError(
                f"{WHERE}: parameters in one group of the optimizer must share lr_mult, got {stage.lr_mult!r} "
                "(with optim_wrapper.paramwise_cfg every parameter has a group of its own)."
            )
        return [next(iter(factors), 1.0) for factors in found]


class _AroundSchedulers(Hook):
    """Call a function wherever ``ParamSchedulerHook`` steps."""

    def __init__(self, owner: StagedUnfreezeHook, call: Callable[[], None]) -> None:
        self.owner, self._call = owner, call

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Call it around schedulers by iteration."""
        self._call()

    def after_train_epoch(self, runner: Runner) -> None:
        """Call it around schedulers by epoch."""
        self._call()

    def after_val_epoch(self, runner: Runner, metrics: object = None) -> None:
        """Call it around schedulers by score."""
        self._call()


def _drop_gradients_of_frozen(optimizer: Optimizer, *_: Any) -> None:
    """Let the optimizer pass frozen parameters by: it does for None alone, while zeros decay and keep their momentum.

    At the last moment: a stage may begin within a cycle of accumulation, and DistributedDataParallel ends the run if a
    gradient that it saw in the cycle is gone when it reduces.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not parameter.requires_grad:
                parameter.grad = None


def _is_frozen(norm: _BatchNorm) -> bool:
    return not any(parameter.requires_grad for parameter in norm.parameters())


def _param_groups(runner: Runner) -> list[dict[str, Any]]:
    groups = cast("Any", runner.optim_wrapper).param_groups
    # An OptimWrapperDict has a list of groups for each of its optimizers.
    return list(chain.from_iterable(cast("Iterable[Any]", groups.values()))) if isinstance(groups, dict) else groups


def _optimizers(runner: Runner) -> list[Optimizer]:
    wrapper = cast("Any", runner.optim_wrapper)
    wrappers = wrapper.optim_wrappers.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [each.optimizer for each in wrappers]


def _unwrapped(runner: Runner) -> nn.Module:
    return cast("nn.Module", runner.model.module if is_model_wrapper(runner.model) else runner.model)
