import copy

import pytest
import torch

from hocp_mm.engine import StagedUnfreezeHook
from tests.tiny_runs import TinyRecognizer, make_runner

STAGES = [
    {"begin": 0, "train": [r"factors\.t$", "^head"], "norm_eval": True},
    {"begin": 2, "train": "all", "lr_mult": 0.1},
]


class History(StagedUnfreezeHook):
    """The hook under test, with a record of state and learning rate after every epoch."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.states, self.rates = [], []

    def before_train(self, runner) -> None:
        super().before_train(runner)
        self.states.append(copy.deepcopy(runner.model.state_dict()))

    def after_train_epoch(self, runner, metrics=None) -> None:
        self.states.append(copy.deepcopy(runner.model.state_dict()))
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])


def changed(before, after) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def run(work_dir, *, epochs=4, stages=STAGES, **options) -> History:
    torch.manual_seed(2)
    hook = History(stages)
    make_runner(TinyRecognizer(), work_dir, [hook], epochs=epochs, **options).train()
    return hook


def test_only_temporal_factors_and_head_train_first_then_everything(tmp_path):
    states = run(tmp_path).states
    first = {"backbone.2.factors.t", "head.weight", "head.bias"}
    assert changed(states[0], states[1]) == first
    assert changed(states[1], states[2]) == first, "norm statistics moved in a stage with norm_eval"
    assert {"backbone.0.weight", "backbone.1.running_mean", "backbone.2.weights"} <= changed(states[2], states[3])


def test_the_learning_rate_is_the_schedule_times_the_stage(tmp_path):
    assert run(tmp_path).rates == pytest.approx([0.1, 0.05, 0.1 * 0.025, 0.1 * 0.0125])


@pytest.mark.parametrize("stop", [1, 2, 3], ids=["in the first stage", "at the boundary", "in the second stage"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, stop):
    whole = run(tmp_path / "whole")
    # The full schedule, killed after `stop` epochs: the checkpoint is what is left.
    part = tmp_path / "whole" / f"epoch_{stop}.pth"
    resumed = run(tmp_path / "part", load_from=str(part), resume=True)
    assert resumed.rates == pytest.approx(whole.rates[stop:])
    assert changed(whole.states[-1], resumed.states[-1]) == set()


def test_stages_can_count_iterations(tmp_path):
    hook = StagedUnfreezeHook([{"begin": 0, "train": "^head"}, {"begin": 3, "train": "all"}], by_epoch=False)
    model = TinyRecognizer()
    trained = []

    class Watch(StagedUnfreezeHook):
        def __init__(self) -> None: ...

        def before_train(self, runner) -> None: ...

        def before_train_epoch(self, runner) -> None: ...

        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            trained.append(sum(p.requires_grad for p in model.parameters()))

    runner = make_runner(model, tmp_path, [hook], epochs=2)
    runner.register_hook(Watch(), priority="LOWEST")
    runner.train()
    assert trained == [2, 2, 2, len(list(model.parameters()))]


@pytest.mark.parametrize("begins", [[], [1], [0, 3, 2], [0, 0]], ids=str)
def test_stages_out_of_order_are_refused(begins):
    with pytest.raises(ValueError, match="must begin at 0 and increase"):
        StagedUnfreezeHook([{"begin": b} for b in begins])


def test_a_pattern_of_a_later_stage_that_matches_nothing_ends_the_run_at_once(tmp_path):
    stages = [{"begin": 0, "train": "all"}, {"begin": 3, "train": "factor_t"}]
    with pytest.raises(ValueError, match="must match a parameter, got 'factor_t'"):
        run(tmp_path, stages=stages)
