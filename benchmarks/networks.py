"""Whole networks on one clip of 16 x 112 x 112: ours, the dense 3-D twin, R3D-18 as published, and the 2-D parent."""

from typing import Any

import torch
from torch import nn

from benchmarks.contenders import DenseVideo, ours, parent
from benchmarks.timing import inference, interleaved, training_step
from hocp_mm.layers import Motion

NAMES = ("resnet18", "resnet34", "resnet50")
OURS, TWIN, PARENT, PUBLISHED = "ours", "dense 3-D twin", "2-D parent", "torchvision r3d_18"
MOVING = "ours with motion"
MOTION: Motion = {"rank": "x0.0625", "rectifier": "relu"}
"""Of the video recipes."""


def measure(name: str, rank: str, training: bool, device: str, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """Time a forward pass in eval mode, or a training step, without the classifier.

    Returns:
        Milliseconds by contender.
    """
    clip = torch.randn(1, 3, 16, 112, 112, device=device, dtype=dtype)
    modules: dict[str, nn.Module] = {OURS: ours(name, rank), TWIN: DenseVideo(name), PARENT: parent(name)}
    if name == "resnet18":
        from torchvision.models.video import r3d_18

        published: Any = r3d_18(weights=None)
        published.fc = nn.Identity()
        modules[PUBLISHED] = published
    for module in modules.values():
        module.to(device=device, dtype=dtype).train(training)
    step = training_step if training else inference
    return interleaved({n: step(m, clip) for n, m in modules.items()}, seconds=seconds, device=device)


def measure_motion(device: str, dtype: torch.dtype, seconds: float) -> list[dict[str, Any]]:
    """Time the video recipes' backbone with motion components and without, on clips of 112 and of 48 pixels.

    Returns:
        Pixels, threads, whether a training step, and milliseconds by contender.
    """
    usual, rows = torch.get_num_threads(), []
    for size in (112, 48):
        clip = torch.randn(1, 3, 16, size, size, device=device, dtype=dtype)
        for threads, training in [(count, False) for count in sorted({1, usual})] + [(usual, True)]:
            modules = {OURS: ours("resnet18", "x1"), MOVING: ours("resnet18", "x1", MOTION)}
            step = training_step if training else inference
            torch.set_num_threads(threads)
            try:
                steps = {n: step(m.to(device, dtype).train(training), clip) for n, m in modules.items()}
                times = interleaved(steps, rounds=200, seconds=seconds, device=device, twice=True)
            finally:
                torch.set_num_threads(usual)
            rows.append({"size": size, "threads": threads, "training": training, "times": times})
    return rows
