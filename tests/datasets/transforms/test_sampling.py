"""Clips and windows: which frames they hold."""

import random

import numpy as np
import pytest

from hocp_mm.datasets.transforms import SampleClip, clip_frames, window_starts


def test_time_never_wraps():
    assert clip_frames(num_frames=5, start=3, clip_len=4).tolist() == [3, 4, -1, -1]


def test_the_last_window_ends_with_the_video():
    assert window_starts(10, 4, 4) == [0, 4, 6]
    assert window_starts(8, 4, 4) == [0, 4]
    assert window_starts(3, 4, 4) == [0]
    assert window_starts(7, 2, 2, frame_interval=3) == [0, 3, 1, 2]  # phases 0 3 6 · 1 4 · 2 5


@pytest.mark.parametrize("numbers", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_window_numbers_start_at_one(numbers):
    with pytest.raises(ValueError, match="must be 1 or more"):
        window_starts(*numbers)


def test_random_clips_reach_both_ends_and_stay_inside():
    sample = SampleClip(clip_len=3, frame_interval=2)
    clips = {tuple(sample({"num_frames": 7})["frame_inds"].tolist()) for _ in range(200)}
    assert clips == {(0, 2, 4), (1, 3, 5), (2, 4, 6)}


def test_window_mode_starts_where_it_is_told():
    assert SampleClip(3, mode="window")({"num_frames": 9, "start": 5})["frame_inds"].tolist() == [5, 6, 7]
    with pytest.raises(ValueError, match="mode 'window' needs a data set with test_mode=True"):
        SampleClip(3, mode="window")({"num_frames": 9})


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="must be 1 or more, got 0 and 1"):
        SampleClip(0)
    with pytest.raises(ValueError, match="mode must be 'random' or 'window', got 'loop'"):
        SampleClip(1, mode="loop")  # pyright: ignore[reportArgumentType]


def test_random_clips_hold_a_frame_with_a_label_drawn_evenly():
    valid = np.zeros(40, dtype=np.bool_)
    valid[[10, 30]] = True
    random.seed(1)
    clip = SampleClip(3, frame_interval=2)
    starts = [int(clip({"num_frames": 40, "valid": valid})["frame_inds"][0]) for _ in range(600)]
    assert set(starts) == {6, 8, 10, 26, 28, 30}
    assert min(starts.count(start) for start in set(starts)) > 60


def test_a_video_without_any_label_still_gives_clips():
    clip = SampleClip(3)({"num_frames": 40, "valid": np.zeros(40, dtype=np.bool_)})
    assert len(clip["frame_inds"]) == 3
