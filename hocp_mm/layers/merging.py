"""CP layers back to dense ones: for targets that only know dense convolutions, and where the rank saves nothing."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hocp_mm.functional.cp import CPKernel, dense_kernel
from hocp_mm.layers.cp_conv import HOCPConv1d, HOCPConv2d, HOCPConv3d
from hocp_mm.layers.options import conv_arguments
from hocp_mm.layers.selection import HOCPConv, Patterns, cp_layers
from hocp_mm.layers.surgery import replace_
from hocp_mm.layers.temporal import FrameFoldedHOCPConv2d

_DENSE: Mapping[type, type[nn.Module]] = {
    HOCPConv1d: nn.Conv1d,
    HOCPConv2d: nn.Conv2d,
    HOCPConv3d: nn.Conv3d,
    FrameFoldedHOCPConv2d: nn.Conv2d,
}


@torch.no_grad()
def merge_dense_(model: nn.Module, layers: Patterns | None = None) -> list[str]:
    """Replace HO-CP layers by dense convolutions with the rebuilt kernel; the output stays.

    A frame-folded layer becomes an ``nn.Conv2d`` if its temporal factor looks at the present frame only, as after
    central or causal transduction before it is trained. Dropout of components ends with the components.

    Args:
        model: The network; changed, or not at all if a layer is refused.
        layers: Patterns on layer names; None takes every HO-CP layer.

    Returns:
        Names of the replaced layers, in the order of ``named_modules``. The new layers keep all settings, dtype,
        device, training mode and the bias (the same object); their kernels train if a factor did.

    Raises:
        NotImplementedError: If a layer has Psi, a gate, motion components or taps on other frames, or is a subclass:
            it is no dense convolution.
        ValueError: If no HO-CP layer is selected.
    """
    selected = cp_layers(model, layers, where="merge_dense_")
    for name, layer in selected:
        reason = _why_not(layer)
        if reason is not None:
            raise NotImplementedError(
                f"merge_dense_: a layer must compute a dense convolution, got {reason} (layer '{name}')."
            )
    for name, layer in selected:
        replace_(model, name, _merged(layer))
    return [name for name, _ in selected]


def _why_not(layer: HOCPConv) -> str | None:
    if type(layer) not in _DENSE:
        return f"the subclass {type(layer).__name__}"
    for part in ("inner", "gate"):
        if getattr(layer, part) is not None:
            return f"'{part}' between its stages"
    if layer.padding == "tf_same" and max(layer.stride) > 1:
        return "padding='tf_same' with a stride, which nn.ConvNd does not have"
    if getattr(layer, "motion", None) is not None:
        return "motion components, which are not linear"
    if isinstance(layer, FrameFoldedHOCPConv2d) and _other_frames(layer).any():
        return "a temporal factor that sees other frames; nn.Conv2d has none (use HOCPConv3d with its state dict)"
    return None


def _other_frames(layer: FrameFoldedHOCPConv2d) -> torch.Tensor:
    taps = layer.kernel().factors["t"].detach()
    return torch.cat([taps[: layer.before], taps[layer.before + 1 :]])


def _merged(layer: HOCPConv) -> nn.Module:
    kernel = layer.kernel()
    weights, factors = kernel.weights.double(), {mode: factor.double() for mode, factor in kernel.factors.items()}
    if isinstance(layer, FrameFoldedHOCPConv2d):
        weights = weights * factors.pop("t")[layer.before]
    trains = any(parameter.requires_grad for parameter in (layer.weights, *layer.factors.parameters()))
    dense = dense_kernel(CPKernel(weights, factors, layer.groups)).to(kernel.weights.dtype)
    arguments = {**conv_arguments(layer), "device": "meta"}  # its parameters are replaced at once
    if arguments["padding"] == "tf_same":
        arguments["padding"] = "same"  # which is that at stride 1
    conv: Any = _DENSE[type(layer)](**arguments)
    conv.weight = nn.Parameter(dense, trains)
    conv.bias = layer.bias
    return conv.train(layer.training)
