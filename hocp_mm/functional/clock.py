"""Waiting for devices that work asynchronously, so that a clock reads the work and not its queueing."""

import torch


def wait_for(device: torch.device) -> None:
    """Wait until ``device`` has finished; at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
