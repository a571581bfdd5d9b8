"""Clips and windows: which frames they hold."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocp_mm.datasets.transforms import SampleClip, clip_frames, window_starts


def test_time_never_wraps():
    assert clip_frames(num_frames=5, start=3, clip_len=4).tolist() == [3, 4, -1, -1]


def test_the_last_window_ends_with_the_video():
    assert window_starts(10, 4, 4) == [0, 4, 6]
    assert window_starts(8, 4, 4) == [0, 4]
    assert window_starts(3, 4, 4) == [0]
    assert window_starts(7, 2, 2, frame_interval=3) == [0, 3, 1, 2]  # phases 0 3 6 · 1 4 · 2 5


@given(frames=st.integers(1, 90), length=st.integers(1, 20), stride=st.integers(1, 20), interval=st.integers(1, 5))
def test_windows_cover_every_frame_and_no_two_are_the_same(frames, length, stride, interval):
    stride = min(stride, length)
    starts = window_starts(frames, length, stride, interval)
    clips = [clip_frames(frames, start, length, interval) for start in starts]
    assert {int(frame) for clip in clips for frame in clip if frame >= 0} == set(range(frames))
    assert len(set(starts)) == len(starts)
    assert starts == sorted(starts) or interval > 1
    for start, clip in zip(starts, clips, strict=True):
        expected = [start + interval * k for k in range(length)]  # dense or strided, and padded at the end alone
        assert clip.tolist() == [frame if frame < frames else -1 for frame in expected]
        # Only a sequence shorter than a window is padded: all of it lies in that one window.
        assert clip[-1] >= 0 or start < interval
    for one, other in itertools.pairwise(starts):
        assert interval > 1 or other - one <= stride


@given(frames=st.integers(1, 60), length=st.integers(1, 20), interval=st.integers(1, 5), seed=st.integers(0, 99))
def test_random_clips_are_evenly_spaced_and_padded_only_where_the_video_is_too_short(frames, length, interval, seed):
    random.seed(seed)
    clip = SampleClip(length, interval)({"num_frames": frames})["frame_inds"]
    assert (len(clip), clip.dtype) == (length, np.int64)
    real = clip[clip >= 0]
    assert (np.diff(real) == interval).all()
    assert real.max() < frames
    assert (clip[len(real) :] == -1).all()
    if (length - 1) * interval < frames:
        assert len(real) == length
    else:
        assert real[0] == 0  # nothing of a short video is left out


def test_the_seed_repeats_the_clips():
    def draw(seed):
        random.seed(seed)
        return [int(SampleClip(4)({"num_frames": 500})["frame_inds"][0]) for _ in range(20)]

    assert draw(1) == draw(1) != draw(2)


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
