"""`AffectMetric` equals the function over all frames, however they are cut into windows and batches."""

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from torch import Tensor

from hocp_mm.errors import DataError
from hocp_mm.evaluation import AffectMetric, score_table
from hocp_mm.functional.agreement import ccc, pcc, rmse, sagr
from hocp_mm.structures import AffectDataSample, AffectTimeline

LENGTHS = {"S001/a": 23, "b": 7, "c": 12}


def world(seed: int = 0) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Predictions, labels and mask of each video."""
    generator = torch.Generator().manual_seed(seed)
    videos = {}
    for video, length in LENGTHS.items():
        target = 0.4 * torch.randn(length, 2, generator=generator)
        pred = 0.7 * target + 0.2 * torch.randn(length, 2, generator=generator)
        videos[video] = (pred, target, torch.rand(length, generator=generator) > 0.2)
    return videos


def window(video: str, inds: list[int], data: tuple[Tensor, Tensor, Tensor]) -> AffectDataSample:
    pred, target, valid = (value[inds] for value in data)
    meta: dict[str, Any] = {"video": video, "frame_inds": inds, "num_frames": LENGTHS[video], "fps": 25.0}
    return AffectDataSample.from_clip(target, valid, **meta).set_pred(pred)


def windows(length: int = 5, stride: int = 5) -> list[AffectDataSample]:
    """Cut every video into padded windows."""
    samples = []
    for video, data in world().items():
        for start in range(0, LENGTHS[video], stride):
            samples.append(window(video, [i if i < LENGTHS[video] else -1 for i in range(start, start + length)], data))
    return samples


def evaluate(samples: list[AffectDataSample], batch: int = 3, **settings: Any) -> dict[str, float]:
    evaluator = Evaluator(AffectMetric(**settings))
    for first in range(0, len(samples), batch):
        evaluator.process(data_samples=samples[first : first + batch])
    return evaluator.evaluate(len(samples))


def expected() -> dict[str, float]:
    pred, target, valid = (torch.cat(column) for column in zip(*world().values(), strict=True))
    values = {}
    for function in (ccc, pcc, rmse, sagr):
        pair = function(pred.clamp(-1, 1)[valid].double(), target[valid].double())
        values |= {
            f"affect/{function.__name__}_{name}": pair[i].item() for i, name in enumerate(("valence", "arousal"))
        }
        values[f"affect/{function.__name__}_mean"] = pair.mean().item()
    return values


@pytest.mark.parametrize(("length", "stride", "batch"), [(5, 5, 1), (5, 5, 4), (23, 23, 2), (1, 1, 8), (8, 3, 3)])
def test_any_split_into_windows_and_batches_gives_the_value_of_all_frames(length: int, stride: int, batch: int) -> None:
    samples = windows(length, stride)
    random.Random(0).shuffle(samples)
    assert evaluate(samples, batch) == pytest.approx(expected(), abs=1e-6)


def test_overlapping_windows_are_averaged_per_frame() -> None:
    target = torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    valid = torch.ones(3, dtype=torch.bool)
    first = window_of([0, 1], torch.tensor([[0.0, 0.0], [0.2, 0.2]]), target, valid)
    second = window_of([1, 2], torch.tensor([[0.6, 0.6], [1.0, 1.0]]), target, valid)
    assert evaluate([first, second])["affect/rmse_mean"] == pytest.approx(0.1 / 3**0.5)


def window_of(inds: list[int], pred: Tensor, target: Tensor, valid: Tensor) -> AffectDataSample:
    sample = AffectDataSample.from_clip(
        target[inds], valid[inds], video="v", frame_inds=inds, num_frames=len(target), fps=25
    )
    return sample.set_pred(pred)


def test_a_window_that_comes_twice_counts_once() -> None:
    samples = windows(8, 3)
    assert evaluate([*samples, samples[0], samples[1]]) == evaluate(samples)


def test_predictions_are_clipped_to_the_label_range() -> None:
    target = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    sample = window_of([0, 1], torch.tensor([[3.0, -7.0], [0.0, 0.0]]), target, torch.ones(2, dtype=torch.bool))
    assert evaluate([sample])["affect/rmse_mean"] == 0


def test_constant_predictions_score_zero_not_nan() -> None:
    samples = [sample.set_pred(torch.full((5, 2), 0.1)) for sample in windows()]
    scores = evaluate(samples)
    assert scores["affect/ccc_mean"] == scores["affect/pcc_mean"] == 0


def test_one_csv_per_video_and_one_table_are_written(tmp_path: Path) -> None:
    scores = evaluate(windows(8, 3), out_dir=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "S001_a.csv",
        "b.csv",
        "c.csv",
        "per_video.csv",
    ]
    timeline = AffectTimeline.from_csv(tmp_path / "out" / "b.csv")
    pred, target, valid = world()["b"]
    assert timeline.frames.tolist() == list(range(7))
    assert np.allclose(timeline.pred, pred.clamp(-1, 1).numpy(), atol=1e-6)
    assert timeline.target is not None
    assert timeline.valid is not None
    assert timeline.valid.tolist() == valid.tolist()
    assert np.array_equal(timeline.target[timeline.valid], target[valid].numpy())
    with (tmp_path / "out" / "per_video.csv").open() as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    one = ccc(pred.clamp(-1, 1)[valid].double(), target[valid].double())
    assert float(rows["b"]["ccc_valence"]) == pytest.approx(one[0].item(), rel=1e-4)
    assert int(rows["b"]["valid_frames"]) == int(valid.sum())
    assert [rows[video]["frames"] for video in LENGTHS] == ["23", "7", "12"]
    assert evaluate(windows(8, 3)) == scores


def with_faces(samples: list[AffectDataSample], found: dict[str, Tensor]) -> list[AffectDataSample]:
    """Say in each sample where a face was found; ``found`` is by frame of the video."""
    for sample in samples:
        inds = torch.tensor(sample.frame_inds)
        sample.face_found = found[sample.video][inds] & (inds >= 0)
    return samples


@pytest.mark.parametrize(("length", "stride"), [(5, 5), (8, 3), (23, 23)])
def test_where_a_face_was_found_reaches_the_csv_however_frames_are_cut_into_windows(
    tmp_path: Path, length: int, stride: int
) -> None:
    generator = torch.Generator().manual_seed(3)
    found = {video: torch.rand(frames, generator=generator) > 0.5 for video, frames in LENGTHS.items()}
    samples = with_faces(windows(length, stride), found)
    random.Random(0).shuffle(samples)
    scores = evaluate(samples, out_dir=tmp_path)
    for video, flags in found.items():
        timeline = AffectTimeline.from_csv(tmp_path / f"{video.replace('/', '_')}.csv")
        assert timeline.face_found is not None
        assert timeline.face_found.tolist() == flags.tolist()
    assert scores == evaluate(windows(length, stride))  # where a face was found changes no score


def test_a_video_of_which_nobody_knows_has_no_column(tmp_path: Path) -> None:
    samples = windows(8, 3)
    with_faces([s for s in samples if s.video != "b"], {v: torch.ones(n, dtype=torch.bool) for v, n in LENGTHS.items()})
    evaluate(samples, out_dir=tmp_path)
    columns = {path.stem: path.read_text().splitlines()[0].split(",") for path in tmp_path.glob("*.csv")}
    assert {video: "face_found" in columns[video] for video in ("S001_a", "b", "c")} == {
        "S001_a": True,
        "b": False,
        "c": True,
    }


def test_windows_that_differ_about_a_face_are_refused() -> None:
    target, every = torch.zeros(3, 2), torch.ones(3, dtype=torch.bool)
    first, second = (window_of(inds, target[:2], target, every) for inds in ([0, 1], [1, 2]))
    first.face_found, second.face_found = torch.tensor([True, False]), torch.tensor([True, True])
    with pytest.raises(DataError, match="video v: two windows differ about whether a frame shows a face"):
        evaluate([first, second])


def test_a_video_without_valid_frames_has_empty_cells(tmp_path: Path) -> None:
    target = torch.zeros(2, 2)
    blind = window_of([0, 1], torch.zeros(2, 2), target, torch.zeros(2, dtype=torch.bool))
    evaluate([*windows(), blind], out_dir=tmp_path)
    with (tmp_path / "per_video.csv").open() as file:
        row = {row["video"]: row for row in csv.DictReader(file)}["v"]
    assert row["valid_frames"] == "0"
    assert row["ccc_mean"] == ""


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    target, none = torch.zeros(2, 2), torch.zeros(2, dtype=torch.bool)
    with pytest.raises(DataError, match="no valid frame in 1 videos"):
        evaluate([window_of([0, 1], target, target, none)])
    every = torch.ones(2, dtype=torch.bool)
    first, second = window_of([0, 1], target, target, every), window_of([1], target[:1], target + 0.5, every)
    with pytest.raises(DataError, match="video v: two windows give one frame different labels"):
        evaluate([first, second])
    unlabelled = AffectDataSample.from_clip(video="v", frame_inds=[0], num_frames=1, fps=25).set_pred(target[:1])
    with pytest.raises(DataError, match="video v has no labels"):
        evaluate([unlabelled])
    samples = windows()
    for sample in samples:
        if sample.video == "b":
            sample.set_metainfo({"video": "S001_a"})
    with pytest.raises(DataError, match=r"videos S001_a and S001/a need the same file S001_a\.csv"):
        evaluate(samples, out_dir=tmp_path)


def test_the_table_has_a_row_per_value_and_a_column_per_score() -> None:
    lines = score_table(expected()).splitlines()
    assert lines[0].split() == ["CCC", "PCC", "RMSE", "SAGR"]
    assert [line.split()[0] for line in lines[1:]] == ["valence", "arousal", "mean"]
    assert lines[3].split()[1] == f"{expected()['affect/ccc_mean']:.3f}"


def with_expression(samples: list[AffectDataSample], truth: dict[str, Tensor], scores: dict[str, Tensor]) -> None:
    for sample in samples:
        inds = torch.tensor(sample.frame_inds)
        real = inds >= 0
        sample.gt_expression = torch.where(real, truth[sample.video][inds.clamp(min=0)], -1)
        sample.set_pred(sample.pred_affect, scores[sample.video][inds.clamp(min=0)])


def expression_world() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    truth = {video: torch.randint(-1, 3, (length,), generator=generator) for video, length in LENGTHS.items()}
    scores = {video: torch.rand(length, 4, generator=generator) for video, length in LENGTHS.items()}
    return truth, scores


@pytest.mark.parametrize(("length", "stride"), [(5, 5), (8, 3), (1, 1)])
def test_expressions_are_scored_on_every_labelled_frame_once(length: int, stride: int) -> None:
    truth, scores = expression_world()
    samples = windows(length, stride)
    with_expression(samples, truth, scores)
    values = evaluate(samples)
    target = torch.cat(list(truth.values()))
    pred = torch.cat(list(scores.values())).argmax(1)[target >= 0]
    target = target[target >= 0]
    f1 = []
    for label in range(4):
        hits = ((pred == label) & (target == label)).sum().item()
        count = (pred == label).sum().item() + (target == label).sum().item()
        f1 += [2 * hits / count] if count else []
    assert values["affect/expression_accuracy"] == pytest.approx((pred == target).float().mean().item())
    assert values["affect/expression_f1"] == pytest.approx(sum(f1) / len(f1))
    assert {k: v for k, v in values.items() if "expression" not in k} == pytest.approx(expected(), abs=1e-6)


def test_scores_of_overlapping_windows_are_averaged() -> None:
    target, valid = torch.zeros(2, 2), torch.ones(2, dtype=torch.bool)
    first = window_of([0, 1], target, target, valid).set_pred(target, torch.tensor([[0.9, 0.1], [0.6, 0.4]]))
    second = window_of([1], target[:1], target, valid).set_pred(target[:1], torch.tensor([[0.1, 0.9]]))
    first.gt_expression, second.gt_expression = torch.tensor([0, 1]), torch.tensor([1])
    assert evaluate([first, second])["affect/expression_accuracy"] == 1


def test_no_expression_is_scored_without_labels_or_without_scores() -> None:
    samples = windows()
    for sample in samples:
        sample.gt_expression = torch.zeros(5, dtype=torch.int64)
    assert "affect/expression_accuracy" not in evaluate(samples)
    truth, scores = expression_world()
    samples = windows()
    with_expression(samples, {video: torch.full_like(t, -1) for video, t in truth.items()}, scores)
    assert evaluate(samples) == pytest.approx(expected(), abs=1e-6)


def test_expressions_that_contradict_each_other_are_refused() -> None:
    target, valid = torch.zeros(2, 2), torch.ones(2, dtype=torch.bool)
    scores = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    first = window_of([0, 1], target, target, valid).set_pred(target, scores)
    second = window_of([1], target[:1], target, valid).set_pred(target[:1], scores[:1])
    first.gt_expression, second.gt_expression = torch.tensor([0, 1]), torch.tensor([0])
    with pytest.raises(DataError, match="video v: two windows give one frame different expressions"):
        evaluate([first, second])
    first.gt_expression = torch.tensor([0, 2])
    with pytest.raises(DataError, match="video v: expressions must be below the 2 classes of the scores, got 2"):
        evaluate([first])


def picture(name: str, affect: list[float], truth: int, scores: list[float]) -> AffectDataSample:
    sample = AffectDataSample.from_clip([affect], video=name, frame_inds=[0], num_frames=1, fps=0, expression=[truth])
    return sample.set_pred(torch.tensor([[0.25, -2.0]]), torch.tensor([scores]))


def test_pictures_are_written_to_one_file(tmp_path: Path) -> None:
    samples = [
        picture("1/a.jpg", [0.5, -0.5], 0, [0.7, 0.2, 0.1]),
        picture("1/b.jpg", [0.25, 0.75], 2, [0.6, 0.3, 0.1]),
        picture("1/c.jpg", [0.0, 0.0], -1, [0.0, 1.0, 0.0]),
    ]
    evaluator = Evaluator(AffectMetric(out_dir=tmp_path))
    evaluator.dataset_meta = {"expressions": ("neutral", "happy", "sad")}
    evaluator.process(data_samples=samples)
    values = evaluator.evaluate(3)
    assert (tmp_path / "images.csv").read_text() == (
        "image,valence,arousal,valence_true,arousal_true,valid,expression,expression_true\n"
        "1/a.jpg,0.25,-1.0,0.5,-0.5,1,0,0\n1/b.jpg,0.25,-1.0,0.25,0.75,1,0,2\n1/c.jpg,0.25,-1.0,0.0,0.0,1,,\n"
    )
    assert (tmp_path / "expressions.csv").read_text() == (
        "expression,frames,precision,recall,f1,as_neutral,as_happy,as_sad\n"
        "neutral,1,0.5,1,0.666667,1,0,0\nhappy,0,,,,0,0,0\nsad,1,,0,0,1,0,0\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expressions.csv", "images.csv"]
    # neutral 2/3, sad 0; happy is neither truth nor prediction of a labelled picture.
    assert values["affect/expression_accuracy"] == 0.5
    assert values["affect/expression_f1"] == pytest.approx(1 / 3)
    assert score_table(values).splitlines()[4] == "expression: accuracy 0.500, mean F1 0.333"


def of(source: str, video: str, value: float, **names) -> AffectDataSample:
    affect = [[value, value], [0.5, -value]]
    sample = AffectDataSample.from_clip(affect, video=video, frame_inds=[0, 1], num_frames=2, fps=25)
    sample.set_metainfo({"source": source, **names})
    return sample.set_pred(torch.tensor([[0.1, 0.2], [0.3, 0.4]]))


def test_joined_sets_are_scored_together_and_one_by_one() -> None:
    samples = [of("A", "1", 0.1), of("B", "2", -0.7), of("B", "3", 0.9)]
    values = evaluate(samples)
    for source in "AB":
        alone = evaluate([sample for sample in samples if sample.source == source])
        assert not any("/A/" in key or "/B/" in key for key in alone)
        for key, value in alone.items():
            assert values[key.replace("affect/", f"affect/{source}/")] == value
    together = evaluate([of("A", sample.video, float(sample.gt_affect[0, 0])) for sample in samples])
    assert {key: values[key] for key in together} == together


def test_one_name_in_two_sets_is_refused_even_where_the_windows_are_alike() -> None:
    with pytest.raises(DataError, match="videos of two data sets must have two names, got 1 in A and B"):
        evaluate([of("A", "1", 0.1), of("B", "1", 0.1)])


def test_classes_take_their_names_from_the_samples_and_have_one_each(tmp_path: Path) -> None:
    def named(name: str, *names: str) -> AffectDataSample:
        sample = picture(name, [0.0, 0.0], 0, [0.7, 0.2, 0.1])
        sample.set_metainfo({"expressions": names})
        return sample

    evaluate([named("a", "calm", "glad", "sad")], out_dir=tmp_path)
    assert ",as_calm,as_glad,as_sad\n" in (tmp_path / "expressions.csv").read_text()
    with pytest.raises(DataError, match="the same names in all data sets, got calm, glad, sad and sad, glad, calm"):
        evaluate([named("a", "calm", "glad", "sad"), named("b", "sad", "glad", "calm")])


def test_files_in_a_folder_of_a_stranger_are_not_written_through_links(tmp_path):
    evaluate(windows(8, 3), out_dir=tmp_path / "out")
    names = [file.name for file in (tmp_path / "out").iterdir()]
    assert names
    for name in names:
        (tmp_path / "out" / name).unlink()
        (tmp_path / "out" / name).symlink_to(tmp_path / f"precious_{name}")
    evaluate(windows(8, 3), out_dir=tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert not any(file.is_symlink() for file in (tmp_path / "out").iterdir())


OTHERS = {
    "labels": "frame,valence,arousal\n0,0.1,0.2\n",
    "labels of a network": "frame,time_s,valence,arousal,face_found,confidence\n0,0,0.1,0.2,1,0.9\n",
    "people": "video,person\n",
    "no text": "\0\ufffe",
    "a long line": "x" * (1 << 17),
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("name", ["a.csv", "per_video.csv", "images.csv", "expressions.csv"])
def test_tables_that_no_test_has_written_are_not_replaced(tmp_path, text, name):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"out_dir must hold no tables but those of a test, got .*{name}"):
        AffectMetric(out_dir=tmp_path)
    assert (tmp_path / name).read_text() == text
