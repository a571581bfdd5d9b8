"""One layer against its rivals: the four stages of ResNet-18 on a clip of 16 x 112 x 112."""

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.contenders import Conv2Plus1d, EachFrame, cp_layer, tltorch_layer
from benchmarks.timing import Step, inference, interleaved, training_step

STAGES = {64: 56, 128: 28, 256: 14, 512: 7}
FRAMES = 16
DENSE, PARENT = "conv3d", "conv2d on each frame"
RIVALS = (DENSE, "R(2+1)D", "tltorch factorized", "tltorch mobilenet", PARENT)
FORMS = ("factorized", "mobilenet", "fused", "reconstructed", "auto")


@dataclass(frozen=True)
class LayerResult:
    """Milliseconds of every contender on one layer.

    Attributes:
        channels: In and out.
        size: Height and width.
        expansion: R / C.
        training: Whether a backward pass is timed too.
        times: Milliseconds by contender; our forms have the prefix ``ours``.
        limit: Milliseconds that the multiplications of the CP form would take at the rate of the dense convolution.
    """

    channels: int
    size: int
    expansion: int
    training: bool
    times: dict[str, float]
    limit: float

    @property
    def ours(self) -> float:
        """Milliseconds of what a user gets."""
        return self.times["ours auto"]

    @property
    def tltorch(self) -> float:
        """Milliseconds of tltorch's better form."""
        return min(self.times["tltorch factorized"], self.times["tltorch mobilenet"])


def measure(expansion: int, training: bool, device: str, dtype: torch.dtype, seconds: float) -> list[LayerResult]:
    """Time all contenders on the four shapes.

    Returns:
        One result per shape.
    """
    results = []
    for channels, size in STAGES.items():
        rank = expansion * channels
        clip = torch.randn(1, channels, FRAMES, size, size, device=device, dtype=dtype)
        # Every layer gets the memory order it likes: PyTorch's 3-D convolutions the plain one, ours the other.
        clip_inside = clip.contiguous(memory_format=torch.channels_last_3d)
        modules: dict[str, tuple[nn.Module, torch.Tensor]] = {
            DENSE: (nn.Conv3d(channels, channels, 3, padding=1), clip),
            "R(2+1)D": (Conv2Plus1d(channels), clip),
            "tltorch factorized": (tltorch_layer(channels, rank, "factorized"), clip),
            "tltorch mobilenet": (tltorch_layer(channels, rank, "mobilenet"), clip),
            PARENT: (EachFrame(nn.Conv2d(channels, channels, 3, padding=1)), clip_inside),
            **{f"ours {form}": (cp_layer(channels, rank, form), clip_inside) for form in FORMS},
            "ours auto, contiguous": (cp_layer(channels, rank, "auto"), clip),
        }
        step = training_step if training else inference
        steps: dict[str, Step] = {
            name: step(module.to(device=device, dtype=dtype), x) for name, (module, x) in modules.items()
        }
        times = interleaved(steps, seconds=seconds, device=device, twice=True)
        share = rank * (2 * channels + 9) / (27 * channels**2)
        results.append(LayerResult(channels, size, expansion, training, times, times[DENSE] * share))
    return results


def saved_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """Bytes of activations kept for the backward pass; parameters and views of one storage are not counted twice."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module(x.detach().requires_grad_())
    return sum(kept.values())
