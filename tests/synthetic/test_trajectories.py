"""The random processes, above all what a still frame may tell of them."""

import numpy as np
import pytest

from hocp_mm.synthetic.trajectories import (
    FLUTTER_HZ,
    sample_affect,
    sample_blinks,
    sample_flutter,
    sample_gaze,
    sample_pose,
    smooth_process,
)

FPS = 25


def rng(seed=0):
    return np.random.default_rng(seed)


def correlation(first, second):
    return np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]


def affects(count=400, frames=150, **options):
    return [sample_affect(rng(seed), frames, FPS, **options) for seed in range(count)]


def moving_mean(values, window):
    return np.convolve(values, np.full(window, 1 / window), mode="same")


def test_smooth_process_has_unit_variance_and_the_stated_autocorrelation():
    trace = smooth_process(rng(), 200_000, FPS, seconds=0.6)
    assert trace.mean() == pytest.approx(0, abs=0.05)
    assert trace.std() == pytest.approx(1, abs=0.05)
    for lag in (5, 15, 30):
        time = lag / FPS / 0.6
        assert correlation(trace[:-lag], trace[lag:]) == pytest.approx((1 + time) * np.exp(-time), abs=0.05)


def test_smooth_process_moves_little_from_frame_to_frame():
    trace = smooth_process(rng(), 5000, FPS, seconds=0.6)
    assert np.abs(np.diff(trace)).max() < 0.35
    assert np.abs(np.diff(trace, 2)).mean() < 0.05


def test_affect_covers_its_range_and_stays_inside():
    samples = affects()
    for name in ("valence", "arousal"):
        values = np.concatenate([getattr(sample, name) for sample in samples])
        assert np.abs(values).max() < 1
        low, high = np.quantile(values, [0.05, 0.95])
        assert low < -0.8
        assert high > 0.8
        assert values.mean() == pytest.approx(0, abs=0.08)


def test_valence_and_arousal_are_nearly_independent():
    samples = affects()
    valence = np.concatenate([sample.valence for sample in samples])
    arousal = np.concatenate([sample.arousal for sample in samples])
    assert abs(correlation(valence, arousal)) < 0.08


def test_affect_varies_within_a_clip_and_between_clips():
    arousal = np.stack([sample.arousal for sample in affects()])
    assert arousal.std(axis=1).mean() > 0.25
    assert arousal.mean(axis=1).std() > 0.25


@pytest.mark.parametrize(("share", "part"), [(0.0, "still"), (1.0, "motion")])
def test_motion_share_at_its_ends_leaves_one_part(share, part):
    sample = sample_affect(rng(), 50, FPS, motion_share=share)
    np.testing.assert_array_equal(sample.arousal, getattr(sample, part))


def test_still_part_explains_what_motion_share_leaves():
    samples = affects(motion_share=0.6)
    arousal = np.concatenate([sample.arousal for sample in samples])
    for name, share in (("still", 0.4), ("motion", 0.6)):
        part = np.concatenate([getattr(sample, name) for sample in samples])
        assert correlation(arousal, part) ** 2 == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_motion_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"motion_share must lie in \[0, 1\]"):
        sample_affect(rng(), 10, FPS, motion_share=share)


def test_flutter_position_tells_nothing_and_its_speed_tells_the_motion_part():
    samples = affects(count=200)
    motion = np.concatenate([sample.motion for sample in samples])
    positions = [sample_flutter(rng(1000 + seed), sample.motion, FPS) for seed, sample in enumerate(samples)]
    position = np.concatenate(positions)
    assert abs(correlation(motion, position)) < 0.05
    assert abs(correlation(motion, np.abs(position - 0.5))) < 0.05
    assert abs(correlation(motion, (position - 0.5) ** 2)) < 0.05

    speeds = [moving_mean(np.abs(np.diff(values)), 12) for values in positions]  # half a second
    inner = slice(12, -12)
    speed = np.concatenate([values[inner] for values in speeds])
    assert correlation(speed, np.concatenate([sample.motion[1:][inner] for sample in samples])) > 0.93


@pytest.mark.parametrize("motion", [-1.0, 0.0, 1.0])
def test_flutter_has_the_same_distribution_at_every_speed(motion):
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    start = [sample_flutter(rng(seed), np.full(40, motion), FPS)[-1] for seed in range(3000)]
    uniform_phase = np.arcsin(0.95 * np.sin(np.linspace(0, 2 * np.pi, 10_001))) / np.arcsin(0.95)
    expected = np.quantile(0.5 + 0.5 * uniform_phase, levels)
    np.testing.assert_allclose(np.quantile(start, levels), expected, atol=0.04)


@pytest.mark.parametrize(("motion", "hertz"), [(-1.0, FLUTTER_HZ[0]), (1.0, FLUTTER_HZ[1])])
def test_flutter_frequency_runs_between_the_two_ends(motion, hertz):
    wave = sample_flutter(rng(), np.full(2000, motion), FPS)
    spectrum = np.abs(np.fft.rfft(wave - wave.mean()))
    assert np.fft.rfftfreq(wave.size, 1 / FPS)[spectrum.argmax()] == pytest.approx(hertz, abs=0.02)
    assert wave.min() >= 0
    assert wave.max() <= 1


def test_blinks_close_the_eye_fully_and_open_it_again():
    closure = sample_blinks(rng(), 5000, FPS, per_second=0.25)
    assert closure.max() == 1
    assert closure.min() == 0
    assert 0.02 < (closure > 0.5).mean() < 0.06


def test_gaze_stays_in_range_and_holds_still_between_jumps():
    gaze = sample_gaze(rng(), 1000, FPS)
    assert gaze.shape == (1000, 2)
    assert np.abs(gaze).max() <= 1
    moved = (np.diff(gaze, axis=0) != 0).any(axis=1).mean()
    assert 0 < moved < 0.1


def test_pose_stays_small_enough_to_be_drawn():
    pose = sample_pose(rng(), np.zeros(5000), FPS)
    assert np.abs(pose.shift).max() < 12
    assert np.abs(pose.roll).max() < 0.13
    assert np.abs(pose.scale - 1).max() < 0.06
    assert np.abs(pose.turn).max() < 0.45
