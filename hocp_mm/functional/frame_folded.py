"""Video convolution on frames folded into the batch.

A CP kernel is separable, so time is one more depthwise convolution on the rank channels and nothing else needs a
3-D operator. A clip ``[N, C, T, H, W]`` runs as ``[N*T, C, H, W]`` in ``channels_last``, which is bit for bit
``[N, T, H*W, C]``; the temporal pass looks at that same memory as an image of height T and width H*W.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hocp_mm.functional.choice import Form, Implementation, run_form
from hocp_mm.functional.context import is_exporting
from hocp_mm.functional.cp import CPKernel, merged_taps
from hocp_mm.functional.cp_conv import (
    Pointwise,
    check_channels,
    check_words,
    depthwise,
    project_in,
    project_out,
    reconstructed,
)
from hocp_mm.functional.fused import fused, fused_fits
from hocp_mm.functional.padding import Pads, Window, expand_ints, pad


def fold_frames(clip: Tensor) -> Tensor:
    """Fold time into the batch, frames of one clip next to each other.

    Args:
        clip: ``[N, C, T, H, W]``.

    Returns:
        ``[N*T, C, H, W]`` in ``channels_last``.

    Raises:
        ValueError: If ``clip`` is not 5-D or has no frame.
    """
    if clip.ndim != 5 or clip.shape[2] == 0:
        raise ValueError(f"fold_frames: clip must be [N, C, T, H, W] with T >= 1, got shape {tuple(clip.shape)}.")
    return clip.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def unfold_frames(images: Tensor, frames: int) -> Tensor:
    """Undo :func:`fold_frames`.

    Args:
        images: ``[N*T, C, H, W]``.
        frames: T.

    Returns:
        A view ``[N, C, T, H, W]``.

    Raises:
        ValueError: If the batch is no multiple of ``frames``.
    """
    _check_frames("unfold_frames", images, frames)
    return images.unflatten(0, (-1, frames)).transpose(1, 2)


def temporal_depthwise(images: Tensor, taps: Tensor, frames: int, before: int) -> Tensor:
    """Convolve each channel along time, zero-padded so that the number of frames stays.

    Args:
        images: Folded clip ``[N*T, R, H, W]``.
        taps: Temporal factor ``[size, R]``.
        frames: T.
        before: Frames of padding in front; the tap at this index sees the present frame.

    Returns:
        ``[N*T, R, H, W]``.

    Raises:
        ValueError: If the batch is no multiple of ``frames``.
    """
    _check_frames("temporal_depthwise", images, frames)
    size, channels = taps.shape
    if is_exporting():
        # For any number of frames and any order in memory, which an exported graph does not know.
        z = images.unflatten(0, (-1, frames))
        nothing = torch.zeros_like(z[:, :1])
        z = torch.cat([*[nothing] * before, z, *[nothing] * (size - 1 - before)], dim=1)
        weighed = [z[:, k : k + frames] * tap for k, tap in enumerate(taps.to(z.dtype)[..., None, None].unbind())]
        return sum(weighed[1:], weighed[0]).flatten(0, 1)
    if frames == 1:
        return images * taps[before].to(images.dtype).reshape(1, -1, 1, 1)
    _, _, height, width = images.shape
    z = images.permute(0, 2, 3, 1).reshape(-1, frames, height * width, channels).permute(0, 3, 1, 2)  # [N, R, T, H*W]
    after = size - 1 - before
    if before != after:
        z = F.pad(z, (0, 0, before, after))
    padding = (before if before == after else 0, 0)
    z = F.conv2d(z, taps.T.reshape(channels, 1, size, 1), None, 1, padding, 1, channels)
    return z.permute(0, 2, 3, 1).reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def cp_conv_folded(
    images: Tensor,
    kernel: CPKernel,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Pads,
    dilation: Sequence[int],
    *,
    frames: int,
    before: int,
    padding_mode: str = "zeros",
    implementation: Implementation = "auto",
    inner: Pointwise | None = None,
    gate: Pointwise | None = None,
    recompute: bool = False,
) -> Tensor:
    """Convolve a folded clip with a 3-D CP kernel, temporal stride 1.

    Equal to ``cp_conv`` on the unfolded clip with temporal padding ``before`` and ``size - 1 - before``.

    Args:
        images: ``[N*T, in, H, W]``.
        kernel: CP kernel with modes t, h, w.
        bias: ``[out]``.
        stride: Two ints, h and w.
        pads: (before, after) pairs for h and w.
        dilation: Two ints, h and w.
        frames: T.
        before: Index of the temporal tap that sees the present frame.
        padding_mode: Of h and w; time is padded with zeros.
        implementation: As in ``cp_conv``; here ``'mobilenet'`` and ``'factorized'`` are the same: taps of h and w
            merged, then time.
        inner: As in ``cp_conv``, on ``[N*T, rank, H, W]``.
        gate: As in ``cp_conv``, on ``[N*T, rank, H', W']``.
        recompute: As in ``cp_conv``.

    Returns:
        ``[N*T, out, H', W']``.

    Raises:
        ValueError: If ``images`` or ``kernel`` have other dimensions, the batch is no multiple of ``frames``, or as in
            ``cp_conv``.
    """
    if images.ndim != 4 or kernel.kernel_order != 3:
        raise ValueError(
            f"cp_conv_folded: images must be [N*T, in, H, W] and the kernel have modes t, h, w, "
            f"got shape {tuple(images.shape)} and {kernel.convolved}."
        )
    check_channels(images, images.shape[1], kernel, bias)
    _check_frames("cp_conv_folded", images, frames)
    stride, dilation = expand_ints(stride, 2, "stride", least=1), expand_ints(dilation, 2, "dilation", least=1)
    check_words(padding_mode, implementation, inner, gate, recompute)
    image_window = Window(stride, pads, dilation, padding_mode)
    clip_window = Window((1, *stride), ((before, kernel.kernel_size[0] - 1 - before), *pads), (1, *dilation))

    def run(form: Form, images: Tensor, kernel: CPKernel) -> Tensor:
        if form in ("fused", "reconstructed"):
            whole, window = images, clip_window
            if padding_mode != "zeros":  # of h and w; time is padded with zeros
                whole = pad(images, pads, padding_mode)[0]
                window = clip_window._replace(pads=(clip_window.pads[0], (0, 0), (0, 0)))
            clip = unfold_frames(whole, frames)
            out = fused(clip, kernel, bias, window) if form == "fused" else reconstructed(clip, kernel, bias, window)
            return out.transpose(1, 2).flatten(0, 1)
        z = project_in(images, kernel)
        z = z if inner is None else inner(z)
        # Space first: it may be strided, and then time has less to do.
        z = depthwise(z, merged_taps(kernel, ("h", "w")), *image_window)
        z = temporal_depthwise(z, kernel.factors["t"], frames, before)
        return project_out(z if gate is None else gate(z), kernel, bias)

    plain = inner is None and gate is None
    can_fuse = plain and fused_fits(unfold_frames(images, frames), kernel, bias, clip_window)
    return run_form(
        run, images, kernel, implementation, (clip_window, padding_mode, frames),
        can_fuse=can_fuse, can_rebuild=plain, recompute=recompute,
    )  # fmt: skip


def _check_frames(where: str, images: Tensor, frames: int) -> None:
    if frames < 1 or images.shape[0] % frames:
        raise ValueError(f"{where}: the folded batch must be a multiple of frames={frames}, got {images.shape[0]}.")
