"""What of a config mmengine takes without a word, and then trains not at all or on nonsense."""

import importlib.util
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from hocp_mm.errors import HOCPError
from hocp_mm.system.refusals import LONGEST_VALUE, shorten

_Check = Callable[[Any], bool]
_SEEDS = 2**32


def check_config(cfg: Mapping[str, Any], task: Literal["train", "test"]) -> None:
    """Refuse values that no part of a run can mean, before anything is built.

    Args:
        cfg: The config.
        task: What it is needed for.

    Raises:
        HOCPError: If a value is of the wrong kind or out of its range; the text names the key.
    """
    for key, rule, value in _faults(dict(cfg.items()), task):  # mmengine's Config is no Mapping
        raise HOCPError(f"config: {key} must be {rule}, got {shorten(repr(value), LONGEST_VALUE)}.")


def _faults(cfg: Mapping[str, Any], task: str) -> Iterator[tuple[str, str, Any]]:
    for key in _NEEDED[task]:
        if not _is_dict(cfg.get(key)):
            yield key, "a dict", cfg.get(key)
    for key, (check, rule) in _VALUES.items():
        for name, value in _values(cfg, key.split(".")):
            if not check(value):
                yield name, rule, value
    for key in _PARTS:
        for name, value in _values(cfg, key.split(".")):
            if not (_is_part(value) or (value is None and key in _NO_PART)):
                yield name, "a dict with a type", value
    for split in ("val", "test"):
        three = [f"{split}_{name}" for name in ("dataloader", "cfg", "evaluator")]
        missing = [key for key in three if cfg.get(key) is None]
        if 0 < len(missing) < len(three):
            yield f"{missing[0]}", f"given where one of {', '.join(three)} is", None


def _values(cfg: Any, words: Sequence[str], at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values under a key, in which ``*`` stands for every entry, and which a list may hold or not."""
    if not words:
        yield at, cfg
        return
    entries: dict[str, Any] = {}
    if isinstance(cfg, Mapping):
        entries = dict(cfg.items()) if words[0] == "*" else {words[0]: cfg[words[0]]} if words[0] in cfg else {}
    elif words[0] == "*" and isinstance(cfg, list | tuple):
        entries = {str(index): value for index, value in enumerate(cfg)}
    for name, value in entries.items():
        yield from _values(value, words[1:], f"{at}.{name}" if at else name)


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _whole(low: int, high: int | None = None) -> _Check:
    return lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value < high)
    )


def _number(above: float | None = None, low: float | None = None) -> _Check:
    return lambda value: (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (above is None or value > above)
        and (low is None or value >= low)
    )


def _or(other: Any, check: _Check) -> _Check:
    """Allow one more value; ``True`` is no 1."""
    return lambda value: (type(value) is type(other) and value == other) or check(value)


def _is_part(value: Any) -> bool:
    return _is_dict(value) and (isinstance(value.get("type"), str) or callable(value.get("type")))


def _is_optimizer(value: Any) -> bool:
    """Tell whether an optimizer's type exists; mmengine would look for its options in None."""
    from mmengine.optim import OPTIMIZERS  # here, where it costs no other check a second

    return not isinstance(value, str) or OPTIMIZERS.get(value) is not None


def _is_scope(value: Any) -> bool:
    """Tell whether a default scope is a package: mmengine only warns, and looks names up elsewhere."""
    try:
        return isinstance(value, str) and importlib.util.find_spec(value) is not None
    except (ValueError, ImportError):
        return False


def _is_level(value: Any) -> bool:
    return isinstance(logging.getLevelName(value), int) if isinstance(value, str) else _whole(0)(value)


_AT_LEAST_1 = (_whole(1), "a whole number above 0")
_LENGTH = (_whole(1, 2**31), "a whole number from 1 to 2147483647")
_LOADER = {
    "": (_or(None, _is_dict), "a dict or None"),
    ".dataset.pipeline": (_is_list, "a list"),
    ".batch_size": _AT_LEAST_1,
    ".num_workers": (_whole(0), "a whole number, 0 or above"),
    ".prefetch_factor": (_or(None, _whole(1)), "a whole number above 0, or None"),
    ".timeout": (_number(low=0), "a finite number, 0 or above"),
    ".persistent_workers": (_is_bool, "True or False"),
    ".drop_last": (_is_bool, "True or False"),
}
_NEEDED = {
    "train": ("model", "train_dataloader", "train_cfg", "optim_wrapper"),
    "test": ("model", "test_dataloader", "test_cfg"),
}
_VALUES: dict[str, tuple[_Check, str]] = {
    "train_cfg.by_epoch": (_is_bool, "True or False"),
    "train_cfg.max_epochs": _LENGTH,
    "train_cfg.max_iters": _LENGTH,
    "train_cfg.val_interval": _AT_LEAST_1,
    "train_cfg.val_begin": (_whole(0), "a whole number, 0 or above"),
    **{f"{split}_dataloader{key}": rule for split in ("train", "val", "test") for key, rule in _LOADER.items()},
    "optim_wrapper.accumulative_counts": _AT_LEAST_1,
    "optim_wrapper.clip_grad": (_or(None, _is_dict), "a dict or None"),
    "optim_wrapper.clip_grad.max_norm": (_number(above=0), "a finite number above 0"),
    "optim_wrapper.optimizer.type": (_is_optimizer, "the name of a registered optimizer"),
    "optim_wrapper.optimizer.lr": (_number(low=0), "a finite number, 0 or above"),
    "optim_wrapper.optimizer.weight_decay": (_number(low=0), "a finite number, 0 or above"),
    **{
        f"param_scheduler{at}.{key}": rule
        for at in ("", ".*")
        for key, rule in {
            "begin": (_whole(0), "a whole number, 0 or above"),
            "end": (_or(None, _whole(1)), "a whole number above 0, or None"),
            "T_max": (_or(None, _whole(1)), "a whole number above 0, or None"),
            "step_size": _AT_LEAST_1,
            "by_epoch": (_is_bool, "True or False"),
        }.items()
    },
    "model.test_cfg.flip": (_is_bool, "True or False"),
    "auto_scale_lr": (_or(None, _is_dict), "a dict or None"),
    "auto_scale_lr.base_batch_size": _AT_LEAST_1,
    "default_hooks": (_or(None, _is_dict), "a dict or None"),
    "default_hooks.checkpoint.interval": (_or(-1, _whole(1)), "a whole number above 0, or -1 for never"),
    "default_hooks.checkpoint.max_keep_ckpts": (_or(-1, _whole(1)), "a whole number above 0, or -1 for all"),
    "default_hooks.logger.interval": _AT_LEAST_1,
    "custom_hooks": (_or(None, _is_list), "a list or None"),
    "custom_hooks.*.source": (_or(None, _is_text), "a text"),
    "custom_hooks.*.seed": (_or(None, _whole(0, _SEEDS)), f"a whole number from 0 to {_SEEDS - 1}, or None"),
    "custom_hooks.*.by_epoch": (_is_bool, "True or False"),
    "find_unused_parameters": (_is_bool, "True or False"),
    "log_level": (_is_level, "a level of Python's logging, such as INFO"),
    "default_scope": (_or(None, _is_scope), "the name of an installed package"),
    "randomness": (_or(None, _is_dict), "a dict or None"),
    "randomness.seed": (_or(None, _whole(0, _SEEDS)), f"a whole number from 0 to {_SEEDS - 1}, or None"),
    "env_cfg": (_or(None, _is_dict), "a dict or None"),
    "log_processor.window_size": _AT_LEAST_1,
    "load_from": (_or(None, _is_text), "the name of a file, or None"),
    "resume": (_or(None, _is_bool), "True or False"),
    "work_dir": (_is_text, "the name of a folder"),
}
_PARTS = (
    "model",
    "model.backbone",
    "model.neck",
    "model.head",
    "optim_wrapper.optimizer",
    "default_hooks.*",
    "custom_hooks.*",
    "visualizer",
    *(f"{split}_dataloader.dataset" for split in ("train", "val", "test")),
    *(f"{split}_dataloader.dataset.pipeline.*" for split in ("train", "val", "test")),
)
"""Objects that are built by their type."""
_NO_PART = ("model.neck", "model.head", "default_hooks.*", "visualizer")
"""Those that may be None."""
