"""Scores of a cross-validation: mean over folds and pooled frames, computed by the one home of the formulas."""

import json

import numpy as np
import pytest
import torch

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.evaluation import pool_folds, read_results
from hocp_mm.evaluation.affect_metric import score
from hocp_mm.functional.agreement import ccc, rmse
from hocp_mm.structures import AffectTimeline


def timeline(video, seed, frames=8, level=0.0):
    rng = np.random.default_rng(seed)
    target = np.clip(level + 0.2 * rng.standard_normal((frames, 2)), -1, 1)
    pred = np.clip(target + 0.1 * rng.standard_normal((frames, 2)), -1, 1)
    valid = np.arange(frames) != 3
    target[~valid] = np.nan
    return AffectTimeline(video, 25.0, np.arange(frames), pred, target, valid)


FOLDS = {
    0: [timeline("001", 1, level=-0.6), timeline("002", 2, 12, level=-0.6)],
    1: [timeline("003", 3, level=0.6)],
    4: [timeline("004", 4, 20)],
}


def pooled(timelines, column):
    pred = np.concatenate([t.pred[t.valid, column] for t in timelines])
    target = np.concatenate([t.target[t.valid, column] for t in timelines])
    return torch.from_numpy(pred).double(), torch.from_numpy(target).double()


def test_pooled_scores_are_those_of_all_valid_frames_together():
    scores = pool_folds(FOLDS)
    everything = [t for timelines in FOLDS.values() for t in timelines]
    assert (scores.videos, scores.frames) == (4, 7 + 11 + 7 + 19)
    for column, name in enumerate(("valence", "arousal")):
        assert scores.pooled[f"ccc_{name}"] == pytest.approx(ccc(*pooled(everything, column)).item())
        assert scores.pooled[f"rmse_{name}"] == pytest.approx(rmse(*pooled(everything, column)).item())


def test_the_mean_over_folds_is_another_number():
    scores = pool_folds(FOLDS)
    values = [ccc(*pooled(timelines, 0)).item() for timelines in FOLDS.values()]
    assert [scores.folds[fold]["ccc_valence"] for fold in (0, 1, 4)] == pytest.approx(values)
    assert scores.mean["ccc_valence"] == pytest.approx(np.mean(values))
    assert scores.std["ccc_valence"] == pytest.approx(np.std(values))
    assert scores.pooled["ccc_valence"] > scores.mean["ccc_valence"] + 0.05  # the levels of the folds differ


def test_a_video_in_two_folds_is_refused():
    with pytest.raises(DataError, match="a video is tested once, but '001' is in 0 and 1"):
        pool_folds({0: [timeline("001", 1)], 1: [timeline("001", 2)]})


@pytest.fixture
def results(tmp_path):
    timelines = [timeline("002", 2), timeline("001", 1), timeline("003", 3, frames=1)]
    for one in timelines:
        one.to_csv(tmp_path / f"{one.video}.csv")
    (tmp_path / "per_video.csv").write_text("video\n001\n")
    values = {f"affect/{key}": value for key, value in score(timelines).items()}
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    return tmp_path


def test_results_read_back_exactly(results):
    timelines = read_results(results)
    assert [one.video for one in timelines] == ["001", "002", "003"]
    np.testing.assert_array_equal(timelines[0].pred, timeline("001", 1).pred)
    np.testing.assert_array_equal(timelines[0].valid, timeline("001", 1).valid)


def test_results_that_are_not_those_of_the_scores_are_refused(results):
    (results / "001.csv").unlink()
    with pytest.raises(
        DataError, match=r"metrics\.json: the scores must be those of the CSV files beside it, got ccc_val"
    ):
        read_results(results)


def test_missing_and_broken_results_are_named(results, tmp_path_factory):
    (results / "metrics.json").write_text("[")
    with pytest.raises(DataError, match=r"metrics\.json: not readable as scores"):
        read_results(results)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(MissingDataError, match=r"metrics\.json: no such file; the fold was not tested"):
        read_results(empty)
    (empty / "metrics.json").write_text("{}")
    with pytest.raises(MissingDataError, match="holds no predictions"):
        read_results(empty)


def test_scores_that_are_a_file_of_the_kernel_are_not_waited_for(tmp_path):
    (tmp_path / "metrics.json").symlink_to("/proc/version")
    with pytest.raises(DataError, match=r"metrics\.json: the file of scores .* \(Is a file of the kernel\)"):
        read_results(tmp_path)
