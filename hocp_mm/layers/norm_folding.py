"""Batch norms, put into the layers before them, for what runs elsewhere.

    norm(y) = g y + b,    g = weight / sqrt(variance + eps),    b = bias - g mean

The output factor of a CP layer takes g, a dense or depthwise kernel does so in all its numbers, and b joins the bias.
Motion components (:mod:`hocp_mm.functional.motion`) see differences in time of what their layer gives, in which b is
nothing: they see ``g y`` through ``in / g`` and add to it through ``g out``.

Which norm follows which layer, and whether somebody else looks between them, is seen in a run.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from hocp_mm.layers.selection import CP
from hocp_mm.layers.surgery import replace_
from hocp_mm.layers.temporal import FrameFoldedConv2d
from hocp_mm.layers.variants import variant_of

_LOOKS = ("size", "dim", "is_contiguous", "stride", "numel")  # at a tensor, not at its numbers
_PROPERTIES = ("shape", "dtype", "device", "layout", "ndim", "is_cuda", "requires_grad")  # and not `data`, `T`, `mT`
_LEAST = 1e-3  # of the largest g of a layer with motion components, which are divided by it


@torch.no_grad()
def fold_norms_(model: nn.Module, *inputs: Any) -> list[str]:
    """Fold every batch norm that alone sees what a convolution gives.

    Args:
        model: A network in evaluation mode whose parameters are plain, such as :func:`hocp_mm.layers.exportable`
            returns; changed.
        inputs: What it is called with, twice.

    Returns:
        Names of the norms that are no more, in the order of ``named_modules``; what some of them did beside, an
        activation, stays in their place. Left are norms without running statistics, behind something else than one
        convolution, and those whose layer, or a parameter of it, is used elsewhere, too.

    Raises:
        ValueError: If the model is in training mode.
    """
    if model.training:
        raise ValueError("fold_norms_: the model must be in evaluation mode, got one in training mode.")
    watch = _watch(model, inputs)
    folded = []
    for name, norm in [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]:
        layer, rest = watch.layer_before(norm), _rest(norm)
        if layer is None or rest is None or not _scales(layer, *_affine(norm)):
            continue
        replace_(model, name, rest)
        folded.append(name)
    return folded


def _watch(model: nn.Module, inputs: tuple[Any, ...]) -> "_Watch":
    watch = _Watch()
    handles = []
    for module in model.modules():
        if isinstance(module, (*CP, ConvNd)):
            watch.owns(module)
            handles.append(module.register_forward_pre_hook(watch.begins))
            handles.append(module.register_forward_hook(watch.gives))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(watch.enters))
            handles.append(module.register_forward_hook(watch.leaves))
    try:
        with watch:
            result = model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    watch.use(result, None)
    return watch


class _Watch(TorchFunctionMode):
    """Notes who uses what convolutions give."""

    def __init__(self) -> None:
        super().__init__()
        self._given: dict[int, tuple[nn.Module, Tensor]] = {}  # with the tensor, whose number is then nobody else's
        self._runs: dict[nn.Module, int] = {}
        self._users: dict[nn.Module, list[nn.Module | None]] = {}
        self._inside: nn.Module | None = None
        self._running: nn.Module | None = None
        self._owners: dict[int, list[nn.Module]] = {}  # of parameters, which two layers may share
        self._read: set[nn.Module] = set()  # whose parameters somebody else reads

    def owns(self, layer: nn.Module) -> None:
        for parameter in layer.parameters():
            self._owners.setdefault(id(parameter), []).append(layer)

    def begins(self, layer: nn.Module, _: Any) -> None:
        self._running = layer

    def gives(self, layer: nn.Module, _: Any, output: Tensor) -> None:
        self._running = None
        self._given[id(output)] = layer, output
        self._runs[layer] = self._runs.get(layer, 0) + 1

    def enters(self, norm: nn.Module, _: Any) -> None:
        self._inside = norm
        self._runs[norm] = self._runs.get(norm, 0) + 1

    def leaves(self, norm: nn.Module, *_: Any) -> None:
        self._inside = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not _looks(func):
            self.use((args, kwargs or {}), self._inside)
        return func(*args, **(kwargs or {}))

    def use(self, value: Any, user: nn.Module | None) -> None:
        """Note that somebody, or None for no norm, uses all that is in a value."""
        if isinstance(value, Tensor):
            if id(value) in self._given:
                self._users.setdefault(self._given[id(value)][0], []).append(user)
            self._read.update(owner for owner in self._owners.get(id(value), ()) if owner is not self._running)
        elif isinstance(value, (tuple, list)):
            for item in value:
                self.use(item, user)
        elif isinstance(value, dict):
            for item in value.values():
                self.use(item, user)

    def layer_before(self, norm: nn.Module) -> nn.Module | None:
        """Return the layer that this norm and nobody else follows, if both ran once."""
        found = [layer for layer, users in self._users.items() if set(users) == {norm} and layer not in self._read]
        return found[0] if len(found) == 1 and self._runs[found[0]] == self._runs[norm] == 1 else None


def _looks(func: Callable[..., Any]) -> bool:
    """Tell whether a function looks at a tensor and not at its numbers."""
    if getattr(func, "__name__", "") == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in _PROPERTIES
    return getattr(func, "__name__", "") in _LOOKS


def _rest(norm: _BatchNorm) -> nn.Module | None:
    """Return what a norm does beside, or None where it is not known to be one with running statistics."""
    if norm.running_mean is None or norm.running_var is None or norm.training or is_parametrized(norm):
        return None
    if hasattr(norm, "act"):  # timm's norms with an activation: batch norm, drop, act
        return nn.Sequential(cast("nn.Module", norm.drop), cast("nn.Module", norm.act))
    known = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return nn.Identity() if type(norm) in known else None


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return g and b, float64 ``[channels]``."""
    mean, variance = cast("Tensor", norm.running_mean).double(), cast("Tensor", norm.running_var).double()
    g = (variance + norm.eps).rsqrt()
    if norm.affine:
        g = g * norm.weight.double()
        return g, norm.bias.double() - g * mean
    return g, -g * mean


def _scales(layer: nn.Module, g: Tensor, b: Tensor) -> bool:
    """Let a layer give ``g y + b`` in the place of y, if it is known how."""
    motion: Any = getattr(layer, "motion", None)
    if is_parametrized(layer) or (motion is not None and g.abs().min() <= _LEAST * g.abs().max()):
        return False
    own: Any = layer
    if isinstance(layer, CP):
        _multiply(own.factors["out"], g)
    elif isinstance(layer, FrameFoldedConv2d):
        if layer.standardization is not None:
            return False
        _multiply(layer.weight, g)
    elif type(layer) in (nn.Conv1d, nn.Conv3d) or (isinstance(layer, nn.Conv2d) and _is_plain(layer)):
        _multiply(own.weight, g)
    else:
        return False
    if motion is not None:
        _multiply(motion.factors["in"], 1 / g)
        _multiply(motion.factors["out"], g)
    bias = b if own.bias is None else b + g * own.bias.double()
    like = own.factors["out"] if isinstance(layer, CP) else own.weight
    own.bias = nn.Parameter(bias.to(like.dtype), requires_grad=False)
    return True


def _is_plain(conv: nn.Conv2d) -> bool:
    variant = variant_of(conv)
    return variant is not None and variant[1] is None


def _multiply(weight: Tensor, by: Tensor) -> None:
    weight.copy_((weight.double() * by.reshape(-1, *[1] * (weight.ndim - 1))).to(weight.dtype))
