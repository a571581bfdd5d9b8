"""Draws in data loader workers: repeated by the seed, different from worker to worker and from epoch to epoch."""

import numpy as np
from mmengine.runner import Runner

from hocp_mm.datasets.transforms import ClipColorJitter, ClipFlip, RandomResizedClipCrop, SampleClip


class Draws:
    """One still picture under the random transforms; an item is what became of it."""

    def __init__(self) -> None:
        self.steps = [SampleClip(4), RandomResizedClipCrop(8, scale=(0.3, 0.9)), ClipFlip(), ClipColorJitter()]

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[int, bytes]:
        """Return the first frame and the pixels."""
        picture = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
        results = {"imgs": picture, "num_frames": 10_000}
        for step in self.steps:
            results = step(results)
        return int(results["frame_inds"][0]), results["imgs"].tobytes()


def _epochs(seed: int) -> list[list[tuple[int, bytes]]]:
    """Return all items of two epochs, as a training run sees them."""
    loader = Runner.build_dataloader(
        {
            "dataset": Draws(),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "batch_size": 1,
            "num_workers": 2,
            "persistent_workers": True,
            "collate_fn": {"type": "pseudo_collate"},
        },
        seed=seed,
    )
    return [[(start[0], pixels[0]) for start, pixels in loader] for _ in range(2)]


def test_workers_draw_differently_and_a_run_can_be_repeated():
    first, second = _epochs(7)
    assert [first, second] == _epochs(7)
    assert [first, second] != _epochs(8)
    everything = first + second
    assert len({start for start, _ in everything}) == len(everything)
    assert len({pixels for _, pixels in everything}) == len(everything)
