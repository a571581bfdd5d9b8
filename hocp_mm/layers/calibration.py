"""Measure what the convolutions of a network see and what their errors do, for fits that keep the network's output.

With ``M = E[x x^T]`` of a layer's input over batch and positions, and ``H`` of the gradients of the network's output in
the layer's output, an error E of the weights changes the network's output, to first order and in expected square, by
``sum_taps trace(H E_tap M E_tap^T)``, if neighbouring positions are uncorrelated. That is what
``decompose(…, input_moment=M, output_moment=H)`` minimises. (Two Kronecker factors of a curvature, as in Martens and
Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", arXiv 1503.05671.)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.layers.modes import evaluating
from hocp_mm.layers.selection import Patterns, is_factorizable, name_matcher

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PROBES = 4  # random directions of the output per batch


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
    selected = _convolutions(model, layers, "input_moments")
    recorders = {name: _Recorder(conv) for name, conv in selected.items()}
    handles = [conv.register_forward_pre_hook(recorders[name], with_kwargs=True) for name, conv in selected.items()]
    batch_count = 0
    try:
        with torch.no_grad(), evaluating(model):
            for batch in batches:
                call(model, batch)
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


def output_moments(
    model: nn.Module, batches: Iterable[Any], layers: Patterns | None = None, *, seed: int = 0
) -> dict[str, Tensor]:
    """Measure what an error in the output of a convolution costs the output of the network.

    Gradients of random combinations of the network's outputs need no labels. Each tensor that the network returns
    counts in units of its own energy, all alike. The model runs in eval mode; neither its modes nor its gradients nor
    the global random state are changed.

    Args:
        model: The network with its dense convolutions still in place.
        batches: As for :func:`input_moments`. Floating-point tensors in what the model returns, however nested in
            tuples, lists and mappings, are its outputs.
        layers: Patterns on layer names, as for :func:`input_moments`.
        seed: Of the random combinations.

    Returns:
        Layer name to moment H, ``[groups, out / groups, out / groups]`` in float64, on the device of the output: with
        an error y of the layer's output, ``y^T H y``, averaged over batch and positions, is about the share of the
        network's output energy that is lost.

    Raises:
        ValueError: As :func:`input_moments` does, or if the model returns no tensor that depends on a layer.
    """
    selected = _convolutions(model, layers, "output_moments")
    generator = torch.Generator().manual_seed(seed)
    totals: dict[str, Tensor] = {}
    batch_count = 0
    for batch in batches:
        with torch.enable_grad(), evaluating(model), _outputs_of(selected) as met:
            outputs = [out for out in output_tensors(call(model, batch)) if out.requires_grad]
        if not outputs or not met:
            raise ValueError("output_moments: the model must return tensors made by its layers, got none.")
        names, seen = [name for name, _ in met], [out for _, out in met]
        for probe in range(_PROBES):
            signs = [torch.randint(0, 2, out.shape, generator=generator).to(out) * 2 - 1 for out in outputs]
            shares = [sign / (out.detach().norm() or 1.0) for sign, out in zip(signs, outputs, strict=True)]
            more = probe + 1 < _PROBES
            gradients = torch.autograd.grad(outputs, seen, shares, retain_graph=more, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    groups = selected[name].groups
                    g = _by_channel(gradient, selected[name].weight.ndim, groups)
                    totals[name] = totals.get(name, 0) + g @ g.mT / (_PROBES * len(outputs))
        batch_count += 1
    if not batch_count:
        raise ValueError("output_moments: batches must hold at least one batch, got none.")
    idle = [name for name in selected if name not in totals]
    if idle:
        raise ValueError(f"output_moments: every selected layer must act on the output, {', '.join(idle)} does not.")
    return {name: totals[name] / batch_count for name in selected}


def call(model: nn.Module, batch: Any) -> Any:
    """Run a network on a batch: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.

    Returns:
        What the network returns.
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def _convolutions(model: nn.Module, layers: Patterns | None, where: str) -> dict[str, Any]:
    wanted = None if layers is None else name_matcher(layers)
    selected = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _CONVOLUTIONS) and (is_factorizable(module) if wanted is None else wanted(name))
    }
    if not selected:
        raise ValueError(f"{where}: layers must match a convolution, got {layers!r} (none matches).")
    return selected


@contextmanager
def _outputs_of(layers: Mapping[str, nn.Module]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect the outputs of layers, each call's, as tensors that gradients can be taken in."""
    met: list[tuple[str, Tensor]] = []

    def hook_for(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor:
            met.append((name, output if output.requires_grad else output.requires_grad_()))
            return output.clone()  # what follows may work in place

        return hook

    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        yield met
    finally:
        for handle in handles:
            handle.remove()


def output_tensors(value: Any) -> Iterator[Tensor]:
    """Find the floating-point tensors in what a network returns.

    Yields:
        Those of tuples, lists and mappings, however nested, in order.
    """
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from output_tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from output_tensors(part)


def _by_channel(x: Tensor, batched_ndim: int, groups: int) -> Tensor:
    """Lay out ``[batch, channels, *sizes]``, or the same without batch, as ``[groups, channels / groups, samples]``."""
    x = x if x.ndim == batched_ndim else x.unsqueeze(0)
    return x.transpose(0, 1).flatten(1).unflatten(0, (groups, -1)).double()


class _Recorder:
    """Forward pre-hook that sums ``x x^T`` over batch and positions, per group."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        self._groups, self._batched_ndim = conv.groups, conv.weight.ndim
        self._total: Tensor | None = None
        self.samples = 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Add one input, ``[batch, in, *sizes]`` or ``[in, *sizes]``."""
        x: Tensor = args[0] if args else kwargs["input"]
        by_channel = _by_channel(x, self._batched_ndim, self._groups)
        total = by_channel @ by_channel.mT
        self._total = total if self._total is None else self._total + total
        self.samples += by_channel.shape[-1]

    def mean(self) -> Tensor:
        assert self._total is not None
        return self._total / self.samples
