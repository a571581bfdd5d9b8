"""What weighs the components of a layer, besides lambda: squeeze-excitation, and dropout in training.

Squeeze-excitation (Hu et al., arXiv 1709.01507) stands after the depthwise stage, as in MobileNetV3 (arXiv
1905.02244). The paper (arXiv 1906.06196) reports a variant with it, HO-CP-S; where in the block it has it is not
known to us, so the place is our choice. So are two more things. The average runs over the image and not over time:
transduction and streams stay frame-wise. What is averaged is weighted with lambda: a component of lambda zero has no
say and can be pruned exactly.

Dropping components is the tensor dropout of Kolbeinsson et al. (arXiv 1902.10758).
"""

import torch
from torch import Tensor, nn

from hocp_mm.functional.sparsity import kept_index
from hocp_mm.layers.inner import Cfg, make_module, read_cfg, select_


class SqueezeExcitation(nn.Module):
    """Scale each component by a number in (0, 2) that all components of the frame decide; exactly 1 at the start.

        z [N, R, (t,) h, w] --mean over h, w--> * lambda --reduce--> ReLU --expand--> 2 * sigmoid --> * z

    ``expand`` starts at zero, so a new gate preserves the function and may join weights of a dense network.

    Args:
        rank: Components.
        order: Convolved modes of the layer; ``t`` of a 3-D layer is not averaged over.
        reduction: Components per hidden unit.

    Raises:
        ValueError: If ``reduction`` is below 1.
    """

    # Weight transfer may leave this module at its start when the source does not know it.
    identity_at_start = True

    def __init__(self, rank: int, order: int, reduction: int = 4) -> None:
        super().__init__()
        if reduction < 1:
            raise ValueError(f"SqueezeExcitation: reduction must be at least 1, got {reduction}.")
        self.averaged = min(order, 2)
        hidden = max(1, rank // reduction)
        self.reduce, self.expand = nn.Linear(rank, hidden), nn.Linear(hidden, rank)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the first layer anew and return to the gate 1."""
        self.reduce.reset_parameters()
        self.expand.weight.zero_()
        self.expand.bias.zero_()

    def forward(self, z: Tensor, weights: Tensor) -> Tensor:
        """Scale components ``z [batch, rank, *sizes]``; ``weights`` is lambda ``[rank]``."""
        squeezed = z.mean(dim=tuple(range(-self.averaged, 0))).movedim(1, -1)  # [batch, (t,) rank]
        gates = 2 * self.expand(self.reduce(squeezed * weights).relu()).sigmoid()
        return z * gates.movedim(-1, 1)[(..., *[None] * self.averaged)]

    @torch.no_grad()
    def prune_(self, keep: Tensor) -> None:
        """Keep some components; exact where the others have lambda zero.

        Args:
            keep: A mask ``[rank]``, or indices.
        """
        index = kept_index(keep, self.reduce.in_features)
        select_(self.reduce, "weight", 1, index)
        select_(self.expand, "weight", 0, index)
        select_(self.expand, "bias", 0, index)
        self.reduce.in_features = self.expand.out_features = len(index)


def build_gate(cfg: Cfg, rank: int, order: int) -> SqueezeExcitation:
    """Build the gate ``dict(type='SE', reduction=4)``.

    Args:
        cfg: Its description.
        rank: Components.
        order: Convolved modes of the layer.

    Returns:
        The module.
    """
    _, options = read_cfg("gate_cfg", cfg, ("SE",))
    return make_module("gate_cfg", cfg, SqueezeExcitation, rank=rank, order=order, **options)


def drop_components(weights: Tensor, p: float, groups: int = 1) -> Tensor:
    """Set each lambda to zero with probability ``p``, but never all of a group, and scale up the rest.

    The mean over draws is ``weights`` exactly: the scale is one over the true probability to stay, which the
    component that is always kept raises to ``1 - p + p^n / n`` for ``n`` components. Shapes do not change, so a
    compiled graph stays valid (tltorch cuts the dropped columns out of every factor).

    Args:
        weights: Lambda ``[rank]``.
        p: In [0, 1).
        groups: Groups of the convolution; each keeps a component.

    Returns:
        Tensor ``[rank]``.
    """
    size = weights.shape[0] // groups
    # Not in the dtype of lambda: half precision has too few numbers for a fair draw.
    draw = torch.rand(groups, size, device=weights.device)
    stays = (draw >= p) | (draw == draw.amax(dim=1, keepdim=True))
    return weights * stays.flatten().to(weights.dtype) / (1 - p + p**size / size)
