"""Stop before NaN or infinite numbers reach the weights, and say where they come from."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from hocp_mm.engine.finite import first_non_finite, non_finite, seems_finite
from hocp_mm.engine.hooks.batch_account import Call, bad_prediction, loss_terms
from hocp_mm.engine.hooks.fault_account import (
    account_of_fault,
    account_of_predictions,
    kinds_of,
    moment,
    rate,
    wrappers_of,
)
from hocp_mm.engine.hooks.rank_pruning import optimizers_of
from hocp_mm.engine.wrapping import unwrapped
from hocp_mm.errors import DivergedError
from hocp_mm.registry import HOOKS
from hocp_mm.system.refusals import visible

_WHERE = "NonFiniteHook"
_SCALER_PATIENCE = 50
"""Steps in a row that loss scaling may skip: halved so often, its scale is below any use."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Look at every loss and every gradient before the optimizer does, and end the run at the first that is not finite.

    Weights are not touched by such a batch. The error names the iteration, the term of the loss, the first bad layer
    (the batch runs again for that), and the files of the batch; where pixels are not finite already, the very clips
    and frames. Weights are looked at before training and after each update, which can overflow on its own.

    Predictions of validation and test are looked at, too: weights can be finite and useless.

    A step that loss scaling (float16) skips because gradients overflowed is no fault; a loss that is not finite is
    one, and so are 50 skipped steps in a row, after which training would go on for ever without an update.

    In several processes all see a fault of one of them, stop or skip together and print the same text.

    Args:
        skip: How many updates may be skipped in the whole run, in a row or not; the next fault ends it. A skipped
            update leaves no trace in weights, buffers (running statistics of norms) and the optimizer's state; with
            gradient accumulation all batches of the update are lost. Schedules go on. Each one is told in the log. A
            resumed run counts from 0. Weights that are not finite end the run in any case.

    Attributes:
        skipped: Updates skipped so far.

    Raises:
        ValueError: If ``skip`` is no integer from 0.
    """

    # Before all that copies, averages, prunes or saves weights.
    priority = "HIGHEST"

    def __init__(self, skip: int = 0) -> None:
        if isinstance(skip, bool) or not isinstance(skip, int) or skip < 0:
            raise ValueError(f"{_WHERE}: skip must be an integer from 0, got {skip!r}.")
        self.skip, self.skipped = skip, 0
        self._handles: list[Any] = []
        self._watch: Any = None
        self._calls: list[Call] = []  # of this iteration
        self._seen = -1  # how many of them were looked at
        self._updated: list[Tensor] = []  # whether the weights are finite after each step of this iteration
        self._stepped = self._dropped = False  # a step was taken in this iteration; the update is given up
        self._kept: list[tuple[Tensor, Tensor]] | None = None  # buffers as they were before this update
        self._scaler_skips = 0

    def before_train(self, runner: Runner) -> None:
        """Refuse weights that are not finite, and begin to watch the optimizers.

        Raises:
            DivergedError: If a weight is not finite.
        """
        name = first_non_finite(unwrapped(runner.model))
        if name is not None:
            raise DivergedError(
                f"{_WHERE}: weights must be finite before training, got NaN or inf in {name} "
                f"(load_from={runner._load_from}, resume={runner._resume})."
            )
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.skipped, self._scaler_skips, self._dropped, self._kept = 0, 0, False, None
        for optimizer in optimizers_of(runner):
            self._handles.append(optimizer.register_step_pre_hook(partial(self._before_step, runner)))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Watch one iteration."""
        if self.skip and self._kept is None:
            self._kept = [(buffer, buffer.clone()) for buffer in unwrapped(runner.model).buffers()]
        self._calls, self._seen, self._updated, self._stepped = [], -1, [], False
        self._unwatch()  # what an iteration that failed left behind
        # No longer than this: a copy of the model must not take the hook along.
        self._watch = unwrapped(runner.model).register_forward_hook(self._note, with_kwargs=True)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Look at what no step has looked at, at the new weights, and put buffers back where an update was given up.

        Raises:
            DivergedError: If the updated weights are not finite.
        """
        self._unwatch()
        if not self._calls and isinstance(outputs, Mapping):  # a `train_step` that does not call the model
            self._calls = [Call((), {}, {name: term.detach() for name, term in loss_terms(outputs).items()})]
        scaled = any(_scales(wrapper) for wrapper in wrappers_of(runner))
        if not self._dropped and self._seen < len(self._calls):
            self._look(runner, [] if scaled else optimizers_of(runner))
        if self._updated and not all(torch.stack([flag.cpu() for flag in self._updated]).tolist()):
            name = first_non_finite(unwrapped(runner.model))
            if name is not None:
                raise DivergedError(
                    f"{_WHERE}: weights must be finite, got NaN or inf in {name} after the update of "
                    f"{moment(runner)}, whose gradients were finite; lower the learning rate (now {rate(runner)})."
                )
        ended = all(wrapper.should_update() for wrapper in wrappers_of(runner) if hasattr(wrapper, "should_update"))
        if scaled and ended and not self._dropped:
            self._scaler_skips = 0 if self._stepped else self._scaler_skips + 1
            if self._scaler_skips == _SCALER_PATIENCE:
                self._scaler_skips = 0
                self._fault(runner, self._calls[-1:], "gradient", f"{_SCALER_PATIENCE} overflows of loss scaling")
        if self._dropped:
            for buffer, before in self._kept or []:
                buffer.copy_(before)
        if ended:
            self._dropped, self._kept = False, None
        self._calls = []

    def after_train(self, runner: Runner) -> None:
        """Let go of the optimizers, and say what was lost."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self.skipped:
            runner.logger.warning(f"{_WHERE}: {self.skipped} updates were skipped in this run (at most {self.skip}).")

    def before_val(self, runner: Runner) -> None:
        """Watch predictions, during validation and test."""
        self._unwatch()
        self._watch = unwrapped(runner.model).register_forward_hook(partial(self._judge, runner), with_kwargs=True)

    def after_val(self, runner: Runner) -> None:
        """Watch no longer."""
        self._unwatch()

    before_test, after_test = before_val, after_val

    def _judge(
        self, runner: Runner, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        """End a validation whose predictions are not finite."""
        if bad_prediction(output) is not None:
            self._unwatch()  # the batch runs again
            raise DivergedError(f"{_WHERE}: {account_of_predictions(runner, Call(args, kwargs, {}), output)}.")

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.remove()
        self._watch = None

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        if kwargs.get("mode") == "loss" or any(isinstance(value, str) and value == "loss" for value in args):
            terms = {name: term.detach() for name, term in loss_terms(output).items()}
            self._calls.append(Call(args, dict(kwargs), terms))

    def _before_step(self, runner: Runner, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Look at gradients at the last moment; without them the optimizer passes its parameters by."""
        # A fused optimizer is called by loss scaling in any case, and skips the step itself; others are not called.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and float(found_inf) > 0:
            return
        self._stepped = True
        if not self._dropped:
            self._look(runner, [optimizer])
        if self._dropped:
            for parameter in _parameters(optimizer):
                parameter.grad = None

    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        if not self._dropped:
            self._updated.append(seems_finite(_parameters(optimizer)))

    def _look(self, runner: Runner, optimizers: list[Optimizer]) -> None:
        """Look at the losses of this iteration and the gradients of some optimizers; waits for the device once."""
        self._seen = len(self._calls)
        grads = [p.grad for o in optimizers for p in _parameters(o) if p.grad is not None and p.requires_grad]
        terms = [term for call in self._calls for term in call.terms.values()]
        flags = [~term.isfinite().all() for term in terms]
        device = (grads or terms or [torch.zeros(())])[0].device
        loss = torch.stack([flag.to(device) for flag in flags]).any() if flags else torch.zeros((), device=device)
        bad = torch.stack([loss.float(), (~seems_finite(grads)).to(device).float()])
        dist.all_reduce(bad, "max")
        loss_is_bad, gradient_is_bad = bad.tolist()
        if gradient_is_bad and not loss_is_bad:  # or only very large
            sure = torch.tensor(float(any(non_finite(grad) for grad in grads)), device=device)
            dist.all_reduce(sure, "max")
            gradient_is_bad = float(sure)
        if loss_is_bad:
            self._fault(runner, self._calls, "loss")
        elif gradient_is_bad:
            self._fault(runner, self._calls[-1:], "gradient", kinds_of(grads))

    def _fault(self, runner: Runner, calls: list[Call], kind: str, got: str = "") -> None:
        """Give the update up, or end the run; the same in all processes."""
        self._dropped = True
        self._unwatch()  # the batch runs again
        beyond_help, text = account_of_fault(runner, calls, kind, got)
        advice = f"lower the learning rate (now {rate(runner)}) or mend the data"
        if beyond_help or self.skipped >= self.skip:
            before = f"; {self.skipped} updates were skipped before" if self.skipped else ""
            hint = "" if beyond_help else f", or let updates be skipped (default_hooks.guard.skip={self.skip + 1})"
            raise DivergedError(f"{_WHERE}: {text}{before}; {advice}{hint}.")
        self.skipped += 1
        told = f"{_WHERE}: {text}; update skipped ({self.skipped} of at most {self.skip})."
        runner.logger.warning(visible(told))  # names of files


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _scales(wrapper: Any) -> bool:
    """Whether an optimizer's wrapper scales the loss: its gradients overflow by design."""
    return any(isinstance(value, torch.amp.GradScaler) for value in vars(wrapper).values())
