"""Convolution and padding over four modes (light fields, volumes in time); PyTorch stops at three.

    y[:, :, p] = bias + sum_k conv3d(x[:, :, p * stride + k * dilation], weight[:, :, k])

The first mode joins the batch and each of its taps is one ``F.conv3d``. Where two neighbouring modes are not
convolved at all (one tap, stride 1, no padding), they are merged into one and a single ``F.conv3d`` is left: that is
so in every 1x1 convolution and in every pass of the axis-by-axis CP form.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

_ORDER = 4


def conv4d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve over four modes, in the words and order of ``F.conv3d``.

    Args:
        x: ``[batch, in, *4 sizes]`` or ``[in, *4 sizes]``.
        weight: ``[out, in / groups, *4 taps]``.
        bias: ``[out]``.
        stride: An int or one for each mode.
        padding: Zeros on both sides of each mode, an int or one for each mode.
        dilation: An int or one for each mode.
        groups: Divides in and out.

    Returns:
        ``[batch, out, *4 output sizes]``, unbatched if ``x`` was.

    Raises:
        ValueError: If shapes or lengths do not fit, or the padded input is smaller than the dilated kernel.
    """
    strides, dilations = _four(stride, "stride"), _four(dilation, "dilation")
    pads = _four(padding, "padding")
    _check(x, weight, pads, dilations)
    if x.ndim == _ORDER + 1:
        return conv4d(x.unsqueeze(0), weight, bias, strides, pads, dilations, groups).squeeze(0)
    idle = [k == 1 and s == 1 and p == 0 for k, s, p in zip(weight.shape[2:], strides, pads, strict=True)]
    for mode in range(_ORDER - 1):
        if idle[mode] and idle[mode + 1]:
            return _merged(x, weight, bias, strides, pads, dilations, groups, mode)
    return _unrolled(x, weight, bias, strides, pads, dilations, groups)


def pad4d(x: Tensor, padding: Sequence[int], mode: str = "constant") -> Tensor:
    """Pad the last four dims in the words of ``F.pad``, whose other modes than zeros reach three dims only.

    Args:
        x: ``[batch, channels, *4 sizes]``.
        padding: 8 ints, (before, after) from the last dim to the first.
        mode: ``constant`` (zeros), ``reflect``, ``replicate`` or ``circular``.

    Returns:
        ``[batch, channels, *4 padded sizes]``.
    """
    if mode == "constant":
        return F.pad(x, tuple(padding))
    # Each of these modes copies positions of one dim at a time, so the first dim can go before the other three.
    *rest, before, after = padding
    sizes = x.shape[3:]
    x = F.pad(x.flatten(3), (0, 0, before, after), mode=mode)  # [batch, channels, padded first, others]
    lead = x.shape[1:3]
    return F.pad(x.flatten(1, 2).unflatten(2, sizes), tuple(rest), mode=mode).unflatten(1, lead)


def _merged(
    x: Tensor, weight: Tensor, bias: Tensor | None,
    stride: list[int], padding: list[int], dilation: list[int], groups: int, mode: int,
) -> Tensor:  # fmt: skip
    """Treat an idle mode and the next one, idle too, as one."""
    dim = mode + 2
    sizes = x.shape[dim : dim + 2]
    strides, pads, dilations = (values[:mode] + values[mode + 1 :] for values in (stride, padding, dilation))
    y = F.conv3d(x.flatten(dim, dim + 1), weight.flatten(dim, dim + 1), bias, strides, pads, dilations, groups)
    return y.unflatten(dim, sizes)


def _unrolled(
    x: Tensor, weight: Tensor, bias: Tensor | None,
    stride: list[int], padding: list[int], dilation: list[int], groups: int,
) -> Tensor:  # fmt: skip
    """Sum one 3-D convolution for each tap of the first mode."""
    (step, *strides), (edge, *pads), (spread, *dilations) = stride, padding, dilation
    frames = pad4d(x, (0,) * 6 + (edge, edge)).transpose(1, 2)  # [batch, first, in, *3 sizes]
    taps = weight.unbind(2)
    length = (frames.shape[1] - spread * (len(taps) - 1) - 1) // step + 1
    y = None
    for k, tap in enumerate(taps):
        seen = frames[:, k * spread : k * spread + step * (length - 1) + 1 : step].flatten(0, 1)
        part = F.conv3d(seen, tap, bias if y is None else None, strides, pads, dilations, groups)
        y = part if y is None else y + part
    assert y is not None  # _check has seen at least one tap
    # Contiguous, as every other convolution of contiguous input.
    return y.unflatten(0, (x.shape[0], length)).transpose(1, 2).contiguous()


def _four(value: int | Sequence[int], name: str) -> list[int]:
    values = [value] * _ORDER if isinstance(value, int) else list(value)
    if isinstance(value, str) or len(values) != _ORDER:
        raise ValueError(f"conv4d: {name} must be an int or {_ORDER} ints, got {value!r}.")
    return values


def _check(x: Tensor, weight: Tensor, padding: list[int], dilation: list[int]) -> None:
    if weight.ndim != _ORDER + 2 or x.ndim not in (_ORDER + 1, _ORDER + 2):
        raise ValueError(
            f"conv4d: x must be [batch, in, *4 sizes] or [in, *4 sizes] and weight [out, in / groups, *4 taps], "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}."
        )
    sizes, taps = x.shape[-_ORDER:], weight.shape[2:]
    for size, k, p, d in zip(sizes, taps, padding, dilation, strict=True):
        if k < 1 or size + 2 * p < d * (k - 1) + 1:
            raise ValueError(
                f"conv4d: the padded input must hold the dilated kernel, got sizes {tuple(sizes)} and taps "
                f"{tuple(taps)} (padding {tuple(padding)}, dilation {tuple(dilation)})."
            )
