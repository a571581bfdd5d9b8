"""Run a batch again to find the layer where numbers cease to be finite."""

from collections.abc import Callable, Container, Iterator, Mapping
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
    order: list[str] = []  # in which layers begin
    met: dict[Any, list[tuple[str, bool]]] = {}  # by tensor of the graph: the layers around it, and who takes it
    bad: list[Any] = []  # tensors whose gradient is not finite, from the loss on
    handles: list[Any] = []

    def watch(value: Any, name: str, taken: bool) -> None:
        for tensor in _tensors(value):
            if not tensor.requires_grad:
                continue
            # Not the tensor itself: a layer that works in place gives what it takes.
            key = (tensor.grad_fn or tensor, tensor.output_nr)
            if key not in met:
                handles.append(tensor.register_hook(partial(look, key)))
            met.setdefault(key, []).append((name, taken))

    def look(key: Any, gradient: Tensor) -> None:
        if non_finite(gradient):
            bad.append(key)

    def before(name: str, module: nn.Module, args: object, kwargs: object) -> None:
        order.append(name)
        watch([args, kwargs], name, True)

    def after(name: str, module: nn.Module, args: object, output: object) -> None:
        watch(output, name, False)

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
    rank = {name: index for index, name in enumerate(order)}
    # A layer at fault gives a bad gradient to what it takes, or to a parameter; of two the one nearer to the loss.
    owners = {
        _owner(name, rank): name
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and non_finite(gradient)
    }
    takers = [name for name, taken in met[bad[0]] if taken] if bad else []
    found = max([*owners, *takers], key=lambda name: rank.get(name, -1), default=None)
    parameter = owners.get(found or "") or next(reversed(list(owners.values())), None)
    if bad and not takers:
        giver = max((name for name, _ in met[bad[0]]), key=lambda name: rank.get(name, -1))
        if rank.get(giver, -1) >= rank.get(found or "", -1):
            return f"first behind {giver or 'the whole model'}", parameter
    return None if found is None else f"first in the backward pass of {found or 'the whole model'}", parameter


def _owner(parameter: str, called: Container[str]) -> str:
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
