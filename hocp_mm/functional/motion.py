"""Motion components: rectified differences in time, added to what a layer gives.

    y[o]  +=  sum_q  out[o, q] * | sum_k d[k, q] * sum_c in[c, q] * y[c, frame k away] |,      sum_k d[k, q] = 0

A loss that depends on how *fast* something changes is even in the difference of a feature between frames: a linear
temporal factor, whatever its taps, finds it at second order only, and gradients take long over that. The absolute value
of a difference has it at first order. A difference of a still clip is nothing, so what does not move is left alone, and
so is a single frame. Ends of a clip are repeated: zeros would look like a jump. Taps without a sum weigh differences of
neighbours, and so it is computed, so that rounding makes no motion of what stands still, whatever the dtype:

    sum_k d[k, q] z[k]  =  sum_k s[k, q] (z[k + 1] - z[k]),     s[k, q] = -sum_{i <= k} d[i, q]

Rectified differences are old (TDN's and TSN's differences of features and pictures, motion energy); their place here,
behind each convolution and in CP form, is ours and not the paper's.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hocp_mm.functional.context import is_exporting, is_transformed
from hocp_mm.functional.native import add_motion, native_available

Rectifier = Literal["abs", "relu"]


def motion(
    images: Tensor, factors: Mapping[str, Tensor], frames: int, before: int, rectifier: Rectifier = "abs"
) -> Tensor:
    """Add motion components to a folded clip.

    Args:
        images: ``[N*T, C, H, W]``, frames of one clip next to each other; overwritten where no gradient is recorded.
        factors: ``in`` ``[C, Q]``, ``t`` ``[size, Q]``, of which the mean over the taps is taken off, and ``out``
            ``[C', Q]`` with ``C' = C``.
        frames: T.
        before: Index of the tap that sees the present frame.
        rectifier: ``'abs'``, or ``'relu'`` for differences in one direction.

    Returns:
        A tensor like ``images``, with the same numbers where there is one frame.

    Raises:
        ValueError: If the batch is no multiple of ``frames``, the factors do not fit, or the rectifier is unknown.
    """
    batch, channels = images.shape[:2]
    taps = factors["t"]
    if rectifier not in get_args(Rectifier):
        raise ValueError(f"motion: rectifier must be one of {get_args(Rectifier)}, got {rectifier!r}.")
    if frames < 1 or batch % frames:
        raise ValueError(f"motion: the folded batch must be a multiple of frames={frames}, got {batch}.")
    if factors["in"].shape != factors["out"].shape or factors["in"].shape != (channels, taps.shape[1]):
        shapes = {name: tuple(factor.shape) for name, factor in factors.items()}
        raise ValueError(f"motion: factors must have {channels} channels and as many components, got {shapes}.")
    if not 0 <= before < len(taps) or not taps.shape[1]:
        raise ValueError(f"motion: before must be one of {len(taps)} taps, of a component at least, got {before}.")
    if not is_exporting() and (frames == 1 or not images.numel()):  # an exported graph takes any number of frames
        # A gradient of zero and not none, which processes that train together would wait for.
        nothing = sum(factor.flatten()[:0].sum() for factor in factors.values())
        return images + nothing if torch.is_grad_enabled() else images
    if _compiled_fits(images, factors):
        images = images.contiguous(memory_format=torch.channels_last)
        add_motion(images, factors["in"], taps, factors["out"], frames, before, rectifier == "relu")
        torch.autograd.graph.increment_version(images)  # what autograd has kept of them is gone, and it should say so
        return images
    # Channels last, in which taps of time go over whole frames; of a batch in that order it is a view.
    clip = seen_by(images, factors["in"]).permute(0, 2, 3, 1).contiguous().unflatten(0, (-1, frames))
    ends = [clip[:, :1]] * before, [clip[:, -1:]] * (len(taps) - 1 - before)
    clip = torch.cat([*ends[0], clip, *ends[1]], dim=1)
    steps = clip[:, 1:] - clip[:, :-1]
    first, *others = step_weights(taps).to(clip.dtype).unbind()
    moved = steps[:, :frames] * first
    for k, weight in enumerate(others, start=1):
        moved = torch.addcmul(moved, steps[:, k : k + frames], weight)
    return add_moved(images, moved.flatten(0, 1).permute(0, 3, 1, 2), factors["out"], rectifier)


def step_weights(taps: Tensor) -> Tensor:
    """Return what taps ``[size, Q]``, less their mean, weigh differences of neighbours with, ``[size - 1, Q]``."""
    return (taps.mean(0) - taps).cumsum(0)[:-1]


def seen_by(images: Tensor, directions: Tensor) -> Tensor:
    """Return what components see of each frame, ``[B, Q, H, W]``.

    Args:
        images: ``[B, C, H, W]``.
        directions: ``in`` ``[C, Q]``.
    """
    return F.conv2d(images, directions.to(images.dtype).T[..., None, None])


def add_moved(images: Tensor, moved: Tensor, directions: Tensor, rectifier: Rectifier) -> Tensor:
    """Add to frames what their components say.

    Args:
        images: ``[B, C, H, W]``; overwritten where no gradient is recorded.
        moved: Differences in time of what components see, ``[B, Q, H, W]``.
        directions: ``out`` ``[C, Q]``.
        rectifier: ``'abs'`` or ``'relu'``.

    Returns:
        A tensor like ``images``.
    """
    moved = moved.abs() if rectifier == "abs" else moved.relu()
    said = F.conv2d(moved, directions.to(moved.dtype)[..., None, None]).to(images.dtype)
    return images + said if torch.is_grad_enabled() else images.add_(said)


def _compiled_fits(images: Tensor, factors: Mapping[str, Tensor]) -> bool:
    """Tell whether the compiled kernel can do it: float32 on CPU, nothing that records, transforms or compiles."""
    return (
        not torch.is_grad_enabled()
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (images, *factors.values()))
        and images.layout == torch.strided
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not is_transformed()
        and not is_exporting()
        and native_available()
    )
