"""Where components are cut out of a layer: which tensors along which axis, with their gradients and optimizer state.

An index may name a component twice: the layer then grows (:mod:`hocp_mm.layers.rank_matching`).
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from hocp_mm.layers.inner import prune_inner_
from hocp_mm.layers.selection import CP, HOCPConv


@dataclass(frozen=True)
class Cut:
    """A parameter and what stays of it: ``keep`` along ``dim``."""

    layer: str
    parameter: nn.Parameter
    dim: int
    keep: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        """Return what stays of a tensor of the parameter's shape."""
        return tensor.index_select(self.dim, self.keep.to(tensor.device))

    def check(self, optimizer: torch.optim.Optimizer, where: str) -> None:
        """Refuse an optimizer whose state cannot be cut.

        Raises:
            NotImplementedError: If the state has other shapes than its parameter.
        """
        for key, value in optimizer.state.get(self.parameter, {}).items():
            if isinstance(value, Tensor) and value.numel() != 1 and value.shape != self.parameter.shape:
                raise NotImplementedError(
                    f"{where}: the state of {type(optimizer).__name__} must have the shape of its parameter, got "
                    f"'{key}' {tuple(value.shape)} for {tuple(self.parameter.shape)} (layer '{self.layer}')."
                )

    def apply_(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Cut the parameter, its gradient and its state."""
        for optimizer in optimizers:
            state = optimizer.state.get(self.parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == self.parameter.shape:
                    state[key] = self.of(value)
        # In place, so that optimizers and hooks that know the parameter go on with the new data. A gradient of the
        # old shape would be refused.
        grad, self.parameter.grad = self.parameter.grad, None
        data = self.of(self.parameter.data)
        # A graph that is still alive (the last loss, DistributedDataParallel) keeps the node that accumulates the
        # gradient, and the next graph would take it over with the old shape. PyTorch makes a new node when the dtype
        # changes, not when the shape does.
        passing = torch.float16 if data.dtype != torch.float16 else torch.float32
        self.parameter.data = torch.empty(0, dtype=passing, device=data.device)
        self.parameter.data = data
        self.parameter.grad = None if grad is None else self.of(grad)


@torch.no_grad()
def keep_components_(
    model: nn.Module,
    keep: Mapping[str, Tensor],
    optimizers: Iterable[torch.optim.Optimizer] = (),
    *,
    more: Sequence[Cut] = (),
    rehearse: bool = False,
    where: str = "prune_ranks_",
) -> dict[str, tuple[int, int]]:
    """Leave HO-CP layers the components named, in all factors, lambda, Psi, the gate, and in optimizers' state.

    Args:
        model: The network; changed, or not at all if something is refused.
        keep: By name of a layer, indices of the components that it is left with, an equal number per group.
        optimizers: Whose state to cut.
        more: Further cuts in these layers.
        rehearse: Refuse what would be refused, and change nothing.
        where: Name of the operation, for errors.

    Returns:
        Old and new rank of each layer in ``keep``.

    Raises:
        NotImplementedError: If Psi mixes components, what would be cut belongs to another layer, too, or an
            optimizer's state has other shapes.
    """
    optimizers = list(optimizers)
    layers = {name: cast("HOCPConv", model.get_submodule(name)) for name in keep}
    cuts = [cut for name, layer in layers.items() for cut in cuts_of(layer, keep[name], name, where)]
    cuts += more
    check_alone(model, layers, cuts, where)
    for optimizer in optimizers:
        for cut in cuts:
            cut.check(optimizer, where)
    ranks = {name: (layer.rank, len(keep[name])) for name, layer in layers.items()}
    if rehearse:
        return ranks
    for name, layer in layers.items():
        layer.rank = len(keep[name])
        layer.fit_report = None  # it told of the components that there were
        for module, prune_ in between(layer):
            prune_buffers_(module, prune_, keep[name])
    for cut in cuts:
        cut.apply_(optimizers)
    return ranks


def cuts_of(layer: HOCPConv, keep: Tensor, name: str, where: str) -> Iterator[Cut]:
    """List the cuts that leave a layer the components ``keep``; nothing changes.

    Args:
        layer: The layer.
        keep: Indices.
        name: Of the layer, for errors.
        where: Name of the operation, for errors.

    Yields:
        A cut for every parameter with an axis of components.

    Raises:
        NotImplementedError: If Psi mixes components, or a factor is computed from other parameters.
    """
    layer.require_plain(where)
    yield Cut(name, layer.weights, 0, keep)
    for factor in layer.factors.values():
        yield Cut(name, factor, 1, keep)
    for module, prune_ in between(layer):
        twin = copy.deepcopy(module)  # a rehearsal: it may be refused, and it tells which axes shrink
        try:
            prune_(twin, keep)
        except NotImplementedError as error:
            raise NotImplementedError(f"{where}: layer '{name}': {error}") from error
        shapes = {key: parameter.shape for key, parameter in twin.named_parameters()}
        for key, parameter in module.named_parameters():
            for dim, size in enumerate(parameter.shape):
                if shapes[key][dim] != size:
                    yield Cut(name, parameter, dim, keep)


def check_alone(model: nn.Module, pruned: Mapping[str, HOCPConv], cuts: Sequence[Cut], where: str) -> None:
    """Refuse to cut what another layer holds, too: one of the two would be left with the wrong sizes.

    Args:
        model: All that might hold it.
        pruned: Layers by name.
        cuts: Of these layers.
        where: Name of the operation, for errors.

    Raises:
        NotImplementedError: If a parameter, a buffer or a module to be cut is found in two layers.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, CP)}
    inside = {module for layer in layers.values() for module in layer.modules()}
    holders: dict[Tensor | nn.Module, list[str]] = {}
    for name, module in model.named_modules():
        if name in layers or module not in inside:
            psi_and_gate = [part for part, _ in between(layers[name])] if name in layers else []
            whole = name in layers
            for part in {*module.parameters(whole), *module.buffers(whole), *psi_and_gate}:
                holders.setdefault(part, []).append(name)
    parts: list[tuple[str, Tensor | nn.Module]] = [(cut.layer, cut.parameter) for cut in cuts]
    for name, layer in pruned.items():
        for module, _ in between(layer):
            parts += [(name, module), *((name, buffer) for buffer in module.buffers())]
    for name, part in parts:
        others = [holder for holder in holders[part] if holder != name]
        if others:
            what = f"a parameter of shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise NotImplementedError(
                f"{where}: a layer must not share what is cut, got {what} in both '{name}' and '{others[0]}'."
            )


def between(layer: HOCPConv) -> Iterator[tuple[nn.Module, Callable[[Any, Tensor], None]]]:
    """Yield the modules between the stages with the functions that prune them."""
    if layer.inner is not None:
        yield layer.inner, prune_inner_
    if layer.gate is not None:
        yield layer.gate, type(layer.gate).prune_


def prune_buffers_(module: nn.Module, prune_: Callable[[Any, Tensor], None], keep: Tensor) -> None:
    """Prune what is no parameter; a pruning module makes new parameters, in whose place the old objects return."""
    parameters = dict(module.named_parameters())
    prune_(module, keep)
    for key, parameter in parameters.items():
        owner, _, leaf = key.rpartition(".")
        setattr(module.get_submodule(owner), leaf, parameter)
