"""Data sets that are joined, each with a share of the draws that is chosen and not its size."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler

from hocp_mm.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ShareSampler(Sampler):
    """Draw from each data set of a ``ConcatDataset`` its share of an epoch, in random order.

    All samples of a set are drawn before one is drawn again; what an epoch leaves out is as likely in the next.

    Args:
        dataset: The joined data sets.
        shares: How much of an epoch each set is, in their order; positive, of any sum.
        length: Draws of all processes in an epoch; as many as there are samples by default.
        seed: Of the order; drawn if it is None, the same in all processes.

    Raises:
        ValueError: If the data set is not joined from as many sets as there are shares, one is empty, or a number is
            not positive.

    Attributes:
        counts: Draws from each set in an epoch.
        epoch: Set before every epoch.
    """

    def __init__(
        self, dataset: Dataset, shares: Sequence[float], length: int | None = None, seed: int | None = None
    ) -> None:
        joined: Any = dataset
        sizes = [len(part) for part in getattr(joined, "datasets", ())]
        if len(shares) != len(sizes) or not sizes:
            raise ValueError(
                f"ShareSampler: shares must be one for each data set of a ConcatDataset, got {tuple(shares)} for "
                f"{len(sizes)} of {type(dataset).__name__}."
            )
        if not all(sizes):
            raise ValueError(f"ShareSampler: every data set must have samples, got {tuple(sizes)} of them.")
        if not all(0 < share < float("inf") for share in shares) or (length is not None and length < 1):
            raise ValueError(
                f"ShareSampler: shares and length must be positive, got {tuple(shares)} and length={length}."
            )
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.rank, self.world_size = get_dist_info()
        self.sizes = sizes
        total = sum(sizes) if length is None else length
        bounds = [round(total * part / sum(shares)) for part in itertools.accumulate(shares, initial=0.0)]
        self.counts = [end - begin for begin, end in itertools.pairwise(bounds)]
        self._per_process = -(-total // self.world_size)

    def __iter__(self) -> Iterator[int]:
        """Yield the draws of this process; the first ones are drawn again where processes would have uneven numbers."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn: list[torch.Tensor] = []
        first = 0
        for size, count in zip(self.sizes, self.counts, strict=True):
            rounds = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
            drawn += [first + torch.cat(rounds)[:count]] if rounds else []
            first += size
        order = torch.cat(drawn)
        order = order[torch.randperm(len(order), generator=generator)]
        places = torch.arange(self.rank, self._per_process * self.world_size, self.world_size) % len(order)
        return iter(order[places].tolist())

    def __len__(self) -> int:
        """Return the number of draws of this process in an epoch."""
        return self._per_process

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch."""
        self.epoch = epoch
