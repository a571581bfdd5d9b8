"""Ready a model for ``torch.export``, ``torch.onnx.export`` and ``torch.jit.trace``.

All write Python source in which a parameter is an attribute, and there ``self.factors.in`` is a syntax error: PyTorch
does not look for keywords (https://github.com/pytorch/pytorch/issues/188538, open at 2.15). Eager mode,
``torch.compile`` and checkpoints are not concerned, so the names stay and only a copy gets others.
"""

import copy
from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from hocp_mm.layers.cp_conv import _HOCPConvNd
from hocp_mm.layers.motion import MotionComponents
from hocp_mm.layers.reparametrized import refresh_

ModelT = TypeVar("ModelT", bound=nn.Module)


class _Factors(nn.Module):
    """What a layer asks of ``nn.ParameterDict``, with an underscore after every name."""

    def __init__(self, factors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, factor in factors.items():
            plain = factor if isinstance(factor, nn.Parameter) else nn.Parameter(factor.detach())  # it was computed
            self.register_parameter(f"{name}_", plain)

    def __getitem__(self, name: str) -> Tensor:
        return getattr(self, f"{name}_")  # dynamo of torch 2.4 cannot follow get_parameter

    def __contains__(self, name: str) -> bool:
        return f"{name}_" in self._parameters


def exportable(model: ModelT) -> ModelT:
    """Copy a model so that PyTorch can export it.

    What is exported is made of ordinary operators: 1x1 and depthwise convolutions with ``'factorized'`` and
    ``'mobilenet'`` (2-D ones only in frame-folded layers, 3-D ones in ``HOCPConv3d``), one dense convolution with
    ``'reconstructed'``.

    Args:
        model: A model with CP layers, or one layer; not changed.

    Returns:
        A copy in evaluation mode that computes the same. Its state dict has ``factors.in_`` for ``factors.in`` and so
        on: it is for export only.
    """
    with torch.no_grad():  # tensors with a history have no copies
        for module in model.modules():
            if isinstance(factors := getattr(module, "factors", None), nn.Module):
                refresh_(factors)
    twin = copy.deepcopy(model).eval()
    for module in twin.modules():
        if isinstance(module, _HOCPConvNd):
            module.factors = cast("nn.ParameterDict", _Factors(module.kernel().factors))
        elif isinstance(module, MotionComponents):
            module.factors = cast("nn.ParameterDict", _Factors(module.working_factors()))
    return twin
