"""Measure what the convolutions of a network see, for fits that minimise the error of their output.

With ``M = E[x x^T]`` over batch and positions, an error E of the weights changes the output of a layer by
``sum_taps E_tap M E_tap^T`` in expected square, if neighbouring positions are uncorrelated. That is what
``decompose(…, input_moment=M)`` minimises.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.layers.modes import evaluating
from hocp_mm.layers.selection import Patterns, is_factorizable, name_matcher

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def input_moments(model: nn.Module, batches: Iterable[Any], layers: Patterns | None = None) -> dict[str, Tensor]:
    """Average the second moment of the input channels of convolutions over a few batches.

    The model runs in eval mode without gradients; its modes are restored, also after an error.

    Args:
        model: The network with its dense convolutions still in place.
        batches: What the model is called with: a tensor, a tuple or list of positional arguments, or a mapping of
            keyword arguments. Some hundred images are plenty: every position counts as a sample.
        layers: Patterns on layer names: which ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d`` to measure. None takes
            those of :func:`hocp_mm.layers.selection.is_factorizable`.

    Returns:
        Layer name to moment, ``[groups, in / groups, in / groups]`` in float64, on the device of the input. Padding
        is not counted.

    Raises:
        ValueError: If no convolution is selected, ``batches`` is empty, or a selected layer never runs.
    """
    wanted = None if layers is None else name_matcher(layers)
    selected = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _CONVOLUTIONS) and (is_factorizable(module) if wanted is None else wanted(name))
    }
    if not selected:
        raise ValueError(f"input_moments: layers must match a convolution, got {layers!r} (none matches).")
    recorders = {name: _Recorder(conv) for name, conv in selected.items()}
    handles = [conv.register_forward_pre_hook(recorders[name], with_kwargs=True) for name, conv in selected.items()]
    batch_count = 0
    try:
        with torch.no_grad(), evaluating(model):
            for batch in batches:
                _call(model, batch)
                batch_count += 1
    finally:
        for handle in handles:
            handle.remove()
    if not batch_count:
        raise ValueError("input_moments: batches must hold at least one batch, got none.")
    idle = [name for name, recorder in recorders.items() if not recorder.samples]
    if idle:
        raise ValueError(f"input_moments: every selected layer must run, got no input for {', '.join(idle)}.")
    return {name: recorder.mean() for name, recorder in recorders.items()}


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)


class _Recorder:
    """Forward pre-hook that sums ``x x^T`` over batch and positions, per group."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        self._groups, self._batched_ndim = conv.groups, conv.weight.ndim
        self._total: Tensor | None = None
        self.samples = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add one input, ``[batch, in, *sizes]`` or ``[in, *sizes]``."""
        x: Tensor = args[0] if args else kwargs["input"]
        if x.ndim < self._batched_ndim:
            x = x.unsqueeze(0)
        by_channel = x.transpose(0, 1).flatten(1).unflatten(0, (self._groups, -1)).double()  # [groups, in/g, samples]
        total = by_channel @ by_channel.mT
        self._total = total if self._total is None else self._total + total
        self.samples += by_channel.shape[-1]

    def mean(self) -> Tensor:
        assert self._total is not None
        return self._total / self.samples
