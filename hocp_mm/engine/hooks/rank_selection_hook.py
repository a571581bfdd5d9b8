"""Let ranks shrink while a network trains: a lasso on lambda, then physical pruning."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from hocp_mm.checkpoints import unwrap_state_dict
from hocp_mm.engine.hooks.rank_pruning import check_runner, match_, optimizers_of, prune_
from hocp_mm.engine.wrapping import unwrapped
from hocp_mm.errors import HOCPError
from hocp_mm.layers import normalize_factors_
from hocp_mm.layers.rank_selection import check_prunable, shrink_layer_
from hocp_mm.layers.selection import HOCPConv, Patterns, cp_layers, name_matcher
from hocp_mm.registry import HOOKS

_WHERE = "RankSelectionHook"
_RECORD = "rank_selection"
"""Where a checkpoint's ``meta`` says how far the selection had come."""
_LINES = 10
"""Progress lines in a run that counts iterations, where no epoch ends."""


@HOOKS.register_module()
class RankSelectionHook(Hook):
    """Shrink lambda by a lasso from ``begin`` to ``milestone``, then delete the components that are zero.

    After each step that the optimizer really takes (none in the middle of gradient accumulation, none that loss
    scaling skips), lambda moves towards zero by its own learning rate times ``gamma``, in units of the size of a
    component (:mod:`hocp_mm.layers.rank_selection`). At the milestone components are taken out of the parameters, of
    the optimizer's state and of the copies of ``EMAHook``, and training goes on. A lambda that is frozen, as in a stage
    of ``StagedUnfreezeHook``, does not shrink meanwhile.

    The milestone is reached when so many epochs are done; the checkpoint of that moment is a pruned one. Checkpoints
    say how far the selection is. With this hook a model takes the ranks of the checkpoint that it loads or resumes
    from.

    Args:
        gamma: Strength of the lasso, above 0.
        milestone: Epochs (or iterations) after which to prune.
        begin: Epochs (or iterations) before the lasso begins.
        by_epoch: Count epochs; False counts iterations.
        threshold: In [0, 1): a component goes if its strength is at most this share of its layer's strongest; 0
            keeps the function.
        min_rank: Components that each layer keeps at least.
        layers: Patterns on layer names; None takes every HO-CP layer.

    Raises:
        ValueError: If a number is out of range, or a pattern is no regular expression.
    """

    # before_run: ahead of hooks that freeze parameters. after_load_checkpoint: ahead of EMAHook, which loads its copy
    # there. Pruning: ahead of CheckpointHook.
    priority = "VERY_HIGH"

    def __init__(
        self,
        gamma: float,
        milestone: int,
        begin: int = 0,
        by_epoch: bool = True,
        threshold: float = 0.0,
        min_rank: int = 1,
        layers: Patterns | None = None,
    ) -> None:
        _check("gamma", gamma, (int, float), lambda x: 0 < x < math.inf, "above 0 and finite")
        _check("begin", begin, int, lambda x: x >= 0, "an integer from 0")
        _check("milestone", milestone, int, lambda x: x > begin, f"an integer above begin={begin}")
        _check("threshold", threshold, (int, float), lambda x: 0 <= x < 1, "in [0, 1)")
        _check("min_rank", min_rank, int, lambda x: x >= 1, "an integer from 1")
        self.gamma, self.milestone, self.begin, self.by_epoch = gamma, milestone, begin, by_epoch
        self.threshold, self.min_rank = threshold, min_rank
        self.layers = layers if layers is None or isinstance(layers, str) else list(layers)
        try:
            name_matcher(self.layers or "")
        except ValueError as error:
            raise ValueError(f"{_WHERE}: layers must be regular expressions, got {layers!r} ({error}).") from error
        self._model: nn.Module | None = None
        self._wrapped: list[nn.Parameter] = []
        self._loaded: Mapping[str, Any] = {}
        self._selected: dict[str, HOCPConv] = {}
        self._handles: list[Any] = []
        self._known: set[torch.optim.Optimizer] = set()
        self._steps, self._pruned = 0, False

    def before_run(self, runner: Runner) -> None:
        """Note which parameters the distributed wrapper knows: those that trained when it was made."""
        model = unwrapped(runner.model)
        if self._model is not model:  # a second run finds frozen what the stages of the first one froze
            self._model = model
            self._wrapped = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Give the model, and averages of it, the ranks of the checkpoint; its tensors are copied in next."""
        ranks = match_(runner, unwrap_state_dict(checkpoint, str(runner._load_from)), self._wrapped)
        if ranks:
            changes = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in ranks.items())
            runner.logger.info(f"{_WHERE}: layers take the ranks of the checkpoint: {changes}.")
        meta = checkpoint.get("meta")
        self._loaded = meta.get(_RECORD, {}) if isinstance(meta, Mapping) else {}

    def before_train(self, runner: Runner) -> None:
        """Check that the selection can work, and go on where a resumed run stopped."""
        self._check_milestone(runner)
        check_runner(runner, self.layers, _WHERE)
        model = unwrapped(runner.model)
        self._selected = dict(cp_layers(model, self.layers, where=_WHERE))
        resumed = runner.iter > 0  # else weights alone were loaded, and their selection begins anew
        self._steps = int(self._loaded.get("steps", 0)) if resumed else 0
        self._pruned = bool(self._loaded.get("pruned", False)) if resumed else False
        if not resumed:
            normalize_factors_(model, self.layers)
        elif not self._loaded:
            runner.logger.warning(
                f"{_WHERE}: resumed from a run without it; its first step normalises factors, and momentum refers to "
                "the values before."
            )
        self._release()
        for optimizer in optimizers_of(runner):
            self._handles.append(optimizer.register_step_post_hook(partial(self._after_step, runner)))
        done = self._done(runner)
        if not self._pruned and done >= self.milestone:
            self._prune(runner, done)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Prune at the milestone, where iterations are counted."""
        if self.by_epoch or self._pruned:
            return
        done = runner.iter + 1
        period = max(1, (self.milestone - self.begin) // _LINES)
        if (
            isinstance(runner.train_loop, IterBasedTrainLoop)
            and done > self.begin
            and (done - self.begin) % period == 0
        ):
            self._report_zeros(runner, done)
        if done >= self.milestone:
            self._prune(runner, done)

    def after_train_epoch(self, runner: Runner) -> None:
        """Say how many lambdas are zero, and prune at the milestone."""
        if self._pruned or isinstance(runner.train_loop, IterBasedTrainLoop):
            return
        done = runner.epoch + 1 if self.by_epoch else runner.iter
        if done > self.begin:
            self._report_zeros(runner, done)
        if self.by_epoch and done >= self.milestone:
            self._prune(runner, done)

    def after_train(self, runner: Runner) -> None:
        """Let go of the optimizers."""
        self._release()
        if not self._pruned:
            runner.logger.warning(
                f"{_WHERE}: training was stopped before {self._unit} {self.milestone}, so nothing was pruned."
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Note in the checkpoint how far the selection is."""
        checkpoint.setdefault("meta", {})[_RECORD] = {"steps": self._steps, "pruned": self._pruned}

    @property
    def _unit(self) -> str:
        return "epoch" if self.by_epoch else "iteration"

    def _done(self, runner: Runner) -> int:
        """Return the epochs or iterations that are over, inside one as between two."""
        return runner.epoch if self.by_epoch else runner.iter

    def _check_milestone(self, runner: Runner) -> None:
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(f"{_WHERE}: an IterBasedTrainLoop counts iterations, got by_epoch=True.")
        end = runner.max_epochs if self.by_epoch else runner.max_iters
        if self.milestone > end:
            raise ValueError(
                f"{_WHERE}: milestone must be at most the end of training, {self._unit} {end}, got {self.milestone}."
            )

    def _after_step(self, runner: Runner, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        """Shrink what an optimizer has just trained; called inside of its ``step``."""
        if self._pruned or not self.begin <= self._done(runner) < self.milestone:
            return
        # A fused optimizer is called by loss scaling in any case, and skips the step itself; others are not called.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and float(found_inf) > 0:
            return
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        # Without a gradient the optimizer has passed lambda by: it is frozen, or NonFiniteHook has dropped the update.
        trained = [x for x in self._selected.values() if x.weights.requires_grad and x.weights.grad is not None]
        trained = [layer for layer in trained if id(layer.weights) in rates]
        if trained and optimizer not in self._known:
            check_prunable(unwrapped(runner.model), self.layers, [optimizer])  # now it has a state
            self._known.add(optimizer)
        for layer in trained:
            shrink_layer_(layer, float(rates[id(layer.weights)]) * self.gamma)
        self._steps += bool(trained)

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._known.clear()

    def _report_zeros(self, runner: Runner, done: int) -> None:
        zeros = _zeros(self._selected)
        total = sum(layer.rank for layer in self._selected.values())
        runner.logger.info(
            f"{_WHERE}: after {self._unit} {done}, {sum(zeros.values())} of {total} lambdas are zero, in "
            f"{sum(count > 0 for count in zeros.values())} of {len(zeros)} layers."
        )

    def _prune(self, runner: Runner, done: int) -> None:
        if not self._steps:
            raise HOCPError(
                f"{_WHERE}: lambda must train between {self._unit} {self.begin} and {self.milestone}, got no step: it "
                "was frozen, or the hook was not there (move the milestone behind the stage that freezes lambda)."
            )
        dead = [name for name, count in _zeros(self._selected).items() if count == self._selected[name].rank]
        before = {name: layer.rank for name, layer in self._selected.items()}
        account = prune_(runner, self.threshold, self.min_rank, self.layers, self._wrapped)
        self._pruned = True
        runner.logger.info(f"{_WHERE}: after {self._unit} {done}, {account}")
        if before == {name: layer.rank for name, layer in self._selected.items()}:
            runner.logger.warning(f"{_WHERE}: no component was weak enough to go; gamma is too small.")
        if dead:
            runner.logger.warning(
                f"{_WHERE}: all lambdas of {', '.join(dead)} are zero, which leaves the bias alone; gamma is too large "
                "there (patterns in layers can leave such layers out)."
            )


def _zeros(layers: Mapping[str, HOCPConv]) -> dict[str, int]:
    """Count the lambdas that are zero."""
    counts = torch.stack([(layer.weights == 0).sum().cpu() for layer in layers.values()])
    return dict(zip(layers, counts.tolist(), strict=True))


def _check(name: str, value: Any, kinds: Any, holds: Callable[[Any], bool], rule: str) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds) or not holds(value):
        raise ValueError(f"{_WHERE}: {name} must be {rule}, got {value!r}.")
