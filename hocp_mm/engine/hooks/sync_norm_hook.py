"""Batch norms over the whole batch, however many processes share it."""

from typing import cast

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from hocp_mm.layers.synced_norm import sync_norms_
from hocp_mm.registry import HOOKS


@HOOKS.register_module()
class SyncNormHook(Hook):
    """Let batch norms take their training statistics over the batches of all processes.

    N processes then train as one process with the N-fold batch does. Nothing changes in a run of one process, in
    evaluation, or in a norm that ``StagedUnfreezeHook`` keeps in evaluation mode. Use it instead of mmengine's
    ``sync_bn``, which needs a GPU and drops the activation inside timm's norms (see
    :mod:`hocp_mm.layers.synced_norm`).

    Attributes:
        synced: Names of the norms, once the run has begun in several processes.
    """

    # Before EMAHook copies the model.
    priority = "HIGH"

    def __init__(self) -> None:
        self.synced: list[str] = []

    def before_run(self, runner: Runner) -> None:
        """Switch the norms of a training run.

        Raises:
            ValueError: If the config has mmengine's ``sync_bn``, too.
        """
        if not isinstance(runner._train_loop, BaseLoop) or dist.get_world_size() == 1:
            return
        if runner.cfg.get("sync_bn") is not None:
            raise ValueError(
                f"SyncNormHook: the config must not have sync_bn, got {runner.cfg['sync_bn']!r} (the hook replaces it)."
            )
        self.synced = sync_norms_(cast("nn.Module", runner.model))
        runner.logger.info(
            f"SyncNormHook: {len(self.synced)} batch norms take statistics over {dist.get_world_size()} processes."
        )
