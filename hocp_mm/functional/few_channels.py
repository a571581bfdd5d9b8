"""Strided 1x1 convolutions of few channels, whose weight gradient ends the process.

Fault: ``F.conv2d(x, w, stride=2).sum().backward()`` writes beyond its memory (SIGSEGV, SIGABRT, or nothing to be seen)
    for float32 ``x`` ``[4, 3, 64, 64]`` in ``channels_last`` and ``w`` ``[48, 3, 1, 1]``; so with 1 to 7 channels, any
    stride along any axis, any number of outputs, and with ``w`` in ``channels_last`` whatever ``x`` is. Not with 8
    channels, padding, groups, stride 1, more taps or other dtypes, and not in three modes.
Where: oneDNN on processors with AVX2 but without AVX-512 (``ONEDNN_MAX_CPU_ISA=AVX2`` elsewhere), torch 2.15.
Cure: such a convolution is one of stride 1 on every n-th pixel.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SAFE = 8  # channels


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Call ``F.conv2d``, with the cure where it is needed."""
    if tuple(weight.shape[2:]) == (1, 1) and max(stride) > 1 and not any(padding) and weight.shape[1] < _SAFE:
        nth = x[..., :: stride[0], :: stride[-1]]
        # A cut is in no format, and the output would be in the other one.
        in_channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        x, stride = nth.contiguous(memory_format=torch.channels_last) if in_channels_last else nth, (1, 1)
    return F.conv2d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """Call ``F.conv1d``, which PyTorch computes as ``F.conv2d``."""
    if weight.shape[2] == 1 and max(stride) > 1 and not any(padding) and weight.shape[1] < _SAFE:
        x, stride = x[..., :: stride[0]], (1,)
    return F.conv1d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)
