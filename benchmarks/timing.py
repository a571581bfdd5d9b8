"""Time contenders in turns within one process, so that a busy moment of the machine hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Step = Callable[[], object]


def interleaved(
    contenders: Mapping[str, Step], *, rounds: int = 9, seconds: float = 20.0, device: str = "cpu", twice: bool = False
) -> dict[str, float]:
    """Run every contender once per round and return medians.

    Args:
        contenders: What to run.
        rounds: Rounds at most, after two that warm up and are not counted.
        seconds: Stop early when this much time has gone, but not before three rounds.
        device: Where the work runs; a GPU is waited for around each run.
        twice: Run each contender twice in its turn and time the second: what its predecessor left in the caches then
            matters little.

    Returns:
        Milliseconds per run.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = time.perf_counter()
    for turn in range(rounds + 2):
        if turn >= 5 and time.perf_counter() - begin > seconds:
            break
        for name, step in contenders.items():
            if twice:
                step()
            _wait(device)
            start = time.perf_counter()
            step()
            _wait(device)
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def training_step(module: torch.nn.Module, x: torch.Tensor) -> Step:
    """Make a forward and backward pass with gradients for ``x`` and every parameter.

    Returns:
        A function without arguments.
    """
    x = x.detach().requires_grad_()
    leaves = [x, *module.parameters()]
    with torch.no_grad():
        grad = torch.randn_like(module(x))
    return lambda: torch.autograd.grad(module(x), leaves, grad)


def inference(module: torch.nn.Module, x: torch.Tensor) -> Step:
    """Make a forward pass without gradients.

    Returns:
        A function without arguments.
    """

    def step() -> object:
        with torch.inference_mode():
            return module(x)

    return step


def geometric_mean(values: list[float]) -> float:
    """Geometric mean of positive numbers."""
    return statistics.geometric_mean(values)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
