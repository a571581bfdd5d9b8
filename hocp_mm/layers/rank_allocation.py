"""One budget of parameters, multiplications or time, spent on the ranks of many layers."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hocp_mm.functional.clock import wait_for
from hocp_mm.functional.cost import conv_cost
from hocp_mm.functional.decompose import whitened
from hocp_mm.functional.rank import RankLike, resolve_rank, spend_budget
from hocp_mm.functional.rank_estimate import error_curve
from hocp_mm.layers.modes import evaluating
from hocp_mm.layers.options import DenseConv
from hocp_mm.layers.selection import Patterns, dense_layers
from hocp_mm.layers.surgery import cp_twin

Unit = Literal["params", "macs", "latency"]
EXPANSIONS: tuple[RankLike, ...] = tuple(2 ** (quarters / 4) for quarters in range(-8, 9))  # 0.25 to 4
_TIMED_RANKS, _WARM_UP, _REPEATS = 3, 2, 7

Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of input and output of one call of a layer."""


def allocate_ranks(
    model: nn.Module,
    budget: float,
    unit: Unit = "params",
    *,
    inputs: Tensor | Sequence[Tensor] | None = None,
    layers: Patterns | None = None,
    ranks: Sequence[RankLike] = EXPANSIONS,
    importance: Mapping[str, float] | None = None,
    input_moments: Mapping[str, Tensor] | None = None,
    output_moments: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> dict[str, int]:
    """Choose the ranks of a network's layers under one budget, more for the layers that lose more.

    Minimises the sum over layers of ``importance * |W - W_cp|^2 / |W|^2``, with error curves from
    :func:`hocp_mm.functional.error_curve` (a few short fits per layer) and
    :func:`hocp_mm.functional.spend_budget`. The errors are those of the weights; with both moments, W is seen through
    them, ``H^(1/2) W M^(1/2)``, and the sum is what the layers cost the network's output, to first order.

    Args:
        model: The dense network; not changed.
        budget: What the new layers may cost together: an int in units (parameters; multiply-accumulates of one pass
            of ``inputs``; microseconds), or a float in (0, 1], as a fraction of what the dense layers cost. It is
            never exceeded, but ``'latency'`` is measured, and so repeats only roughly.
        unit: ``'params'`` (lambda and factors; a bias costs the same before and after), ``'macs'`` (mobilenet
            or reconstructed, whichever multiplies less) or ``'latency'`` (forward pass of each layer on random data,
            on the device it is on, at three ranks and interpolated).
        inputs: Arguments of the model, for ``'macs'`` and ``'latency'``; it is run once, in evaluation mode.
        layers: Patterns on layer names; None takes those that :func:`hocp_mm.layers.factorize_` takes.
        ranks: Candidates, in any form of :func:`hocp_mm.functional.resolve_rank`; none goes beyond ``'same'``.
        importance: Of each layer's relative error, at least 0. None takes the energy ``|W|^2``: the summed error is
            then that of all weights, or of what moments make of them. Where there are no moments and a norm follows
            every layer and takes the scale away, ones are as good.
        input_moments: For each layer, the second moment of its input (:func:`hocp_mm.layers.input_moments`).
        output_moments: For each layer, what an error of its output costs the network's
            (:func:`hocp_mm.layers.output_moments`).
        seed: Of the short fits.

    Returns:
        Components by full layer name, as :func:`hocp_mm.layers.factorize_` takes them for ``rank``.

    Raises:
        ValueError: If ``budget`` or ``unit`` is none of these, the smallest ranks exceed the budget already, there is
            no layer, ``inputs`` is missing, or a layer does not run on it.
        KeyError: If ``importance`` or a moment misses a layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 3))
        >>> found = allocate_ranks(net, 0.5)
        >>> list(found), 8 * (8 + 6 + 1) * 2 < sum(r * (8 + c + 7) for r, c in zip(found.values(), (8, 16))) <= 864
        (['0', '1'], True)
    """
    if unit not in get_args(Unit):
        raise ValueError(f"allocate_ranks: unit must be one of {get_args(Unit)}, got {unit!r}.")
    whole = isinstance(budget, int) and not isinstance(budget, bool) and budget > 0
    if not whole and not (isinstance(budget, float) and 0 < budget <= 1):
        raise ValueError(f"allocate_ranks: budget must be a positive int or a float in (0, 1], got {budget!r}.")
    if unit != "params" and inputs is None:
        raise ValueError(f"allocate_ranks: inputs must be given for unit {unit!r}, got None.")
    selected = dict(dense_layers(model, layers, where="allocate_ranks"))
    if not selected:
        raise ValueError("allocate_ranks: the model must hold a layer to factorize, got none.")
    for option, held in {"input_moments": input_moments, "output_moments": output_moments}.items():
        for name in selected:
            if held is not None and name not in held:
                raise KeyError(f"allocate_ranks: {option} must hold every layer, got none for '{name}'.")
    kernels: dict[str, Tensor] = {}
    for name, conv in selected.items():
        own = [None if held is None else held[name] for held in (input_moments, output_moments)]
        kernels[name] = whitened(conv.weight, conv.groups, *own)
    if importance is None:
        importance = {name: float(kernel.square().sum()) for name, kernel in kernels.items()}
    for name in selected:
        if name not in importance:
            raise KeyError(f"allocate_ranks: importance must hold every layer, got none for '{name}'.")
        if not importance[name] >= 0:
            raise ValueError(f"allocate_ranks: importance must be at least 0, got {importance[name]} for '{name}'.")
    calls = {} if inputs is None else record_shapes(model, selected, inputs)
    candidates = {name: _candidates(conv, ranks, seed) for name, conv in selected.items()}
    costs: dict[str, list[float]] = {}
    total = 0.0
    for name, conv in selected.items():
        if inputs is not None and not calls[name]:
            raise ValueError(f"allocate_ranks: every layer must run on inputs, '{name}' does not.")
        dense, cost = _costs(conv, calls.get(name, []), unit)
        costs[name] = [cost(rank) for rank in candidates[name]] if unit != "latency" else _timed(candidates[name], cost)
        total += dense() if isinstance(budget, float) else 0.0
    limit = budget * total if isinstance(budget, float) else budget
    least = sum(min(options) for options in costs.values())
    if least > limit:
        raise ValueError(
            f"allocate_ranks: budget must allow for the smallest ranks, {least:g} {unit}, got {limit:g} "
            f"(smaller candidates in ranks, or fewer layers)."
        )
    losses: list[list[float]] = []
    for name, conv in selected.items():
        room = limit - least + min(costs[name])
        affordable = [i for i, cost in enumerate(costs[name]) if cost <= room]
        candidates[name] = [candidates[name][i] for i in affordable]  # others need no fit
        costs[name] = [costs[name][i] for i in affordable]
        curve = error_curve(kernels[name], candidates[name], groups=conv.groups, seed=seed)
        losses.append([importance[name] * error for error in curve])
    spending = spend_budget(list(costs.values()), losses, limit)
    return {name: candidates[name][choice] for name, choice in zip(selected, spending.choices, strict=True)}


def record_shapes(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Tensor | Sequence[Tensor]
) -> dict[str, list[Shapes]]:
    """Run a network once, in evaluation mode and without gradients, and note the shapes that layers meet.

    Returns:
        For each layer the shapes of input and output of each of its calls.
    """
    calls: dict[str, list[Shapes]] = {name: [] for name in layers}

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name].append((tuple(args[0].shape), tuple(output.shape)))

        return hook

    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), evaluating(model):
            model(*([inputs] if isinstance(inputs, Tensor) else inputs))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _candidates(conv: DenseConv, ranks: Sequence[RankLike], seed: int) -> list[int]:
    sizes = (conv.in_channels, conv.out_channels, tuple(conv.kernel_size), conv.groups)
    parity = resolve_rank("same", *sizes)
    return sorted({min(resolve_rank(rank, *sizes, dense=conv.weight, seed=seed), parity) for rank in ranks})


def _costs(conv: DenseConv, calls: Sequence[Shapes], unit: Unit) -> tuple[Callable[[], float], Callable[[int], float]]:
    """Return the cost of the dense layer, and the cost of its twin as a function of the rank."""
    if unit == "latency":
        return lambda: measure(conv, calls), lambda rank: measure(_twin(conv, rank), calls)
    if unit == "params":
        per_component = sum(conv.weight.shape) - conv.out_channels + conv.out_channels // conv.groups + 1
        return conv.weight.numel, lambda rank: rank * per_component

    def macs(rank: int | None) -> float:
        return sum(_macs(conv, rank, before, after) for before, after in calls)

    return lambda: macs(None), macs


def _macs(conv: DenseConv, rank: int | None, before: tuple[int, ...], after: tuple[int, ...]) -> int:
    order = len(conv.kernel_size)
    cost = conv_cost(
        conv.in_channels, conv.out_channels, conv.kernel_size, before[-order:], stride=conv.stride,
        padding=conv.padding, dilation=conv.dilation, groups=conv.groups, rank=rank, output_sizes=after[-order:],
        batch=before[0] if len(before) == order + 2 else 1,
    )  # fmt: skip
    return cost.macs


def _timed(ranks: Sequence[int], cost: Callable[[int], float]) -> list[float]:
    """Measure a few ranks and interpolate; a larger rank never costs less than a smaller one."""
    probes = sorted({ranks[round(share * (len(ranks) - 1) / (_TIMED_RANKS - 1))] for share in range(_TIMED_RANKS)})
    times = [cost(rank) for rank in probes]
    for index in range(1, len(times)):
        times[index] = max(times[index - 1 : index + 1])
    found: list[float] = []
    for rank in ranks:
        right = next(index for index, probe in enumerate(probes) if probe >= rank)
        if probes[right] == rank:
            found.append(times[right])
            continue
        share = (rank - probes[right - 1]) / (probes[right] - probes[right - 1])
        found.append(times[right - 1] + share * (times[right] - times[right - 1]))
    return found


def _twin(conv: DenseConv, rank: int) -> nn.Module:
    devices = [conv.weight.device] if conv.weight.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # measuring must not move the caller's random numbers
        return cp_twin(conv, rank, fit=False)


@torch.no_grad()
def measure(layer: nn.Module, calls: Sequence[Shapes]) -> float:
    """Time a layer on random data of the shapes that it met.

    Returns:
        Median time of its calls, summed, in microseconds.
    """
    reference = next(layer.parameters())
    generator = torch.Generator(device=reference.device).manual_seed(0)
    total = 0.0
    for before, _ in calls:
        x = torch.empty(before, dtype=reference.dtype, device=reference.device).uniform_(-1, 1, generator=generator)
        times: list[float] = []
        for _ in range(_WARM_UP + _REPEATS):
            wait_for(x.device)
            start = time.perf_counter()
            layer(x)
            wait_for(x.device)
            times.append(1e6 * (time.perf_counter() - start))
        total += statistics.median(times[_WARM_UP:])
    return total
