"""Evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode; every module gets its own mode back, also after an error.

    Yields:
        Nothing.
    """
    # Flag by flag: `train` may be overridden, and parts of a network may be in evaluation mode on purpose.
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag
