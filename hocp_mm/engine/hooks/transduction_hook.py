"""Start a video network from an image network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from hocp_mm.checkpoints import LoadReport, load_image_weights_, read_checkpoint, unwrap_state_dict
from hocp_mm.errors import CheckpointError, MissingDataError
from hocp_mm.registry import HOOKS


@HOOKS.register_module()
class TransductionHook(Hook):
    """Fill the network with 2-D weights before training: decompose dense kernels, keep temporal factors at their delta.

    Runs once before training starts, on rank 0, and broadcasts the result. Does nothing when the run resumes or
    loads a checkpoint (``load_from``), which then holds everything.

    Args:
        source: ``'timm'`` for the pretrained weights of the backbone's timm model, or a file: timm weights
            (``.safetensors``, ``.pth``) for the backbone alone, or the checkpoint of a static stage for the whole
            recogniser (its names begin with ``backbone.``).
        seed: Of the decompositions.
        allow_missing: Load what fits instead of refusing an incomplete transfer.

    Attributes:
        report: The account of the transfer, on rank 0 and after it happened.
    """

    # Before EMAHook copies the model.
    priority = "HIGH"

    def __init__(self, source: str, seed: int = 0, allow_missing: bool = False) -> None:
        if source != "timm" and not Path(source).is_file():
            raise MissingDataError(
                f"TransductionHook: source must be 'timm' or a file, got '{source}' (train the static stage first, "
                "or name its checkpoint with --static-checkpoint)."
            )
        self.source, self.seed, self.allow_missing = source, seed, allow_missing
        self.report: LoadReport | None = None
        self._done = False

    def before_run(self, runner: Runner) -> None:
        """Load the weights, if this run trains from the start."""
        if self._done or not isinstance(runner._train_loop, BaseLoop):  # a test or validation run
            return
        self._done = True
        if runner._resume or runner._load_from is not None:
            runner.logger.info("TransductionHook: skipped, the run starts from a checkpoint.")
            return
        model = cast("nn.Module", runner.model.module if is_model_wrapper(runner.model) else runner.model)
        failure: CheckpointError | None = None
        if dist.is_main_process():
            try:
                self.report = self.load(model, runner.logger.info)
                runner.logger.info(str(self.report))
            except CheckpointError as error:
                failure = error
        _raise_everywhere(failure)
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)

    def load(self, model: nn.Module, progress: Callable[[str], None] | None = None) -> LoadReport:
        """Fill a model from the source.

        Args:
            model: A recogniser with a ``backbone``; changed.
            progress: Called with a line of text for each decomposed layer.

        Returns:
            The account of the transfer.

        Raises:
            CheckpointError: If the weights cannot be read or do not fit.
        """
        options: dict[str, Any] = {"seed": self.seed, "allow_missing": self.allow_missing, "progress": progress}
        if self.source != "timm":
            state = unwrap_state_dict(read_checkpoint(Path(self.source)))
            if any(key.startswith("backbone.") for key in state):
                return load_image_weights_(model, state, source=self.source, **options)
        backbone = cast("Any", model.backbone)
        return backbone.load_image_weights(self.source, **options)


def _raise_everywhere(failure: CheckpointError | None) -> None:
    """Let no rank wait for a broadcast that rank 0 will never send."""
    message = [None if failure is None else str(failure)]
    dist.broadcast_object_list(message, src=0)
    if message[0] is not None:
        raise failure or CheckpointError(message[0])
