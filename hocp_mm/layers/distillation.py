"""Train the HO-CP layers of a compressed network to follow the dense one, without labels."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.layers.calibration import call, output_tensors
from hocp_mm.layers.modes import evaluating
from hocp_mm.layers.selection import Patterns, cp_layers

_WARM_UP = 0.05  # of all steps


def distill_(
    model: nn.Module,
    dense: nn.Module,
    batches: Iterable[Any],
    *,
    steps: int,
    layers: Patterns | None = None,
    features: float = 1.0,
    rate: float = 1e-4,
    report: Callable[[int, float], None] | None = None,
) -> float:
    """Descend the difference between the outputs of two networks, and of their layers, by Adam.

    The loss is ``|y - y_dense|^2 / |y_dense|^2`` of every tensor that the networks return, on average, and ``features``
    times the mean of the same over the HO-CP layers. Norms keep their statistics (evaluation mode), and only HO-CP
    layers train. :func:`hocp_mm.layers.reconstruct_` first; this is the fine adjustment, of the layers to each other.

    Args:
        model: The compressed network; its HO-CP layers are changed.
        dense: The network that it was made from, with layers of the same names; not changed.
        batches: What both are called with, as for :func:`hocp_mm.layers.input_moments`. Iterated over and over, so a
            data loader that draws new variants of its pictures each time is welcome, and a generator is not enough.
        steps: Batches to train on.
        layers: Patterns on the names of the layers that train; None takes every HO-CP layer.
        features: Weight of the layers' outputs against that of the networks'.
        rate: Highest learning rate: of the first steps after a short rise; it falls to zero along a cosine. After
            :func:`hocp_mm.layers.reconstruct_` layers are where they should be: a rate of 1e-3 loses more on other
            pictures than it gains on these.
        report: Called with the step and its loss.

    Returns:
        Mean loss over the last tenth of the steps.

    Raises:
        ValueError: If no HO-CP layer is selected, ``steps`` is not positive, or ``batches`` runs out.
    """
    if steps < 1:
        raise ValueError(f"distill_: steps must be positive, got {steps}.")
    selected = dict(cp_layers(model, layers, where="distill_"))
    parameters = list({id(p): p for layer in selected.values() for p in layer.parameters()}.values())
    optimizer = torch.optim.Adam(parameters, rate, betas=(0.9, 0.99))
    last: list[float] = []
    with evaluating(model), evaluating(dense), _only_training(model, parameters), torch.enable_grad():
        for step, batch in enumerate(_repeated(batches, steps)):
            with torch.no_grad(), _outputs(dense, selected) as wanted:
                aims = list(output_tensors(call(dense, batch)))
            with _outputs(model, selected) as met:
                outputs = list(output_tensors(call(model, batch)))
            loss = _distance(outputs, aims)
            if features:
                loss = loss + features * _distance(met, wanted)
            share = (step + 1) / steps
            for group in optimizer.param_groups:
                group["lr"] = rate * min(share / _WARM_UP, 0.5 + 0.5 * math.cos(math.pi * share))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last = [*last, loss.item()][-max(1, steps // 10) :]
            if report is not None:
                report(step, last[-1])
        optimizer.zero_grad()
    return sum(last) / len(last)


def _distance(outputs: list[Tensor], aims: list[Tensor]) -> Tensor:
    pairs = zip(outputs, aims, strict=True)
    shares = [(out - aim).square().sum() / aim.square().sum().clamp_min(1e-12) for out, aim in pairs]
    return torch.stack(shares).mean()


def _repeated(batches: Iterable[Any], steps: int) -> Iterator[Any]:
    left = steps
    while left:
        before = left
        for batch in batches:
            if not left:
                return
            yield batch
            left -= 1
        if left == before:
            raise ValueError("distill_: batches must hold at least one batch each time they are iterated, got none.")


@contextmanager
def _outputs(model: nn.Module, names: Iterable[str]) -> Iterator[list[Tensor]]:
    met: list[Tensor] = []

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        met.append(output)
        return output.clone()  # what follows may work in place

    handles = [model.get_submodule(name).register_forward_hook(hook) for name in names]
    try:
        yield met
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _only_training(model: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    chosen = {id(p) for p in parameters}
    for parameter, _, _ in flags:
        parameter.requires_grad_(id(parameter) in chosen)
    try:
        yield
    finally:
        for parameter, flag, grad in flags:
            parameter.requires_grad_(flag)
            parameter.grad = grad
