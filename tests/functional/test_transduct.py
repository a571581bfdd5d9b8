import pytest
import torch

from hocp_mm.functional import cp_conv, dense_kernel, mode_names, transduct
from tests.laws import assert_close, random_kernel


@pytest.mark.parametrize(("init", "before"), [("central", 2), ("last", 4)])
def test_delta_starts_give_each_frame_its_image_output(init, before):
    flat = random_kernel(taps=(3, 3))
    clip = torch.randn(2, 4, 6, 5, 5, dtype=torch.float64)
    padded = torch.nn.functional.pad(clip, (0, 0, 0, 0, before, 4 - before))
    video = cp_conv(padded, transduct(flat, 5, init), padding=(0, 1, 1))
    image = torch.stack([cp_conv(clip[:, :, t], flat, padding=1) for t in range(6)], dim=2)
    assert_close(video, image, 1e-14, init)


@pytest.mark.parametrize("init", ["central", "last", "uniform"])
@pytest.mark.parametrize("taps", [(3,), (3, 3), (2, 3, 3)], ids=str)
def test_a_still_clip_stays_as_it_was(init, taps):
    kernel = random_kernel(taps=taps)
    assert_close(dense_kernel(transduct(kernel, 3, init)).sum(dim=2), dense_kernel(kernel), 1e-13, init)
    image = torch.randn(1, 4, *[6] * len(taps), dtype=torch.float64)
    clip = image.unsqueeze(2).expand(-1, -1, 3, *image.shape[2:])
    assert_close(cp_conv(clip, transduct(kernel, 3, init))[:, :, 0], cp_conv(image, kernel), 1e-13, init)


def test_old_factors_are_the_same_tensors_and_dtype_is_kept():
    flat = random_kernel(dtype=torch.float64)
    video = transduct(flat, 3)
    assert tuple(video.factors) == mode_names(3)
    assert all(video.factors[name] is flat.factors[name] for name in flat.factors)
    assert video.factors["t"].dtype == torch.float64


@pytest.mark.parametrize(
    ("size", "init", "message"),
    [(4, "central", "odd size, got 4"), (0, "last", "at least 1 tap"), (3, "ones", "init must be one of")],
)
def test_transduct_refuses(size, init, message):
    with pytest.raises(ValueError, match=message):
        transduct(random_kernel(), size, init)


def test_a_fifth_convolved_mode_is_refused():
    with pytest.raises(ValueError, match="at most 4 convolved modes"):
        transduct(random_kernel(taps=(2, 2, 2, 2)), 3)
