"""Whether a checkpoint can be resumed, told before anything is changed.

MMEngine's ``Runner.resume`` believes what it reads: it takes the epoch from ``meta``, runs ``meta['config']`` as a
program, deletes the file or folder that ``message_hub`` calls the best checkpoint so far, lets schedulers overwrite any
attribute, and hands the optimiser a state that fails in the middle, or at the first step. Here each of these is looked
at, in the forms that MMEngine saves.
"""

import math
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch

from hocp_mm.checkpoints._plain_data import echo, history_buffer
from hocp_mm.errors import CheckpointError

__all__ = ["check_optimizer_state", "check_scheduler_state", "check_training_state"]

LARGEST_COUNT = 1 << 53
LARGEST_STEP = 1 << 31  # of epochs and iterations; some parts count in 32 bits
LARGEST_NUMBER = 3e38  # of float32
MOST_KEPT = 1 << 12  # checkpoints
LARGEST_SEED = 1 << 32  # NumPy takes no more
# Options that optimisers have had from the beginning; torch fills in those that were added later.
OLD_OPTIONS = {"lr", "momentum", "dampening", "weight_decay", "nesterov", "betas", "eps", "alpha", "centered"}
# Entries that are as large as their parameter; those of Adafactor and L-BFGS are not.
LIKE_PARAMETER = {
    *("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg", "acc_delta", "sum"),
    *("exp_inf", "prev", "step_size", "ax"),
}
SCALER_NUMBERS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
BEST_FILE = re.compile(r"best_[^/\\]+\.pth")
PLAIN = (str, int, float, complex, bytes, type(None))

Source = str | PathLike[str]


class _Rules:
    """Words an error about one file."""

    def __init__(self, source: Source):
        self.source = source

    def expect(self, holds: bool, where: str, rule: str, value: object = ...) -> None:
        """Raise unless a rule holds."""
        if not holds:
            got = "" if value is ... else f", got {echo(value, 100)}"
            raise CheckpointError(f"{self.source}: cannot be resumed, {where} must {rule}{got}.")

    def mapping(self, value: object, where: str, keys: Sequence[str] = ()) -> Any:
        """Return a dict that has all of the keys."""
        self.expect(isinstance(value, dict), where, "be a dict", value)
        for key in keys:
            self.expect(key in value, where, f"have {key!r}")  # pyright: ignore[reportOperatorIssue]
        return value

    def sequence(self, value: object, where: str) -> Any:
        """Return a list or tuple."""
        self.expect(isinstance(value, list | tuple), where, "be a list", value)
        return value

    def count(self, value: object, where: str, largest: int = LARGEST_COUNT) -> None:
        """Expect a whole number."""
        right = type(value) is int and 0 <= value < largest
        self.expect(right, where, f"be a whole number from 0 below {largest}", value)

    def number(self, value: object, where: str) -> None:
        """Expect a finite number."""
        plain = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        self.expect(plain and abs(value) < 1e300, where, "be a finite number", value)  # pyright: ignore[reportArgumentType, reportOperatorIssue]


def check_training_state(checkpoint: Mapping[str, Any], source: Source) -> None:
    """Make sure that MMEngine's ``Runner`` can resume from a checkpoint, as far as it alone can tell.

    Args:
        checkpoint: What :func:`hocp_mm.checkpoints.read_checkpoint` returned.
        source: File name for the error text.

    Raises:
        CheckpointError: If ``meta``, ``state_dict``, ``message_hub``, ``optimizer``, ``param_schedulers`` or
            ``ema_state_dict`` is not what ``Runner.save_checkpoint`` writes; the last three may be absent.
    """
    rules = _Rules(source)
    rules.mapping(checkpoint, "the checkpoint", ("meta", "state_dict", "message_hub"))
    _check_meta(rules, checkpoint["meta"])
    _check_weights(rules, checkpoint["state_dict"], "state_dict")
    _check_message_hub(rules, checkpoint["message_hub"])
    if "ema_state_dict" in checkpoint:
        _check_weights(rules, checkpoint["ema_state_dict"], "ema_state_dict")
    if "optimizer" in checkpoint:
        for where, state in _optimizers(rules, checkpoint["optimizer"]):
            _check_optimizer(rules, state, where)
    if "param_schedulers" in checkpoint:
        for where, states in _schedulers(rules, checkpoint["param_schedulers"]):
            for number, state in enumerate(states):
                _check_scheduler(rules, state, f"{where}[{number}]")


def check_optimizer_state(state: Any, optimizer: Any, source: Source) -> None:
    """Compare the saved state of optimisers with those that shall take it over.

    Args:
        state: ``checkpoint['optimizer']``.
        optimizer: A ``torch.optim.Optimizer``, or MMEngine's ``OptimWrapper`` or ``OptimWrapperDict`` around some.
        source: File name for the error text.

    Raises:
        CheckpointError: If the number or names of optimisers, groups, parameters or options differ, a tensor has
            another shape than its parameter (single numbers have none), or a number is not finite.
    """
    rules = _Rules(source)
    saved = dict(_optimizers(rules, state))
    named = getattr(optimizer, "optim_wrappers", None)
    live = {"optimizer": optimizer} if named is None else {f"optimizer.{name}": one for name, one in named.items()}
    same = saved.keys() == live.keys()
    rules.expect(same, "optimizer", f"be of {', '.join(live)}", ", ".join(map(str, saved)))
    for where, wrapper in live.items():
        _check_optimizer(rules, saved[where], where)
        _compare(rules, saved[where], getattr(wrapper, "optimizer", wrapper), where)


def check_scheduler_state(states: Any, schedulers: Any, source: Source) -> None:
    """Compare the saved states of parameter schedulers with those that shall take them over.

    Args:
        states: ``checkpoint['param_schedulers']``.
        schedulers: ``runner.param_schedulers`` after they were built: a list, or a dict of lists.
        source: File name for the error text.

    Raises:
        CheckpointError: If the number or names of schedulers differ, or one has other attributes or of other kinds.
    """
    rules = _Rules(source)
    saved = dict(_schedulers(rules, states))
    name = "param_schedulers"
    live = (
        {f"{name}.{key}": some for key, some in schedulers.items()}
        if isinstance(schedulers, dict)
        else {name: schedulers}
    )
    rules.expect(saved.keys() == live.keys(), name, f"be of {', '.join(live)}", ", ".join(map(str, saved)))
    for where, some in live.items():
        rules.expect(len(saved[where]) == len(some), where, f"be {len(some)} schedulers", len(saved[where]))
        for number, (state, scheduler) in enumerate(zip(saved[where], some, strict=True)):
            here = f"{where}[{number}]"
            _check_scheduler(rules, state, here)
            own = scheduler.state_dict()
            rules.expect(state.keys() == own.keys(), here, f"be of a {type(scheduler).__name__}", ", ".join(state))
            for key, value in own.items():
                alike = _kind(state[key]) == _kind(value) or value is None or state[key] is None
                rules.expect(alike, f"{here}.{key}", f"be a {_kind(value).__name__}", state[key])


def _kind(value: object) -> type:
    """Return a type that stands for all that are as good."""
    if isinstance(value, list | tuple):
        return tuple
    one = isinstance(value, torch.Tensor) and value.numel() == 1
    return float if one or (isinstance(value, int | float | np.number) and not isinstance(value, bool)) else type(value)


def _check_meta(rules: _Rules, meta: Any) -> None:
    rules.mapping(meta, "meta", ("epoch", "iter"))
    rules.count(meta["epoch"], "meta.epoch", LARGEST_STEP)
    rules.count(meta["iter"], "meta.iter", LARGEST_STEP)
    if meta.get("seed") is not None:
        rules.count(meta["seed"], "meta.seed", LARGEST_SEED)
    # Runner.resume would run it; what MMEngine saves is called `cfg`.
    rules.expect("config" not in meta, "meta", "not have 'config', a program from the file")
    for key in ("cfg", "experiment_name", "time", "mmengine_version"):
        rules.expect(isinstance(meta.get(key, ""), str), f"meta.{key}", "be text", meta.get(key))


def _check_weights(rules: _Rules, state: Any, where: str) -> None:
    rules.mapping(state, where)
    for name, value in state.items():
        rules.expect(isinstance(name, str), where, "have text as names", name)
        plain = isinstance(value, torch.Tensor) and not value.is_meta
        right = plain or name.endswith("_extra_state")
        rules.expect(right, f"{where}[{echo(name, 100)!r}]", "be a tensor", value)
    versions = getattr(state, "_metadata", None)
    for name, entry in rules.mapping({} if versions is None else versions, f"{where}._metadata").items():
        right = isinstance(name, str) and isinstance(entry, dict)
        rules.expect(right, f"{where}._metadata", "be dicts by name", entry)
        rules.expect(entry.get("version") is None or type(entry["version"]) is int, f"{where}._metadata", "be versions")


def _check_message_hub(rules: _Rules, hub: Any) -> None:
    rules.mapping(hub, "message_hub", ("log_scalars", "runtime_info", "resumed_keys"))
    for part in ("log_scalars", "runtime_info", "resumed_keys"):
        names = rules.mapping(hub[part], f"message_hub.{part}")
        rules.expect(all(isinstance(name, str) for name in names), f"message_hub.{part}", "have text as names")
    for name, value in hub["log_scalars"].items():
        if isinstance(value, history_buffer()):  # MMEngine skips others
            _check_history(rules, vars(value), f"message_hub.log_scalars.{echo(name, 100)}")
    for name, value in hub["resumed_keys"].items():
        rules.expect(isinstance(value, bool), f"message_hub.resumed_keys.{echo(name, 100)}", "be True or False", value)
    info = hub["runtime_info"]
    for name, value in info.items():
        where = f"message_hub.runtime_info.{echo(name, 100)}"
        if name.startswith("best_score") and value is not None:
            number = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
            right = isinstance(number, int | float | np.number) and not math.isnan(number)
            rules.expect(right, where, "be a number", value)
        elif name.startswith("best_ckpt") and value is not None:
            # CheckpointHook removes this file or folder as soon as there is a better one.
            right = isinstance(value, str) and BEST_FILE.fullmatch(re.split(r"[/\\]", value)[-1])
            rules.expect(bool(right), where, "be the path of a best_*.pth", value)
        elif name == "keep_ckpt_ids":
            # Each becomes part of the name of a file that CheckpointHook removes.
            kept = rules.sequence(value, where)
            rules.expect(len(kept) <= MOST_KEPT, where, f"be at most {MOST_KEPT}", len(kept))
            for number in kept:
                rules.count(number, where)
        elif name in ("epoch", "iter", "max_epochs", "max_iters"):
            rules.count(value, where)


def _check_history(rules: _Rules, fields: Mapping[str, Any], where: str) -> None:
    values, counts = fields.get("_log_history"), fields.get("_count_history")
    for array in (values, counts):
        right = isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "fiu"
        rules.expect(right, where, "be a row of numbers", array)
    rules.expect(len(values) == len(counts), where, "have as many counts as values")  # pyright: ignore[reportArgumentType]
    rules.count(fields.get("max_length"), f"{where}.max_length")


def _optimizers(rules: _Rules, state: Any) -> list[tuple[str, Any]]:
    """Return the state of each optimiser by place: the only one, or those of an ``OptimWrapperDict``."""
    rules.mapping(state, "optimizer")
    if "param_groups" in state or "state" in state:
        return [("optimizer", state)]
    rules.expect(bool(state), "optimizer", "have 'param_groups'")
    for name, one in state.items():
        rules.expect(isinstance(name, str), "optimizer", "have text as names", name)
        rules.mapping(one, f"optimizer.{echo(name, 100)}", ("param_groups",))
    return [(f"optimizer.{name}", one) for name, one in state.items()]


def _check_optimizer(rules: _Rules, state: Any, where: str) -> None:
    rules.mapping(state, where, ("state", "param_groups"))
    rules.mapping(state["state"], f"{where}.state")
    seen: set[int] = set()
    groups = list(rules.sequence(state["param_groups"], f"{where}.param_groups"))
    for number, group in enumerate(groups):
        here = f"{where}.param_groups[{number}]"
        rules.mapping(group, here, ("params",))
        for index in rules.sequence(group["params"], f"{here}.params"):
            rules.count(index, f"{here}.params")
            rules.expect(index not in seen, f"{here}.params", "name each parameter once", index)
            seen.add(index)
        _check_options(rules, group, here)
    if state.get("base_param_settings") is not None:
        _check_options(rules, rules.mapping(state["base_param_settings"], f"{where}.base_param_settings"), where)
    if "loss_scaler" in state:
        scaler = rules.mapping(state["loss_scaler"], f"{where}.loss_scaler")
        for key in SCALER_NUMBERS if scaler else ():  # empty if it was disabled
            rules.number(scaler.get(key), f"{where}.loss_scaler.{key}")
    for index, entry in state["state"].items():
        here = f"{where}.state[{echo(index, 30)}]"
        rules.expect(type(index) is int and index in seen, here, "belong to a parameter of a group")
        for key, value in rules.mapping(entry, here).items():
            _check_value(rules, value, f"{here}.{echo(key, 50)}")


def _check_options(rules: _Rules, group: Mapping[Any, Any], where: str) -> None:
    for key, value in group.items():
        rules.expect(isinstance(key, str), where, "have text as names", key)
        if key not in ("params", "param_names"):
            _check_value(rules, value, f"{where}.{echo(key, 50)}")


def _check_value(rules: _Rules, value: Any, where: str) -> None:
    """Expect a tensor, something plain and finite, or a few of these."""
    if isinstance(value, float | np.floating):
        rules.expect(math.isfinite(value), where, "be finite", value)
    elif isinstance(value, torch.Tensor):
        rules.expect(not value.is_meta and value.layout == torch.strided, where, "be a plain tensor")
        rules.expect(value.ndim > 0 or bool(torch.isfinite(value)), where, "be finite")
    elif isinstance(value, list | tuple):
        for part in value:
            _check_value(rules, part, where)
    else:
        rules.expect(isinstance(value, (*PLAIN, dict, np.generic)), where, "be plain data", value)


def _compare(rules: _Rules, state: Any, optimizer: torch.optim.Optimizer, where: str) -> None:
    groups, saved = optimizer.param_groups, state["param_groups"]
    rules.expect(len(saved) == len(groups), f"{where}.param_groups", f"be {len(groups)}", len(saved))
    parameters: dict[int, torch.Tensor] = {}
    for number, (own, other) in enumerate(zip(groups, saved, strict=True)):
        here, count = f"{where}.param_groups[{number}]", len(own["params"])
        rules.expect(len(other["params"]) == count, f"{here}.params", f"be {count}", len(other["params"]))
        # torch takes the saved options as they are; each that an optimiser has is read in its step.
        for key in OLD_OPTIONS & optimizer.defaults.keys():
            rules.expect(key in other, here, f"have {key!r}, an option of {type(optimizer).__name__}")
            alike = _kind(other[key]) == _kind(own[key])
            rules.expect(alike, f"{here}.{key}", f"be a {_kind(own[key]).__name__}", other[key])
            _check_size(rules, other[key], own[key], f"{here}.{key}")
        # Both ask for entries that only their own states have.
        for key in {"amsgrad", "capturable"} & other.keys() & own.keys():
            rules.expect(other[key] == own[key], f"{here}.{key}", f"be {own[key]}", other[key])
        parameters |= dict(zip(other["params"], own["params"], strict=True))
    for index, entry in state["state"].items():
        for key, value in entry.items():
            if key in LIKE_PARAMETER and value is not None:
                rules.expect(isinstance(value, torch.Tensor), f"{where}.state[{index}].{key}", "be a tensor", value)
                shape, own = tuple(value.shape), tuple(parameters[index].shape)
                rules.expect(shape == own, f"{where}.state[{index}].{echo(key, 50)}", f"have shape {own}", str(shape))
                alike = value.is_complex() == parameters[index].is_complex()
                rules.expect(alike, f"{where}.state[{index}].{echo(key, 50)}", "be as real as it", str(value.dtype))
            elif key == "step":
                number = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
                right = isinstance(number, int | float) and 0 <= number < LARGEST_COUNT
                rules.expect(right, f"{where}.state[{index}].step", "be a number from 0", value)
    # An entry that one parameter has and another lacks ends as a KeyError at the first step.
    entries: dict[int, set[Any]] = {}
    for index, entry in state["state"].items():
        same = entries.setdefault(parameters[index].ndim, set(entry)) == set(entry)
        rules.expect(same, f"{where}.state[{index}]", "have the same entries as others have")


def _check_size(rules: _Rules, value: Any, own: Any, where: str) -> None:
    """Expect numbers that can be computed with: as many as an option has, and those that weigh averages below 1."""
    if isinstance(own, list | tuple):
        rules.expect(len(value) == len(own), where, f"be {len(own)} numbers", value)
        for part, one in zip(value, own, strict=True):
            rules.expect(
                (_kind(part) is float and 0 <= float(part) < 1) or part == one, where, "be from 0 below 1", part
            )
    elif _kind(value) is float:
        rules.expect(abs(float(value)) <= LARGEST_NUMBER, where, f"be at most {LARGEST_NUMBER:g}", value)


def _schedulers(rules: _Rules, states: Any) -> list[tuple[str, Any]]:
    name = "param_schedulers"
    if not isinstance(states, dict):
        return [(name, rules.sequence(states, name))]
    return [(f"{name}.{key}", rules.sequence(some, f"{name}.{echo(key, 100)}")) for key, some in states.items()]


def _check_scheduler(rules: _Rules, state: Any, where: str) -> None:
    for key, value in rules.mapping(state, where).items():
        # They become attributes: none may take the place of the optimiser or of a method.
        rules.expect(isinstance(key, str) and key not in ("optimizer", "step"), where, "be settings", key)
        if key not in ("best", "mode_worse"):  # infinite until there is a value
            _check_value(rules, value, f"{where}.{echo(key, 50)}")
    for key in ("last_step", "_global_step"):
        if state.get(key, -1) != -1:  # before the first
            rules.count(state[key], f"{where}.{key}")
