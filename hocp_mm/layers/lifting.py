"""From a layer of N convolved modes to one of N + 1 that starts as it on every frame."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from hocp_mm.functional.transduct import Init, transduct
from hocp_mm.layers.inner import BATCH_NORMS
from hocp_mm.layers.options import conv_arguments

if TYPE_CHECKING:
    from hocp_mm.layers.cp_conv import _HOCPConvNd

VideoT = TypeVar("VideoT", bound="_HOCPConvNd")


def lift(layer: "_HOCPConvNd", video_class: type[VideoT], size: int, init: Init) -> VideoT:
    """Build a layer of ``video_class`` from one of an order less.

    Args:
        layer: The layer; not changed.
        video_class: A class of one order more.
        size: Taps of the new mode; odd.
        init: ``'central'`` or ``'uniform'``.

    Returns:
        The new layer. Its old parameters are the same objects, running statistics of Psi are copies.

    Raises:
        NotImplementedError: If statistics of Psi or averages of the gate would no longer be those of a frame.
        ValueError: If the new mode needs padding on one side.
    """
    where = f"{type(layer).__name__}.transduct"
    if size % 2 == 0 or init == "last":
        raise ValueError(
            f"{where}: size must be odd and init not 'last', got {size} and {init!r} (nn.ConvNd cannot pad one side "
            "only: use transduct_ on the network)."
        )
    if layer.gate is not None and layer.kernel_order == 1:
        raise NotImplementedError(f"{where}: a gate must average over the same sizes before and after, w is not h, w.")
    kernel = transduct(layer.kernel(), size, init)
    inner = None if layer.inner is None else lift_inner(layer.inner, kernel.kernel_order)
    arguments = conv_arguments(layer)
    for name, value in {"kernel_size": size, "stride": 1, "dilation": 1, "padding": size // 2}.items():
        if arguments[name] not in ("same", "tf_same"):  # which say it of every mode
            old = (0,) * layer.kernel_order if arguments[name] == "valid" else arguments[name]
            arguments[name] = (value, *old)
    arguments["device"] = "meta"  # its parameters are replaced at once
    video = video_class(**arguments, rank=layer.rank)
    video.share_(layer)
    mode = kernel.convolved[0]
    video.factors[mode], video.inner = nn.Parameter(kernel.factors[mode]), inner
    return video


def lift_inner(inner: nn.Sequential, order: int) -> nn.Sequential:
    """Make Psi of a layer of one mode less serve a layer with ``order`` convolved modes.

    Args:
        inner: Psi as :func:`hocp_mm.layers.inner.build_inner` makes it; not changed.
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
