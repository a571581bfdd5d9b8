"""Laws of the package as assertions with a readable failure."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hocp_mm.functional import CPKernel, dense_kernel, mode_names

DENSE_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def random_kernel(
    out: int = 6,
    in_: int = 4,
    taps: tuple[int, ...] = (3, 3),
    rank: int = 8,
    groups: int = 1,
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = False,
) -> CPKernel:
    """Draw a kernel with signed weights; ``out`` and ``in_`` are channels over all groups."""
    sizes = (out // groups, in_ // groups, *taps)
    factors = {n: torch.randn(s, rank, dtype=dtype) for n, s in zip(mode_names(len(taps)), sizes, strict=True)}
    weights = torch.randn(rank, dtype=dtype)
    for tensor in (weights, *factors.values()):
        tensor.requires_grad_(requires_grad)
    return CPKernel(weights, factors, groups)


def brute_force_conv(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve over any number of modes from the definition: NumPy pads, every window is taken out, einsum sums."""
    words = {"zeros": "constant", "circular": "wrap", "replicate": "edge", "reflect": "reflect"}
    windows = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *pads], mode=words[padding_mode]))
    order = weight.ndim - 2
    for mode in range(order):
        span = dilation[mode] * (weight.shape[2 + mode] - 1) + 1
        windows = windows.unfold(2 + mode, span, stride[mode])[..., :: dilation[mode]]
    positions, taps = "pqrs"[:order], "ijkl"[:order]
    sums = torch.einsum(
        f"ngc{positions}{taps},goc{taps}->ngo{positions}",
        windows.unflatten(1, (groups, -1)),
        weight.unflatten(0, (groups, -1)),
    )
    return sums.flatten(1, 2)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """``|actual - expected| / |expected|`` in float64, after a check of the shapes."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-300))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Fail with the relative error when it exceeds ``tolerance``."""
    __tracebackhide__ = True
    error = relative_error(actual, expected)
    assert error <= tolerance, f"{what}: relative error {error:.2e} exceeds {tolerance:.0e}"


def assert_equals_dense(layer: nn.Module, x: Tensor, dense: nn.Module, tolerance: float) -> None:
    """Fail unless a CP layer computes what PyTorch's dense layer computes with the layer's own kernel."""
    __tracebackhide__ = True
    with torch.no_grad():
        dense.weight.copy_(dense_kernel(layer.kernel()))
        if dense.bias is not None:
            dense.bias.copy_(layer.bias)
        assert_close(layer(x), dense(x), tolerance, f"{layer} against {dense}")


def assert_framewise(
    video: Callable[[Tensor], Tensor], image: Callable[[Tensor], Tensor], clip: Tensor, tolerance: float = 0
) -> None:
    """Fail unless ``video(clip)[:, :, t]`` equals ``image`` of frame t as a clip of one frame, for every t."""
    __tracebackhide__ = True
    with torch.no_grad():
        out = video(clip)
        for t in range(clip.shape[2]):
            assert_close(out[:, :, t], image(clip[:, :, t : t + 1])[:, :, 0], tolerance, f"frame {t}")


def state_shapes(module: nn.Module) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
