"""Shares of joined data sets: as many draws as asked for, fair within a set, the same on every process."""

from collections import Counter

import pytest
from torch.utils.data import ConcatDataset

from hocp_mm.engine import share_sampler
from hocp_mm.engine.sampling import NumberedSampler, SeededDataset
from hocp_mm.engine.share_sampler import ShareSampler
from hocp_mm.registry import DATA_SAMPLERS

SIZES = (3, 50, 7)


def data():
    return ConcatDataset([[(number, index) for index in range(size)] for number, size in enumerate(SIZES)])


def drawn(sampler, dataset, epoch=0):
    sampler.set_epoch(epoch)
    return [dataset[index] for index in sampler]


@pytest.mark.parametrize(
    ("shares", "length", "counts"),
    [
        ((1, 1, 1), 60, [20, 20, 20]),
        ((0.4, 0.2, 0.4), None, [24, 12, 24]),
        ((1, 1, 2), 12, [3, 3, 6]),
        ((1e-9, 1, 1), 10, [0, 5, 5]),
    ],
)
def test_each_set_has_its_share_of_every_epoch(shares, length, counts):
    dataset = data()
    sampler = ShareSampler(dataset, shares, length, seed=1)
    assert len(sampler) == sum(counts) == (length or len(dataset))
    for epoch in range(3):
        found = Counter(number for number, _ in drawn(sampler, dataset, epoch))
        assert [found[number] for number in range(3)] == counts == sampler.counts


def test_no_sample_is_drawn_again_before_all_were_drawn():
    dataset = data()
    found = Counter(drawn(ShareSampler(dataset, (8, 40, 12), seed=1), dataset))
    for number, size in enumerate(SIZES):
        times = [found[number, index] for index in range(size)]
        assert max(times) - min(times) <= 1


def test_all_samples_come_over_the_epochs():
    dataset = data()
    sampler = ShareSampler(dataset, (1, 1, 1), 30, seed=1)
    seen = {sample for epoch in range(60) for sample in drawn(sampler, dataset, epoch)}
    assert len(seen) == sum(SIZES)


def test_the_order_is_mixed_and_follows_from_seed_and_epoch():
    dataset = data()
    one, same, other = (ShareSampler(dataset, (1, 1, 1), seed=seed) for seed in (1, 1, 2))
    assert drawn(one, dataset, 4) == drawn(same, dataset, 4)
    assert drawn(one, dataset, 4) != drawn(one, dataset, 5)
    assert drawn(one, dataset, 4) != drawn(other, dataset, 4)
    assert len({number for number, _ in drawn(one, dataset)[:10]}) > 1


@pytest.mark.parametrize("length", [60, 61])
def test_processes_share_the_draws(length, monkeypatch):
    dataset = data()
    parts = []
    for rank in range(4):
        monkeypatch.setattr(share_sampler, "get_dist_info", lambda rank=rank: (rank, 4))
        sampler = ShareSampler(dataset, (1, 1, 1), length, seed=1)
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler) == 16 - (length == 60)
    monkeypatch.setattr(share_sampler, "get_dist_info", lambda: (0, 1))
    whole = list(ShareSampler(dataset, (1, 1, 1), length, seed=1))
    dealt = [index for turn in zip(*parts, strict=True) for index in turn]
    assert dealt == (whole + whole)[: len(dealt)]


def test_the_runner_builds_it_by_name_around_a_seeded_data_set():
    sampler = NumberedSampler(SeededDataset(data()), {"type": "hocp_mm.ShareSampler", "shares": (1, 1, 1)}, seed=3)
    assert isinstance(sampler.sampler, ShareSampler)
    assert DATA_SAMPLERS.get("hocp_mm.ShareSampler") is ShareSampler
    assert len({draw.seed for draw in sampler}) == len(sampler) == 60


REFUSED = {
    "too few shares": ((1, 1), {}, "one for each data set"),
    "no shares": ((), {}, "one for each data set"),
    "a share of nothing": ((0, 1, 1), {}, "must be positive"),
    "an infinite share": ((float("inf"), 1, 1), {}, "must be positive"),
    "no number": ((float("nan"), 1, 1), {}, "must be positive"),
    "an empty epoch": ((1, 1, 1), {"length": 0}, "must be positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_share_is_refused(case):
    shares, options, text = REFUSED[case]
    with pytest.raises(ValueError, match=f"ShareSampler: .*{text}"):
        ShareSampler(data(), shares, seed=1, **options)


def test_a_data_set_without_samples_has_no_share():
    with pytest.raises(ValueError, match=r"every data set must have samples, got \(2, 0\)"):
        ShareSampler(ConcatDataset([[1, 2], []]), (1, 1), seed=1)


def test_a_single_data_set_has_no_shares():
    with pytest.raises(ValueError, match="one for each data set of a ConcatDataset"):
        ShareSampler([1, 2], (1,), seed=1)
