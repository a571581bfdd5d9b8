"""Random numbers that belong to a sample, not to the process that happens to load it.

A data loader gives each worker a stream of random numbers, so crops and colours depend on how many workers there are,
and a run that goes on in the middle draws others. Here the sampler numbers its draws, and the data set seeds Python,
NumPy and PyTorch from ``(seed, epoch, number of the draw over all processes)`` before it loads a sample.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS as ROOT
from torch.utils.data import Dataset, Sampler

from hocp_mm.registry import DATA_SAMPLERS

_MOST_SEED = 1 << 62  # an epoch is added, and torch takes 64 bits


class Draw(int):
    """Index of a sample, with the seed of the random numbers that this draw of it uses."""

    seed: int

    def __new__(cls, index: int, seed: int) -> "Draw":
        """Make one; it travels to workers with its seed."""
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle both numbers."""
        return Draw, (int(self), self.seed)


@DATA_SAMPLERS.register_module()
class NumberedSampler(Sampler):
    """Draw what another sampler draws, each draw with a seed of its own.

    Draw ``i`` of process ``r`` of ``n`` is draw ``i * n + r`` of all, which is how MMEngine's samplers deal them out:
    so n processes see the samples of one process with the n-fold batch, changed in the same way.

    Args:
        dataset: Data set that is sampled.
        sampler: Config of the other sampler.
        seed: Seed of both; drawn if it is None, the same in all processes.

    Attributes:
        sampler: The other one; what this one lacks is asked of it.
        seed: The seed.
        epoch: Set before every epoch.
    """

    def __init__(self, dataset: Dataset, sampler: dict[str, Any], seed: int | None = None) -> None:
        self.seed = sync_random_seed() if seed is None else seed
        self.sampler: Any = ROOT.build(dict(sampler), default_args={"dataset": dataset, "seed": self.seed})
        self.epoch = 0
        self.rank, self.world_size = get_dist_info()

    def __iter__(self) -> Iterator[Draw]:
        """Yield indices with seeds."""
        for number, index in enumerate(self.sampler):
            yield Draw(index, _mix(self.seed, self.epoch, number * self.world_size + self.rank))

    def __len__(self) -> int:
        """Return the number of draws of this process in an epoch."""
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Take the order, and the seeds, of an epoch."""
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Return the seeds that the order follows from."""
        return {"seed": int(self.seed), "inner": int(getattr(self.sampler, "seed", self.seed))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take the order of the run that ``state`` comes from."""
        seed, inner = int(state["seed"]), int(state["inner"])
        if not 0 <= seed < _MOST_SEED > inner >= 0:
            raise ValueError(f"seeds must be whole numbers from 0 below {_MOST_SEED}, got {seed} and {inner}")
        self.seed = seed
        if hasattr(self.sampler, "seed"):
            self.sampler.seed = inner


class SeededDataset(Dataset):
    """A data set that seeds all random numbers by the draw, and leaves those of this process as they were.

    Args:
        dataset: What is drawn from; whatever else is asked for, its ``metainfo``, say, is asked of it.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        """Load a sample; an index without a seed is loaded as it is."""
        if not isinstance(index, Draw):
            return self.dataset[index]
        with seeded_random_numbers(index.seed):
            return self.dataset[int(index)]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        """Return what the data set has."""
        if name == "dataset":  # asked for before it is there, when a copy is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


@contextlib.contextmanager
def preserved_random_numbers() -> Iterator[None]:
    """Let a block draw random numbers on the CPU without moving the streams of this process.

    Yields:
        Nothing.
    """
    # The global state of NumPy is what transforms draw from.
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.set_rng_state(kept[2])


@contextlib.contextmanager
def seeded_random_numbers(seed: int) -> Iterator[None]:
    """Let a block draw the random numbers of a seed on the CPU without moving the streams of this process.

    Args:
        seed: Of Python, NumPy and PyTorch.

    Yields:
        Nothing.
    """
    with preserved_random_numbers():
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        yield


def _mix(*numbers: int) -> int:
    """Hash numbers to 63 bits; neighbours must not give related streams."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little") >> 1
