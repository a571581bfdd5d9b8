"""A delayed label finds its picture again, and nothing else changes."""

import random

import numpy as np
import pytest
import torch

from hocp_mm.datasets import SEWADataset
from hocp_mm.datasets.transforms import CompensateLabelDelay, PackAffectInputs, SampleClip, delay_predictions
from hocp_mm.datasets.transforms.label_delay import delay_in_frames
from hocp_mm.functional.agreement import ccc
from hocp_mm.registry import TRANSFORMS
from tests.material.sewa_files import KEYS, arousal_of, valence_of, write_affect_csv


def _record(count=50, fps=25.0, **more):
    trace = np.cumsum(np.random.default_rng(0).normal(size=(count, 2)), axis=0).astype(np.float32) / 20
    return {"affect": trace, "valid": np.ones(count, np.bool_), "fps": fps, "num_frames": count, **more}


@pytest.mark.parametrize(("seconds", "frames"), [(0.04, 1), (0.4, 10), (0.41, 10), (1.96, 49)])
def test_a_delayed_trace_is_recovered_and_the_tail_does_not_count(seconds, frames):
    truth = _record()
    delayed = _record()
    delayed["affect"] = np.concatenate([np.repeat(truth["affect"][:1], frames, axis=0), truth["affect"][:-frames]])
    result = CompensateLabelDelay(seconds)(delayed)
    assert result["valid"].tolist() == [True] * (50 - frames) + [False] * frames
    np.testing.assert_array_equal(result["affect"][: 50 - frames], truth["affect"][: 50 - frames])


def test_no_delay_changes_nothing():
    record = CompensateLabelDelay()(_record())
    np.testing.assert_array_equal(record["affect"], _record()["affect"])
    assert record["valid"].all()


def test_invalid_labels_stay_invalid_on_their_new_frame():
    record = _record()
    record["valid"][20] = False
    assert np.flatnonzero(~CompensateLabelDelay(0.2)(record)["valid"]).tolist() == [15, 45, 46, 47, 48, 49]


def test_a_delay_longer_than_the_video_leaves_no_label():
    assert not CompensateLabelDelay(60)(_record())["valid"].any()


def test_advanced_labels_and_delayed_predictions_are_the_same_pairs():
    """AVEC shifts predictions back before scoring: the same score on the frames that both have."""
    record = _record()
    pred = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    shifted = CompensateLabelDelay(0.4)(_record())
    ours = ccc(torch.from_numpy(pred), torch.from_numpy(shifted["affect"]), torch.from_numpy(shifted["valid"]))
    back = delay_predictions(pred, 0.4, 25.0)
    theirs = ccc(torch.from_numpy(back[10:].copy()), torch.from_numpy(record["affect"][10:].copy()))
    torch.testing.assert_close(ours, theirs)
    np.testing.assert_array_equal(back[:10], np.repeat(pred[:1], 10, axis=0))


def test_where_frames_come_unevenly_labels_move_by_seconds_not_by_frames():
    times = np.concatenate([np.arange(10) / 25, 0.4 + np.arange(20) / 10])
    record = _record(30, 12.0, times=times)
    truth = record["affect"].copy()
    result = CompensateLabelDelay(0.4)(record)
    assert result["valid"].tolist() == [True] * 26 + [False] * 4
    np.testing.assert_array_equal(result["affect"][0], truth[10])  # shown at 0.4 s
    np.testing.assert_array_equal(result["affect"][10:26], truth[14:])
    np.testing.assert_array_equal(result["affect"][26:], 0)


def test_sewa_labels_that_lag_meet_their_pictures_again(damaged_root):
    lag = 5
    for name, value_of in (("valence", valence_of), ("arousal", arousal_of)):
        path = damaged_root / KEYS[0] / f"{KEYS[0]}_{name.capitalize()}_V_Aligned.csv"
        write_affect_csv(path, name, [value_of(max(0, frame - lag)) for frame in range(40)])
    pipeline = [{"type": "hocp_mm.CompensateLabelDelay", "seconds": lag / 25}, SampleClip(40)]
    record = SEWADataset(damaged_root, pipeline=pipeline)[0]
    expected = np.array([[valence_of(n), arousal_of(n)] for n in range(40 - lag)], np.float32)
    np.testing.assert_array_equal(record["affect"][: 40 - lag], expected)
    record["imgs"] = np.zeros((40, 8, 8, 3), np.uint8)
    packed = PackAffectInputs()(record)["data_samples"]
    assert packed.gt_valid.tolist() == [True] * (40 - lag) + [False] * lag


def test_clips_are_drawn_where_labels_are_left():
    random.seed(0)
    pipeline = [CompensateLabelDelay(1.6), SampleClip(4)]  # 40 of 50 frames lose their label
    for _ in range(50):
        record = _record()
        for step in pipeline:
            record = step(record)
        assert record["valid"][record["frame_inds"]].any()


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf")])
def test_a_delay_must_be_a_number_of_seconds(seconds):
    with pytest.raises(ValueError, match=r"label_delay: seconds must be 0 or more, got (-0\.1|nan|inf)\."):
        TRANSFORMS.build({"type": "hocp_mm.CompensateLabelDelay", "seconds": seconds})


def test_single_images_have_no_delay():
    assert delay_in_frames(0, 0) == 0
    with pytest.raises(ValueError, match=r"a delay needs a frame rate, got 0\.0 frames per second"):
        CompensateLabelDelay(0.5)(_record(1, fps=0.0))


def test_it_shows_its_settings():
    assert repr(CompensateLabelDelay(2)) == "CompensateLabelDelay(seconds=2)"


@pytest.mark.parametrize("uneven", [False, True])
def test_the_weight_of_a_label_goes_with_it(uneven):
    weight = np.linspace(0, 1, 50, dtype=np.float32)
    record = _record(weight=weight, **({"times": np.arange(50) / 25 + 0.001 * (np.arange(50) % 2)} if uneven else {}))
    pairs = set(zip(record["affect"][:, 0].tolist(), weight.tolist(), strict=True))
    result = CompensateLabelDelay(0.4)(record)
    assert len(result["weight"]) == 50
    counted = result["valid"]
    assert 38 <= counted.sum() <= 41
    assert set(zip(result["affect"][counted, 0].tolist(), result["weight"][counted].tolist(), strict=True)) < pairs
