"""Other low-rank forms of a dense convolution, at a number of parameters: Tucker-2, two SVDs, and tltorch's CP."""

from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.functional import CPKernel, mode_names
from hocp_mm.layers import HOCPConv2d


@torch.no_grad()
def tucker2(conv: nn.Conv2d, parameters: float) -> nn.Module:
    """1x1 to fewer channels, k x k, 1x1 back (Kim et al., arXiv 1511.06530), by two rounds of HOOI."""
    weight = conv.weight.double()
    out, in_, *taps = weight.shape
    # Ranks in proportion to the channels.
    share = _largest(lambda s: out * s * out + in_ * s * in_ + out * s * in_ * s * taps[0] * taps[1], parameters)
    rank_out, rank_in = (max(1, int(share * size + 1e-6)) for size in (out, in_))
    left, right = _leading(weight.flatten(1), rank_out), _leading(weight.transpose(0, 1).flatten(1), rank_in)
    for _ in range(2):
        left = _leading(torch.einsum("oihw,ir->orhw", weight, right).flatten(1), rank_out)
        right = _leading(torch.einsum("oihw,or->rihw", weight, left).transpose(0, 1).flatten(1), rank_in)
    core = torch.einsum("oihw,or,is->rshw", weight, left, right)
    return nn.Sequential(
        _conv(right.T[..., None, None]),
        _conv(core, conv.stride, conv.padding),
        _conv(left[..., None, None], bias=conv.bias),
    )


@torch.no_grad()
def channel_svd(conv: nn.Conv2d, parameters: float) -> nn.Module:
    """K x k to fewer channels, then 1x1 (Zhang et al., arXiv 1505.06798)."""
    weight = conv.weight.double()
    rank = max(1, int(parameters / (weight.shape[0] + weight[0].numel())))
    u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    first = vh[:rank].unflatten(1, weight.shape[1:])
    return nn.Sequential(_conv(first, conv.stride, conv.padding), _conv((u * s)[:, :rank, None, None], bias=conv.bias))


@torch.no_grad()
def spatial_svd(conv: nn.Conv2d, parameters: float) -> nn.Module:
    """K x 1 to fewer channels, then 1 x k (Jaderberg et al., arXiv 1405.3866, scheme 2)."""
    weight = conv.weight.double()
    out, in_, high, wide = weight.shape
    rank = max(1, int(parameters / (in_ * high + out * wide)))
    u, s, vh = torch.linalg.svd(weight.permute(1, 2, 0, 3).reshape(in_ * high, out * wide), full_matrices=False)
    first = (u * s)[:, :rank].T.reshape(-1, in_, high, 1)
    second = vh[:rank].reshape(-1, out, wide).transpose(0, 1).unsqueeze(2)
    (down, across), (top, left) = conv.stride, conv.padding
    return nn.Sequential(_conv(first, (down, 1), (top, 0)), _conv(second, (1, across), (0, left), conv.bias))


@torch.no_grad()
def tltorch_cp(conv: nn.Conv2d, parameters: float) -> nn.Module:
    """The factors that tltorch fits, run by our layer."""
    import tensorly
    import tltorch

    backend: Any = tensorly  # finds its names at run time, as tltorch does
    tensors: Any = tltorch
    sizes = conv.weight.shape
    rank = max(1, int(parameters / (sum(sizes) + 1)))
    with backend.backend_context("pytorch"), torch.random.fork_rng():
        torch.manual_seed(0)
        fitted = tensors.CPTensor.from_tensor(conv.weight.detach(), rank=rank, init="random", n_iter_max=50)
    factors = dict(zip(mode_names(2), (factor.detach() for factor in fitted.factors), strict=True))
    layer = HOCPConv2d.from_dense(conv, rank, fit=False)
    layer.set_kernel(CPKernel(fitted.weights.detach(), factors))
    return layer


def _leading(matrix: Tensor, rank: int) -> Tensor:
    return torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -rank:]


def _conv(
    weight: Tensor, stride: tuple[int, ...] = (1, 1), padding: object = (0, 0), bias: Tensor | None = None
) -> nn.Conv2d:
    out, in_, *taps = weight.shape
    conv = nn.Conv2d(in_, out, taps, stride, padding, bias=bias is not None)  # pyright: ignore
    conv.weight.copy_(weight)
    if bias is not None and conv.bias is not None:
        conv.bias.copy_(bias)
    return conv.requires_grad_(False)


def _largest(cost, limit: float) -> float:
    """Find by bisection the largest share in [0, 1] whose cost is within a limit; costs rise."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= limit else (low, middle)
    return low
