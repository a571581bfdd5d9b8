"""What a run is besides weights and optimizer: with it, a resumed run is the run that was interrupted, bit for bit."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from hocp_mm.engine.wrapping import unwrapped
from hocp_mm.errors import CheckpointError

_KEYS = 624  # numbers in the state of a Mersenne twister


def capture(runner: Runner) -> dict[str, Any]:
    """Take down the state of all processes; all of them must call this at the same time.

    Args:
        runner: The runner, between two iterations.

    Returns:
        ``processes``: random-number states of each process, and gradients gathered so far where a checkpoint falls
        into a cycle of accumulation; ``sampler``: what the order of the samples follows from.
    """
    own: dict[str, Any] = {"random": _random_states()}
    if _in_the_middle_of_a_cycle(runner):
        gradients = {n: p.grad.cpu() for n, p in unwrapped(runner.model).named_parameters() if p.grad is not None}
        own["gradients"] = gradients
    states = dist.all_gather_object(own)
    state: dict[str, Any] = {"processes": states}
    sampler: Any = runner.train_dataloader.sampler
    if hasattr(sampler, "state_dict"):
        state["sampler"] = sampler.state_dict()
    return state


def restore(runner: Runner, state: Mapping[str, Any]) -> None:
    """Go on with the state of a run; what belongs to another number of processes is left out, with a warning.

    Args:
        runner: The runner, its model and optimizer loaded.
        state: What `capture` returned.

    Raises:
        CheckpointError: If the state is none.
    """
    try:
        _restore(runner, state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"resume: {runner._load_from}: the state of its random numbers is damaged ({type(error).__name__}: "
            f"{error!s:.100})."
        ) from error


def _restore(runner: Runner, state: Mapping[str, Any]) -> None:
    sampler: Any = runner.train_dataloader.sampler
    if hasattr(sampler, "load_state_dict") and "sampler" in state:
        sampler.load_state_dict(state["sampler"])
    if len(state["processes"]) != dist.get_world_size():
        runner.logger.warning(
            f"resume: the checkpoint is of {len(state['processes'])} processes, this run has {dist.get_world_size()}: "
            "random numbers start anew."
        )
        return
    own = state["processes"][dist.get_rank()]
    _set_random_states(own["random"])
    parameters = dict(unwrapped(runner.model).named_parameters())
    for name, gradient in own.get("gradients", {}).items():
        parameters[name].grad = gradient.to(parameters[name])


def _random_states() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - the state that others draw from
    states = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: Mapping[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    if not (gauss is None or isinstance(gauss, float)):
        raise TypeError(f"Python's next normal number must be a float, got {type(gauss).__name__}")
    kind, keys, position, has_gauss, number = states["numpy"]
    if not 0 <= position <= _KEYS:  # NumPy would read beyond its array
        raise ValueError(f"NumPy's position must be 0 to {_KEYS}, got {position}")
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, number))  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def _in_the_middle_of_a_cycle(runner: Runner) -> bool:
    wrappers = runner.optim_wrapper
    kinds = [wrappers] if isinstance(wrappers, OptimWrapper) else list(getattr(wrappers, "values", list)())
    return any(getattr(w, "_inner_count", 0) % getattr(w, "_accumulative_counts", 1) for w in kinds)
