"""Layers of a 2-D network that see time: the frame-folded twins of convolutions.

The host network runs on ``[N*T, C, H, W]``; only these layers look at T, which they read from a :class:`FrameAxis`
that one network's layers share and its backbone sets before each forward pass.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hocp_mm.functional.cp import mode_names
from hocp_mm.functional.cp_conv import resolve_padding
from hocp_mm.functional.frame_folded import cp_conv_folded, temporal_depthwise
from hocp_mm.functional.padding import Window
from hocp_mm.functional.transduct import Init, temporal_taps
from hocp_mm.layers.cp_conv import HOCPConv2d
from hocp_mm.layers.few_channels import FewChannelsConv2d
from hocp_mm.layers.motion import MotionComponents
from hocp_mm.layers.options import conv_arguments
from hocp_mm.layers.reparametrized import refresh_
from hocp_mm.layers.streaming import StreamStep
from hocp_mm.layers.tracing import fx_leaf
from hocp_mm.layers.variants import Standardization, kernel_of, variant_of


class FrameAxis:
    """The number of frames folded into the batch, shared by the layers of one network.

    Deep copies and pickles of a network keep one common object, since its layers refer to the same one.

    Attributes:
        clips: Clips in the batch, if the backbone says so. A layer then notices that the network cut every frame into
            parts (attention heads, windows) before it; without, a batch of parts would be taken for one of frames.
        step: What came before these frames, if they go on with streams (:mod:`hocp_mm.layers.streaming`); None for
            whole clips.
    """

    def __init__(self) -> None:
        self._length: int | None = None
        self.clips: int | None = None
        self.step: StreamStep | None = None

    @property
    def length(self) -> int:
        """Frames of the present clip.

        Raises:
            RuntimeError: If no forward pass has set it.
        """
        if self._length is None:
            raise RuntimeError("FrameAxis: the number of frames is not set (call the backbone, not its inner network).")
        return self._length

    @length.setter
    def length(self, frames: int) -> None:
        if frames < 1:
            raise ValueError(f"FrameAxis: a clip needs at least 1 frame, got {frames}.")
        self._length = frames

    def along_time(self, images: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        """Run a layer that takes ``[clips * T, ...]``, frames of one clip next to each other.

        Args:
            images: A batch of that order, or one in which every frame is cut into equally many parts that are next to
                each other: each part is then a clip of its own.
            layer: The layer; it keeps the batch.

        Returns:
            What the layer gives, in the order of ``images``.

        Raises:
            ValueError: If the batch is no multiple of the frames of all clips.
        """
        frames, batch = self.length, images.shape[0]
        if self.step is not None or self.clips is None or batch == self.clips * frames:
            return layer(images)
        if batch % (self.clips * frames):
            raise ValueError(
                f"FrameAxis: the folded batch must be a multiple of {self.clips} clips of {frames} frames, got {batch}."
            )
        parts = images.unflatten(0, (self.clips, frames, -1)).transpose(1, 2)  # [clips, parts, T, ...]
        out = layer(parts.flatten(0, 2))
        return out.unflatten(0, parts.shape[:3]).transpose(1, 2).flatten(0, 2)

    def convolve(self, layer: nn.Module, images: Tensor, taps: Tensor, before: int) -> Tensor:
        """Convolve along time, within the clip or on from what the layer has kept of its streams.

        Args:
            layer: Whose taps these are.
            images: ``[N*T, R, H, W]``.
            taps: ``[size, R]``.
            before: Index of the tap that sees the present frame.

        Returns:
            A tensor like ``images``.
        """
        if self.step is not None:
            return self.step.along_time(layer, images, taps, before)
        return temporal_depthwise(images, taps, self.length, before)

    def move(self, motion: MotionComponents | None, images: Tensor) -> Tensor:
        """Add motion components, if there are any, within the clip or on from what they have kept of streams."""
        if motion is None:
            return images
        return motion(images, self.length) if self.step is None else motion.step(images, self.step)


def present_tap(size: int, init: Init) -> int:
    """Return the index of the temporal tap that sees the present frame; what lies before it sees the past."""
    return size - 1 if init == "last" else size // 2


def has_temporal_factor(module: nn.Module) -> bool:
    """Tell whether a layer of a frame-folded network sees other frames than the present one."""
    return isinstance(getattr(module, "frame_axis", None), FrameAxis) and "t" in getattr(module, "factors", ())


class FrameFoldedHOCPConv2d(HOCPConv2d):
    """A 2-D CP convolution with a temporal factor: a 3-D CP convolution on folded frames.

    Its state dict has the names and shapes of ``HOCPConv3d``. Made by :func:`hocp_mm.layers.transduct_`.

    Batch norm in Psi is that of the 3-D layer exactly, since frames are samples here; group and instance norm take
    their statistics per frame, as the image layer does. The gate does so in both.
    """

    # False while the constructor of the base class runs. Not `"t" in factors`, which dynamo of torch 2.4 cannot follow.
    _has_taps = False
    before: int
    frame_axis: FrameAxis
    motion: MotionComponents | None

    @classmethod
    def from_image_layer(
        cls, layer: HOCPConv2d, size: int, init: Init, frame_axis: FrameAxis
    ) -> "FrameFoldedHOCPConv2d":
        """Turn ``layer`` into its frame-folded twin; all old parameters are the same objects.

        Args:
            layer: The image layer; it should not be used any more.
            size: Temporal taps.
            init: Values of the temporal factor.
            frame_axis: Where the layer reads T.

        Returns:
            A layer that gives the same output on every frame for ``init`` central or last.
        """
        arguments: dict[str, Any] = {**conv_arguments(layer), "device": "meta"}  # its parameters are replaced at once
        folded = cls(**arguments, rank=layer.rank)
        folded.share_(layer)
        taps = temporal_taps(size, layer.rank, init, dtype=layer.weights.dtype, device=layer.weights.device)
        folded.factors["t"], folded._has_taps = nn.Parameter(taps), True
        folded.before, folded.frame_axis, folded.motion = present_tap(size, init), frame_axis, None
        return folded

    @property
    def _modes(self) -> tuple[str, ...]:
        return mode_names(3) if self._has_taps else mode_names(2)

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[N*T, in, H, W]`` to ``[N*T, out, H', W']``."""
        return self.frame_axis.along_time(x, self._convolve)

    def _convolve(self, x: Tensor) -> Tensor:
        if self.frame_axis.step is not None and (y := self.frame_axis.step.planned(self, x)) is not None:
            return self.frame_axis.move(self.motion, y)
        kernel = self._working_kernel()
        gate = self._gate_for(kernel)
        pads = resolve_padding(self.padding, self.kernel_size, self.stride, self.dilation, x.shape[2:])
        if self.frame_axis.step is not None:
            window = Window(self.stride, pads, self.dilation, self.padding_mode)
            y = self.frame_axis.step.convolve(
                self, x, kernel, self.bias, window, self.before, inner=self.inner, gate=gate
            )
        else:
            y = cp_conv_folded(
                x,
                kernel,
                self.bias,
                self.stride,
                pads,
                self.dilation,
                frames=self.frame_axis.length,
                before=self.before,
                padding_mode=self.padding_mode,
                implementation=self.implementation,
                inner=self.inner,
                gate=gate,
                recompute=self.recompute,
            )
        return self.frame_axis.move(self.motion, y)

    def extra_repr(self) -> str:
        """Add the temporal taps to the description."""
        size = self.factors["t"].shape[0] if "t" in self.factors else 0
        return f"{super().extra_repr()}, temporal_kernel={size}"


class FrameFoldedConv2d(FewChannelsConv2d):
    """A kept (depthwise, grouped or dense) 2-D convolution followed by a temporal factor on its output channels.

    A depthwise kernel is a CP kernel already; the temporal factor makes it a 3-D one. Parameters: ``weight``,
    ``bias`` and perhaps ``gain`` as before, and ``factors.t`` ``[size, out]``. What the layer computed on an image
    (:mod:`hocp_mm.layers.variants`) it computes on each frame.
    """

    before: int
    frame_axis: FrameAxis
    factors: nn.ParameterDict
    follows_size: bool
    standardization: Standardization | None
    motion: MotionComponents | None

    @classmethod
    def from_image_layer(cls, layer: nn.Conv2d, size: int, init: Init, frame_axis: FrameAxis) -> "FrameFoldedConv2d":
        """Turn ``layer`` into its frame-folded twin; all old parameters are the same objects.

        Args:
            layer: The image layer, ``nn.Conv2d`` or a known variant of it; it should not be used any more.
            size: Temporal taps.
            init: Values of the temporal factor.
            frame_axis: Where the layer reads T.

        Returns:
            A layer that gives the same output on every frame for ``init`` central or last.

        Raises:
            NotImplementedError: If it is not known what the layer computes.
        """
        variant = variant_of(layer)
        if variant is None:
            raise NotImplementedError(
                f"FrameFoldedConv2d: only known layers can be folded, got {type(layer).__name__}."
            )
        arguments: dict[str, Any] = {**conv_arguments(layer), "device": "meta"}  # its parameters are replaced at once
        folded = cls(**arguments)
        folded.follows_size, folded.standardization = variant
        folded.weight, folded.bias = layer.weight, layer.bias
        if folded.standardization is not None and "gain" in folded.standardization.names:
            folded.gain = layer.get_parameter("gain")
        taps = temporal_taps(size, layer.out_channels, init, dtype=layer.weight.dtype, device=layer.weight.device)
        folded.factors = nn.ParameterDict({"t": nn.Parameter(taps)})
        folded.before, folded.frame_axis, folded.motion = present_tap(size, init), frame_axis, None
        return folded.train(layer.training)

    @fx_leaf
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``[N*T, in, H, W]`` to ``[N*T, out, H', W']``."""
        return self.frame_axis.along_time(input, self._convolve)

    def _convolve(self, x: Tensor) -> Tensor:
        if self.follows_size:
            (top, bottom), (left, right) = resolve_padding(
                "tf_same", self.kernel_size, self.stride, self.dilation, x.shape[2:]
            )
            x = F.pad(x, (left, right, top, bottom))
        z = self._conv_forward(x, kernel_of(self, self.standardization), None)
        refresh_(self.factors)
        z = self.frame_axis.convolve(self, z, self.factors["t"], self.before)
        # In the dtype of z: under autocast that is the lower one, as with a plain convolution.
        z = z if self.bias is None else z + self.bias.to(z.dtype).reshape(1, -1, 1, 1)
        return self.frame_axis.move(self.motion, z)
