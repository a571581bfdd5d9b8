"""Subclasses of ``nn.ConvNd`` that compute something else, and what that is.

timm has two such things: padding that follows the size of the data (``Conv2dSame``, TensorFlow's SAME), and kernels
that are standardised before they are used (``StdConv2d``; ``ScaledStdConv2d`` with a gain per output channel). Both
at once exist, too. A CP layer takes the kernel that is really used, so a factorized network keeps its function; trained
further, its factors are free.

The classes are known by name: this layer of the package needs torch alone. Any other class with a forward pass of its
own is unknown, and what is unknown is refused rather than taken for a plain convolution.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hocp_mm.layers.few_channels import FewChannelsConv2d
from hocp_mm.layers.options import DenseConv, conv_arguments

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# mmcv.cnn.ConvModule's convolutions, which differ from nn.ConvNd on torch before 1.4 alone.
_MMCV_WRAPPERS = "mmcv.cnn.bricks.wrappers"
_SAME = {"Conv2dSame", "StdConv2dSame", "ScaledStdConv2dSame"}
_STANDARDIZED = {"StdConv2d", "StdConv2dSame"}
_SCALED = {"ScaledStdConv2d", "ScaledStdConv2dSame"}


class Standardization(NamedTuple):
    """The kernel of a weight-standardised convolution: each output filter with mean 0 and the same size.

    Source: Qiao et al., Weight Standardization (arXiv 1903.10520); with a gain, Brock et al. (arXiv 2101.08692).

    Attributes:
        eps: Added to the variance of a filter.
        scale: Factor on the gain; None where the layer has no gain and filters have variance 1.
    """

    eps: float
    scale: float | None

    @property
    def names(self) -> tuple[str, ...]:
        """Tensors of the layer that the kernel is made from."""
        return ("weight",) if self.scale is None else ("weight", "gain")

    def __call__(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the kernel that is really used.

        Args:
            tensors: By the names in :attr:`names`; ``weight`` ``[out, in, *kernel_size]``, ``gain`` one per output.

        Returns:
            A kernel of the shape of ``weight``.
        """
        weight = tensors["weight"]
        filters = weight.reshape(1, weight.shape[0], -1)
        gain = None if self.scale is None else (tensors["gain"] * self.scale).view(-1)
        # timm's own expression, so that the result is the same to the bit.
        standardized = F.batch_norm(filters, None, None, weight=gain, training=True, momentum=0.0, eps=self.eps)
        return standardized.reshape_as(weight)


class Variant(NamedTuple):
    """What a convolution layer computes.

    Attributes:
        follows_size: Whether padding is TensorFlow's SAME for the size at hand (``'tf_same'``).
        standardization: How the kernel is made from the parameters; None where it is ``weight``.
    """

    follows_size: bool = False
    standardization: Standardization | None = None

    @torch.no_grad()
    def plain(self, conv: DenseConv) -> Any:
        """Return the ``nn.ConvNd`` with the same kernel; its padding is 0 where that follows the size.

        Returns:
            ``conv`` itself if it is one, else a layer that shares the bias with it, and the kernel where that is not
            standardised.
        """
        if type(conv) in _PLAIN:
            return conv
        arguments = {**conv_arguments(conv), "device": "meta"}  # its parameters are replaced at once
        if self.follows_size:
            arguments["padding"] = 0
        plain: Any = _PLAIN[len(conv.kernel_size) - 1](**arguments)
        plain.weight, plain.bias = conv.weight, conv.bias
        if self.standardization is not None:
            plain.weight = nn.Parameter(kernel_of(conv, self.standardization), conv.weight.requires_grad)
        return plain.train(conv.training)


def variant_of(conv: nn.Module) -> Variant | None:
    """Tell what a dense convolution computes.

    Returns:
        The variant, or None for a class with a forward pass that is not known.
    """
    if parametrize.is_parametrized(conv):  # such as weight_norm: the kernel is not a parameter
        return None
    maker, inner = (_definer(type(conv), name) for name in ("forward", "_conv_forward"))
    plain = (*_PLAIN, FewChannelsConv2d)
    if inner not in plain:
        return None
    if maker in plain or maker.__module__ == _MMCV_WRAPPERS:
        return Variant()
    name = maker.__name__
    if not maker.__module__.startswith("timm.") or name not in _SAME | _STANDARDIZED | _SCALED:
        return None
    layer: Any = conv
    # The two standardised classes pad by size only where a static padding cannot do it.
    follows_size = name in _SAME and getattr(layer, "same_pad", True)
    if name in _STANDARDIZED | _SCALED:
        return Variant(follows_size, Standardization(layer.eps, layer.scale if name in _SCALED else None))
    return Variant(follows_size)


def kernel_of(layer: nn.Module, standardization: Standardization | None) -> Tensor:
    """Return the kernel that a layer with the parameters ``weight`` and perhaps ``gain`` really uses."""
    if standardization is None:
        return layer.get_parameter("weight")
    return standardization({name: layer.get_parameter(name) for name in standardization.names})


def _definer(kind: type, method: str) -> type:
    return next(base for base in kind.__mro__ if method in base.__dict__)
