"""From a config to a runner that can only fail for reasons nobody could know before.

mmengine builds the training set when training starts and the others when they are first used. Here every data set is
built before the first iteration.
"""

import ast
import copy
import difflib
import gc
import inspect
import io
import json
import logging
import re
import time
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.registry import DATASETS, RUNNERS, DefaultScope

from hocp_mm.compat import init_distributed
from hocp_mm.engine.resuming import find_checkpoint, read_training
from hocp_mm.engine.sampling import SeededDataset
from hocp_mm.errors import HOCPError
from hocp_mm.functional.choice import allow_measuring
from hocp_mm.launch.config import SPLITS, few, is_type, require_file
from hocp_mm.system.files import replacing, require_writable_file
from hocp_mm.system.parallel import is_first_process
from hocp_mm.system.refusals import one_line

if TYPE_CHECKING:
    from mmengine.runner import Runner

_MOST_TEXT = 2**20  # characters of a recorded config that are compared
_OF_A_RUN = {"launcher", "work_dir"}  # what every run writes into its config
_YAML_NAME, _YAML_REMARK = re.compile(r"^(\w+):", re.MULTILINE), re.compile(r"^(?:[^'\"\n]*\s)?#", re.MULTILINE)


def build_datasets(cfg: Config) -> dict[str, Any]:
    """Build the data set of every data loader in the config; wrong or missing data ends here.

    Args:
        cfg: Config with ``{train,val,test}_dataloader``, each absent, None or a dict.

    Returns:
        Data sets by split, for the loaders that exist. Equal configs share one data set.

    Raises:
        HOCPError: If data sets that are joined number their expressions differently.
    """
    built: list[tuple[Any, Any]] = []
    datasets: dict[str, Any] = {}
    for split in SPLITS:
        loader = cfg.get(f"{split}_dataloader")
        if loader is None:
            continue
        known = [dataset for config, dataset in built if config == loader["dataset"]]
        datasets[split] = known[0] if known else _build_dataset(loader["dataset"], cfg.get("default_scope"))
        _require_one_vocabulary(split, datasets[split])
        built.append((loader["dataset"], datasets[split]))
    return datasets


def _build_dataset(config: Any, scope: str | None) -> Any:
    with DefaultScope.overwrite_default_scope(scope):
        dataset = DATASETS.build(copy.deepcopy(config))
    if hasattr(dataset, "full_init"):  # mmengine's lazy data sets read their files here
        dataset.full_init()
    return dataset


def _require_one_vocabulary(split: str, dataset: Any) -> None:
    """Refuse joined data sets in which one number means two expressions."""
    names = {tuple(own) for part in _parts(dataset) if (own := getattr(part, "facts", {}).get("expressions"))}
    if len(names) > 1:
        told = " and ".join(", ".join(own) for own in sorted(names)[:2])
        raise HOCPError(f"config: {split}_dataloader: joined data sets must have the same expressions, got {told}.")


def _parts(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside of wrappers."""
    inner = [*getattr(dataset, "datasets", ()), *([dataset.dataset] if hasattr(dataset, "dataset") else [])]
    for part in inner:
        yield from _parts(part)
    if not inner:
        yield dataset


def make_runner(cfg: Config, datasets: Mapping[str, Any]) -> "Runner":
    """Build the runner over data sets that exist already; the model is built here, nothing runs yet.

    Args:
        cfg: Complete config, with ``work_dir`` and ``launcher``. Not changed. With a seed, the forms of HO-CP layers
            are chosen by rule from now on, so that the run can be repeated.
        datasets: What `build_datasets` returned.

    Returns:
        The runner. Processes started by a launcher talk over gloo where there is no CUDA.

    Raises:
        HOCPError: If ``runner_type`` names no runner, or ``work_dir`` holds a config of the same name that is no copy
            of an earlier run.
    """
    from mmengine.runner import Runner  # here, where it costs inference nothing

    cfg = copy.deepcopy(cfg)
    use_own_parts(cfg)
    if cfg.filename is not None and is_first_process():
        kept = Path(cfg["work_dir"]) / Path(cfg.filename).name  # MMEngine writes the config there, through a link, too
        if kept.is_symlink():
            kept.unlink()
        require_writable_file(kept, "work_dir")
        if kept.exists() and not _is_dump(kept):
            raise HOCPError(
                f"work_dir: the copy of the config must not replace one written by hand, got {kept} (name another one)."
            )
        _remove_links_to_come(Path(cfg["work_dir"]))
    allow_measuring((cfg.get("randomness") or {}).get("seed") is None)
    init_distributed(cfg.get("launcher", "none"), cfg)
    runner_class = RUNNERS.get(cfg["runner_type"]) if "runner_type" in cfg else Runner
    if runner_class is None:
        raise HOCPError(f"config: runner_type must be a registered runner, got {cfg['runner_type']!r}.")
    accepted = inspect.signature(Runner.__init__).parameters
    arguments = {name: cfg.get(name) for name in accepted if name != "cfg" and name in cfg}
    for split, dataset in datasets.items():
        # The config keeps the description, for the copy in work_dir; the runner gets the object.
        loader = dict(copy.deepcopy(cfg[f"{split}_dataloader"]).items())
        # Memory is pinned for a GPU; without one PyTorch would only warn, once for every loader.
        pinned = bool(loader.get("pin_memory")) and torch.cuda.is_available()
        drawn = SeededDataset(dataset) if split == "train" else dataset
        arguments[f"{split}_dataloader"] = loader | {"dataset": drawn, "pin_memory": pinned}
    with mock.patch.object(runner_class, "dump_config", _dump_config):
        return runner_class(**arguments, cfg=cfg)


@master_only
def _dump_config(runner: "Runner") -> None:
    """Write the copy of the config whole or not at all: one that a kill cut would be taken for a user's own."""
    filename = runner.cfg.filename
    name = f"{runner.timestamp}.py" if filename is None else Path(filename).name
    with replacing(Path(runner.work_dir) / name, follow=False) as draft:
        runner.cfg.dump(draft)


def _is_dump(file: Path) -> bool:
    """Tell whether a config was written at the start of a run: plain values without a remark, in MMEngine's order."""
    try:
        text = file.read_text(encoding="utf-8")
        if not text.strip():  # of a run of before, which was killed while it wrote
            return True
        if file.suffix == ".json":
            return "\n" not in text and json.loads(text).keys() >= _OF_A_RUN
        if file.suffix == ".py":
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            parts = ast.parse(text).body
            remarks = any(token.type == tokenize.COMMENT for token in tokens)
            remarks = remarks or not all(isinstance(part, ast.Assign) for part in parts)
            names = [ast.unparse(part).partition(" = ")[0] for part in parts]
        else:
            remarks, names = _YAML_REMARK.search(text) is not None, _YAML_NAME.findall(text)
    except (OSError, ValueError, AttributeError, SyntaxError, RecursionError, tokenize.TokenError):
        return False
    return not remarks and "_base_" not in names and set(names) >= _OF_A_RUN and names == sorted(names)


def _remove_links_to_come(work_dir: Path) -> None:
    """Remove links that lie where MMEngine is going to write the log: a folder named after the time, and in it."""
    now = time.strftime("%Y%m%d_%H%M%S")
    for folder in work_dir.glob("*_*"):
        if re.fullmatch(r"\d{8}_\d{6}", folder.name) and folder.name >= now:
            for place in (folder, *folder.rglob("*")):
                if place.is_symlink():
                    place.unlink()


def use_own_parts(cfg: Config) -> None:
    """Put the parts of this package in the place of MMEngine's of the same name, in place.

    Checkpoints that are whole, runs that go on exactly and samples whose random numbers are their own are promised for
    every config, whichever scope it takes its names from.

    Args:
        cfg: The config; parts that are not MMEngine's stay.
    """

    def is_theirs(kind: Any, name: str) -> bool:
        path = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}"
        return path == name or (path.startswith("mmengine.") and path.endswith(f".{name}"))

    hooks = cfg.get("default_hooks") or {}
    checkpoint = hooks.get("checkpoint")
    if checkpoint and is_theirs(checkpoint.get("type", "CheckpointHook"), "CheckpointHook"):
        checkpoint["type"] = "hocp_mm.CheckpointHook"
    loop = cfg.get("train_cfg")
    if loop:
        by_epoch = loop.pop("by_epoch", True) if "type" not in loop else None
        kind = loop.setdefault("type", "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop")
        for name in ("EpochBasedTrainLoop", "IterBasedTrainLoop"):
            if is_theirs(kind, name):
                loop["type"] = f"hocp_mm.{name}"
    loader = cfg.get("train_dataloader")
    if (
        loader
        and isinstance(sampler := loader.get("sampler"), dict)
        and not is_type(sampler["type"], "NumberedSampler")
    ):
        loader["sampler"] = {"type": "hocp_mm.NumberedSampler", "sampler": sampler}


def leave_distributed(together: bool = True) -> None:
    """End the process group, if there is one, with no wrapper of a model left.

    Left to the exit of the interpreter, threads of the group now and then abort a process that has ended well.

    Args:
        together: Wait for all processes; not after an error, of which the others may know nothing.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        if together:
            torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def resume_path(cfg: Config) -> Path | None:
    """Return the checkpoint that training will resume from, or None for a fresh start.

    Args:
        cfg: Config with ``resume``, ``load_from`` and ``work_dir``. A run without a seed takes that of the checkpoint.

    Returns:
        The file; with ``resume`` alone the newest one in ``work_dir`` that can be read, if any.

    Raises:
        MissingDataError: If a named file does not exist.
        CheckpointError: If it cannot be resumed from.
    """
    if not cfg.get("resume"):
        return None
    named = cfg.get("load_from")
    path = require_file(named, "--resume") if named else find_checkpoint(cfg["work_dir"])
    if path is None:
        return None
    meta = read_training(path)["meta"]
    randomness = cfg.setdefault("randomness", {})
    if randomness.get("seed") is None and type(meta.get("seed")) is int:
        randomness["seed"] = meta["seed"]
    if differing := _differences(meta.get("cfg"), cfg):
        print_log(
            f"resume: the config is another than the one that {path} records: {one_line(few(differing))}",
            logger="current",
            level=logging.WARNING,
        )
    return path


def _differences(recorded: Any, cfg: Config) -> list[str]:
    """Compare the text of a recorded config, which is not executed, with a config, line by line."""
    if not isinstance(recorded, str):
        return []
    ours, theirs = (
        [line for line in text.splitlines() if not line.startswith(("load_from", "resume", "work_dir", "launcher"))]
        for text in (cfg.pretty_text, recorded[:_MOST_TEXT])
    )
    changes = difflib.unified_diff(theirs, ours, lineterm="", n=0)
    return [line for line in changes if line[:1] in "+-" and line[:3] not in ("+++", "---")]
