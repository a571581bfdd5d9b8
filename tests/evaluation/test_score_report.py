"""What `AffectMetric(resamples=…)` adds: intervals over people, baselines on the same frames, groups."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from hocp_mm.errors import DataError, OutputError
from hocp_mm.evaluation import AffectMetric
from hocp_mm.evaluation.intervals import KEYS
from hocp_mm.functional import ccc, rmse, sagr
from hocp_mm.structures import AffectDataSample

FRAMES = 50


def video(number: int, noise: float = 0.2, frames: int = FRAMES, fps: float = 25, **meta: Any) -> AffectDataSample:
    """A video whose labels swing slowly about a level of its own, with predictions that err from frame to frame."""
    generator = np.random.default_rng(number)
    times = np.arange(frames)[:, None] / 25
    target = generator.normal(0.1, 0.3, 2) + 0.2 * np.sin(times + generator.normal(0, 3, 2))
    pred = 0.8 * target + generator.normal(0, 0.05, 2) + generator.normal(0, noise, (frames, 2))
    sample = AffectDataSample.from_clip(
        torch.from_numpy(target), video=f"v{number:02d}", frame_inds=range(frames), num_frames=frames, fps=fps
    )
    sample.set_metainfo(meta)
    return sample.set_pred(torch.from_numpy(pred).clip(-1, 1))


def people(count: int, each: int = 2, **meta: Any) -> list[AffectDataSample]:
    """``each`` videos of every person."""
    return [video(number, subject=f"S{number // each:02d}", **meta) for number in range(count * each)]


def test(samples: list[AffectDataSample], **settings: Any) -> tuple[dict[str, float], AffectMetric]:
    metric = AffectMetric(**{"resamples": 200, **settings})
    evaluator = Evaluator(metric)
    evaluator.process(data_samples=samples)
    return evaluator.evaluate(len(samples)), metric


test.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


def why(metric: AffectMetric) -> list[str]:
    assert metric.report is not None
    return metric.report.reasons()


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open() as text:
        return {row["group"]: row for row in csv.DictReader(text)}


def test_known_keys_stay_and_others_stand_beside_them() -> None:
    samples = people(10)
    before, _ = test(samples, resamples=0)
    after, metric = test(samples)
    assert set(before) == {f"affect/{key}" for key in KEYS}
    assert {key: after[key] for key in before} == before
    endings = ("_low", "_high", "_constant", "_moving_average", "_change_low", "_change_high")
    assert set(after) == {f"affect/{key}{ending}" for key in KEYS for ending in ("", *endings)}
    assert all(isinstance(value, float) and np.isfinite(value) for value in after.values())
    assert json.loads(json.dumps(after)) == after
    for key in KEYS:
        assert after[f"affect/{key}_low"] < after[f"affect/{key}"] < after[f"affect/{key}_high"]
    assert why(metric) == []


def test_baselines_are_scored_on_the_same_frames() -> None:
    samples = people(10)
    for sample in samples:
        sample.gt_valid[::3] = False
    scores, _ = test(samples)
    target = torch.cat([sample.gt_affect[sample.gt_valid] for sample in samples]).double()
    constant = rmse(target.mean(0).expand_as(target), target)
    assert scores["affect/rmse_arousal_constant"] == pytest.approx(constant[1].item())
    best = torch.stack([sagr(torch.full_like(target, sign), target) for sign in (-1, 0, 1)]).amax(0)
    assert scores["affect/sagr_valence_constant"] == pytest.approx(best[0].item())
    assert scores["affect/ccc_mean_constant"] == scores["affect/pcc_valence_constant"] == 0
    smooth = []
    for sample in samples:  # 12 frames before and after, without a label, too
        pred = sample.pred_affect.double()
        means = torch.stack([pred[max(0, k - 12) : k + 13].mean(0) for k in range(len(pred))])
        smooth.append(means[sample.gt_valid])
    assert scores["affect/ccc_valence_moving_average"] == pytest.approx(ccc(torch.cat(smooth), target)[0].item())


def test_whether_time_would_help_shows_in_the_change() -> None:
    torch.manual_seed(0)
    noisy, _ = test([video(number, noise=0.3) for number in range(24)])
    assert noisy["affect/ccc_mean_change_low"] > 0
    assert noisy["affect/rmse_mean_change_high"] < 0
    exact = [video(number) for number in range(24)]
    for sample in exact:  # somebody who nods one and a half times a second
        sample.gt_affect = sample.gt_affect + 0.2 * torch.sin(torch.arange(FRAMES) * (3 * np.pi / 25))[:, None]
        sample.set_pred(0.95 * sample.gt_affect + 0.02 * torch.randn(2))
    assert test(exact)[0]["affect/ccc_mean_change_high"] < 0  # a network that follows every swing is only blurred


def test_videos_of_one_person_are_drawn_together() -> None:
    """Copies of a video under one name say nothing new; as videos of unknown people they would."""
    together = [video(number % 10, subject=f"S{number % 10}") for number in range(40)]
    apart = [video(number % 10) for number in range(40)]
    for samples in (together, apart):
        for number, sample in enumerate(samples):
            sample.set_metainfo({"video": f"copy{number}"})
    once, _ = test([video(number) for number in range(10)])
    wide, metric = test(together)
    narrow, other = test(apart)
    ends = ("affect/ccc_mean_low", "affect/ccc_mean_high")
    assert [wide[end] for end in ends] == pytest.approx([once[end] for end in ends], rel=1e-6)
    assert narrow[ends[1]] - narrow[ends[0]] < 0.7 * (wide[ends[1]] - wide[ends[0]])
    assert metric.report is not None
    assert other.report is not None
    assert (metric.report.unit, metric.report.whole.units) == ("subjects", 10)
    assert (other.report.unit, other.report.whole.units) == ("videos", 40)


def test_a_person_is_one_however_spelled_and_two_in_two_sets() -> None:
    samples = people(10)
    samples[0].set_metainfo({"subject": " s00 "})
    _, metric = test(samples)
    assert metric.report is not None
    assert metric.report.whole.units == len(metric.report.groups["subject"]) == 10
    for number, sample in enumerate(samples):
        sample.set_metainfo({"source": "SEWA" if number % 2 else "AVEC"})
    scores, metric = test(samples)
    assert metric.report is not None
    assert metric.report.whole.units == len(metric.report.groups["subject"]) == 20
    assert {"AVEC/S01", "SEWA/S01"} <= set(metric.report.groups["subject"])
    assert metric.report.groups["source"]["SEWA"].scores["ccc_mean"] == pytest.approx(scores["affect/SEWA/ccc_mean"])


UNKNOWN = {
    "some of one set": ([video(k, subject=f"S{k}" if k else "") for k in range(12)], "1 of 12 videos name no subject"),
    "one video": ([video(0)], "1 videos are too few, 8 are needed"),
    "few people": (people(7, each=3), "7 subjects are too few, 8 are needed"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_without_enough_known_people_there_is_no_interval_and_a_reason(name: str) -> None:
    samples, reason = UNKNOWN[name]
    scores, metric = test(samples)
    assert not [key for key in scores if key.endswith(("_low", "_high"))]
    assert scores["affect/ccc_mean_moving_average"] > scores["affect/ccc_mean"]
    assert metric.report is not None
    assert reason in why(metric)[0]
    assert f"no interval: {reason}" in metric.report.text()


def test_sets_of_unknown_people_beside_one_of_known_people_are_drawn_as_videos() -> None:
    samples = people(6, source="SEWA") + [video(20 + number, source="taught", subject="") for number in range(6)]
    _, metric = test(samples)
    assert metric.report is not None
    assert (metric.report.unit, metric.report.whole.units) == ("subjects and videos", 12)
    assert why(metric) == []
    assert "too narrow if one person is in several videos" in metric.report.text()


def test_a_set_that_names_each_video_after_itself_names_nobody() -> None:
    samples = [video(number, subject=f"v{number:02d}") for number in range(12)]
    _, metric = test(samples)
    assert metric.report is not None
    assert metric.report.unit == "videos"
    samples[0].set_metainfo({"subject": "v01"})  # as Aff-Wild2, whose two people of one video have its name
    _, metric = test(samples)
    assert metric.report is not None
    assert (metric.report.unit, metric.report.whole.units) == ("subjects", 11)
    assert "too narrow" not in metric.report.text()


def test_pictures_have_no_average() -> None:
    scores, metric = test([video(number, frames=1, fps=0) for number in range(40)])
    assert not [key for key in scores if "average" in key or "change" in key]
    assert scores["affect/ccc_mean_low"] < scores["affect/ccc_mean"]
    assert metric.report is not None
    assert "frames too few for an average" in metric.report.text()


def test_one_frame_in_all_has_no_correlation_and_says_so() -> None:
    scores, metric = test([video(0, frames=1)])
    assert np.isnan(scores["affect/ccc_mean"])
    assert "affect/ccc_mean_constant" not in scores
    assert scores["affect/rmse_mean_constant"] == 0
    assert "too few" in why(metric)[0]


def test_constant_labels_have_intervals_of_errors_alone() -> None:
    samples = people(10)
    for sample in samples:
        sample.gt_affect = torch.full_like(sample.gt_affect, 0.25)
    scores, metric = test(samples)
    assert {key.split("/")[1].split("_")[0] for key in scores if key.endswith("_low")} == {"rmse", "sagr"}
    assert scores["affect/ccc_mean"] == scores["affect/ccc_mean_constant"] == 0
    assert scores["affect/rmse_mean_constant"] == pytest.approx(0, abs=1e-9)
    assert any(text.startswith("ccc_valence, ccc_arousal") and "does not vary" in text for text in why(metric))


def test_predictions_that_are_no_numbers_have_no_interval() -> None:
    samples = people(10)
    samples[3].pred_affect[5] = torch.nan
    scores, metric = test(samples)
    assert np.isnan(scores["affect/ccc_mean"])
    assert not [key for key in scores if key.endswith("_low")]
    assert "no number" in why(metric)[0]


def test_nothing_valid_is_refused() -> None:
    samples = people(2)
    for sample in samples:
        sample.gt_valid[:] = False
    with pytest.raises(DataError, match="no valid frame in 4 videos"):
        test(samples)


def test_a_video_without_a_valid_frame_changes_nothing() -> None:
    blind = video(99, subject="S99")
    blind.gt_valid[:] = False
    assert test([*people(10), blind])[0] == test(people(10))[0]


def test_groups_are_scored_by_themselves(tmp_path: Path) -> None:
    samples = people(20)
    for number, sample in enumerate(samples):
        sample.set_metainfo({"groups": {"culture": "C1" if number < 30 else "C2"}})
    _, metric = test(samples, out_dir=tmp_path)
    assert sorted(path.name for path in (tmp_path / "groups").iterdir()) == ["culture.csv", "subject.csv"]
    cultures, subjects = rows(tmp_path / "groups/culture.csv"), rows(tmp_path / "groups/subject.csv")
    assert [(name, row["videos"], row["units"]) for name, row in cultures.items()] == [
        ("C1", "30", "15"),
        ("C2", "10", "5"),
    ]
    alone, _ = test(samples[:30])
    assert float(cultures["C1"]["ccc_mean"]) == pytest.approx(alone["affect/ccc_mean"], rel=1e-5)
    assert float(cultures["C1"]["ccc_mean_low"]) == pytest.approx(alone["affect/ccc_mean_low"], rel=1e-3)
    assert cultures["C2"]["ccc_mean_low"] == subjects["S00"]["ccc_mean_low"] == ""
    assert float(subjects["S03"]["rmse_mean"]) == pytest.approx(test(samples[6:8])[0]["affect/rmse_mean"], rel=1e-5)
    assert len(subjects) == 20
    with (tmp_path / "per_video.csv").open() as text:
        table = {row["video"]: row for row in csv.DictReader(text)}
    assert list(table["v31"])[:15] == ["video", "frames", "valid_frames", *KEYS]
    assert (table["v31"]["subject"], table["v31"]["culture"]) == ("S15", "C2")
    assert float(table["v31"]["ccc_mean_moving_average"]) > float(table["v31"]["ccc_mean"])
    assert metric.report is not None
    shown = [line.split() for line in metric.report.text().splitlines()]
    assert ["C1", "30"] in [line[:2] for line in shown]
    test(samples, out_dir=tmp_path)  # its own tables are replaced


def test_tables_of_others_are_kept(tmp_path: Path) -> None:
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups/culture.csv").write_text("culture,country\nC1,?\n")
    with pytest.raises(DataError, match=r"no tables but those of a test, got .*culture\.csv"):
        AffectMetric(out_dir=tmp_path, resamples=200)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/groups").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="must be a folder, got a link"):
        AffectMetric(out_dir=tmp_path / "out", resamples=200)


@pytest.mark.parametrize("kind", ["../x", "", "a b", "subject", "source"])
def test_a_kind_of_groups_is_a_word(kind: str) -> None:
    with pytest.raises(DataError, match="a kind of groups must be a word"):
        test([video(0, groups={kind: "x"})])


@pytest.mark.parametrize("count", [-1, 1, 199])
def test_too_few_resamples_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="resamples must be 0, or 200 or more"):
        AffectMetric(resamples=count)


def test_the_text_has_a_row_per_score() -> None:
    scores, metric = test(people(10))
    assert metric.report is not None
    lines = metric.report.text().splitlines()
    assert lines[0] == "1000 valid frames of 20 videos; intervals of 95 % over 10 subjects"
    row = next(line for line in lines if line.startswith("CCC  mean"))
    low, high = (f"{scores[f'affect/ccc_mean_{end}']:.3f}" for end in ("low", "high"))
    assert row.split()[:6] == ["CCC", "mean", f"{scores['affect/ccc_mean']:.3f}", low, "to", high]
    assert row.split()[6:8] == ["0.000", f"{scores['affect/ccc_mean_moving_average']:.3f}"]
