"""Pictures for measuring a network: what timm makes of them, and no more memory than that."""

import numpy as np
import pytest
from PIL import Image

from hocp_mm.analysis.pictures import read_pictures


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
    (clip,) = read_pictures(tmp_path, "resnet18.a1_in1k", 3, 64, 1)
    assert clip.shape == (1, 3, 1, 64, 64)
    assert sizes
    assert all(np.prod(size) <= 8 * 128**2 for size in sizes)
    assert clip.min() > 1  # all of it white: the middle
