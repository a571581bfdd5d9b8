"""From what a user writes as ``rank`` to a number of components.

The expansion rule ``R = n * C_in`` is the paper's HO-CP-n (arXiv 1906.06196, FLOP figure); ``same`` is parameter
parity with the dense kernel of the same order.
"""

import re
from math import ceil, prod

RankLike = int | str

_EXPANSION = re.compile(r"x(\d+(?:\.\d+)?)")


def resolve_rank(
    rank: RankLike, in_channels: int, out_channels: int, kernel_size: tuple[int, ...], groups: int = 1
) -> int:
    """Turn a rank specification into a number of components for one layer.

    Args:
        rank: A number of components (over all groups), ``'x1'``, ``'x3'``, ``'x1.5'`` (expansion over the input
            channels), or ``'same'`` (as many as keep the parameter count of the dense kernel).
        in_channels: Input channels of the layer.
        out_channels: Output channels of the layer.
        kernel_size: Taps of each convolved mode.
        groups: Groups of the layer; ratios are rounded up to a multiple of it.

    Returns:
        Components, at least ``groups`` and a multiple of it.

    Raises:
        ValueError: If ``rank`` has another form, is below 1, or an int is no multiple of ``groups``.

    Example:
        >>> resolve_rank("x3", 64, 128, (3, 3)), resolve_rank("same", 64, 64, (3, 3))
        (192, 275)
    """
    if isinstance(rank, bool) or not isinstance(rank, (int, str)):
        raise ValueError(f"rank: must be an int, 'x<expansion>' or 'same', got {rank!r}.")
    if isinstance(rank, int):
        if rank < 1 or rank % groups:
            raise ValueError(f"rank: must be a positive multiple of groups={groups}, got {rank}.")
        return rank
    dense = (out_channels // groups, in_channels // groups, *kernel_size)
    if rank == "same":
        return groups * max(1, prod(dense) // (sum(dense)))
    expansion = _EXPANSION.fullmatch(rank)
    if expansion is None or float(expansion[1]) == 0:
        raise ValueError(f"rank: must be an int, 'x<expansion>' with a positive expansion or 'same', got {rank!r}.")
    return groups * max(1, ceil(float(expansion[1]) * in_channels / groups))
