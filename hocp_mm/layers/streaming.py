"""What layers that see time keep of a stream, and how branches of a network that hold frames back meet again.

A network runs on the next frames of some streams as it runs on clips. Its layers find a :class:`StreamStep` where they
would find the length of a clip (:class:`hocp_mm.layers.FrameAxis`), put the new frames behind those that they kept, and
give as many frames as they got. A layer that looks ahead holds its frames back: what it gives lags by as many frames,
and where a branch of the network meets another that lags less, such as a shortcut, the other one has to wait.
:class:`Alignment` sees to that: it watches PyTorch's operations for operands that lag differently. In a causal network
nothing lags, and nothing is watched.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hocp_mm.functional.cp import CPKernel
from hocp_mm.functional.cp_conv import Pointwise, project_out
from hocp_mm.functional.native import PackedFactors, StepPlan
from hocp_mm.functional.padding import Window
from hocp_mm.functional.streaming import (
    Ends,
    Frames,
    components,
    extend,
    pack,
    plan_step,
    step_fits,
    temporal_step,
)

_LAG = "_hocp_lag"
_MOST_PLANS = 2**12


def lag_of(x: Tensor) -> int | None:
    """Return by how many frames a tensor lags behind the input; None for what is no frame, such as a parameter."""
    return getattr(x, _LAG, None)


def with_lag(x: Tensor, lag: int) -> Tensor:
    """Say by how many frames a tensor lags."""
    setattr(x, _LAG, lag)
    return x


class StepPlans:
    """How the compiled kernel runs the layers of a network, for batches that have come before.

    Attributes:
        packed: Kernels as it reads them.
    """

    def __init__(self) -> None:
        self.packed: dict[nn.Module, PackedFactors] = {}
        self._plans: dict[tuple[Any, ...], tuple[StepPlan, int]] = {}

    def find(self, layer: nn.Module, images: Tensor, streams: int) -> tuple[StepPlan, int] | None:
        """Return the plan of a layer for a batch, and how far it looks ahead, if there is one."""
        return self._plans.get((layer, images.shape, images.dtype, streams))

    def keep(self, layer: nn.Module, images: Tensor, streams: int, plan: StepPlan, ahead: int) -> None:
        """Keep a plan; those of too many different batches are forgotten."""
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        self._plans[layer, images.shape, images.dtype, streams] = plan, ahead

    def clear(self) -> None:
        """Forget all, since weights have changed."""
        self.packed.clear()
        self._plans.clear()


@dataclass
class StreamState:
    """What a network keeps of one stream.

    Attributes:
        frames: Frames that have come in.
        end: Frames of the whole stream, once it has ended; None before.
        memory: By layer, the frames that it keeps.
    """

    frames: int = 0
    end: int | None = None
    memory: dict[str, Frames] = field(default_factory=dict)


class StreamStep:
    """One pass of a network over the next frames of some streams.

    Args:
        names: Of the layers, under which their memory is kept.
        states: Of each stream, in the order of the batch.
        frames: New frames of each stream.
        plans: What was planned for steps before, and will be for those after.
    """

    def __init__(
        self, names: Mapping[nn.Module, str], states: Sequence[StreamState], frames: int, plans: StepPlans
    ) -> None:
        self.names, self.states, self.frames, self.plans = names, states, frames, plans
        self.meetings = 0

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
        """Convolve the new frames of all streams with a CP kernel, and keep what the next step needs.

        Args:
            layer: Whose kernel it is.
            images: ``[N*n*parts, in, H, W]``, of frames that may lag.
            kernel: CP kernel with modes t, h, w.
            bias: ``[out]``.
            window: Of h and w.
            before: As in `along_time`.
            dilation: As in `along_time`.
            ends: As in `along_time`.
            inner: As in ``cp_conv``.
            gate: As in ``cp_conv``.

        Returns:
            ``[N*n*parts, out, H', W']``.
        """
        streams, taps = len(self.states), kernel.kernel_size[0]
        plain = inner is None and gate is None and taps > 1 and len(images) == streams * self.frames
        if plain and step_fits(images, kernel, bias, window):
            if layer not in self.plans.packed:
                self.plans.packed[layer] = pack(kernel, bias)
            plan = plan_step(self.plans.packed[layer], window, images.shape, streams, dilation)
            self.plans.keep(layer, images, streams, plan, (taps - 1 - before) * dilation)
            if (planned := self.planned(layer, images)) is not None:
                return planned
        z = components(images, kernel, window, inner)
        z = self.along_time(layer, z, kernel.factors["t"], before, dilation, ends)
        return project_out(z if gate is None else gate(z), kernel, bias)

    def planned(self, layer: nn.Module, images: Tensor) -> Tensor | None:
        """Convolve as `convolve` does, if it has planned how the compiled kernel does it.

        Args:
            layer: As in `convolve`.
            images: As in `convolve`.

        Returns:
            As in `convolve`; None if nothing is planned, or a stream begins or ends among these frames.
        """
        found = self.plans.find(layer, images, len(self.states))
        if found is None:
            return None
        plan, ahead = found
        name, lag, pasts = self.names[layer], lag_of(images) or 0, []
        for state in self.states:
            start, past = state.frames - lag, state.memory.get(name)
            if not past or start < 0 or (state.end is not None and start + self.frames > state.end):
                return None
            pasts.append(past)
        with _unwatched():
            out, new = plan(images, pasts)
            for state, past, own in zip(self.states, pasts, self._split(new), strict=True):
                frames = [*past, *own]
                state.memory[name] = _own(frames[len(frames) - len(past) :])
        return with_lag(out, lag + ahead)

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
        """Convolve the new frames of all streams along time, and keep what the next step needs.

        Args:
            layer: Whose memory it is.
            images: ``[N*n*parts, R, H, W]``, of frames that may lag.
            taps: ``[size, R]``.
            before: Index of the tap that sees the present frame.
            dilation: Frames between taps.
            ends: What lies beyond the ends of a stream.
            differences: Whether the taps weigh differences of neighbours, of which there is one less than frames.

        Returns:
            A tensor like ``images`` that lags by ``(frames seen - 1 - before) * dilation`` frames more.
        """
        lag, length = lag_of(images) or 0, (len(taps) - 1 + differences) * dilation
        sequences = []
        with _unwatched():
            for state, new in zip(self.states, self._split(images), strict=True):
                past = state.memory.get(self.names[layer], [])
                frames = extend(past, new, length, state.frames - lag, state.end, ends)
                # Views would keep whole batches and chunks in memory.
                state.memory[self.names[layer]] = _own(frames[len(frames) - length :])
                sequences.append([b - a for a, b in pairwise(frames)] if differences else frames)
            convolved = temporal_step(sequences, taps, dilation)
        return with_lag(convolved, lag + length - before * dilation)

    def delayed(self, name: str, images: Tensor, frames: int) -> Tensor:
        """Hold images back.

        Args:
            name: Under which they are kept.
            images: ``[N*n*parts, ...]``.
            frames: For how many frames, 1 or more.

        Returns:
            A tensor like ``images``, of frames before those.
        """
        given: Frames = []
        with _unwatched():
            for state, new in zip(self.states, self._split(images), strict=True):
                past = state.memory.get(name) or [torch.zeros_like(new[0])] * frames
                sequence = [*past, *new]
                given += sequence[: len(new)]
                kept = len(sequence) - frames
                # Copies, as is what is given: a network may overwrite both.
                copies = (frame.clone() for frame in sequence[max(kept, len(past)) :])
                state.memory[name] = [*sequence[kept : len(past)], *copies]
            held_back = torch.cat(given)
        return with_lag(held_back, (lag_of(images) or 0) + frames)

    def align(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Let images that meet, such as a branch and a shortcut, wait for those that lag most."""
        lags = [lag_of(tensor) for tensor in tensors]
        most = max((lag for lag in lags if lag is not None), default=0)
        if all(lag is None or lag == most for lag in lags):
            return list(tensors)
        aligned = []
        for tensor, lag in zip(tensors, lags, strict=True):
            if lag is not None and lag < most:
                aligned.append(self.delayed(f"meeting.{self.meetings}", tensor, most - lag))
                self.meetings += 1
            else:
                aligned.append(tensor)
        return aligned

    def _split(self, images: Tensor) -> list[Frames]:
        """Cut a batch into the frames of each stream."""
        parts, rest = divmod(len(images), len(self.states) * self.frames)
        if rest or not parts:
            raise NotImplementedError(
                f"stream: the network must keep the frames of a batch apart, got a batch of {len(images)} for "
                f"{len(self.states)} streams of {self.frames} frames."
            )
        frames = images.split(parts) if len(images) > parts else (images,)
        return [list(frames[i : i + self.frames]) for i in range(0, len(frames), self.frames)]


def _unwatched() -> Any:
    return torch._C.DisableTorchFunction()  # pyright: ignore[reportAttributeAccessIssue]


class Alignment(TorchFunctionMode):
    """While it is entered: every operation of PyTorch whose operands lag differently gets them aligned.

    Args:
        step: The present pass.
    """

    def __init__(self, step: StreamStep) -> None:
        super().__init__()
        self.step = step

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and say how much its result lags."""
        operands = [x for x in _tensors((args, kwargs or {})) if lag_of(x) is not None]
        if not operands:
            return func(*args, **(kwargs or {}))
        lags = {lag_of(x) for x in operands}
        if len(lags) > 1:
            aligned = {id(old): new for old, new in zip(operands, self.step.align(operands), strict=True)}
            args, kwargs = _replaced(args, aligned), _replaced(kwargs or {}, aligned)
        result = func(*args, **(kwargs or {}))
        most = max(cast("set[int]", lags))
        for tensor in _tensors(result):
            with_lag(tensor, most)
        return result


def _own(frames: Frames) -> Frames:
    """Return frames that keep no larger tensor in memory; one that stands in several places stays one."""
    own: dict[int, Tensor] = {}
    for frame in frames:
        if id(frame) not in own:
            whole = frame.untyped_storage().nbytes() == frame.numel() * frame.element_size()
            own[id(frame)] = frame if whole else frame.clone()
    return [own[id(frame)] for frame in frames]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    return []


def _replaced(value: Any, new: Mapping[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return new.get(id(value), value)
    if isinstance(value, (tuple, list)):
        return [_replaced(item, new) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item, new) for key, item in value.items()}
    return value
