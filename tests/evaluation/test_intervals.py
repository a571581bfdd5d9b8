"""Intervals hold the truth as often as they say, and scores from sums are the scores of the frames."""

import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from hocp_mm.evaluation.intervals import KEYS, LEAST_UNITS, bootstrap, scores_of, sum_frames
from hocp_mm.functional import ccc, pcc, rmse, sagr

Frames = list[tuple[NDArray[np.float64], NDArray[np.float64]]]


def people(count: int, generator: np.random.Generator) -> Frames:
    """Predictions and labels of people: each with a level, an offset and a gain of their own, and as long as they talk.

    The network is a good one, so the score is near the end of its range, where simple intervals fail.
    """
    found = []
    for length in np.maximum(2, generator.lognormal(3.5, 0.6, count).astype(int)):
        walk = generator.normal(0, 0.25 / np.sqrt(length), (length, 2)).cumsum(axis=0)
        target = generator.normal(0, 0.3, 2) + walk
        offset = generator.normal(0, 0.03, 2)
        found.append((0.95 * target + offset + generator.normal(0, 0.1, (length, 2)), target))
    return found


def sums_of(frames: Frames) -> torch.Tensor:
    """One unit per person."""
    centre = torch.from_numpy(np.concatenate([target for _, target in frames]).mean(axis=0))
    return torch.stack([sum_frames([torch.from_numpy(p)], torch.from_numpy(t), centre) for p, t in frames])


def from_frames(frames: Frames) -> list[float]:
    """The twelve scores by the functions over all frames."""
    pred, target = (torch.from_numpy(np.concatenate(column)) for column in zip(*frames, strict=True))
    pairs = [function(pred, target).tolist() for function in (ccc, pcc, rmse, sagr)]
    return [value for pair in pairs for value in (*pair, sum(pair) / 2)]


@pytest.fixture(scope="module")
def truth() -> list[float]:
    """What the network reaches on so many people that chance is gone."""
    return scores_of(sums_of(people(5_000, np.random.default_rng(99))).sum(0))[0].tolist()


SERIES = {
    "people": lambda g: people(9, g),
    "one frame each": lambda g: [(p[:1], t[:1]) for p, t in people(9, g)],
    "constant labels": lambda g: [(p, np.full_like(t, 0.3)) for p, t in people(9, g)],
    "constant predictions": lambda g: [(np.full_like(p, 0.7), t) for p, t in people(9, g)],
    "nearly constant": lambda g: [(0.7 + 1e-4 * p, 0.7 + 1e-4 * t) for p, t in people(9, g)],
    "equal": lambda g: [(t, t) for _, t in people(9, g)],
    "one frame": lambda g: [(p[:1], t[:1]) for p, t in people(1, g)],
}


@pytest.mark.parametrize("name", SERIES)
def test_scores_from_sums_are_those_of_the_frames(name: str) -> None:
    frames = SERIES[name](np.random.default_rng(1))
    assert scores_of(sums_of(frames).sum(0))[0].tolist() == pytest.approx(from_frames(frames), abs=1e-6, nan_ok=True)


def coverage(method: str, units: int, sets: int, truth: list[float], resamples: int = 500) -> NDArray[np.float64]:
    """How often the interval of each score, where there is one, holds the truth."""
    generator, hits, there = np.random.default_rng(units), np.zeros(len(KEYS)), np.zeros(len(KEYS))
    for _ in range(sets):
        frames = people(units, generator)
        sums = sums_of(frames)
        if method == "ours":
            ends = [(low, high) for low, high, _ in bootstrap(sums, resamples)[0]]
        elif method == "frames":
            rows = np.concatenate([np.stack(pair, axis=1) for pair in frames])[:, None]
            ends = [
                (low, high) for low, high, _ in bootstrap(sums_of([(r[:, 0], r[:, 1]) for r in rows]), resamples)[0]
            ]
        else:

            def scores(chosen: NDArray[np.int64], axis: int, sums: torch.Tensor = sums) -> NDArray[np.float64]:
                assert axis == -1
                return np.moveaxis(scores_of(sums[torch.tensor(chosen)].sum(-3))[..., 0, :].numpy(), -1, 0)

            answer = stats.bootstrap(
                (np.arange(units),), scores, n_resamples=resamples, method=method, vectorized=True, rng=generator
            ).confidence_interval
            ends = list(zip(answer.low, answer.high, strict=True))
        there += [not np.isnan(low) for low, _ in ends]
        hits += [low <= value <= high for (low, high), value in zip(ends, truth, strict=True)]
    return hits / there


def test_intervals_hold_the_truth_though_people_are_few(truth: list[float]) -> None:
    """Two standard errors of a share of 0.92 among 100 sets are 0.05; BCa holds CCC in 0.77 of them."""
    shares = coverage("ours", 10, 100, truth, resamples=300)
    assert shares.min() >= 0.8
    assert shares[:9].mean() >= 0.86


def test_frames_are_no_units(truth: list[float]) -> None:
    assert coverage("frames", 10, 20, truth, resamples=200)[:9].mean() < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("units", [8, 10, 16, 30])
def test_simpler_intervals_promise_too_much(units: int, truth: list[float]) -> None:
    """The table in the module's docstring: ``pytest -m slow -s`` prints it."""
    shares = {method: coverage(method, units, 400, truth) for method in ("percentile", "BCa", "ours")}
    for method, share in shares.items():
        sys.stdout.write(f"{units} {method} {dict(zip(KEYS, share.round(3).tolist(), strict=True))}\n")
    ours = shares["ours"][:3].mean()
    assert ours >= 0.89
    assert all(ours > shares[method][:3].mean() for method in ("percentile", "BCa"))


def test_where_people_are_many_all_intervals_agree() -> None:
    """SciPy's BCa, from the frames of the people drawn."""
    frames = people(100, np.random.default_rng(5))

    def scores(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array(from_frames([frames[k] for k in chosen]))

    expected = stats.bootstrap(
        (np.arange(100),), scores, n_resamples=600, vectorized=False, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    for key, interval, low, high in zip(KEYS, bootstrap(sums_of(frames), 2000)[0], *expected, strict=True):
        assert [interval.low, interval.high] == pytest.approx([low, high], abs=0.2 * (high - low)), key


def test_the_same_results_have_the_same_interval() -> None:
    sums = sums_of(people(12, np.random.default_rng(0)))
    assert bootstrap(sums, 300) == bootstrap(sums, 300)
    assert bootstrap(torch.cat([sums, torch.zeros_like(sums)]), 300) == bootstrap(sums, 300)  # nobody to draw


def test_counts_are_drawn_alike_in_any_number_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = sums_of(people(12, np.random.default_rng(0)))
    whole = bootstrap(sums, 300)
    monkeypatch.setattr("hocp_mm.evaluation.intervals._MOST_COUNTS", 12 * 7)
    assert [tuple(i[:2]) for i in bootstrap(sums, 300)[0]] == [pytest.approx(i[:2]) for i in whole[0]]


def few(count: int) -> Frames:
    return people(count, np.random.default_rng(2))


NONE = {
    "one person": (few(1), KEYS, "1 are too few, 8 are needed"),
    "few people": (few(LEAST_UNITS - 1), KEYS, "7 are too few"),
    "constant labels": ([(p, np.full_like(t, 0.3)) for p, t in few(12)], KEYS[:6], "the score does not vary"),
    "constant predictions": ([(np.full_like(p, 0.7), t) for p, t in few(12)], KEYS[:6], "the score does not vary"),
    "equal": ([(t, t) for _, t in few(12)], KEYS, "the score "),
    "valence equal": ([(np.stack([t[:, 0], p[:, 1]], 1), t) for p, t in few(12)], KEYS[::3], "the score "),
    "copies of one person": (few(1) * 12, KEYS[:9], "the score does not vary"),
    "NaN": ([(np.full_like(p, np.nan), t) for p, t in few(12)], KEYS, "no number"),
    "one of twelve is wrong": (
        [(np.abs(p) + 0.1 if k else -np.abs(p) - 0.1, np.abs(t) + 0.1) for k, (p, t) in enumerate(few(12))],
        KEYS[9:],
        "resamples do not vary",
    ),
}


@pytest.mark.parametrize("name", NONE)
def test_no_interval_is_better_than_a_wrong_one(name: str) -> None:
    frames, keys, reason = NONE[name]
    intervals = dict(zip(KEYS, bootstrap(sums_of(frames), 300)[0], strict=True))
    for key in keys:
        assert reason in intervals[key].why_none, key
        assert np.isnan(intervals[key][:2]).all()
    left = [key for key in KEYS if key not in keys and name != "copies of one person"]
    for key in left:
        assert intervals[key].low < intervals[key].high, key
