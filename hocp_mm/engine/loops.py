"""Train loops of runs that may end at any moment and go on as if they had not.

They are MMEngine's, but for four things: a resumed run takes up the random numbers where they were (`run_state`); a
validation that the interrupted run still owed is made up for; validation does not move the random numbers of training;
and SIGTERM, with which cluster schedulers take a machine back, ends the run with a checkpoint after the iteration at
hand, from which it goes on in the middle of the epoch.
"""

import itertools
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, NoReturn, cast

import torch
from mmengine import dist
from mmengine.runner import EpochBasedTrainLoop as MMEngineEpochLoop
from mmengine.runner import IterBasedTrainLoop as MMEngineIterLoop
from torch import nn
from torch.utils.data import DataLoader

from hocp_mm.checkpoints.training_state import LARGEST_COUNT
from hocp_mm.engine import run_state
from hocp_mm.engine.sampling import preserved_random_numbers
from hocp_mm.errors import CheckpointError
from hocp_mm.registry import LOOPS

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as the shell writes it."""


class _GoesOn:
    """What both loops share."""

    _runner: Any
    val_begin: int
    val_interval: int
    validated = 0
    """Iterations that were done when the last validation ended."""
    saved = 0
    """Iterations that were done when the last checkpoint to go on from was written."""
    _taken_up: Mapping[str, Any] | None = None
    _told_to_end = False
    _may_leave = False  # whatever is done now, nothing is lost

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must know of the loop and all processes, which call this at the same time."""
        return {**run_state.capture(self._runner), "validated": self.validated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember the state of the run that is resumed, for the moment when training begins.

        Args:
            state: What `state_dict` returned.
        """
        self._taken_up = state

    def save_now(self) -> None:
        """Write a checkpoint of this very moment; who writes checkpoints sets it."""
        self._runner.logger.warning("SIGTERM: nobody writes checkpoints in this run (hocp_mm.CheckpointHook does).")

    def _take_up(self) -> None:
        """Go on where the checkpoint was made; called when all hooks are ready to train."""
        if self._taken_up is not None:
            run_state.restore(self._runner, self._taken_up)
            self.validated = self._count("validated")

    def _count(self, name: str) -> int:
        """Return a number of the state that is taken up, 0 where it has none."""
        value = (self._taken_up or {}).get(name, 0)
        if type(value) is not int or not 0 <= value < LARGEST_COUNT:
            raise CheckpointError(
                f"resume: {self._runner._load_from}: {name} must be a whole number from 0, got {value!r:.100}."
            )
        return value

    def _validate(self, done: int, last: bool) -> None:
        """Validate if it is due after ``done`` epochs (or iterations) and has not been done."""
        due = done >= self.val_begin and (done % self.val_interval == 0 or last)
        if self._runner.val_loop is None or not due or self.validated == self._runner.iter:
            return
        self._end_if_told()
        self._may_leave = self.saved == self._runner.iter
        with preserved_random_numbers():
            self._runner.val_loop.run()
        self._may_leave = False
        self.validated = self._runner.iter
        for hook in self._runner.hooks:
            if hasattr(hook, "after_validation"):
                hook.after_validation(self._runner)

    def _end_if_told(self) -> None:
        """End the run with a checkpoint if any process was told to end."""
        told = self._told_to_end
        if dist.get_world_size() > 1:
            flag = torch.tensor(int(told), device=dist.get_comm_device(dist.get_default_group()))
            dist.all_reduce(flag, op="max")
            told = bool(flag.item())
        if told:
            self.save_now()
            dist.barrier()  # no process may end, and take others along, before the file is written
            self._leave()

    def _leave(self) -> NoReturn:
        self._runner.logger.warning("SIGTERM: the run ends here; the same command with --resume goes on.")
        raise SystemExit(TERMINATED)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data loader's worker, which inherits the handler
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        self._told_to_end = True  # once more says nothing new: srun and torchrun both pass it on
        if self._may_leave:
            self._leave()

    def _listen(self) -> Any:
        """Let SIGTERM be heard between iterations; return what it did before."""
        self._process = os.getpid()
        try:
            return signal.signal(signal.SIGTERM, self._heard)
        except ValueError:  # not the main thread
            return None


@LOOPS.register_module()
class EpochBasedTrainLoop(_GoesOn, MMEngineEpochLoop):
    """MMEngine's ``EpochBasedTrainLoop``, with its arguments, for runs that go on exactly."""

    _batches_done = 0

    def run(self) -> nn.Module:
        """Train.

        Returns:
            The model.
        """
        before = self._listen()
        try:
            self.runner.call_hook("before_train")
            self._take_up()
            while True:
                self._decide_current_val_interval()
                if self._epoch and not self._batches_done:
                    self._validate(self._epoch, last=self._epoch == self._max_epochs)
                if self._epoch >= self._max_epochs or self.stop_training:
                    break
                self.run_epoch()
            self.runner.call_hook("after_train")
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
        return self.runner.model

    def run_epoch(self) -> None:
        """Train for one epoch, or for the rest of one."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, batch in self._batches():
            self.run_iter(index, batch)
            self._batches_done = index + 1
            if self._batches_done < len(self.dataloader):
                self._end_if_told()
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self._batches_done = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the batches that are done of an epoch which is not over."""
        done = self._batches_done % len(self.dataloader)
        return {**super().state_dict(), "batches": done}

    def _take_up(self) -> None:
        super()._take_up()
        self._batches_done = self._count("batches")

    def _batches(self) -> Iterator[tuple[int, Any]]:
        """Yield numbers and batches from the first one that is not done."""
        done = self._batches_done
        with preserved_random_numbers():  # a loader draws a seed for its workers, once or in every epoch
            batches = iter(_without_the_first(self.dataloader, done) if done else self.dataloader)
        return zip(itertools.count(done), batches, strict=False)


@LOOPS.register_module()
class IterBasedTrainLoop(_GoesOn, MMEngineIterLoop):
    """MMEngine's ``IterBasedTrainLoop``, with its arguments, for runs that go on exactly."""

    def run(self) -> nn.Module:  # pyright: ignore[reportIncompatibleMethodOverride] - theirs returns it, too
        """Train.

        Returns:
            The model.
        """
        before = self._listen()
        try:
            self.runner.call_hook("before_train")
            self.runner.call_hook("before_train_epoch")
            if self._iter < self._max_iters:
                for _ in range(self._iter):  # what has been trained on already
                    next(self.dataloader_iterator)
            self._take_up()
            while True:
                self._decide_current_val_interval()
                if self._iter:
                    self._validate(self._iter, last=self._iter == self._max_iters)
                if self._iter >= self._max_iters or self.stop_training:
                    break
                self.runner.model.train()
                self.run_iter(next(self.dataloader_iterator))
                self._end_if_told()
            self.runner.call_hook("after_train_epoch")
            self.runner.call_hook("after_train")
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
        return self.runner.model


def _without_the_first(loader: DataLoader, done: int) -> Iterable[Any]:
    """Return a loader of the batches of an epoch behind the first ``done``, which are not loaded."""
    batches = list(itertools.islice(iter(cast("Any", loader.batch_sampler)), done, None))
    options: dict[str, Any] = {"prefetch_factor": loader.prefetch_factor} if loader.num_workers else {}
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        **options,
    )
