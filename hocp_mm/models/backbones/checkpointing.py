"""Gradient checkpointing of frame-folded networks.

What is computed again in the backward pass must see the clip that it saw before: the number of frames, which later
forward passes may have changed, and running statistics that are not updated a second time (PyTorch and timm update them
twice).

Under ``torch.compile`` a forward pass with another number of frames between a forward pass and its backward pass ends
in an error; one after the other works.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from hocp_mm.layers import FrameAxis

_HELD = "_momentum_outside_backward"


def enable_checkpointing_(net: nn.Module, name: str) -> None:
    """Let a timm network keep block inputs only, and compute the rest again in the backward pass.

    Args:
        net: The network; changed.
        name: Of the network, for errors.

    Raises:
        NotImplementedError: If timm cannot do so for this network.
    """
    network: Any = net
    try:
        network.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise NotImplementedError(
            f"TimmHOCPBackbone: grad_checkpointing must be supported by timm's network, got '{name}' ({error})."
        ) from error
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_hold_statistics)
            module.register_forward_hook(_release_statistics, always_call=True)


class _FramesInBackward(torch.autograd.Function):
    """The identity, whose backward pass, the first of its network, sets the number of frames again."""

    @staticmethod
    def forward(ctx: Any, axis: FrameAxis, *features: Tensor) -> tuple[Tensor, ...]:
        ctx.axis, ctx.clips, ctx.frames = axis, axis.clips, axis.length
        return tuple(feature.view_as(feature) for feature in features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        ctx.axis.clips, ctx.axis.length = ctx.clips, ctx.frames
        return (None, *gradients)


def remember_frames(axis: FrameAxis, features: list[Tensor]) -> list[Tensor]:
    """Return the features with the number of frames tied to their graph.

    Args:
        axis: What the layers of the network read.
        features: The last tensors of the network.

    Returns:
        The same values.
    """
    return list(_FramesInBackward.apply(axis, *features))  # type: ignore[no-untyped-call]


def _in_backward() -> bool:
    # What torch.utils.checkpoint asks, too. A forward pass that runs then is a repetition.
    return torch._C._current_graph_task_id() != -1


def _hold_statistics(norm: _BatchNorm, args: object) -> None:
    # Momentum 0, not track_running_stats: checkpointing wants the same operation with the same tensors.
    if _in_backward() and norm.training and norm.track_running_stats:
        norm.__dict__[_HELD] = norm.momentum
        norm.momentum = 0.0


def _release_statistics(norm: _BatchNorm, args: object, output: object) -> None:
    if _HELD in norm.__dict__:
        norm.momentum = norm.__dict__.pop(_HELD)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.sub_(1)
