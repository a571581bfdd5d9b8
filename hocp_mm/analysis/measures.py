"""What transduction promises, as measurements: nothing learnt is lost, no frame sees what it must not, all can train.

A delta in time hides a layer that takes parts of a frame (attention heads, windows) for frames, so
:func:`time_leaks` draws temporal factors at random; :func:`framewise_error` takes them as they are.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hocp_mm.layers.temporal import has_temporal_factor
from hocp_mm.models.backbones.calibration import stage_errors

Network = Callable[[Tensor], Sequence[Tensor]]

_MOTION_OUTPUT = "motion.factors.out"
_SPREAD = 0.5  # of the random taps around the delta: enough to see, too little to blow up a deep network


@torch.no_grad()
def framewise_error(video: Network, image: Network, clip: Tensor) -> float:
    """Compare a video network with the image network that it came from, run on each frame alone.

    Args:
        video: From a clip to one tensor ``[N, C', T, H', W']`` per stage.
        image: The same without temporal factors; gets clips of one frame.
        clip: Frames ``[N, C, T, H, W]``.

    Returns:
        The largest ``|video - image| / |image|`` over frames and stages; infinite where a feature is not finite.
    """
    stages = video(clip)
    worst = 0.0
    for t in range(clip.shape[2]):
        for ours, theirs in zip(stages, image(clip[:, :, t : t + 1]), strict=True):
            worst = max(worst, _relative(ours[:, :, t], theirs[:, :, 0]))
    return worst


@torch.no_grad()
def dense_error(video: Network, dense: Network, *clips: Tensor) -> list[float]:
    """Compare a video network with the dense image network, run on each frame: what the decomposition costs.

    Args:
        video: From a clip to one tensor ``[N, C', T, H', W']`` per stage.
        dense: From images ``[N, C, H, W]`` to one tensor ``[N, C', H', W']`` per stage.
        clips: Frames ``[N, C, T, H, W]`` each, one or more.

    Returns:
        ``|video - dense| / |dense|`` over all frames of all clips, for each stage.
    """

    def by_frame(clip: Tensor) -> list[Tensor]:
        return [torch.stack(maps, 2) for maps in zip(*(dense(frame) for frame in clip.unbind(2)), strict=True)]

    return stage_errors(video, by_frame, clips)


class TimeLeaks(NamedTuple):
    """How far a causal network is from being one; changes are relative to the features.

    Attributes:
        future: Largest change of earlier frames when the last frame changes; 0 is right.
        clips: Largest change of one clip when another one changes; 0 is right.
        length: Largest difference between the first frames of a clip and those frames as a shorter clip; 0 up to
            rounding is right. A network that takes parts of a frame for frames fails here, if nowhere else.
        reach: Largest change of later frames when the first frame changes. 0 means that no temporal factor acts, so
            that the other numbers say nothing.
    """

    future: float
    clips: float
    length: float
    reach: float

    @property
    def worst(self) -> float:
        """The largest of what should be 0; infinite where no temporal factor acts."""
        return max(self.future, self.clips, self.length) if self.reach > 0 else math.inf


@torch.no_grad()
def time_leaks(video: nn.Module, clip: Tensor, seed: int = 0) -> TimeLeaks:
    """Look for leaks from later frames, from other clips and between lengths.

    Temporal factors and outputs of motion components are random while this runs and as before afterwards.

    Args:
        video: A network with causal temporal factors (``temporal_init='last'``); from a clip to one tensor
            ``[N, C', T, H', W']`` per stage. Batch norms should be in evaluation mode.
        clip: Frames ``[N, C, T, H, W]``: at least 2 clips of at least 2 frames.
        seed: Of the random factors and frames.

    Returns:
        The changes.

    Raises:
        ValueError: If there is no temporal factor, one sees later frames, or ``clip`` is too small.
    """
    factors = temporal_factors(video)
    layers = [(name, cast("Any", module)) for name, module in video.named_modules() if has_temporal_factor(module)]
    late = [name for name, layer in layers if layer.before != len(layer.factors["t"]) - 1]
    if not factors or late:
        raise ValueError(
            f"time_leaks: all temporal factors must be causal (temporal_init='last'), got {len(factors)} factors, "
            f"of which these see later frames: {late[:3]}."
        )
    if clip.shape[0] < 2 or clip.shape[2] < 2:
        raise ValueError(f"time_leaks: clip must be [N, C, T, H, W] with N, T >= 2, got {tuple(clip.shape)}.")
    generator = torch.Generator().manual_seed(seed)
    other = clip + torch.randn(clip.shape, generator=generator).to(clip)
    last, first, neighbour = clip.clone(), clip.clone(), clip.clone()
    last[:, :, -1], first[:, :, 0], neighbour[1:] = other[:, :, -1], other[:, :, 0], other[1:]
    outputs = {name: factor for name, factor in video.named_parameters() if name.endswith(_MOTION_OUTPUT)}
    with _random_taps({**factors, **outputs}, generator):
        features = video(clip)
        later = [stage[:, :, :-1] for stage in video(last)]
        others = [stage[:1] for stage in video(neighbour)]
        changed = [stage[:, :, 1:] for stage in video(first)]
        shorter = {t: video(clip[:, :, :t]) for t in {1, clip.shape[2] - 1}}
    return TimeLeaks(
        future=_largest(later, [stage[:, :, :-1] for stage in features]),
        clips=_largest(others, [stage[:1] for stage in features]),
        length=max(_largest(part, [stage[:, :, :t] for stage in features]) for t, part in shorter.items()),
        reach=_largest(changed, [stage[:, :, 1:] for stage in features]),
    )


class Untouched(NamedTuple):
    """What one backward pass did not reach.

    Attributes:
        temporal: Temporal factors whose gradient is missing, not finite or zero, and which of these.
        parameters: Parameters without gradient; DistributedDataParallel would wait for them.
    """

    temporal: Mapping[str, str]
    parameters: Sequence[str]


def untouched_parameters(video: nn.Module, clip: Tensor, seed: int = 0) -> Untouched:
    """Send one random gradient back through a network as in training; ``.grad`` and the network's mode are left alone.

    Batch norms keep their statistics, so that a single frame will do. Some networks read parameters from a cache when
    they are not in training, so that mode would report those.

    Args:
        video: From a clip to one tensor per stage.
        clip: Frames ``[N, C, T, H, W]``, at least 2 of them, so that taps beside the present one have something to see.
        seed: Of the random projection of the features.

    Returns:
        Names of the parameters that it did not reach; frozen ones do not count.
    """
    names, parameters = zip(*((n, p) for n, p in video.named_parameters() if p.requires_grad), strict=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad(), _as_in_training(video):
        stages = video(clip)
        total = torch.stack([(s * torch.randn(s.shape, generator=generator).to(s)).sum() for s in stages]).sum()
        gradients = dict(zip(names, torch.autograd.grad(total, parameters, allow_unused=True), strict=True))
    temporal: dict[str, str] = {}
    for name in temporal_factors(video):
        gradient = gradients.get(name)
        if name not in gradients:
            continue
        if gradient is None:
            temporal[name] = "missing"
        elif not torch.isfinite(gradient).all():
            temporal[name] = "not finite"
        elif not gradient.any():
            temporal[name] = "zero"
    return Untouched(temporal, [name for name, gradient in gradients.items() if gradient is None])


def temporal_factors(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the temporal factors of a network by name, in its order."""
    layers = [(name, cast("Any", module)) for name, module in network.named_modules() if has_temporal_factor(module)]
    return {f"{name}.factors.t" if name else "factors.t": module.factors["t"] for name, module in layers}


@contextlib.contextmanager
def _as_in_training(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    try:
        network.train()
        for module in modes:
            if isinstance(module, _BatchNorm):
                module.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _random_taps(factors: Mapping[str, nn.Parameter], generator: torch.Generator) -> Iterator[None]:
    before = {name: factor.detach().clone() for name, factor in factors.items()}
    try:
        for factor in factors.values():
            factor.add_(_SPREAD * torch.randn(factor.shape, generator=generator).to(factor))
        yield
    finally:
        for name, factor in factors.items():
            factor.copy_(before[name])


def _largest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(_relative(a, b) for a, b in zip(ours, theirs, strict=True))


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """``|ours - theirs| / |theirs|``, infinite where that is no number, 0 where both are 0."""
    if ours.shape != theirs.shape:
        raise ValueError(f"transduction_check: features must agree in shape, got {ours.shape} and {theirs.shape}.")
    ours, theirs = ours.double(), theirs.double()
    return _share(float((ours - theirs).norm()), float(theirs.norm()))


def _share(difference: float, size: float) -> float:
    if difference == 0 and math.isfinite(size):
        return 0.0
    error = difference / size if size else math.inf
    return error if math.isfinite(error) else math.inf
