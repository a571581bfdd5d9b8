"""Clips: reproducible, and arousal is only partly visible in a still."""

import numpy as np
import pytest

from hocp_mm.synthetic import SyntheticClip


def test_frames_do_not_depend_on_the_order_of_rendering():
    forwards, backwards = SyntheticClip(3, 5, frames=6), SyntheticClip(3, 5, frames=6)
    there = [forwards[index] for index in range(6)]
    back = [backwards[index] for index in reversed(range(6))][::-1]
    for first, second in zip(there, back, strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.landmarks, second.landmarks)


def test_a_person_keeps_the_identity_over_clips_that_differ_in_all_else():
    first, second = SyntheticClip(0, 1, 0, frames=10), SyntheticClip(0, 1, 1, frames=10)
    assert first.identity == second.identity
    assert not np.allclose(first.affect.valence, second.affect.valence)
    assert not np.allclose(first.pose.roll, second.pose.roll)
    assert np.abs(first[0].image[:20].astype(int) - second[0].image[:20]).mean() > 3  # another wall


@pytest.mark.parametrize("numbers", [(0, 2, 0), (1, 1, 0)])
def test_another_subject_or_seed_is_another_person(numbers):
    assert SyntheticClip(*numbers, frames=2).identity != SyntheticClip(0, 1, 0, frames=2).identity


def test_frame_carries_the_truth_of_its_instant():
    clip = SyntheticClip(0, 1, frames=8)
    frame = clip[5]
    assert frame.valence == clip.affect.valence[5]
    assert frame.arousal == clip.affect.arousal[5]
    np.testing.assert_allclose(frame.pose[2], np.rad2deg(clip.pose.roll[5]))
    assert frame.eyes[0, 0] < frame.landmarks[13, 0] < frame.eyes[1, 0]


@pytest.mark.parametrize("index", [-1, 4])
def test_frame_outside_the_clip_is_refused(index):
    with pytest.raises(IndexError, match=r"frame must lie in \[0, 3\]"):
        SyntheticClip(0, 1, frames=4)[index]


def test_empty_clip_is_refused():
    with pytest.raises(ValueError, match="frames must be at least 1"):
        SyntheticClip(0, 1, frames=0)


def test_iteration_ends_with_the_clip():
    assert len(list(SyntheticClip(0, 1, frames=3))) == 3


def test_still_expression_hides_the_motion_part_and_shows_the_rest():
    clips = [SyntheticClip(0, subject, frames=100, motion_share=0.6) for subject in range(40)]
    motion = np.concatenate([clip.affect.motion for clip in clips])
    still = np.concatenate([clip.affect.still for clip in clips])
    valence = np.concatenate([clip.affect.valence for clip in clips])
    shown = [[clip.expression(index) for index in range(len(clip))] for clip in clips]

    def trace(name):
        return np.array([getattr(expression, name) for frames in shown for expression in frames])

    for name in ("smile", "brow_raise", "eye_open", "mouth_open"):
        # 40 clips hold some 150 independent values, so that chance alone correlates by up to 0.2.
        assert abs(np.corrcoef(motion, trace(name))[0, 1]) < 0.25, name
    assert np.corrcoef(still, trace("brow_raise"))[0, 1] > 0.85
    assert np.corrcoef(still, trace("eye_open"))[0, 1] > 0.5
    assert np.corrcoef(valence, trace("smile"))[0, 1] > 0.9


def test_pixels_of_the_mouth_move_faster_with_the_motion_part():
    speeds, motions = [], []
    for subject in range(10):
        clip = SyntheticClip(0, subject, frames=26)
        frames = [clip[index] for index in range(len(clip))]
        center = np.mean([frame.landmarks[31:].mean(axis=0) for frame in frames], axis=0).astype(int)
        mouth = np.stack(
            [frame.image[center[1] - 18 : center[1] + 18, center[0] - 22 : center[0] + 22] for frame in frames]
        )
        grey = mouth.astype(float).mean(axis=-1)
        speeds.extend(
            np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2)).reshape(-1, 5).mean(axis=1) / grey.std(axis=(1, 2)).mean()
        )
        motions.extend(clip.affect.motion[1:].reshape(-1, 5).mean(axis=1))
    assert np.corrcoef(speeds, motions)[0, 1] > 0.6
