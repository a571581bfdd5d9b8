"""Fit the HO-CP layers of a compressed network to the dense one's outputs, on a few unlabelled pictures or clips.

Layer by layer in the order of execution: each is fitted to what the *dense* network's layer gives, from what the
*compressed* network, as fitted so far, feeds it. So a layer makes up for the errors of those before it (asymmetric
reconstruction; Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification and Detection", arXiv
1505.06798).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hocp_mm.functional.cp_conv import resolve_padding
from hocp_mm.functional.output_fit import MAX_ITER, PRIOR, OutputMoments, fit_outputs
from hocp_mm.functional.padding import pad
from hocp_mm.layers.calibration import call
from hocp_mm.layers.modes import evaluating
from hocp_mm.layers.options import DenseConv
from hocp_mm.layers.selection import CP, DENSE, HOCPConv, Patterns, cp_layers
from hocp_mm.layers.variants import kernel_of, variant_of

_KEPT_BYTES = 256 * 2**20  # of the dense network's outputs, at a time
_PATCH_BYTES = 32 * 2**20  # of unfolded inputs, at a time


class Reconstruction(NamedTuple):
    """Relative error of a layer's output on the batches, ``|y - y_dense| / |y_dense|``, before and after its fit."""

    before: float
    after: float


def reconstruct_(
    model: nn.Module,
    dense: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Patterns | None = None,
    output_moments: Mapping[str, Tensor] | None = None,
    prior: float = PRIOR,
    max_iter: int = MAX_ITER,
) -> dict[str, Reconstruction]:
    """Fit HO-CP layers to the outputs of their dense twins, all factors and the bias, in the order of execution.

    A layer without a bias in front of a batch norm gets its correction in the norm's running mean. Both networks run in
    evaluation mode, and no random number is drawn; the same arguments give the same factors.

    Args:
        model: The compressed network, as :func:`hocp_mm.layers.factorize_` leaves it; changed.
        dense: The network that it was made from, with layers of the same names; not changed.
        batches: What both are called with, as for :func:`hocp_mm.layers.input_moments`; kept in memory. Some dozens of
            pictures in a few variants are enough: every position counts as a sample.
        layers: Patterns on layer names. None takes every HO-CP layer.
        output_moments: For each layer, what an error of its output costs (:func:`hocp_mm.layers.output_moments`);
            None counts all channels alike.
        prior: Made-up samples, on which the dense kernel's outputs are wanted, for each entry of a patch; more of them
            hold the fit closer to the dense kernel (:mod:`hocp_mm.functional.output_fit`).
        max_iter: Steps per layer. With 0 only output factors and biases are fitted.

    Returns:
        Name to errors, in the order of execution. A fit that would make a layer worse on the batches is not taken.

    Raises:
        KeyError: If ``output_moments`` misses a layer.
        NotImplementedError: If a layer has Psi or a gate, or sees time in a frame-folded network (fit first, then
            transduct), or its twin is no dense convolution of its sizes.
        ValueError: If no HO-CP layer is selected, ``batches`` is empty, or a layer never runs.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("reconstruct_: batches must hold at least one batch, got none.")
    selected = dict(cp_layers(model, layers, where="reconstruct_"))
    twins = {name: _twin(dense, name, layer) for name, layer in selected.items()}
    for name in selected:
        if output_moments is not None and name not in output_moments:
            raise KeyError(f"reconstruct_: output_moments must hold every layer, got none for '{name}'.")
    errors: dict[str, Reconstruction] = {}
    with torch.no_grad(), evaluating(model), evaluating(dense):
        order = _trace(model, selected, batches[0])
        idle = [name for name in selected if name not in order]
        if idle:
            raise ValueError(f"reconstruct_: every selected layer must run, {', '.join(idle)} does not.")
        for name, wanted in _dense_outputs(dense, {name: twins[name] for name in order}, batches):
            layer, twin, norm = selected[name], twins[name], order[name].norm
            moments = _gather(model, layer, wanted, batches)
            offset = layer.bias
            if offset is None and norm is not None:
                offset = dense.get_buffer(f"{norm}.running_mean") - model.get_buffer(f"{norm}.running_mean")
            found = fit_outputs(
                layer.kernel(), _kernel(twin), moments, bias=offset is not None, prior=prior, max_iter=max_iter,
                output_moment=None if output_moments is None else output_moments[name],
            )  # fmt: skip
            before, after = moments.error(layer.kernel(), offset), moments.error(*found)
            errors[name] = Reconstruction(before, min(before, after))
            if after < before:
                layer.set_kernel(found.kernel)
                if layer.bias is not None and found.bias is not None:
                    layer.bias.copy_(found.bias)
                elif norm is not None and found.bias is not None:
                    mean = dense.get_buffer(f"{norm}.running_mean") - found.bias
                    model.get_buffer(f"{norm}.running_mean").copy_(mean)
    return errors


def _twin(dense: nn.Module, name: str, layer: HOCPConv) -> DenseConv:
    """Look up the dense layer of an HO-CP one."""
    if type(layer) not in CP:
        raise NotImplementedError(
            f"reconstruct_: a layer must be a plain HO-CP one, got {type(layer).__name__} (layer '{name}'; fit first, "
            "then transduct)."
        )
    for part in ("inner", "gate"):
        if getattr(layer, part) is not None:
            raise NotImplementedError(
                f"reconstruct_: a layer must compute a dense convolution, got '{part}' in layer '{name}'."
            )
    twin: Any = dict(dense.named_modules()).get(name)
    known = isinstance(twin, DENSE) and variant_of(twin) is not None
    if known and tuple(_kernel(twin).shape) == layer.kernel().shape and twin.groups == layer.groups:
        return twin
    raise NotImplementedError(
        f"reconstruct_: the dense network must hold a convolution of the same sizes, got {twin} (layer '{name}')."
    )


def _kernel(twin: DenseConv) -> Tensor:
    variant = variant_of(twin)
    assert variant is not None
    return kernel_of(twin, variant.standardization)


class _Place(NamedTuple):
    """Name of the batch norm that alone follows a layer, if one does."""

    norm: str | None


def _trace(model: nn.Module, layers: Mapping[str, nn.Module], batch: Any) -> dict[str, _Place]:
    """Run a network once; returns the layers in the order of their first calls."""
    outputs: list[tuple[str, Tensor]] = []
    met: list[tuple[str, Tensor]] = []
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}

    def leaving(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, __, out: outputs.append((name, out))

    def entering(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: met.append((name, args[0]))

    handles = [layer.register_forward_hook(leaving(name)) for name, layer in layers.items()]
    handles += [norm.register_forward_pre_hook(entering(name)) for name, norm in norms.items()]
    try:
        call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    order: dict[str, _Place] = {}
    for name, _ in outputs:
        calls = [out for n, out in outputs if n == name]
        behind = {n for n, x in met if any(x is out for out in calls)}
        before = [n for n, x in met if n in behind]
        alone = len(behind) == 1 and len(before) == len(calls) and norms[before[0]].running_mean is not None
        order.setdefault(name, _Place(before[0] if alone else None))
    return order


def _dense_outputs(
    dense: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[Any]
) -> Iterator[tuple[str, list[list[Tensor]]]]:
    """Yield the outputs of layers one after the other, for each batch those of each call.

    As many layers are recorded in one pass as fit into memory.
    """
    left = list(layers)
    while left:
        kept: dict[str, list[list[Tensor]]] = {name: [] for name in left}
        for number, batch in enumerate(batches):
            met = _record(dense, {name: layers[name] for name in kept}, batch)
            if number == 0:
                kept = {name: [] for name in _that_fit(met, len(batches))}
            for name, outputs in kept.items():
                outputs.append(met[name])
        left = left[len(kept) :]
        for name in list(kept):
            yield name, kept.pop(name)


def _record(model: nn.Module, layers: Mapping[str, nn.Module], batch: Any) -> dict[str, list[Tensor]]:
    met: dict[str, list[Tensor]] = {name: [] for name in layers}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _, __, output: met[name].append(output.clone())  # what follows may work in place

    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return met


def _that_fit(met: Mapping[str, list[Tensor]], batches: int) -> list[str]:
    """Return the first layers whose outputs on all batches can be kept; at least one."""
    total, names = 0, list[str]()
    for name, outputs in met.items():
        total += batches * sum(out.numel() * out.element_size() for out in outputs)
        if names and total > _KEPT_BYTES:
            break
        names.append(name)
    return names


class _ReachedError(Exception):
    """The layer has been called for the last time; what would follow need not run."""


def _gather(
    model: nn.Module, layer: HOCPConv, wanted: Sequence[Sequence[Tensor]], batches: Sequence[Any]
) -> OutputMoments:
    """Run the compressed network up to a layer; sum over what it sees there and what it should give."""
    entries = layer.in_channels // layer.groups * prod(layer.kernel_size)
    moments = OutputMoments(layer.groups, entries, layer.out_channels // layer.groups, layer.weights)
    for batch, outputs in zip(batches, wanted, strict=True):
        left = list(outputs)

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], left: list[Tensor] = left) -> None:
            for patches, target in _samples(args[0] if args else kwargs["x"], left.pop(0), layer):
                moments.add(patches, target)
            if not left:
                raise _ReachedError

        handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            call(model, batch)
        except _ReachedError:
            pass
        finally:
            handle.remove()
    return moments


def _samples(x: Tensor, target: Tensor, layer: HOCPConv) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut inputs into patches ``[groups, in / groups * taps, samples]`` and lay out outputs to match, part by part."""
    order, groups = layer.kernel_order, layer.groups
    if x.ndim == order + 1:
        x, target = x.unsqueeze(0), target.unsqueeze(0)
    taps = prod(layer.kernel_size)
    each = x.shape[1] * taps * prod(target.shape[2:]) * x.element_size()
    at_once = max(1, _PATCH_BYTES // each)
    for images, outputs in zip(x.split(at_once), target.split(at_once), strict=True):
        pads = resolve_padding(layer.padding, layer.kernel_size, layer.stride, layer.dilation, images.shape[2:])
        windows, rest = pad(images, pads, layer.padding_mode)
        windows = F.pad(windows, [n for p in reversed(rest) for n in (p, p)])
        for mode in range(order):
            span = layer.dilation[mode] * (layer.kernel_size[mode] - 1) + 1
            windows = windows.unfold(2 + mode, span, layer.stride[mode])[..., :: layer.dilation[mode]]
        # [batch, in, *positions, *taps] to [in, *taps, batch, *positions]
        positions, of_taps = range(2, 2 + order), range(2 + order, 2 + 2 * order)
        patches = windows.permute(1, *of_taps, 0, *positions).reshape(groups, -1, outputs.numel() // outputs.shape[1])
        yield patches, outputs.transpose(0, 1).reshape(groups, layer.out_channels // groups, -1)
