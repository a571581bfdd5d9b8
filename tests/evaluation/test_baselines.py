"""The moving average is the mean of what lies within half a second; no constant beats the best one."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hocp_mm.evaluation.baselines import best_constants, can_average, moving_average
from hocp_mm.functional import rmse, sagr
from hocp_mm.structures import AffectTimeline


def timeline(frames: NDArray[np.int64], fps: float, times: NDArray[np.float64] | None = None) -> AffectTimeline:
    pred = np.random.default_rng(0).normal(0, 0.4, (len(frames), 2))
    return AffectTimeline("v", fps, frames, pred, times=times)


EVERY = np.arange(80)
TIMELINES = {
    "25 per second": timeline(EVERY, 25),
    "10 per second, whose fifth neighbours are just within": timeline(EVERY, 10),
    "30000/1001": timeline(EVERY, 30000 / 1001),
    "with gaps": timeline(np.flatnonzero(np.random.default_rng(1).random(80) > 0.5), 25),
    "uneven": timeline(EVERY, 25, np.random.default_rng(2).exponential(0.1, 80).cumsum()),
    "one frame": timeline(EVERY[:1], 25),
    "shorter than the width": timeline(EVERY[:6], 25),
}


@pytest.mark.parametrize("name", TIMELINES)
def test_each_frame_has_the_mean_of_what_lies_within_half_a_second(name: str) -> None:
    video = TIMELINES[name]
    near = np.abs(video.time_s[:, None] - video.time_s) <= 0.5 + 1e-6
    expected = (near[:, :, None] * video.pred.astype(float)).sum(axis=1) / near.sum(axis=1)[:, None]
    assert np.allclose(moving_average(video), expected, atol=1e-9)


def test_a_frame_in_which_nobody_is_seen_is_passed_over() -> None:
    whole, holed = timeline(EVERY, 25), timeline(EVERY, 25)
    holed.pred[10:30] = np.nan
    rest = AffectTimeline("v", 25, np.delete(EVERY, range(10, 30)), np.delete(whole.pred, range(10, 30), axis=0))
    assert np.isnan(moving_average(holed)[10:30]).all()
    assert np.allclose(np.delete(moving_average(holed), range(10, 30), axis=0), moving_average(rest))


def test_pictures_and_rare_frames_have_no_average() -> None:
    assert can_average([timeline(EVERY[:1], 25), timeline(EVERY[:2], 2)])
    assert not can_average([timeline(EVERY[:1], 1), timeline(EVERY[:2], 1.9)])


@pytest.mark.parametrize("seed", range(4))
def test_no_constant_is_better(seed: int) -> None:
    target = np.random.default_rng(seed).normal(0.1, 0.4, (50, 2)).round(seed)  # with zeros, too
    mean, sign = best_constants(target)
    labels = torch.from_numpy(target)

    def scores(constant: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        pred = torch.from_numpy(constant).expand_as(labels)
        return rmse(pred, labels), sagr(pred, labels)

    for constant in np.linspace(-1, 1, 41):
        error, same = scores(np.array([constant, constant]))
        assert (scores(mean)[0] <= error + 1e-12).all()
        assert (scores(sign)[1] >= same).all()
