"""What ``nn.ConvNd`` writes as stride, padding and dilation, resolved; and the padding that no convolution can do."""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from hocp_mm.functional.order_four import pad4d

Ints = int | Sequence[int]
Pads = tuple[tuple[int, int], ...]
"""(before, after) for each convolved mode."""

# F.pad's names for nn.ConvNd's padding modes.
_PAD_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
PADDING_MODES = tuple(_PAD_MODE)


class Window(NamedTuple):
    """How the taps of each convolved mode move over the data, with every word of ``nn.ConvNd`` resolved."""

    stride: tuple[int, ...]
    pads: Pads
    dilation: tuple[int, ...]
    padding_mode: str = "zeros"

    def output_size(self, size: Sequence[int], taps: Sequence[int]) -> tuple[int, ...]:
        """Sizes after the convolution; 0 where the taps do not fit into the padded data."""
        return tuple(
            max(0, (n + sum(p) - d * (k - 1) - 1) // s + 1)
            for n, k, s, p, d in zip(size, taps, self.stride, self.pads, self.dilation, strict=True)
        )


def expand_ints(
    value: Ints, order: int, name: str, least: int | None = None, *, spread: bool = True
) -> tuple[int, ...]:
    """Spread an int over ``order`` modes, or check that a sequence has that length.

    Args:
        value: Int or ints.
        order: Number of modes.
        name: Of the value, for errors.
        least: Smallest value allowed; None for any.
        spread: Take a sequence of one for an int, as PyTorch's convolutions do with stride, padding and dilation.

    Returns:
        ``order`` ints.

    Raises:
        ValueError: If the length is wrong, or a value is below ``least``.
    """
    values = (value,) if isinstance(value, int) else tuple(value)
    values = values * order if len(values) == 1 and (spread or isinstance(value, int)) else values
    if len(values) != order:
        raise ValueError(f"cp_conv: {name} must be an int or {order} ints, got {tuple(values)}.")
    if least is not None and min(values) < least:
        raise ValueError(f"cp_conv: {name} must be at least {least}, got {values}.")
    return values


def resolve_padding(
    padding: Ints | str,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int] | None = None,
) -> Pads:
    """Turn ``padding`` in the words of ``torch.nn.ConvNd``, and one more, into (before, after) pairs.

    ``'same'`` puts the odd element of an even kernel after the data, as PyTorch does. ``'tf_same'`` is TensorFlow's
    SAME: as much as makes the output size ``ceil(size / stride)``; with stride 1 it is ``'same'``.

    Args:
        padding: Ints, ``'same'``, ``'valid'`` or ``'tf_same'``.
        kernel_size: Taps of each convolved mode.
        stride: Of each convolved mode.
        dilation: Of each convolved mode.
        size: Of the data; ``'tf_same'`` needs it. None only checks the word.

    Returns:
        One pair for each convolved mode.

    Raises:
        ValueError: If the word is unknown, a number negative, or ``'same'`` meets a stride.

    Example:
        >>> resolve_padding("tf_same", (3, 3), (2, 2), (1, 1), size=(8, 7))
        ((0, 1), (1, 1))
    """
    if padding == "tf_same":
        ends = [d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
        present = ends if size is None else size
        totals = [max(0, (-(-n // s) - 1) * s + end - n) for n, s, end in zip(present, stride, ends, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if padding == "valid":
        return ((0, 0),) * len(kernel_size)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"cp_conv: padding='same' needs stride 1, got {tuple(stride)}.")
        totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise ValueError(f"cp_conv: padding must be ints, 'same', 'valid' or 'tf_same', got {padding!r}.")
    return tuple((p, p) for p in expand_ints(padding, len(kernel_size), "padding", least=0))


def pad(x: Tensor, pads: Pads, padding_mode: str) -> tuple[Tensor, tuple[int, ...]]:
    """Pad what a convolution call cannot, and return what is left for it to pad (symmetric zeros)."""
    if padding_mode == "zeros" and all(before == after for before, after in pads):
        return x, tuple(before for before, _ in pads)
    if any(before or after for before, after in pads):
        flat = [n for pair in reversed(pads) for n in pair]  # F.pad counts from the last dimension
        # F.pad repeats and reflects at most three dimensions.
        x = (pad4d if len(pads) == 4 else F.pad)(x, flat, mode=_PAD_MODE[padding_mode])
    return x, (0,) * len(pads)
