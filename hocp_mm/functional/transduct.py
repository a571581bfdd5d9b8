"""Transduction: a CP kernel gains one convolved mode, and nothing that was learnt changes.

Kossaifi et al., CVPR 2020 (arXiv 1906.06196), Figure 1 and the section on higher-order transduction. The paper's
"constant one" start would sum the frames; ours is a delta (or a mean), so that the new network starts as the old
one on every frame.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from hocp_mm.functional.cp import MAX_KERNEL_ORDER, CPKernel, mode_names

Init = Literal["central", "last", "uniform"]


def temporal_taps(
    size: int,
    rank: int,
    init: Init = "central",
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Make the first values of a temporal factor.

    Args:
        size: Taps.
        rank: Number of components, all given the same values.
        init: ``central`` is a delta at ``size // 2``, ``last`` a delta at the last tap (causal), ``uniform`` is
            ``1 / size`` everywhere.
        dtype: As in ``torch.zeros``.
        device: As in ``torch.zeros``.

    Returns:
        Tensor ``[size, rank]``.

    Raises:
        ValueError: If ``init`` is unknown, ``size`` is below 1, or ``central`` meets an even ``size`` (its middle
            would be half a frame off).
    """
    if init not in get_args(Init):
        raise ValueError(f"transduct: init must be one of {get_args(Init)}, got {init!r}.")
    if size < 1:
        raise ValueError(f"transduct: size must be at least 1 tap, got {size}.")
    if init == "central" and size % 2 == 0:
        raise ValueError(f"transduct: init 'central' needs an odd size, got {size} (use 'last' or 'uniform').")
    if init == "uniform":
        return torch.full((size, rank), 1 / size, dtype=dtype, device=device)
    taps = torch.zeros(size, rank, dtype=dtype, device=device)
    taps[size // 2 if init == "central" else -1] = 1
    return taps


def transduct(kernel: CPKernel, size: int, init: Init = "central") -> CPKernel:
    """Add one convolved mode in front of the existing ones (2-D to 3-D adds time).

    ``central`` and ``last`` make the new kernel act on each frame alone; ``uniform`` averages ``size`` frames. All
    three leave a still clip unchanged away from the padding.

    Args:
        kernel: CP kernel with ``N`` convolved modes, ``N <= 3``.
        size: Length of the new mode, in taps; odd for ``central``.
        init: Values of the new factor, shared by all components.

    Returns:
        CP kernel with ``N + 1`` convolved modes in the dtype and on the device of ``kernel``; the old factors are
        the same tensors.

    Raises:
        ValueError: If ``init`` is unknown, ``central`` meets an even ``size``, or ``kernel`` has 4 modes already.

    Example:
        >>> flat = CPKernel(torch.ones(2), {n: torch.ones(3, 2) for n in ("out", "in", "h", "w")})
        >>> list(transduct(flat, 3).factors), transduct(flat, 3).factors["t"][:, 0].tolist()
        (['out', 'in', 't', 'h', 'w'], [0.0, 1.0, 0.0])
    """
    order = kernel.kernel_order + 1
    if order > MAX_KERNEL_ORDER:
        raise ValueError(f"transduct: a kernel has at most {MAX_KERNEL_ORDER} convolved modes, got {order} wanted.")
    new_mode = mode_names(order)[2]
    taps = temporal_taps(size, kernel.rank, init, dtype=kernel.weights.dtype, device=kernel.weights.device)
    return CPKernel(kernel.weights, {**kernel.factors, new_mode: taps}, kernel.groups)
