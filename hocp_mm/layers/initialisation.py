"""A fresh kernel of He variance at any rank: the output has twice the mean square of the input.

Columns of the convolved modes have norm 1 and keep the variance. Without an activation in Psi the input factor keeps
it, too, and the output factor brings the gain 2: the dense twin has variance ``2 / fan_in``. Behind an activation,
which halves the mean square, the input factor has that gain as well: each 1x1 stage is initialised on its own. Behind a
norm the output variance is 2, or 1 with a ReLU, for any input.

tltorch draws the whole kernel with a fixed standard deviation of 0.02 and leaves a new layer uninitialised; neither is
so here.
"""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hocp_mm.layers.cp_conv import _HOCPConvNd


@torch.no_grad()
def draw_(layer: "_HOCPConvNd") -> None:
    """Draw lambda, factors and bias of a layer anew."""
    if layer.weights.is_meta:
        return  # Nothing to draw, and PyTorch would import seconds' worth of its compiler to do it.
    rectified = layer.inner is not None and hasattr(layer.inner, "act")
    layer.weights.fill_(1)
    for name in layer.kernel().factors:
        factor = layer.factors[name].normal_()
        if name == "in":
            factor.mul_(((2 if rectified else 1) * layer.groups / layer.in_channels) ** 0.5)
        elif name == "out":
            factor.mul_((2 * layer.groups / layer.rank) ** 0.5)
        else:
            factor.div_(factor.norm(dim=0))
    if layer.bias is not None:
        layer.bias.zero_()
