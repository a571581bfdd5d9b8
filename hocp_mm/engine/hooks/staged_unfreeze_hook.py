"""Train a network in stages: temporal factors and head first, then everything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hocp_mm.layers import freeze_all_but_
from hocp_mm.registry import HOOKS

_LR_KEY = "stage_lr_mult"


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        begin: First epoch (or iteration) of the stage, from 0.
        train: ``'all'``, or patterns on parameter names; all other parameters are frozen.
        norm_eval: Keep the running statistics of the batch norms that the stage freezes (of all where it trains
            everything), and normalise with them.
        lr_mult: Factor on the scheduled learning rate of every group.
    """

    begin: int
    train: str | Sequence[str] = "all"
    norm_eval: bool = False
    lr_mult: float = 1.0


@HOOKS.register_module()
class StagedUnfreezeHook(Hook):
    """Freeze and unfreeze parameters by stage; safe on resume, since the stage follows from the epoch.

    The learning-rate factor in force is kept in the optimizer's parameter groups, and so in checkpoints: a resumed
    run neither forgets it nor applies it twice.

    Args:
        stages: Mappings with the fields of :class:`Stage`; the first begins at 0 and ``begin`` increases.
        by_epoch: Count epochs; False counts iterations.

    Raises:
        ValueError: If the stages do not begin at 0 or are not in order.
    """

    # After optimizers exist and checkpoints are loaded, before schedulers step.
    priority = "HIGH"

    def __init__(self, stages: Sequence[Mapping[str, object]], by_epoch: bool = True) -> None:
        self.stages = [Stage(**stage) for stage in stages]  # type: ignore[arg-type]
        begins = [stage.begin for stage in self.stages]
        if not begins or begins[0] != 0 or any(a >= b for a, b in pairwise(begins)):
            raise ValueError(f"StagedUnfreezeHook: stages must begin at 0 and increase, got {begins}.")
        self.by_epoch = by_epoch
        self._active: Stage | None = None

    def before_train(self, runner: Runner) -> None:
        """Enter the stage of a resumed run and check that every later one can work."""
        model = _unwrapped(runner)
        frozen_stages = [stage for stage in self.stages if stage.train != "all"]
        # Names that match nothing should end the run now, not at the epoch of their stage.
        for stage in frozen_stages:
            freeze_all_but_(model, stage.train)
        if (
            frozen_stages
            and is_model_wrapper(runner.model)
            and not getattr(runner.model, "find_unused_parameters", True)
        ):
            raise ValueError(
                "StagedUnfreezeHook: distributed training of frozen stages needs find_unused_parameters=True."
            )
        self._active = None
        self._enter(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Enter the stage of this epoch."""
        self._enter(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Enter the stage of this iteration, and keep norms in evaluation mode after ``model.train()``."""
        self._enter(runner)
        if self._active is not None and self._active.norm_eval:
            for module in runner.model.modules():
                if isinstance(module, _BatchNorm) and (self._active.train == "all" or _is_frozen(module)):
                    module.eval()

    def _enter(self, runner: Runner) -> None:
        progress = runner.epoch if self.by_epoch else runner.iter
        stage = [s for s in self.stages if s.begin <= progress][-1]
        if stage is self._active:
            return
        model = _unwrapped(runner)
        if stage.train == "all":
            model.requires_grad_(True)
        else:
            freeze_all_but_(model, stage.train)
        if self._active is not None and self._active.norm_eval:
            model.train()
        self._active = stage
        optim_wrapper = cast("OptimWrapper", runner.optim_wrapper)
        for group in optim_wrapper.param_groups:
            ratio = stage.lr_mult / group.get(_LR_KEY, 1.0)
            group["lr"] *= ratio
            if "initial_lr" in group:
                group["initial_lr"] *= ratio
            group[_LR_KEY] = stage.lr_mult
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        unit = "epoch" if self.by_epoch else "iteration"
        runner.logger.info(
            f"StagedUnfreezeHook: from {unit} {stage.begin} train {stage.train} ({trained:,} parameters), "
            f"learning rate x{stage.lr_mult:g}, norm statistics {'frozen' if stage.norm_eval else 'updated'}."
        )


def _is_frozen(norm: _BatchNorm) -> bool:
    return not any(parameter.requires_grad for parameter in norm.parameters())


def _unwrapped(runner: Runner) -> nn.Module:
    return cast("nn.Module", runner.model.module if is_model_wrapper(runner.model) else runner.model)
