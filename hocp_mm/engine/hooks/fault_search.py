"""Run a batch again to find the layer where numbers cease to be finite."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.engine.finite import non_finite
from hocp_mm.engine.hooks.batch_account import Call, loss_terms


def search_forward(model: nn.Module, call: Call, context: Callable[[], AbstractContextManager[Any]]) -> str | None:
    """Find the first layer in the order of execution whose output is not finite.

    Weights, buffers, gradients and random numbers are left as they were. In distributed training all processes must
    call this at the same time: norms and losses may talk to each other.

    Args:
        model: The bare model.
        call: What it was called with.
        context: Makes the surroundings of the pass, such as autocast.

    Returns:
        Where, in words; None if all is finite this time.
    """
    found: list[str] = []

    def look(name: str, module: nn.Module, args: object, output: object) -> None:
        if not found and any(non_finite(tensor) for tensor in _tensors(output)):
            found.append(name)

    handles = [m.register_forward_hook(partial(look, name)) for name, m in model.named_modules()]
    try:
        with _traceless(model), torch.no_grad(), context():
            model(*call.args, **call.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return f"first in the output of {found[0] or 'the whole model'}" if found else None


def search_backward(
    model: nn.Module, call: Call, context: Callable[[], AbstractContextManager[Any]]
) -> tuple[str | None, str | None]:
    """Find the layer nearest to the loss in whose backward pass a gradient ceases to be finite.

    Everything is left as it was, and distributed training is meant, as in `search_forward`.

    Args:
        model: The bare model.
        call: What it was called with.
        context: Makes the surroundings of the forward pass.

    Returns:
        Where, in words, and a parameter of that layer whose gradient is not finite. Either is None if there is none.
    """
    order: list[str] = []
    bad_in: set[str] = set()  # gradients with respect to what a layer takes
    bad_out: set[str] = set()  # and to what it gives
    handles: list[Any] = []

    def watch(tensors: Any, name: str, bad: set[str]) -> None:
        def look(gradient: Tensor) -> None:
            if non_finite(gradient):
                bad.add(name)

        handles.extend(tensor.register_hook(look) for tensor in _tensors(tensors) if tensor.requires_grad)

    def before(name: str, module: nn.Module, args: object, kwargs: object) -> None:
        order.append(name)
        watch([args, kwargs], name, bad_in)

    def after(name: str, module: nn.Module, args: object, output: object) -> None:
        watch(output, name, bad_out)

    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hooks: list[Any] = []
    try:
        with _traceless(model), torch.enable_grad():
            for name, module in model.named_modules():
                hooks.append(module.register_forward_pre_hook(partial(before, name), with_kwargs=True))
                hooks.append(module.register_forward_hook(partial(after, name)))
            with context():
                terms = loss_terms(model(*call.args, **call.kwargs))
            for hook in hooks:  # checkpointed layers run again in the backward pass
                hook.remove()
            loss = sum((term.mean() for term in terms.values()), start=torch.zeros(()))
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for handle in (*hooks, *handles):
            handle.remove()
    bad = [name for name, grad in zip(parameters, gradients, strict=True) if grad is not None and non_finite(grad)]
    owners = {_owner(name, set(order)): name for name in reversed(bad)}
    for name in reversed(order):
        if name in owners or name in bad_in:
            label = name or "the whole model"
            place = f"between {label} and the loss" if name in bad_out and name else f"in the backward pass of {label}"
            return f"first {place}", owners.get(name, bad[0] if bad else None)
    return None, None


def _owner(parameter: str, called: set[str]) -> str:
    """Return the innermost layer that is called and holds a parameter: factors live in a container inside of it."""
    name = parameter.rpartition(".")[0]
    while name and name not in called:
        name = name.rpartition(".")[0]
    return name


@contextmanager
def _traceless(model: nn.Module) -> Iterator[None]:
    """Put buffers and random numbers back afterwards."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({t.device.index for t in (*model.parameters(), *model.buffers()) if t.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, copy in kept:
                buffer.copy_(copy)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the floating tensors in what a layer takes or gives; of losses only what enters the sum."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list((loss_terms(value) or value).values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
