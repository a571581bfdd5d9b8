"""`FrameStream`: a network that is given frames as they come, and says of each what it says of it in the whole clip.

    new frames -> layers, each with the components that it kept -> neck -> head -> what is said of frames that are final

A causal network (``temporal_init='last'``, a causal neck) answers at once. Another one looks ahead, layer by layer, and
answers ``delay`` frames later. At both ends of a stream stands what the layers see at the ends of a clip.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hocp_mm.functional import fold_frames, unfold_frames
from hocp_mm.layers import HOCPConv3d
from hocp_mm.layers.streaming import Alignment, StepPlans, StreamState, StreamStep, lag_of, with_lag
from hocp_mm.layers.temporal import has_temporal_factor
from hocp_mm.models.backbones import TimmHOCPBackbone
from hocp_mm.models.heads import AffectHead
from hocp_mm.models.necks import HOCPTemporalNeck
from hocp_mm.models.recognizers import AffectRecognizer

Key = str | int
"""Name of a stream."""
Said = Tensor | tuple[Tensor, ...]
_FLUSHED_AT_ONCE = 16  # frames
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}  # of the check; rounding is far below, a fault far above
_ROUGH = 0.1  # of shorter types


class FrameStream:
    """Run a network on streams, chunk after chunk, with a memory that does not grow.

    What is said of a frame equals what the network says of it in a clip of all frames of the stream, to rounding,
    however these are cut into chunks. Each layer keeps the components of its last ``size - 1`` frames, R numbers per
    pixel, so a frame costs as much at the end of a day as at its start.

    Several streams, such as the faces of a video, share the network, and a batch where they are given together; they
    come when they are first given, and go when they end.

    Args:
        network: A `TimmHOCPBackbone`, or an `AffectRecognizer` of one with `AffectHead` and perhaps `HOCPTemporalNeck`;
            in evaluation mode.
        size: Pixels of a frame: a side, or height and width.

    Attributes:
        delay: Frames that must come in after a frame before something is said of it; 0 for a causal network.

    Raises:
        NotImplementedError: If a part of the network is unknown or sees time in another way. Every network is tried on
            noise first, and what it says of a stream must be what it says of a clip.
        ValueError: If the network is in training mode, or the size is not positive.

    Example:
        >>> backbone = TimmHOCPBackbone("test_resnet", rank=4, temporal_init="last").eval()
        >>> stream = FrameStream(backbone, 32)
        >>> (features,) = stream.push({"me": torch.zeros(3, 2, 32, 32)})["me"]
        >>> stream.delay, tuple(features.shape)
        (0, (96, 2, 1, 1))
    """

    def __init__(self, network: nn.Module, size: int | Sequence[int]) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        if network.training:
            raise ValueError("FrameStream: the network must be in evaluation mode, got one in training mode.")
        if min(height, width) < 1:
            raise ValueError(f"FrameStream: size must be positive, got {size}.")
        self.network, self.size = network, (height, width)
        self._parts = network_parts(network)
        self._backbone, _, self._head = self._parts
        # A network that is tested with the mirror image, too, has as many streams.
        self._views = 2 if self._head is not None and getattr(network, "flip", False) else 1
        self._names = {module: name for name, module in network.named_modules()}
        self._plans, self._weights = StepPlans(), self._fingerprint()
        self._looks_ahead = any(map(_looks_ahead, network.modules()))
        self._streams: dict[Key, list[StreamState]] = {}
        self.delay, self._kept, self._nothing = self._try_once()
        self._check()

    @property
    def memory(self) -> dict[str, tuple[int, ...]]:
        """What each layer keeps of a stream: shape ``[frames, parts, R, H', W']`` by name."""
        return {name: (count, *shape) for name, (count, shape) in self._kept.items()}

    @property
    def streams(self) -> tuple[Key, ...]:
        """Names of the streams that have come and not gone."""
        return tuple(self._streams)

    def push(self, clips: Mapping[Key, Tensor]) -> dict[Key, Said]:
        """Take in the next frames of some streams.

        Args:
            clips: By stream, normalised frames ``[C, n, H, W]``; n of 1 or more, which streams need not share. A name
                that is not known yet begins a stream.

        Returns:
            By stream, what is said of the frames that are final now, in order, ``delay`` frames behind what came in.
            Of a recogniser ``[m, 2]`` valence and arousal (with expressions ``[m, 2 + K]``, see `AffectHead.predict`);
            of a backbone what it returns, ``[C', m, H', W']``, without the batch. m may be 0.

        Raises:
            ValueError: If frames have another shape, dtype or device than the network takes.
        """
        for key, clip in clips.items():
            self._check_clip(key, clip)
        said: dict[Key, Said] = {}
        for frames in dict.fromkeys(clip.shape[1] for clip in clips.values()):
            together = [key for key, clip in clips.items() if clip.shape[1] == frames]
            states = [state for key in together for state in self._streams.get(key, [StreamState()] * self._views)]
            found = self._run(torch.stack([clips[key] for key in together]), states)
            for index, key in enumerate(together):
                own, self._streams[key] = found[index]
                said[key] = own
        return {key: said[key] for key in clips}

    def end(self, *streams: Key) -> dict[Key, Said]:
        """End streams, and forget them.

        Args:
            streams: Names; none for all.

        Returns:
            By stream, what is said of the frames that were not final yet, as `push` returns it.

        Raises:
            KeyError: If there is no such stream.
        """
        keys = list(streams or self._streams)
        said: dict[Key, list[Said]] = {key: [self._nothing] for key in keys}
        states = {key: [StreamState(s.frames, s.frames, s.memory) for s in self._streams[key]] for key in keys}
        for begin in range(0, self.delay if keys else 0, _FLUSHED_AT_ONCE):
            pushing = self._frames(
                len(keys), min(self.delay - begin, _FLUSHED_AT_ONCE)
            )  # what is held out of the layers
            found = self._run(pushing, [state for key in keys for state in states[key]])
            for key, (own, after) in zip(keys, found, strict=True):
                said[key].append(own)
                states[key] = after
        self.reset(*keys)
        return {key: _cat(values) for key, values in said.items()}

    def reset(self, *streams: Key) -> None:
        """Forget streams without asking for the rest.

        Args:
            streams: Names; none for all.

        Raises:
            KeyError: If there is no such stream.
        """
        for key in streams or tuple(self._streams):
            del self._streams[key]

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept of all streams, as tensors, lists, numbers and strings (for ``torch.save``)."""
        streams = {
            key: [{"frames": s.frames, "memory": {n: list(kept) for n, kept in s.memory.items()}} for s in states]
            for key, states in self._streams.items()
        }
        return {"size": list(self.size), "delay": self.delay, "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the streams of a `state_dict`; those that are here are forgotten.

        Args:
            state: Of a stream of the same network, at the same size.

        Raises:
            ValueError: If it does not fit.
        """
        try:
            if (list(state["size"]), state["delay"]) != (list(self.size), self.delay):
                raise ValueError(f"size {list(self.size)} and delay {self.delay} wanted, got {state['size']} and "
                                 f"{state['delay']}")  # fmt: skip
            streams = {key: [self._read(view) for view in views] for key, views in state["streams"].items()}
            if any(len(views) != self._views for views in streams.values()):
                raise ValueError(f"{self._views} states for each stream wanted")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"FrameStream.load_state_dict: the state is not of this network ({error}).") from error
        self._streams = streams

    def _read(self, view: Mapping[str, Any]) -> StreamState:
        frames, memory = view["frames"], view["memory"]
        if not isinstance(frames, int) or frames < 1 or set(memory) != set(self._kept):
            raise ValueError(f"memories of {len(self._kept)} layers and a number of frames wanted, got {len(memory)} "
                             f"and {frames!r}")  # fmt: skip
        device, dtype = self._place
        for name, (count, shape) in self._kept.items():
            shapes = {(tuple(kept.shape), kept.dtype) for kept in memory[name]}
            if len(memory[name]) != count or not shapes <= {(shape, dtype)}:
                raise ValueError(f"{count} frames of {list(shape)} in {dtype} wanted of '{name}', got {shapes}")
        return StreamState(frames, None, {name: [x.to(device) for x in memory[name]] for name in self._kept})

    @property
    def _place(self) -> tuple[torch.device, torch.dtype]:
        parameter = next(self.network.parameters())
        return parameter.device, parameter.dtype

    def _fingerprint(self) -> list[tuple[int, int]]:
        """Return what changes with any of the weights."""
        return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.network.parameters()]

    def _frames(self, streams: int, frames: int) -> Tensor:
        device, dtype = self._place
        return torch.zeros(streams, self._backbone.in_chans, frames, *self.size, device=device, dtype=dtype)

    def _check_clip(self, key: Key, clip: Tensor) -> None:
        wanted, place = (self._backbone.in_chans, *self.size), (clip.device, clip.dtype)
        fits = clip.ndim == 4 and (clip.shape[0], *clip.shape[2:]) == wanted and clip.shape[1] > 0
        if not fits or place != self._place:
            channels, height, width = wanted
            raise ValueError(
                f"FrameStream.push: frames must be [{channels}, n, {height}, {width}] with n >= 1 in "
                f"{self._place[1]} on {self._place[0]}, got {list(clip.shape)} in {clip.dtype} on {clip.device} "
                f"(stream {key!r})."
            )

    @torch.inference_mode()
    def _run(self, clips: Tensor, states: Sequence[StreamState]) -> list[tuple[Said, list[StreamState]]]:
        """Run the network on the next frames ``[N, C, n, H, W]``.

        Returns:
            For each clip what is said, and the states after it; the old ones are not changed.
        """
        streams, frames, views = len(clips), clips.shape[2], self._views
        new = [StreamState(state.frames, state.end, dict(state.memory)) for state in states]
        if views == 2:  # a clip and its mirror image
            clips = torch.stack([clips, clips.flip(-1)], dim=1).flatten(0, 1)
        said, lag = self._step(clips, StreamStep(self._names, new, frames, self._plans))
        results = []
        for index in range(streams):
            own = new[index * views : (index + 1) * views]
            first, end = own[0].frames - lag, own[0].end
            start, stop = min(frames, max(0, -first)), frames if end is None else max(0, min(frames, end - first))
            for state in own:
                state.frames += frames
            cut = slice(start, max(start, stop))
            if self._head is None:
                maps = tuple(value[index][:, cut] for value in said)
                results.append((maps[0] if self._backbone.return_tensor else maps, own))
            else:
                values = said[0][index * views : (index + 1) * views, cut]
                results.append((values.mean(0) if views == 2 else values[0], own))
        return results

    def _step(self, clips: Tensor, step: StreamStep) -> tuple[list[Tensor], int]:
        """Return the maps, or the predictions, of a batch of frames, and by how many frames all of them lag."""
        if (weights := self._fingerprint()) != self._weights:
            self._plans.clear()
            self._weights = weights
        with Alignment(step) if self._looks_ahead else nullcontext():
            return run_step(self._parts, with_lag(clips, 0), step)

    @torch.inference_mode()
    def _try_once(self) -> tuple[int, dict[str, tuple[int, tuple[int, ...]]], Said]:
        """Return by how many frames the network lags, what it keeps (frames, shape), and what it says of none."""
        state = StreamState()
        said, lag = self._step(self._frames(1, 1), StreamStep(self._names, [state], 1, self._plans))
        kept = {name: (len(frames), tuple(frames[0].shape)) for name, frames in state.memory.items() if frames}
        if self._head is not None:
            return lag, kept, said[0][0, :0]
        maps = tuple(value[0][:, :0] for value in said)
        return lag, kept, maps[0] if self._backbone.return_tensor else maps

    @torch.inference_mode()
    def _check(self) -> None:
        """Refuse a network that says other things of a stream than of a clip."""
        device, dtype = self._place
        noise = torch.randn(1, self._backbone.in_chans, 3, *self.size, generator=torch.Generator().manual_seed(0))
        noise = noise.to(device, dtype)
        said = [self.push({0: noise[0, :, :1]}), self.push({0: noise[0, :, 1:]}), self.end(0)]
        if self._head is None:
            found = self._backbone(noise)
            whole: Said = found[0] if isinstance(found, Tensor) else tuple(value[0] for value in found)
        else:
            network: Any = self.network
            views = [noise, noise.flip(-1)][: self._views]
            whole = torch.stack([self._head.predict(network.extract_feat(view), 3)[0] for view in views]).mean(0)
        streamed = _cat([chunk[0] for chunk in said])
        pairs = zip(*((x,) if isinstance(x, Tensor) else x for x in (streamed, whole)), strict=True)
        error = max(float((one - other).norm() / other.norm().clamp_min(1e-12)) for one, other in pairs)
        if not error <= _TOLERANCE.get(dtype, _ROUGH):
            raise NotImplementedError(
                f"FrameStream: the network must say of a stream what it says of a clip, got a relative difference of "
                f"{error:.2g} on noise ({self._backbone.model_name}: a layer sees time, or joins branches, in a way "
                "that is not known here)."
            )


class Parts(NamedTuple):
    """Backbone, neck and head of a network that can be streamed."""

    backbone: TimmHOCPBackbone
    neck: HOCPTemporalNeck | None
    head: AffectHead | None


def run_step(parts: Parts, clips: Tensor, step: StreamStep) -> tuple[list[Tensor], int]:
    """Run a network on the next frames of streams.

    Args:
        parts: The network.
        clips: Next frames of all streams, ``[N, C, n, H, W]``.
        step: What the layers kept.

    Returns:
        Its maps ``[N, C', n, H', W']``, or what its head predicts, ``[N, n, 2 + K]``; and by how many frames all of
        them lag.
    """
    axis, frames = parts.backbone.frame_axis, clips.shape[2]
    axis.step = step
    try:
        found = parts.backbone(clips)
        stages = [fold_frames(found)] if isinstance(found, Tensor) else [fold_frames(x) for x in found]
        if parts.neck is not None:
            stages = list(parts.neck.step(tuple(stages), step))
        stages = step.align(stages if parts.head is None else stages[-1:])
        lag = lag_of(stages[-1]) or 0
        maps = [unfold_frames(stage, frames) for stage in stages]
        return maps if parts.head is None else [parts.head.predict(maps, frames)], lag
    finally:
        axis.step = None


def network_parts(network: nn.Module) -> Parts:
    """Take a network apart.

    Args:
        network: A `TimmHOCPBackbone` or an `AffectRecognizer`.

    Returns:
        Its parts.

    Raises:
        NotImplementedError: If a part cannot be streamed.
    """
    if isinstance(network, TimmHOCPBackbone):
        return Parts(network, None, None)
    if not isinstance(network, AffectRecognizer):
        raise NotImplementedError(
            f"FrameStream: the network must be a TimmHOCPBackbone or an AffectRecognizer, got {type(network).__name__}."
        )
    backbone, neck, head = network.backbone, network.neck, network.head
    for part, kind in ((backbone, TimmHOCPBackbone), (neck, HOCPTemporalNeck | None), (head, AffectHead)):
        if not isinstance(part, kind):
            raise NotImplementedError(
                f"FrameStream: the parts must be TimmHOCPBackbone, HOCPTemporalNeck or none, and AffectHead, got "
                f"{type(part).__name__}."
            )
    for name, layer in [] if neck is None else neck.named_modules():
        own = isinstance(layer, HOCPConv3d) and layer.inner is None and layer.gate is None and layer.motion is None
        averages = hasattr(layer, "running_mean") and layer.running_mean is None
        if averages or (name.endswith((".difference", ".context")) and not own):
            raise NotImplementedError(
                "FrameStream: the neck must have HO-CP layers as built and a norm with running statistics, got "
                f"{type(layer).__name__} (neck.{name})."
            )
    return Parts(backbone, neck, head)


def _looks_ahead(module: nn.Module) -> bool:
    if isinstance(module, HOCPTemporalNeck):
        return not module.causal
    layer: Any = module
    return has_temporal_factor(module) and layer.before < len(layer.factors["t"]) - 1


def _cat(said: Sequence[Said]) -> Said:
    """Return what was said of frames one after the other."""
    if isinstance(said[0], Tensor):
        return torch.cat(list(said), dim=1 if said[0].ndim == 4 else 0)  # pyright: ignore[reportArgumentType]
    return tuple(torch.cat(list(maps), dim=1) for maps in zip(*said, strict=True))
