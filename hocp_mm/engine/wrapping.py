"""The wrapper that distributed training puts around a model."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

from torch import nn

if TYPE_CHECKING:
    from mmengine.runner import Runner


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the bare model inside a distributed wrapper, or the model itself.

    Args:
        model: Model, wrapped or not.

    Returns:
        The bare model.
    """
    from mmengine.model import is_model_wrapper  # here, where it costs no error about a file a second

    return cast("nn.Module", model.module if is_model_wrapper(model) else model)


def rewrap_(runner: "Runner", trained: Collection[nn.Parameter] = ()) -> None:
    """Make the wrapper of a runner's model anew, after shapes of parameters changed; without a wrapper, do nothing.

    ``DistributedDataParallel`` records shapes when it is made, and sums the gradients of those parameters alone that
    train at that moment: what is frozen then and thawed later would drift apart between the processes, silently.

    Args:
        runner: The runner; ``model`` is replaced. All processes must call this at the same time.
        trained: Parameters whose gradients the new wrapper must know, besides those that train now.
    """
    model = unwrapped(runner.model)
    if model is runner.model:
        return
    training = runner.model.training
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    # The old wrapper goes first: its hooks on gradients go with it.
    runner.model = model
    try:
        for parameter in trained:
            parameter.requires_grad_(True)
        wrapped = cast("Any", runner).wrap_model(runner.cfg.get("model_wrapper_cfg"), model)
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
    # Not wrapper.train(), which would reach norms that are kept in evaluation mode.
    wrapped.training = training
    runner.model = wrapped
