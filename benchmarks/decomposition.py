"""Time and error of fitting CP kernels: whole networks, and single kernels against tensorly's ``parafac``."""

import time

import timm
import torch

from hocp_mm.functional import decompose, resolve_rank
from hocp_mm.layers.selection import is_factorizable

KERNELS = {
    "64 x 64 x 3 x 3": (64, 64, 3, 3),
    "256 x 256 x 3 x 3": (256, 256, 3, 3),
    "64 x 64 x 3 x 3 x 3": (64, 64, 3, 3, 3),
}


def trained_like(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Draw a kernel whose unfoldings have decaying spectra, as those of trained layers have, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(shape, generator=generator, dtype=torch.float64)
    for mode, size in enumerate(shape):
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        decay = torch.arange(1, size + 1, dtype=torch.float64) ** -0.7
        kernel = torch.tensordot(kernel, basis * decay, dims=([mode], [1])).movedim(-1, mode)
    return (
        kernel / kernel.norm()
        + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64) / kernel.numel() ** 0.5
    )


def network_rows(names: tuple[str, ...]) -> list[tuple[str, int, float, float]]:
    """Fit every k x k layer of timm networks at R = C_in; fresh weights, the hardest case.

    Returns:
        Rows (network, layers, seconds, largest degeneracy).
    """
    rows = []
    for name in names:
        layers = [m for m in timm.create_model(name, pretrained=False).modules() if is_factorizable(m)]
        start = time.perf_counter()
        fits = [decompose(m.weight, resolve_rank("x1", m.in_channels, m.out_channels, m.kernel_size)) for m in layers]
        rows.append((name, len(layers), time.perf_counter() - start, max(fit.degeneracy for fit in fits)))
    return rows


def kernel_rows() -> list[tuple[str, str, int, float, float, float, float]]:
    """Fit single kernels with ours and with tensorly at R = C_in.

    Returns:
        Rows (kernel, kind, rank, our seconds, our error, tensorly's seconds, tensorly's error).
    """
    import tensorly
    from tensorly.decomposition import parafac

    tensorly.set_backend("pytorch")
    rows = []
    for name, shape in KERNELS.items():
        for kind in ("random", "decaying spectra"):
            dense = (
                torch.nn.init.kaiming_normal_(torch.empty(shape)).double() if kind == "random" else trained_like(shape)
            )
            rank = shape[1]
            start = time.perf_counter()
            fit = decompose(dense, rank)
            ours = time.perf_counter() - start
            start = time.perf_counter()
            theirs = tensorly.cp_to_tensor(parafac(dense, rank, n_iter_max=100, init="random", random_state=0))
            seconds = time.perf_counter() - start
            rows.append(
                (name, kind, rank, ours, fit.relative_error, seconds, float((theirs - dense).norm() / dense.norm()))
            )
    return rows
