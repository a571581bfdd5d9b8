"""Train one network on one task, and score it on people it has not seen."""

import hashlib
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.transduction import contenders, tasks
from benchmarks.transduction.contenders import Contender, Network, Plan
from benchmarks.transduction.tasks import Pool, Task
from hocp_mm.functional import ccc
from hocp_mm.layers import name_matcher, prune_ranks_, shrink_weights_
from hocp_mm.models import AffectLoss
from hocp_mm.system.files import replacing

NEW = (r"factors\.t$", r"\.motion\.", "^neck", "^head")
"""Parameters that the temporal stage trains, as in the recipes."""
WIDTHS = (1, 3, 5, 7, 9, 13, 17, 25, 33)
"""Of a moving average, in frames."""
_EXPRESSION = 1.0  # weight of the loss on classes


@dataclass(frozen=True)
class Schedule:
    """How long and how fast all networks train.

    Attributes:
        image_steps: Steps of the image network.
        video_steps: Steps of the video stages, together.
        clips: Of a batch.
        length: Frames of a clip; an image batch has ``clips * length`` frames of as many videos as it can.
        rate: Largest learning rate, after a linear warm-up; it falls to nothing along a cosine.
        first: Share of the video steps that train the new parts alone, where both stages follow each other.
        joint: Factor on the rate where everything of an image network trains on.
        temporal: Factor on the rate of temporal factors that start as the image network: they have a long way to go.
        warm_up: Steps.
    """

    image_steps: int = 400
    video_steps: int = 300
    clips: int = 8
    length: int = 16
    rate: float = 4e-3
    first: float = 0.2
    joint: float = 1.0
    temporal: float = 5.0
    warm_up: int = 20


class Stage(NamedTuple):
    """Steps that train some parameters at some rate; others, and the norms of the backbone, stay as they are."""

    steps: int
    patterns: Sequence[str] | None
    rate: float


class Scores(NamedTuple):
    """CCC of both targets over all frames of a part, their mean, and the accuracy over frames (NaN without classes)."""

    first: float
    second: float
    mean: float
    accuracy: float


def stages(plan: Plan, schedule: Schedule) -> list[Stage]:
    """Return the stages of a plan."""
    steps, first = schedule.video_steps, int(schedule.first * schedule.video_steps)
    return {
        "none": [],
        "both": [Stage(first, NEW, 1.0), Stage(steps - first, None, schedule.joint)],
        "temporal": [Stage(steps, NEW, 1.0)],
        "joint": [Stage(steps, None, schedule.joint)],
        "video": [Stage(steps, None, 1.0)],
        "all": [Stage(steps + schedule.image_steps, None, 1.0)],
    }[plan]


def train(
    network: Network,
    pool: Pool,
    task: Task,
    schedule: Schedule,
    plan: Sequence[Stage],
    seed: int,
    length: int | None = None,
    lasso: float = 0.0,
    temporal: float = 1.0,
) -> float:
    """Train a network in place; equal seeds draw equal batches for all networks.

    Args:
        network: The network.
        pool: Of training.
        task: What of.
        schedule: Batch and rate.
        plan: Stages, one after the other under one cosine.
        seed: Of the batches.
        length: Frames of a clip, if not those of the schedule; the batch keeps its frames.
        lasso: Strength in stages that train everything; dead components are deleted at the end.
        temporal: Factor on the rate of temporal factors.

    Returns:
        Seconds of the processor.
    """
    begin, total, done = time.process_time(), sum(stage.steps for stage in plan), 0
    length = length or schedule.length
    clips = schedule.clips * schedule.length // length
    generator = torch.Generator().manual_seed(seed)
    affect = AffectLoss(random_weights=False, gather=False)
    for stage in plan:
        matches = name_matcher("" if stage.patterns is None else stage.patterns)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(matches(name))
        optimizer = torch.optim.AdamW(_groups(network, temporal))
        set_mode_(network, trains_all=stage.patterns is None)
        for _ in range(stage.steps):
            rate = schedule.rate * stage.rate * _share(done, total, schedule.warm_up)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            clip, targets, labels = tasks.draw(pool, task, clips, length, generator)
            out = network(clip)
            valid = torch.ones(targets.shape[:2], dtype=torch.bool)
            loss = affect(out[..., :2], targets, valid)["loss_affect"]
            if task.classes:
                named = labels[:, None].expand(-1, length)
                loss = loss + _EXPRESSION * F.cross_entropy(out[..., 2:].flatten(0, 1), named.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            if lasso and stage.patterns is None:
                shrink_weights_(network, rate * lasso)
            done += 1
    if lasso:
        prune_ranks_(network)
    network.eval()
    return time.process_time() - begin


def set_mode_(network: Network, trains_all: bool) -> None:
    """Switch to training; norms of a backbone of which not all trains keep their statistics."""
    network.train()
    for module in network.backbone.modules():
        if isinstance(module, _BatchNorm) and not trains_all:
            module.eval()


def _groups(network: nn.Module, temporal: float) -> list[dict]:
    """Split what trains into what decays, what does not, as in the recipes, and temporal factors."""
    small, taps = re.compile(r"factors\.[hwt]$|\.weights$"), re.compile(r"^backbone\.(?!.*\.motion\.).*factors\.t$")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim < 2 or small.search(name) else 0.01
            key = (decay, temporal if taps.search(name) else 1.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": held, "weight_decay": decay, "factor": factor} for (decay, factor), held in groups.items()]


def _share(step: int, total: int, warm_up: int) -> float:
    return min(1.0, (step + 1) / warm_up) * (1 + math.cos(math.pi * step / total)) / 2


@torch.no_grad()
def predict(network: Network, pool: Pool, task: Task) -> Tensor:
    """Return the outputs for all videos, each as one clip, ``[V, F, outputs]``."""
    return torch.cat([network(tasks.shown(pool, task, index)) for index in range(len(pool.frames))])


def average(outputs: Tensor, width: int) -> Tensor:
    """Give each frame the mean of ``[V, F, outputs]`` over ``width`` frames around it, as far as there are some."""
    ones = torch.ones_like(outputs[..., :1])
    sums, counts = (_summed(values, width) for values in (outputs, ones))
    return sums / counts


def _summed(values: Tensor, width: int) -> Tensor:
    channels = values.shape[-1]
    kernel = torch.ones(channels, 1, width)
    return F.conv1d(values.transpose(1, 2), kernel, padding=width // 2, groups=channels).transpose(1, 2)


def score(outputs: Tensor, pool: Pool, task: Task) -> Scores:
    """Score the outputs for all videos of a part."""
    first, second = ccc(outputs[..., :2].flatten(0, 1).double(), pool.targets.flatten(0, 1).double()).tolist()
    right = (outputs[..., 2:].argmax(-1) == pool.labels[:, None]).float().mean() if task.classes else torch.nan
    return Scores(first, second, (first + second) / 2, float(right))


@dataclass(frozen=True)
class Result:
    """What one run gave; ``seconds`` of one core, training of the image network it starts from included."""

    parameters: int
    macs: float
    seconds: float
    validation: Scores
    test: Scores


def image_file(cache: Path, task: str, seed: int, rank: str, schedule: Schedule) -> Path:
    """Return where the trained image network is kept, by all that it depends on."""
    steps = (schedule.image_steps, schedule.clips * schedule.length, schedule.rate, schedule.warm_up)
    settings = (task, seed, rank, tasks.VERSION, contenders.TRUNK, contenders.OPTIONS, steps)
    return cache / f"transduction-image-{digest(settings)}.pt"


def digest(settings: object) -> str:
    """Return a short name of settings."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:12]


def train_image(name: str, seed: int, rank: str, schedule: Schedule, cache: Path, pool: Pool) -> tuple[Network, float]:
    """Return the trained image network of a task and seed, from the cache if it is there, and its seconds."""
    task, file = tasks.TASKS[name], image_file(cache, name, seed, rank, schedule)
    torch.manual_seed(seed)
    network = contenders.image_network(2 + task.classes, rank)
    if not file.is_file():
        plan = [Stage(schedule.image_steps, None, 1.0)]
        seconds = train(
            network, tasks.split(pool, seed, task.filmed)["stills"], task, schedule, plan, seed + 1000, length=1
        )
        with replacing(file) as draft:
            torch.save({"seconds": seconds, "state": network.state_dict()}, draft)
    saved = torch.load(file, weights_only=True)
    network.load_state_dict(saved["state"])
    return network.eval(), saved["seconds"]


def measure(name: str, contender: Contender, averaged: bool, seed: int, schedule: Schedule, cache: Path,
            pool: Pool, report: Callable[[str], None] = lambda line: None) -> Result:  # fmt: skip
    """Train and score one contender.

    Args:
        name: Of the task.
        contender: The contender.
        averaged: Average its outputs over time, over the width that suits the validation part best.
        seed: Of the fold, the starts and the batches.
        schedule: Steps and rates.
        cache: Folder of the image networks.
        pool: Videos of the task.
        report: Told what was chosen.

    Returns:
        Cost and scores.
    """
    task = tasks.TASKS[name]
    parts = tasks.split(pool, seed, contender.filmed * task.filmed)
    static, seconds = train_image(name, seed, contender.rank, schedule, cache, pool)
    torch.manual_seed(seed)
    network = contender.make(static, 2 + task.classes)
    if contender.plan in contenders.FROM_SCRATCH:
        seconds = 0.0  # no use was made of the image network
    plan = stages(contender.plan, schedule)
    if plan:
        fresh = contender.plan in contenders.FROM_SCRATCH or not contender.temporal
        factor = 1.0 if fresh else schedule.temporal
        own = replace(schedule, rate=contender.rate * schedule.rate)
        seconds += train(network, parts["train"], task, own, plan, seed, lasso=contender.lasso, temporal=factor)
    network.eval()
    outputs = {part: predict(network, parts[part], task) for part in ("validation", "test")}
    if averaged:
        width = max(WIDTHS, key=lambda w: score(average(outputs["validation"], w), parts["validation"], task).mean)
        outputs = {part: average(values, width) for part, values in outputs.items()}
        report(f"width {width}")
    parameters, macs = contenders.cost(network, tasks.shown(parts["test"], task, 0))
    scores = {part: score(values, parts[part], task) for part, values in outputs.items()}
    return Result(parameters, macs, seconds, scores["validation"], scores["test"])
