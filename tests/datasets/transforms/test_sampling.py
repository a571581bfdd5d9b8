"""Clips and windows: which frames they hold."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hocp_mm.datasets.transforms import SampleClip, clip_frames, clip_ticks, window_starts
from hocp_mm.datasets.transforms.sampling import hold_frames


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


@given(
    frames=st.integers(2, 60),
    length=st.integers(1, 12),
    fps=st.sampled_from([10.0, 25.0, 60.0]),
    uneven=st.booleans(),
    labels=st.sets(st.integers(0, 59), min_size=1, max_size=2),
    seed=st.integers(0, 99),
)
@example(frames=32, length=2, fps=10.0, uneven=True, labels={31}, seed=0)  # the last frame is shown for long
def test_a_rare_label_is_found_from_every_start_that_shows_it(frames, length, fps, uneven, labels, seed):
    times = np.cumsum(np.random.default_rng(seed).exponential(1 / fps, frames)) if uneven else np.arange(frames) / fps
    valid = np.isin(np.arange(frames), list(labels))
    record = {"video": "v", "num_frames": frames, "fps": fps, "valid": valid, **({"times": times} if uneven else {})}
    interval, ticks = clip_ticks(fps, 25.0, record.get("times"))
    clips = [clip_frames(frames, start, length, interval, ticks) for start in range(frames)]
    whole = [start for start, clip in enumerate(clips) if clip[-1] >= 0] or [0]
    good = {start for start in range(max(whole) + 1) if valid[clips[start][clips[start] >= 0]].any()}
    random.seed(seed)
    drawn = {int(SampleClip(length, fps=25)(dict(record))["frame_inds"][0]) for _ in range(30)}
    assert drawn <= (good or set(range(frames)))


def test_a_video_without_any_label_still_gives_clips():
    clip = SampleClip(3)({"num_frames": 40, "valid": np.zeros(40, dtype=np.bool_)})
    assert len(clip["frame_inds"]) == 3


def are_nearest(frames, times, moments):
    """Return whether no frame is nearer to its moment, but for rounding, than the one that is shown."""
    return all(
        abs(times[frame] - moment) <= np.abs(times - moment).min() + 1e-6
        for frame, moment in zip(frames, moments, strict=True)
    )


@given(
    frames=st.integers(1, 90),
    length=st.integers(1, 12),
    stride=st.integers(1, 12),
    fps=st.sampled_from([6.0, 8.0, 12.5, 20.0, 24.0, 25.0, 29.97, 30.0, 50.0, 59.94, 60.0, 120.0]),
    jitter=st.floats(0, 0.4),
    seed=st.integers(0, 99),
)
def test_windows_at_a_rate_cover_every_frame_and_show_the_nearest(frames, length, stride, fps, jitter, seed):
    stride = min(stride, length)
    times = (np.arange(frames) + np.random.default_rng(seed).uniform(-jitter, jitter, frames)) / fps
    even = jitter == 0
    interval, ticks = clip_ticks(fps, 25.0, None if even else times)
    starts = window_starts(frames, length, stride, interval, ticks)
    assert len(set(starts)) == len(starts)
    covered = set()
    for start in starts:
        clip = clip_frames(frames, start, length, interval, ticks)
        moments = times[start] + np.arange(length) / 25
        real = clip >= 0
        assert are_nearest(clip[real], times, moments[real])
        assert (np.diff(real.astype(int)) <= 0).all()  # padding at the end alone
        assert (moments[~real] > times[-1]).all()
        covered |= set(clip[real].tolist())
    assert covered == set(range(frames))
    # Not many more windows than the duration asks for, times the frames that lie between two moments.
    phases = int(np.ceil(interval)) if even else int(np.ceil(2 * interval)) + 2
    steps = 1 + (times[-1] - times[0]) * 25
    assert len(starts) <= phases * (2 + max(0, steps - length) / stride + 1)


def test_a_clip_of_the_rate_of_its_video_is_frame_after_frame():
    record = {"video": "v", "num_frames": 40, "fps": 25.0, "start": 7}
    assert SampleClip(5, mode="window", fps=25)(record)["frame_inds"].tolist() == [7, 8, 9, 10, 11]
    record["fps"] = 50.0
    assert SampleClip(5, mode="window", fps=25)(record)["frame_inds"].tolist() == [7, 9, 11, 13, 15]
    record["fps"] = 12.5
    assert SampleClip(5, mode="window", fps=25)(record)["frame_inds"].tolist() == [7, 8, 8, 9, 9]
    record["times"] = np.concatenate([np.arange(8) / 25, 7 / 25 + np.arange(1, 33) / 10])
    assert SampleClip(5, mode="window", fps=25)(record)["frame_inds"].tolist() == [7, 7, 8, 8, 9]


@given(
    frames=st.integers(1, 80), length=st.integers(1, 12), fps=st.sampled_from([8.0, 30.0, 60.0]), uneven=st.booleans()
)
def test_random_clips_at_a_rate_stay_in_the_video(frames, length, fps, uneven):
    times = np.arange(frames) / fps
    if uneven:
        times = np.sort(np.random.default_rng(frames).uniform(0, frames / fps, frames)) + np.arange(frames) * 1e-3
    record = {"video": "v", "num_frames": frames, "fps": fps, **({"times": times} if uneven else {})}
    random.seed(length)
    for _ in range(5):
        clip = SampleClip(length, fps=25)(dict(record))["frame_inds"]
        real = clip >= 0
        assert real[0]
        assert (np.diff(clip[real]) >= 0).all()
        if (times[-1] - times[0]) * 25 >= length - 1 + 1e-5:
            assert real.all()


def test_a_frame_between_two_moments_costs_one_window():
    """Stamps tremble: a frame that no window shows has one of its own, not a row of them through the whole video."""
    ticks = np.sort(np.concatenate([np.arange(20_000), np.arange(100, 20_000, 500) + 0.4]))
    starts = window_starts(len(ticks), 16, 8, 1, ticks)
    assert len(starts) == 1 + (20_000 - 16) / 8 + 40


def test_a_stamp_that_lies_weeks_ahead_is_refused():
    times = np.array([0.0, 0.04, 1e9])
    with pytest.raises(ValueError, match=r"need a video of less than 6\.71e\+05 s, got one of 1e\+09 s \(v\)"):
        SampleClip(4, fps=25)({"video": "v", "num_frames": 3, "fps": 25.0, "times": times})


def test_a_rate_needs_a_video_with_one():
    with pytest.raises(ValueError, match=r"need a video with a rate, got 0 \(a\)"):
        SampleClip(2, fps=25)({"video": "a", "num_frames": 3, "fps": 0.0})


def test_held_frames_are_those_of_a_slower_camera():
    assert hold_frames(np.arange(10, 17), 2, 0).tolist() == [10, 12, 12, 14, 14, 16, 16]
    assert hold_frames(np.array([3, 4, -1, -1]), 2, 1).tolist() == [4, 4, -1, -1]
    assert hold_frames(np.arange(3), 5, 4).tolist() == [2, 2, 2]
    for factor in (2, 3, 4):
        for phase in range(factor):
            held = hold_frames(np.arange(30), factor, phase)
            assert set(held) == set(range(phase, 30, factor))
            assert np.abs(held - np.arange(30)).max() <= max(factor / 2, phase, factor - 1)


def test_a_quarter_of_the_clips_hold_frames():
    random.seed(0)
    sample = SampleClip(16, hold=(2, 3))
    clips = [sample({"num_frames": 100})["frame_inds"] for _ in range(400)]
    kinds = [len(set(clip.tolist())) for clip in clips]
    assert 270 < kinds.count(16) < 330
    assert set(kinds) == {16, 8, 6, 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps must be positive"),
        ({"fps": float("nan")}, "fps must be positive"),
        ({"fps": True}, "fps must be positive"),
        ({"fps": 25, "frame_interval": 2}, "takes the place of frame_interval"),
        ({"hold": (1,)}, "hold must be whole numbers of 2 or more"),
        ({"hold": (2.5,)}, "hold must be whole numbers of 2 or more"),
        ({"hold": (2.0,)}, "hold must be whole numbers of 2 or more"),
        ({"hold": 2}, "hold must be whole numbers of 2 or more"),
        ({"hold": "23"}, "hold must be whole numbers of 2 or more"),
        ({"hold": (float("nan"),)}, "hold must be whole numbers of 2 or more"),
        ({"hold": (2,), "mode": "window"}, "frames are held in mode 'random'"),
    ],
)
def test_rates_and_factors_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SampleClip(4, **options)


@pytest.mark.parametrize("near", [1e-4, 1e-7, 1e-9])
def test_frames_of_nearly_one_moment_are_covered_too(near):
    """Stamps may be nanoseconds apart; a window begins with its own frame, or the search for windows never ends."""
    ticks = np.array([0, near, 1, 1 + near, 2, 3 - near, 3, 3 + near])
    starts = window_starts(8, 3, 2, 1, ticks)
    clips = [clip_frames(8, start, 3, 1, ticks) for start in starts]
    assert [clip[0] for clip in clips] == starts
    assert {int(frame) for clip in clips for frame in clip if frame >= 0} == set(range(8))
