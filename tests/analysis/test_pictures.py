"""Pictures for measuring a network: what timm makes of them, and no more memory than that."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from hocp_mm.analysis.pictures import read_clips, stack_pictures


@pytest.mark.parametrize("shape", [(1, 9000), (9000, 1), (2, 9000)])
def test_a_strip_is_not_made_as_high_as_the_network_wants(tmp_path, shape, monkeypatch):
    """A hundred bytes of 1 x 9000 pixels would become 224 x 2,016,000."""
    picture = np.zeros((*shape, 3), np.uint8)
    middle = tuple(slice(max(0, side // 2 - 8), side // 2 + 8) for side in shape)
    picture[middle] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    resize, sizes = Image.Image.resize, []
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a, **k: sizes.append(size) or resize(self, size, *a, **k)
    )
    (clip,) = read_clips(tmp_path, "resnet18.a1_in1k", 3, 64, 1)
    assert clip.shape == (1, 3, 1, 64, 64)
    assert sizes
    assert all(np.prod(size) <= 8 * 128**2 for size in sizes)
    assert clip.min() > 1  # all of it white: the middle


def test_variants_follow_the_pictures_and_move_no_other_random_numbers(tmp_path):
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8)).save(file)
    plain = stack_pictures(files, "resnet18.a1_in1k", 32)
    state = torch.get_rng_state(), random.getstate()
    both = stack_pictures(files, "resnet18.a1_in1k", 32, variants=4, seed=5)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert both.shape == (15, 3, 32, 32)
    assert torch.equal(both[:3], plain)
    assert len({picture.numpy().tobytes() for picture in both}) == 15
    assert torch.equal(stack_pictures(files, "resnet18.a1_in1k", 32, 4, 5), both)
    assert not torch.equal(stack_pictures(files, "resnet18.a1_in1k", 32, 4, 6)[3:], both[3:])
