"""Which frames a prediction can depend on, and which it does: from the layers' kernels, and from gradients.

From the kernels: every tensor of a forward pass carries how many frames before and after its own it has seen. A layer
with taps in time adds those of its kernel, whatever they weigh; branches that meet keep the longer one. From gradients:
the frames whose pixels move the output of one frame at all. The second is never more than the first, and as much where
no tap is zero (a network that was just transducted has taps of zero).
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hocp_mm.layers import HOCPConv3d
from hocp_mm.layers.temporal import has_temporal_factor
from hocp_mm.models.necks.temporal_block import TemporalBlock

_SIDE = 32  # pixels of the pictures that gradients are measured on
_DRAWS = 2
_LONGEST = 513  # frames of a clip that gradients are measured on


@dataclass(frozen=True)
class Reach:
    """Frames that an output depends on, beside its own.

    Attributes:
        past: Frames before it.
        future: Frames after it; none if the network is causal.
    """

    past: int = 0
    future: int = 0

    @property
    def frames(self) -> int:
        """All of them, with its own."""
        return self.past + 1 + self.future

    def __add__(self, other: "Reach") -> "Reach":
        """One layer behind the other."""
        return Reach(self.past + other.past, self.future + other.future)

    def __or__(self, other: "Reach") -> "Reach":
        """Two branches that meet."""
        return Reach(max(self.past, other.past), max(self.future, other.future))


def own_reach(module: nn.Module) -> Reach | None:
    """Return what a layer adds by its own kernel; None for layers without taps in time.

    Raises:
        NotImplementedError: If it steps over frames, which no layer of this package's own networks does.
    """
    if has_temporal_factor(module):
        layer: Any = module
        size = len(layer.factors["t"])
        own = Reach(layer.before, size - 1 - layer.before)
        if layer.motion is not None:
            size = len(layer.motion.factors["t"])
            own += Reach(layer.motion.before, size - 1 - layer.motion.before)
        return own
    if isinstance(module, TemporalBlock):
        own = Reach()
        for conv in (module.difference, module.context):
            span = module.dilation * (conv.kernel_size[0] - 1)
            own += Reach(span, 0) if module.causal else Reach(span // 2, span // 2)
        return own
    if isinstance(module, HOCPConv3d | nn.Conv3d) and (module.kernel_size[0] > 1 or module.stride[0] > 1):
        if module.stride[0] > 1 or isinstance(module.padding, str):
            raise NotImplementedError(f"receptive field: a layer that steps over frames is not known, got {module}.")
        span, before = module.dilation[0] * (module.kernel_size[0] - 1), module.padding[0]
        own = Reach(before, span - before)
        return own + Reach(own.past, own.future) if getattr(module, "motion", None) is not None else own
    return None


@torch.no_grad()
def reach_of_kernels(model: nn.Module, clip: Tensor) -> Reach:
    """Return what the output of a frame can depend on, from the kernels alone.

    Args:
        model: Recogniser in evaluation mode; ``model(clip, mode="tensor")`` gives ``[N, T, 2]``.
        clip: Any normalised clip, ``[1, C, T, H, W]`` with two frames or more; its numbers do not matter.

    Returns:
        Exact in networks of this package, and in stock ones that keep every frame.

    Raises:
        NotImplementedError: If a layer steps over frames.
    """
    tracer = _Tracer()
    hooks = []
    inside: set[nn.Module] = set()  # of a block that is one unit
    for module in model.modules():
        if module in inside or (own := own_reach(module)) is None:
            continue
        inside.update(module.modules())
        hooks.append(
            module.register_forward_hook(lambda _, args, output, own=own: tracer.tell(output, tracer.of(args) + own))
        )
    try:
        tracer.tell(clip, Reach())
        with tracer:
            pred = model(clip, mode="tensor")
    finally:
        for hook in hooks:
            hook.remove()
    return tracer.of(pred)


class _Tracer(TorchDispatchMode):
    """Follows reaches from the inputs of each operation to its outputs, by the memory that tensors lie in."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, Reach] = {}
        self._kept: list[Tensor] = []  # or another tensor might get the same memory

    def of(self, content: Any) -> Reach:
        """Return the longest reach of all tensors in something."""
        found = Reach()
        for one in tree_leaves(content):
            if isinstance(one, Tensor):
                found |= self._known.get(_memory(one), Reach())
        return found

    def tell(self, content: Any, reach: Reach) -> None:
        """Say what tensors have seen; a view has seen as much as all that shares its memory."""
        for one in tree_leaves(content):
            if isinstance(one, Tensor):
                self._known[_memory(one)] = self._known.get(_memory(one), Reach()) | reach
                self._kept.append(one)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.tell(output, self.of((args, kwargs)))
        return output


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def reach_of_gradients(model: nn.Module, limit: Reach, channels: int = 3, seed: int = 0, side: int = _SIDE) -> Reach:
    """Measure what the output of a frame depends on, as trained: frames whose pixels move it at all.

    In float64, where the product of many small taps is still a number, on noise, with room around what may count.

    Args:
        model: As in `reach_of_kernels`; a copy is made.
        limit: What is known of the kernels; one frame more on each side is looked at.
        channels: Of a frame.
        seed: Of the noise.
        side: Height and width of the noise, pixels.

    Returns:
        The farthest frames with a gradient.
    """
    twin = copy.deepcopy(model).double().eval()
    twin.requires_grad_(False)
    past, future = (min(count, _LONGEST // 2) + 1 for count in (limit.past, limit.future))
    found = Reach()
    for draw in range(_DRAWS):
        noise = torch.randn(
            (1, channels, past + 1 + future, side, side),
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed + draw),
        )
        inputs = noise.to(next(twin.parameters()).device).requires_grad_()
        with torch.enable_grad():
            valence, arousal = twin(inputs, mode="tensor")[0, past]
            (gradient,) = torch.autograd.grad(valence + math.sqrt(2) * arousal, inputs)  # of both in one pass
        moved = gradient.abs().amax((0, 1, 3, 4)).nonzero().flatten().tolist()
        found |= Reach(max(0, past - min(moved, default=past)), max(0, max(moved, default=past) - past))
        if found == limit:
            break  # else a ReLU may have been shut for these numbers
    return found


def frame_gradients(model: nn.Module, clips: Tensor, frame: int) -> Tensor:
    """Return how strongly each frame of a clip moves the output of one of them.

    Args:
        model: As in `reach_of_kernels`, parameters without gradients.
        clips: Normalised, ``[N, C, T, H, W]``.
        frame: Whose output.

    Returns:
        Sums of squared gradients over the pixels of a frame, for valence and arousal, ``[N, 2, T]``.
    """
    with torch.enable_grad():
        inputs = clips.detach().requires_grad_()
        pred = model(inputs, mode="tensor")[:, frame]  # [N, 2]
        found = [torch.autograd.grad(pred[:, index].sum(), inputs, retain_graph=index == 0)[0] for index in range(2)]
    return torch.stack([gradient.square().sum((1, 3, 4)) for gradient in found], dim=1)


def shares(energy: Tensor) -> Tensor:
    """Return energies ``[..., T]`` as parts of their sum; zeros where there is none."""
    total = energy.sum(-1, keepdim=True)
    return torch.where(total > 0, energy / total.clamp_min(torch.finfo(energy.dtype).tiny), torch.zeros_like(energy))
