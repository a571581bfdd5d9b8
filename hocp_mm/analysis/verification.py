"""Verify one network of timm: build its twins, measure them, and say so as text and as a file."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hocp_mm.analysis.measures import (
    TimeLeaks,
    Untouched,
    dense_error,
    framewise_error,
    temporal_factors,
    time_leaks,
    untouched_parameters,
)
from hocp_mm.analysis.pictures import read_clips
from hocp_mm.analysis.twins import Twins, build_twins, own_size, save_random_weights
from hocp_mm.checkpoints import reading_once
from hocp_mm.errors import HOCPError
from hocp_mm.functional import RankLike
from hocp_mm.functional.transduct import Init
from hocp_mm.system.files import write_rows

LIMIT = 1e-6
"""Of relative errors that should be 0. Everything runs in float64, so rounding stays far below."""


@dataclass(frozen=True)
class Verification:
    """What was measured on a network.

    Attributes:
        title: Network, options, clip and weights, in words.
        framewise: Largest error of a frame against the image network.
        leaks: None where there are no temporal factors.
        untouched: What one backward pass did not reach.
        kernels: Relative error of each fitted kernel, by layer.
        stages: Error of the features against timm's dense network, by stage; None where the weights are in CP form.
        ranks: Components of each HO-CP layer.
        temporal: Layers with a temporal factor.
        kept: Other convolutions, with their kernel size.
        averages: Whether temporal factors start as means of frames, so that no frame can be as it was.
    """

    title: str
    framewise: float
    leaks: TimeLeaks | None
    untouched: Untouched
    kernels: dict[str, float]
    stages: list[float] | None
    ranks: dict[str, int]
    temporal: list[str]
    kept: dict[str, str]
    averages: bool = False

    @property
    def framewise_ok(self) -> bool:
        """Whether every frame is what the image network makes of it."""
        return self.framewise < LIMIT

    @property
    def leaks_ok(self) -> bool:
        """Whether no frame sees what it must not."""
        return self.leaks is None or self.leaks.worst < LIMIT

    @property
    def gradients_ok(self) -> bool:
        """Whether all can train. Gradients of zero may come from the weights: timm starts branches at 0."""
        return set(self.untouched.temporal.values()) <= {"zero"} and not self.untouched.parameters

    @property
    def ok(self) -> bool:
        """Whether transduction keeps all of its promises."""
        return self.framewise_ok and self.leaks_ok and self.gradients_ok


def verify_timm(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    rank: RankLike = "x1",
    temporal_kernel: int = 3,
    temporal_init: Init = "central",
    frames: int = 4,
    size: int | None = None,
    in_chans: int = 3,
    seed: int = 0,
    reparameterize: bool = False,
    images: str | Path | None = None,
) -> Verification:
    """Convert a network of timm and measure it.

    Args:
        name: Name in timm.
        checkpoint: A file with its weights; None draws some.
        rank: As in :class:`hocp_mm.models.TimmHOCPBackbone`, or ``'full'``, where CP kernels are exact.
        temporal_kernel: Taps in time.
        temporal_init: As in the backbone.
        frames: Length of the clip.
        size: Height and width, pixels; the network's own by default.
        in_chans: Input channels.
        seed: Of decompositions, random weights and clips.
        reparameterize: Fuse the branches of re-parameterisable blocks first.
        images: Folder of pictures in the place of noise, by which features of trained weights should be judged.

    Returns:
        What came out.

    Raises:
        UnknownModelError: If timm does not know ``name``.
        CheckpointError: If the file cannot be read or is of another network.
        DataError: If a picture cannot be read, or there is none.
        HOCPError: If the network cannot be converted, or cannot run on the clip.
    """
    size = size or own_size(name)
    generator = torch.Generator().manual_seed(seed)
    clips = [torch.randn(1, in_chans, frames, size, size, generator=generator)]
    if images is not None:
        clips = read_clips(images, name, in_chans, size, frames)
    clip = clips[0]
    shape = "x".join(map(str, clip.shape[1:]))
    options: dict[str, Any] = {
        "rank": rank, "temporal_kernel": temporal_kernel, "temporal_init": temporal_init,
        "in_chans": in_chans, "seed": seed, "reparameterize": reparameterize,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        source = str(checkpoint or Path(folder, "random.pth"))
        if checkpoint is None:
            noise = torch.randn(4, in_chans, size, size, generator=generator)
            with _user_errors(f"--size: timm's '{name}' cannot run on {in_chans}x{size}x{size}"):
                save_random_weights(Path(source), name, noise, in_chans=in_chans, seed=seed)
        with _user_errors(f"timm: '{name}' cannot become a video network"), reading_once():
            twins = build_twins(name, source, **options)
    weights = "random weights" if checkpoint is None else f"weights of {checkpoint}"
    title = (
        f"timm '{name}'{', re-parameterised' if reparameterize else ''}, rank {rank}, temporal kernel "
        f"{temporal_kernel} ({temporal_init}); "
        f"{'one clip' if images is None else f'{sum(len(c[0, 0]) for c in clips)} pictures of {images} as'} {shape}, "
        f"float64; {weights}"
    )
    with _user_errors(f"--frames, --size: the network cannot run on {shape}"):
        return _measure(twins, [clip.double() for clip in clips], title, seed, temporal_init == "uniform")


def _measure(twins: Twins, clips: list[torch.Tensor], title: str, seed: int, averages: bool) -> Verification:
    video, clip = twins.double().video, clips[0]
    leaks = None
    if temporal_factors(video):
        generator = torch.Generator().manual_seed(seed)
        leaks = time_leaks(
            twins.causal, torch.randn(2, clip.shape[1], 3, *clip.shape[3:], generator=generator).to(clip)
        )
    seen = {*video.factorized, *video.transducted}
    layers: dict[str, Any] = dict(video.net.named_modules())
    return Verification(
        title,
        framewise=framewise_error(video, twins.image, clip),
        leaks=leaks,
        untouched=untouched_parameters(video, clip),
        kernels=dict(twins.report.decomposed),
        stages=None if twins.dense is None else dense_error(video, twins.dense, *clips),
        ranks={layer: layers[layer].rank for layer in video.factorized},
        temporal=list(video.transducted),
        kept={
            layer: "x".join(map(str, conv.kernel_size))
            for layer, conv in layers.items()
            if isinstance(conv, nn.modules.conv._ConvNd) and layer not in seen
        },
        averages=averages,
    )


@contextlib.contextmanager
def _user_errors(what: str) -> Iterator[None]:
    """Turn what timm and torch say about an option into one line."""
    try:
        yield
    except HOCPError:
        raise
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise HOCPError(f"{what} ({reason}).") from error


def text(result: Verification, verbose: bool = False) -> str:
    """Render a verification for a terminal.

    Args:
        result: What :func:`verify_timm` returned.
        verbose: Name all layers.

    Returns:
        Several lines; the last one is ``PASS`` or ``FAIL``.
    """
    kinds = ", ".join(f"{n} {k}" for k, n in sorted(Counter(result.kept.values()).items())) or "none"
    lines = [
        result.title,
        "",
        f"layers        {len(result.ranks)} HO-CP, {len(result.temporal)} with a temporal factor; "
        f"{len(result.kept)} convolutions kept ({kinds})",
        f"frame-wise    error {result.framewise:.1e} against the 2-D network on each frame: "
        f"{_verdict(result.framewise_ok)}",
    ]
    if result.averages and not result.framewise_ok:
        lines.append(
            "              (temporal_init 'uniform' averages frames: no frame is what the 2-D network makes of it)"
        )
    if result.leaks is None:
        lines.append("causality     nothing to check: no temporal factor")
    else:
        future, clips, length, reach = (f"{value:.1e}" for value in result.leaks)
        lines.append(
            f"causality     random causal taps: later frames {future}, other clips {clips}, other lengths {length} "
            f"(the taps themselves {reach}): {_verdict(result.leaks_ok)}"
        )
    temporal, others = result.untouched
    lines.append(
        f"gradients     {len(temporal)} temporal factors and {len(others)} parameters without: "
        f"{_verdict(result.gradients_ok)}"
    )
    if "zero" in temporal.values():
        lines.append("              (zero, too, behind branches that the weights scale by 0)")
    lines += [f"  {name} ({why})" for name, why in temporal.items()] + [f"  {name}" for name in others]
    lines.append(_decomposition(result))
    if result.kernels:
        width = max(map(len, result.kernels))
        lines += ["", f"  {'kernel':<{width}}  {'rank':>5}  relative error"]
        lines += [f"  {k:<{width}}  {result.ranks[k]:>5}  {_error(error)}" for k, error in result.kernels.items()]
    if verbose:
        temporal = set(result.temporal)
        lines += ["", *(f"  HO-CP{' + time' if n in temporal else ''}: {n}" for n in result.ranks)]
        lines += [f"  dense + time: {name}" for name in result.temporal if name not in result.ranks]
        lines += [f"  kept {kernel}: {name}" for name, kernel in result.kept.items()]
    return "\n".join([*lines, "", f"{_verdict(result.ok)} (limit of all errors that should be 0: {LIMIT:.0e})"])


def _decomposition(result: Verification) -> str:
    if result.stages is None:
        return "decomposition the weights are in CP form already: no dense network to compare with"
    stages = ", ".join(map(_error, result.stages))
    spans = f"{min(result.kernels.values()):.1e} to {max(result.kernels.values()):.1e}" if result.kernels else "none"
    return f"decomposition errors of kernels {spans}; of the features of each stage against timm's network {stages}"


def write_csv(result: Verification, path: str | Path) -> Path:
    """Write every number in a line of its own: quantity, layer or stage, rank, value.

    Returns:
        The path; its folder is made.
    """
    path = Path(path)
    rows: list[tuple[str, str | int, int | str, float]] = [("frame-wise error", "", "", result.framewise)]
    rows += [(f"leak: {k}", "", "", v) for k, v in (result.leaks._asdict() if result.leaks else {}).items()]
    rows += [("kernel error", name, result.ranks[name], error) for name, error in result.kernels.items()]
    rows += [("feature error", stage, "", error) for stage, error in enumerate(result.stages or [])]
    write_rows(path, [("quantity", "where", "rank", "value"), *rows])
    return path


def _verdict(ok: bool) -> str:
    return "PASS" if ok else "FAIL"


def _error(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-3 else f"{value:.1e}"
