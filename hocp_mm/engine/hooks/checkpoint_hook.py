"""Checkpoints that are there whole or not at all, and that a run goes on from exactly."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from hocp_mm.checkpoints import check_optimizer_state, check_scheduler_state
from hocp_mm.checkpoints.training_state import BEST_FILE
from hocp_mm.compat.checkpoint_loading import FILE_ENTRIES, RECORDED
from hocp_mm.engine.finite import first_non_finite
from hocp_mm.engine.resuming import INTERRUPTED, LAST
from hocp_mm.engine.wrapping import unwrapped
from hocp_mm.errors import DivergedError, HOCPError
from hocp_mm.registry import HOOKS
from hocp_mm.system.files import remove_drafts, replacing, write_text

STATE = "run_state"
"""Where a checkpoint holds what `hocp_mm.engine.loops` needs to go on."""


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's ``CheckpointHook``, with its arguments, for folders on this machine's disks.

    - A file is written as a draft and renamed, and what it replaces (the last but n, the best so far) goes only
      afterwards. Whatever ends the process leaves a checkpoint to go on from.
    - A checkpoint holds the state of all processes (`hocp_mm.engine.run_state`), and whether its epoch has been
      validated: it is written before validation and again after it.
    - Names of files in a checkpoint count in this run's own folder only. What a copied or foreign run recorded is
      neither deleted nor taken for the best so far.
    - Weights that are not finite are never written.
    - On SIGTERM `interrupted.pth` holds the middle of the epoch, until the next checkpoint is there.

    Args:
        **kwargs: As MMEngine's.
    """

    _state: dict[str, Any] | None = None
    _last_saved: dict[str, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Take up the files of the run that goes on; leave everything else alone."""
        recorded = _take_file_names(runner)
        kept = runner.message_hub.runtime_info.pop("keep_ckpt_ids", [])
        super().before_train(runner)
        self._last_saved = None
        if not isinstance(self.file_backend, LocalBackend):
            raise HOCPError(f"CheckpointHook: out_dir must be a folder on a disk of this machine, got {self.out_dir}.")
        folder = Path(self.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if is_main_process():
            remove_drafts(folder)
        for key in getattr(self, "key_indicators", ()):
            self._adopt_best(runner, key, recorded)
        loop: Any = runner.train_loop
        loop.save_now = lambda: self._save_interrupted(runner)
        source = Path(str(runner._load_from))
        if runner._resume and source.resolve().parent == folder.resolve():  # it may still have to be validated
            self._last_saved = {"name": source.name, "meta": {"epoch": runner.epoch, "iter": runner.iter}}
            loop.saved = runner.iter
            if self.max_keep_ckpts > 0:  # another run's numbers would be those of files that it did not write
                self.keep_ckpt_ids.extend(kept)
                runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Hand the state of an interrupted run to the loop, if the run is resumed and the state is that of this one."""
        if not runner._resume:
            return
        if "optimizer" in checkpoint:
            check_optimizer_state(checkpoint["optimizer"], runner.optim_wrapper, str(runner._load_from))
        if "param_schedulers" in checkpoint and runner.param_schedulers is not None:
            check_scheduler_state(checkpoint["param_schedulers"], runner.param_schedulers, str(runner._load_from))
        loop: Any = runner.train_loop
        if hasattr(loop, "load_state_dict") and STATE in checkpoint:
            loop.load_state_dict(checkpoint[STATE])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Put the state of all processes into a checkpoint that is to be resumed."""
        if self._state is not None:
            checkpoint[STATE] = self._state

    def after_validation(self, runner: Runner) -> None:
        """Write the checkpoint of this epoch again: it is validated now, and knows which is the best so far."""
        if self._last_saved is not None and self._last_saved["meta"]["iter"] == runner.iter:
            self._write(runner, **self._last_saved)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Write a checkpoint, then remove the oldest ones beyond ``max_keep_ckpts``."""
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [known for known in self.keep_ckpt_ids if known != step] + [step]
            outdated, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept)
            runner.message_hub.update_info("keep_ckpt_ids", kept)
        self._last_saved = {"name": self.filename_tmpl.format(step), "meta": meta}
        self._write(runner, **self._last_saved)
        if is_main_process():
            for old in (*map(self.filename_tmpl.format, outdated), INTERRUPTED):
                (Path(self.out_dir) / old).unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Write the best checkpoint if this one is, then remove the one before."""
        if not self.save_best:
            return
        if "auto" in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        step = runner.epoch if self.by_epoch else runner.iter
        for key in self.key_indicators:
            if key not in metrics:
                raise HOCPError(
                    f"CheckpointHook: save_best must be a score of the evaluator, got {key!r} (there are "
                    f"{', '.join(metrics)})."
                )
            score, info = metrics[key], runner.message_hub.runtime_info
            if score is None or (
                self._info("best_score", key) in info
                and not self.is_better_than[key](score, info[self._info("best_score", key)])
            ):
                continue
            if math.isnan(score):  # nothing would ever be better
                runner.logger.warning(f"CheckpointHook: {key} is NaN and counts for nothing.")
                continue
            name = f"best_{key}_{self.filename_tmpl.format(step)}".replace("/", "_")
            before = self._best(key)
            runner.message_hub.update_info(self._info("best_score", key), score)
            runner.message_hub.update_info(self._info("best_ckpt", key), str(Path(self.out_dir) / name))
            self._set_best(key, name)
            meta = {"epoch": runner.epoch, "iter": runner.iter}
            self._write(runner, name, meta, save_optimizer=False, save_param_scheduler=False)
            if before is not None and before != name and is_main_process():
                (Path(self.out_dir) / before).unlink(missing_ok=True)
            runner.logger.info(f"The best checkpoint with {score:0.4f} {key} is saved to {name}.")

    def _save_interrupted(self, runner: Runner) -> None:
        """Write what SIGTERM interrupts, unless the last checkpoint is of this very moment."""
        if self._last_saved is None or self._last_saved["meta"]["iter"] != runner.iter:
            self._write(runner, INTERRUPTED, {"epoch": runner.epoch, "iter": runner.iter})

    def _write(
        self,
        runner: Runner,
        name: str,
        meta: dict[str, Any],
        save_optimizer: bool | None = None,
        save_param_scheduler: bool | None = None,
    ) -> None:
        """Write one file; all processes must call this. One to go on from becomes the last checkpoint."""
        if (broken := first_non_finite(unwrapped(runner.model))) is not None:
            raise DivergedError(f"{name}: weights must be finite to be saved, got NaN or infinity in {broken}.")
        resumable = save_optimizer is None
        loop: Any = runner.train_loop
        self._state = loop.state_dict() if resumable and hasattr(loop, "state_dict") else None
        path = Path(self.out_dir) / name
        # All processes call it: where parameters lie in shards, they are gathered there.
        with replacing(path, follow=False) if is_main_process() else contextlib.nullcontext(path) as draft:
            runner.save_checkpoint(
                str(draft.parent),
                draft.name,
                save_optimizer=self.save_optimizer if resumable else False,
                save_param_scheduler=self.save_param_scheduler if resumable else False,
                meta=dict(meta),
                by_epoch=self.by_epoch,
            )
        self._state = None
        if resumable:
            loop.saved, self.last_ckpt = meta["iter"], str(path)
            if is_main_process():
                write_text(Path(runner.work_dir) / LAST, str(path), follow=False)

    def _adopt_best(self, runner: Runner, key: str, recorded: Mapping[str, str]) -> None:
        """Take the best checkpoint of the interrupted run for this run's, if it lies in this run's folder."""
        name = recorded.get(self._info("best_ckpt", key))
        self._set_best(key, None)
        if name is not None and BEST_FILE.fullmatch(name) and (Path(self.out_dir) / name).is_file():
            self._set_best(key, name)
            runner.message_hub.update_info(self._info("best_ckpt", key), str(Path(self.out_dir) / name))
        elif (score := runner.message_hub.runtime_info.pop(self._info("best_score", key), None)) is not None:
            runner.logger.warning(
                f"CheckpointHook: the best checkpoint so far ({key} {score}) is not in {self.out_dir}, so the next "
                "validation gives the best one."
            )

    def _info(self, name: str, key: str) -> str:
        """Return MMEngine's name of an entry of its message hub."""
        return name if len(self.key_indicators) == 1 else f"{name}_{key}"

    def _best(self, key: str) -> str | None:
        path = self.best_ckpt_path if len(self.key_indicators) == 1 else self.best_ckpt_path_dict.get(key)
        return None if path is None else Path(path).name

    def _set_best(self, key: str, name: str | None) -> None:
        path = None if name is None else str(Path(self.out_dir) / name)
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[key] = path


def _take_file_names(runner: Runner) -> dict[str, str]:
    """Take the names of files out of what a checkpoint recorded, without their folders; leave nothing to trust."""
    info = runner.message_hub.runtime_info
    recorded: dict[str, str] = {}
    for key in [key for key in info if key.removeprefix(RECORDED).startswith(FILE_ENTRIES)]:
        value = info.pop(key)
        if isinstance(value, str) and Path(value).name:
            recorded[key.removeprefix(RECORDED)] = Path(value).name
    kept = info.get("keep_ckpt_ids", [])
    if not isinstance(kept, list) or not all(type(step) is int and step >= 0 for step in kept):
        del info["keep_ckpt_ids"]
    return recorded
