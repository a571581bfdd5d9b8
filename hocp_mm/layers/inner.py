"""Psi, what the paper puts between the first 1x1 and the depthwise stage: batch norm and an activation.

    x --1x1 (in)--> [R] --Psi: norm, act--> --depthwise--> [R] --gate--> --1x1 (out * lambda)--> y

Kossaifi et al., CVPR 2020 (arXiv 1906.06196). The gate is in :mod:`hocp_mm.layers.gate`.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hocp_mm.functional.sparsity import kept_index

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Cfg = Mapping[str, Any]
"""A module in OpenMMLab's words: ``type`` and its arguments."""

BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
# By kernel order. Names as in mmcv, which this package must not import.
_NORMS: Mapping[str, Mapping[int, Callable[..., nn.Module]]] = {
    "BN": BATCH_NORMS,
    "SyncBN": dict.fromkeys((1, 2, 3), nn.SyncBatchNorm),
    "GN": dict.fromkeys((1, 2, 3), nn.GroupNorm),
    "IN": _INSTANCE_NORMS,
    **{f"BN{order}d": {order: norm} for order, norm in BATCH_NORMS.items()},
    **{f"IN{order}d": {order: norm} for order, norm in _INSTANCE_NORMS.items()},
}
_ACTS: Mapping[str, Callable[..., nn.Module]] = {
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "HSwish": nn.Hardswish,
}


def build_inner(norm_cfg: Cfg | None, act_cfg: Cfg | None, rank: int, order: int) -> nn.Sequential | None:
    """Build Psi with children ``norm`` and ``act``.

    Args:
        norm_cfg: ``dict(type='BN')``, ``'SyncBN'``, ``'GN'`` (with ``num_groups``), ``'IN'`` or a name with its
            order (``'BN3d'``), and its arguments; ``requires_grad=False`` freezes it, as in OpenMMLab. None: no norm.
        act_cfg: ``dict(type='ReLU')`` and the like. None: no activation.
        rank: Channels.
        order: Convolved modes of the layer.

    Returns:
        The module, or None where both are.

    Raises:
        TypeError: If a cfg is no mapping with a ``type`` or holds an unknown argument.
        ValueError: If a type is unknown, of another order, or misses ``num_groups``.
    """
    parts: dict[str, nn.Module] = {}
    if norm_cfg is not None:
        name, options = read_cfg("inner_norm_cfg", norm_cfg, _NORMS)
        if order not in _NORMS[name]:
            raise ValueError(
                f"inner_norm_cfg: type must be for {order} convolved modes, got {name!r} (use 'BN', 'IN')."
            )
        if name == "GN" and "num_groups" not in options:
            raise ValueError(f"inner_norm_cfg: 'GN' needs num_groups, got {dict(norm_cfg)}.")
        trains = options.pop("requires_grad", True)
        features = {"num_channels" if name == "GN" else "num_features": rank}
        parts["norm"] = make_module("inner_norm_cfg", norm_cfg, _NORMS[name][order], **features, **options)
        parts["norm"].requires_grad_(trains)
    if act_cfg is not None:
        name, options = read_cfg("inner_act_cfg", act_cfg, _ACTS)
        parts["act"] = make_module("inner_act_cfg", act_cfg, _ACTS[name], **options)
    return nn.Sequential(OrderedDict(parts)) if parts else None


@torch.no_grad()
def prune_inner_(inner: nn.Module, keep: Tensor) -> None:
    """Keep some channels of Psi; exact, because Psi treats each channel alone.

    Args:
        inner: Psi as :func:`build_inner` makes it; changed.
        keep: A mask ``[rank]``, or indices.

    Raises:
        NotImplementedError: If its norm mixes channels.
    """
    for module in inner.children():
        if isinstance(module, nn.GroupNorm):
            raise NotImplementedError("prune_inner_: group norm mixes channels, so components cannot be taken out.")
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
            index = kept_index(keep, module.num_features)
            for name in ("weight", "bias", "running_mean", "running_var"):
                select_(module, name, 0, index)
            module.num_features = len(index)
        elif isinstance(module, nn.PReLU) and module.num_parameters > 1:
            index = kept_index(keep, module.num_parameters)
            select_(module, "weight", 0, index)
            module.num_parameters = len(index)


def read_cfg(where: str, cfg: Cfg, known: Collection[str]) -> tuple[str, dict[str, Any]]:
    """Split a cfg into its type and a copy of its arguments.

    Returns:
        The type and the arguments.

    Raises:
        TypeError: If ``cfg`` is no mapping with a ``type``.
        ValueError: If the type is not ``known``.
    """
    if not isinstance(cfg, Mapping) or "type" not in cfg:
        raise TypeError(f"{where}: must be None or a dict with a 'type', got {cfg!r}.")
    options = dict(cfg)
    name = options.pop("type")
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{where}: type must be one of {tuple(known)}, got {name!r}.")
    return name, options


def make_module(where: str, cfg: Cfg, make: Callable[..., ModuleT], **arguments: Any) -> ModuleT:
    """Build a module, and name the cfg where its arguments do not fit.

    Returns:
        The module.

    Raises:
        TypeError: If ``make`` does not take the arguments.
        ValueError: If it refuses their values.
    """
    try:
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {str(error).rstrip('.')}, got {dict(cfg)}.") from error


def select_(module: nn.Module, name: str, dim: int, index: Tensor) -> None:
    """Replace a parameter or buffer by a part of it."""
    old = getattr(module, name)
    if old is None:
        return
    new = old.detach().index_select(dim, index.to(old.device))
    setattr(module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def lift_inner(inner: nn.Sequential, order: int) -> nn.Sequential:
    """Make Psi of a layer of one mode less serve a layer with ``order`` convolved modes.

    Args:
        inner: Psi as :func:`build_inner` makes it; not changed.
        order: Convolved modes of the new layer.

    Returns:
        Psi with the same parameters and copies of the running statistics.

    Raises:
        NotImplementedError: If the norm takes its statistics over every sample alone: over a clip they are not
            those of its frames.
    """
    parts: dict[str, nn.Module] = {}
    for name, module in inner.named_children():
        if isinstance(module, nn.SyncBatchNorm):
            parts[name] = _same_norm(module, nn.SyncBatchNorm, process_group=module.process_group)
        elif isinstance(module, tuple(BATCH_NORMS.values())):
            parts[name] = _same_norm(module, BATCH_NORMS[order])
        elif name == "act":
            parts[name] = module
        else:
            raise NotImplementedError(
                f"transduct: the norm of Psi must be a batch norm, got {type(module).__name__}, whose statistics over "
                "a clip differ from those of its frames (transduct_ keeps them per frame)."
            )
    return nn.Sequential(OrderedDict(parts))


def _same_norm(norm: Any, make: Callable[..., Any], **more: Any) -> nn.Module:
    """Make a batch norm of another order with the same parameters and a copy of the statistics."""
    new = make(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, **more)
    new.weight, new.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        setattr(new, name, buffer.clone())
    return new.train(norm.training)
