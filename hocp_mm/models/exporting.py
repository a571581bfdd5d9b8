"""A recogniser as one function of tensors, for exporters: of whole clips, or frame by frame with its memory outside.

clips [N, 3, T, H, W]                          -> affect [N, T, 2] (, expressions [N, T, K])
frames [N, 3, H, W], fresh [N], memory …       -> affect [N, 2] (, expressions [N, K]), memory …
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hocp_mm.functional.cp import CPKernel
from hocp_mm.functional.cp_conv import Pointwise, project_out
from hocp_mm.functional.padding import Window
from hocp_mm.functional.streaming import Ends, components
from hocp_mm.layers import exportable
from hocp_mm.layers.norm_folding import fold_norms_
from hocp_mm.layers.streaming import StepPlans, StreamState, StreamStep
from hocp_mm.models.recognizers import AffectRecognizer
from hocp_mm.models.streaming import FrameStream, Parts, network_parts, run_step


class ClipNetwork(nn.Module):
    """A copy of a recogniser that takes clips and gives tensors.

    Norms are folded into the layers before them (`fold_norms_`), and layers run in forms that exporters know.

    Args:
        network: The recogniser; not changed.
        size: Height and width of its pictures, pixels.
        preprocess: Take pictures as they are, uint8 or float in [0, 255], and normalise them inside; else normalised
            ones.

    Attributes:
        folded: Names of the norms that were folded.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, network: AffectRecognizer, size: Sequence[int], *, preprocess: bool = True) -> None:
        super().__init__()
        self.network: Any = _twin(network)
        self.expressions = self.network.head.classify is not None
        self.flip, self.preprocess = network.flip, preprocess
        place = next(network.parameters())
        example = torch.rand(1, 3, 2, *size, generator=torch.Generator().manual_seed(0)).to(place)
        self.folded = fold_norms_(self.network, example)
        preprocessor: Any = network.data_preprocessor
        self.register_buffer("pixel_mean", preprocessor.mean.clone())
        self.register_buffer("pixel_std", preprocessor.std.clone())

    def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
        """Predict.

        Args:
            clips: ``[N, 3, T, H, W]``, RGB.

        Returns:
            Valence and arousal ``[N, T, 2]``, not clipped, and with expressions their probabilities ``[N, T, K]``.
        """
        clips = self._normalised(clips)
        said = self._predict(clips)
        if self.flip:
            said = (said + self._predict(clips.flip(-1))) / 2
        return (said[..., :2], said[..., 2:]) if self.expressions else (said,)

    def _normalised(self, clips: Tensor) -> Tensor:
        return (clips.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std if self.preprocess else clips

    def _predict(self, clips: Tensor) -> Tensor:
        return self.network.head.predict(self.network.extract_feat(clips), clips.shape[2])


class StepNetwork(nn.Module):
    """A copy of a causal recogniser that takes the next frame of some streams, and their memory.

    Args:
        network: The recogniser; not changed.
        size: Height and width of its pictures, pixels.
        preprocess: As in `ClipNetwork`.

    Attributes:
        memory: Shape of what each layer keeps of a stream, ``[frames, parts, R, H', W']``, by name.

    Raises:
        NotImplementedError: If the network looks ahead, is tested with the mirror image, too, or cannot be streamed
            (see `FrameStream`).
    """

    def __init__(self, network: AffectRecognizer, size: Sequence[int], *, preprocess: bool = True) -> None:
        super().__init__()
        if network.flip:
            raise NotImplementedError(
                "a stream of one step must not be tested with the mirror image, too, got test_cfg.flip=True."
            )
        stream = FrameStream(network, size)
        if stream.delay:
            raise NotImplementedError(
                "a stream of one step needs a causal network (temporal_init='last', a causal neck), got one that "
                f"looks {stream.delay} frames ahead."
            )
        self.memory = stream.memory
        self.clips = ClipNetwork(network, size, preprocess=preprocess)
        self._names = {module: name for name, module in self.clips.network.named_modules()}
        self._parts: Parts = network_parts(self.clips.network)

    def forward(self, frames: Tensor, fresh: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        """Predict the next frame of every stream.

        Args:
            frames: ``[N, 3, H, W]``, RGB.
            fresh: bool ``[N]``, true where a stream begins; what is in its memory then does not matter.
            memory: Of each layer in the order of :attr:`memory`, ``[N, frames, parts, R, H', W']``.

        Returns:
            Valence and arousal ``[N, 2]``, with expressions their probabilities ``[N, K]``, and the memory after it.
        """
        kept = dict(zip(self.memory, memory, strict=True))
        step = _OneStep(self._names, fresh, kept)
        (said,), _ = run_step(self._parts, self.clips._normalised(frames[:, :, None]), step)
        said = said[:, 0]
        values = (said[:, :2], said[:, 2:]) if self.clips.expressions else (said,)
        return (*values, *(kept[name] for name in self.memory))

    def nothing(self, streams: int) -> tuple[Tensor, ...]:
        """Return an empty memory of so many streams."""
        like = next(self.parameters())
        return tuple(like.new_zeros(streams, *shape) for shape in self.memory.values())


class _OneStep(StreamStep):
    """A step of one frame, of which every operation is one on whole batches: a graph has no lists of streams."""

    def __init__(self, names: Mapping[nn.Module, str], fresh: Tensor, memory: dict[str, Tensor]) -> None:
        super().__init__(names, [StreamState()], 1, StepPlans())
        self._fresh, self._memory = fresh.reshape(-1, 1, 1, 1, 1, 1), memory

    def planned(self, layer: nn.Module, images: Tensor) -> None:
        return None

    def convolve(
        self,
        layer: nn.Module,
        images: Tensor,
        kernel: CPKernel,
        bias: Tensor | None,
        window: Window,
        before: int,
        *,
        dilation: int = 1,
        ends: Ends = "zeros",
        inner: Pointwise | None = None,
        gate: Pointwise | None = None,
    ) -> Tensor:
        z = components(images, kernel, window, inner)
        z = self.along_time(layer, z, kernel.factors["t"], before, dilation, ends)
        return project_out(z if gate is None else gate(z), kernel, bias)

    def along_time(
        self,
        layer: nn.Module,
        images: Tensor,
        taps: Tensor,
        before: int,
        dilation: int = 1,
        ends: Ends = "zeros",
        *,
        differences: bool = False,
    ) -> Tensor:
        if (name := self.names[layer]) not in self._memory:  # a single tap keeps nothing
            return images * taps.to(images.dtype)[0, :, None, None]
        past = self._memory[name]
        new = images.unflatten(0, (-1, 1, past.shape[2]))
        begin = new.expand_as(past) if ends == "repeat" else torch.zeros_like(past)
        frames = torch.cat([torch.where(self._fresh, begin, past), new], dim=1)
        self._memory[name] = frames[:, 1:]
        if differences:
            frames = frames[:, 1:] - frames[:, :-1]
        weights = taps.to(images.dtype)[..., None, None].unbind()
        seen = [frames[:, tap * dilation] * weight for tap, weight in enumerate(weights)]
        return sum(seen[1:], seen[0]).flatten(0, 1)


def _twin(network: AffectRecognizer) -> Any:
    """Return a copy whose CP layers are chains of ordinary convolutions, the only form for any number of frames."""
    twin: Any = exportable(network).requires_grad_(False)
    for module in twin.modules():
        if hasattr(module, "implementation"):
            module.implementation = "factorized"
    return twin
