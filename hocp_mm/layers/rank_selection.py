"""Ranks that shrink in training: a lasso on lambda, then physical pruning.

    normalize_factors_(model)                      # once, before the optimizer is built
    for batch in data:
        ...; optimizer.step()
        shrink_weights_(model, lr * gamma)         # proximal step; exact zeros appear in lambda
    prune_ranks_(model, optimizer=optimizer)       # the same function with fewer components; training goes on

Source: Kossaifi et al., CVPR 2020 (arXiv 1906.06196), automatic rank selection. Where we differ: the paper adds the
lasso to the loss; here it is the proximal step (:mod:`hocp_mm.functional.sparsity`).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hocp_mm.functional.sparsity import normalize, soft_threshold, surviving
from hocp_mm.layers.component_cuts import keep_components_
from hocp_mm.layers.selection import HOCPConv, Patterns, cp_layers


@torch.no_grad()
def normalize_factors_(model: nn.Module, layers: Patterns | None = None) -> list[str]:
    """Move the norms of factor columns into lambda; what the network computes is unchanged.

    Afterwards ``|lambda_r|`` is the size of component r. Columns of ``in`` are left alone where Psi follows them: a
    norm undoes their scale in its own way, and an activation need not pass it on. Columns of ``out`` are left alone
    behind a gate, which looks at lambda. Values change, objects do not; momentum of an optimizer refers to the old
    values, so call this before training rather than in it.

    Args:
        model: The network; changed.
        layers: Patterns on layer names; None takes every HO-CP layer.

    Returns:
        Names of the layers.

    Raises:
        NotImplementedError: If a factor is computed from other parameters (``weight_norm``, ``prune``).
        ValueError: If no HO-CP layer is selected.
    """
    selected = cp_layers(model, layers, where="normalize_factors_")
    for _, layer in selected:
        _normalize_(layer)
    return [name for name, _ in selected]


@torch.no_grad()
def shrink_weights_(model: nn.Module, amount: float, layers: Patterns | None = None) -> None:
    """Take the proximal step of a lasso on lambda: ``lambda <- sign(lambda) max(|lambda| - amount, 0)``.

    Call it after each optimizer step, with ``amount = lr * gamma``. The factors are normalised first
    (:func:`normalize_factors_`): else lambda could shrink while the factors grow, and lambda of freshly decomposed
    layers, whose factors are balanced, is +1 or -1 for all components. In a layer with Psi the affine part of its
    norm can still grow against the lasso, as ``out`` can in a layer with a gate; weight decay on them holds it back.

    Args:
        model: The network; changed. Layers whose lambda is frozen are left alone.
        amount: At least 0, in units of a component's norm.
        layers: Patterns on layer names; None takes every HO-CP layer.

    Raises:
        ValueError: If ``amount`` is negative or NaN, no HO-CP layer is selected, or lambda is frozen in all of them.
    """
    selected = cp_layers(model, layers, where="shrink_weights_")
    trained = [layer for _, layer in selected if layer.weights.requires_grad]
    if not trained:
        raise ValueError(f"shrink_weights_: lambda must train in some layer, got {len(selected)} frozen ones.")
    for layer in trained:
        shrink_layer_(layer, amount)


@torch.no_grad()
def shrink_layer_(layer: HOCPConv, amount: float) -> None:
    """Take the step of :func:`shrink_weights_` in one layer, frozen or not.

    Args:
        layer: The layer; changed.
        amount: At least 0, in units of a component's norm.
    """
    _normalize_(layer)
    layer.weights.copy_(soft_threshold(layer.weights, amount))


@torch.no_grad()
def prune_ranks_(
    model: nn.Module,
    threshold: float = 0.0,
    *,
    min_rank: int = 1,
    layers: Patterns | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, tuple[int, int]]:
    """Delete weak components from all factors, from lambda, from Psi and the gate, and from an optimizer's state.

    The strength of a component is ``|lambda_r|`` times the norms of its factor columns; without the column of ``in``
    where Psi follows it. Threshold 0 deletes exactly the components that contribute nothing, and the output stays.
    Parameters remain the same objects with new data, so an optimizer keeps its references; with ``optimizer`` given
    its state is cut as well, and training goes on as if the deleted components stayed at zero. What recorded the old
    shapes must be made anew: ``DistributedDataParallel``, captured graphs, copies such as averaged weights.

    Args:
        model: The network; changed, or not at all if something is refused.
        threshold: In [0, 1): a component goes if its strength is at most this share of its layer's strongest.
        min_rank: Components that each layer keeps at least.
        layers: Patterns on layer names; None takes every HO-CP layer.
        optimizer: Whose state (momentum and the like) to cut; its state tensors must have the parameters' shapes.

    Returns:
        Old and new rank of each layer that lost components. Each group of a grouped layer keeps as many components
        as the one that needs most.

    Raises:
        ValueError: If a number is out of range, no HO-CP layer is selected, or a layer holds NaN or infinite values.
        NotImplementedError: If Psi mixes components, what would be cut belongs to another layer, too (the same layer
            under two names is fine), or an optimizer's state has other shapes (:func:`check_prunable` tells before).
        TypeError: If ``optimizer`` is none of PyTorch's (pass the one inside a wrapper).

    Example:
        >>> from hocp_mm.layers import HOCPConv2d
        >>> net = nn.Sequential(HOCPConv2d(8, 8, 3, rank=6))
        >>> _ = net[0].weights.data[2:4].zero_()
        >>> prune_ranks_(net), net[0].rank
        ({'0': (6, 4)}, 4)
    """
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"prune_ranks_: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    kept = surviving_components(model, threshold, min_rank=min_rank, layers=layers)
    return keep_components_(model, kept, [] if optimizer is None else [optimizer])


@torch.no_grad()
def surviving_components(
    model: nn.Module, threshold: float = 0.0, *, min_rank: int = 1, layers: Patterns | None = None
) -> dict[str, Tensor]:
    """Choose what :func:`prune_ranks_` keeps, for several copies of a network that must keep the same.

    Args:
        model: The network; not changed.
        threshold: As in :func:`prune_ranks_`, and so the next two.
        min_rank: Components that each layer keeps at least.
        layers: Patterns on layer names.

    Returns:
        Indices of the surviving components, rising, of each layer that has others.

    Raises:
        ValueError: If a number is out of range, no HO-CP layer is selected, or a layer holds NaN or infinite values.
    """
    kept: dict[str, Tensor] = {}
    for name, layer in cp_layers(model, layers, where="prune_ranks_"):
        strengths = _strengths(layer)
        if not torch.isfinite(strengths).all():
            raise ValueError(f"prune_ranks_: factors must be finite, got NaN or inf in layer '{name}'.")
        keep = surviving(strengths, threshold, groups=layer.groups, min_rank=min_rank)
        if len(keep) < layer.rank:
            kept[name] = keep
    return kept


def check_prunable(
    model: nn.Module, layers: Patterns | None = None, optimizers: Iterable[torch.optim.Optimizer] = ()
) -> None:
    """Refuse now what :func:`prune_ranks_` would refuse when components are to go; long trainings end with it.

    Args:
        model: The network; not changed.
        layers: Patterns on layer names; None takes every HO-CP layer.
        optimizers: Whose state would be cut; one that has not stepped yet has none and passes.

    Raises:
        ValueError: If no HO-CP layer is selected.
        NotImplementedError: If Psi mixes components, what would be cut belongs to another layer, too, or an
            optimizer's state has other shapes.
    """
    selected = cp_layers(model, layers, where="prune_ranks_")
    keep = {name: torch.arange(layer.rank - 1) for name, layer in selected if layer.rank > 1}
    keep_components_(model, keep, optimizers, rehearse=True)


def _strengths(layer: HOCPConv) -> Tensor:
    """Return what each component contributes, ``[rank]``; zero exactly where that is nothing."""
    kernel = layer.kernel()
    strengths = kernel.weights.double().abs()
    for mode, factor in kernel.factors.items():
        if mode == "in" and layer.inner is not None:
            continue  # Psi makes something of a zero input, too
        norms = factor.double().norm(dim=0)
        if mode == "out" and layer.gate is not None:
            # A component without output still has a say in the gate of the others.
            norms = norms.clamp_min(torch.finfo(torch.float32).tiny)
        strengths = strengths * norms
    return strengths


def _normalize_(layer: HOCPConv) -> None:
    layer.require_plain("normalize_factors_")
    kernel = layer.kernel()
    fixed = {"in"} if layer.inner is not None else set[str]()
    fixed |= {"out"} if layer.gate is not None else set[str]()
    normalized = normalize(kernel, [mode for mode in kernel.factors if mode not in fixed])
    layer.weights.copy_(normalized.weights)
    for mode, factor in normalized.factors.items():
        layer.factors[mode].copy_(factor)
