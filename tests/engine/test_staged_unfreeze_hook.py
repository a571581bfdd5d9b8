import copy
from itertools import pairwise

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from torch import distributed, nn

from hocp_mm.engine import StagedUnfreezeHook
from tests.material.tiny_runs import TinyRecognizer, clips, make_runner

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


class Watch(Hook):
    """What a step finds and leaves, in lists by iteration."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.trained, self.rates, self.states, self.norms = [], [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.trained.append({name for name, p in runner.model.named_parameters() if p.requires_grad})
        self.rates.append([group["lr"] for group in runner.optim_wrapper.optimizer.param_groups])
        self.norms.append([m.training for m in runner.model.modules() if isinstance(m, nn.BatchNorm2d)])
        self.states.append(copy.deepcopy(runner.model.state_dict()))

    def after_train(self, runner) -> None:
        self.states.append(copy.deepcopy(runner.model.state_dict()))


def watch(work_dir, stages, *, by_epoch=False, epochs=4, model=None, **options) -> Watch:
    """Train for two steps in each epoch; without stages there is no hook under test."""
    torch.manual_seed(2)
    seen = Watch()
    hooks = [StagedUnfreezeHook(stages, by_epoch=by_epoch)] if stages else []
    model = TinyRecognizer() if model is None else model
    make_runner(model, work_dir, [*hooks, seen], epochs=epochs, **options).train()
    return seen


def test_stages_can_count_iterations(tmp_path):
    seen = watch(tmp_path, [{"begin": 0, "train": "^head"}, {"begin": 3, "train": "all"}], epochs=2)
    assert [len(names) for names in seen.trained] == [2, 2, 2, len(list(TinyRecognizer().parameters()))]


MOVERS = {
    "momentum and decay": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}},
    "AdamW": {"optimizer": {"type": "AdamW", "lr": 0.01, "weight_decay": 0.1}},
    "a gradient accumulated before": {"optimizer": {"type": "SGD", "lr": 0.1}, "accumulative_counts": 2},
    "bfloat16": {"type": "hocp_mm.CPUAmpOptimWrapper", "optimizer": {"type": "AdamW", "lr": 0.01}},
    "clipping": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}, "clip_grad": {"max_norm": 0.1}},
}


@pytest.mark.parametrize("mover", MOVERS)
def test_nothing_moves_a_parameter_that_was_frozen_after_it_trained(mover, tmp_path):
    # Iteration 3 is the second of an epoch, and of a cycle of two accumulated gradients.
    stages = [{"begin": 0}, {"begin": 3, "train": "^head", "norm_eval": True}]
    states = watch(tmp_path, stages, optim_wrapper=MOVERS[mover]).states
    assert "backbone.0.weight" in changed(states[0], states[3])
    assert changed(states[3], states[-1]) == {"head.weight", "head.bias"}


def test_a_stage_within_a_cycle_of_accumulation_leaves_the_cycle_alone(tmp_path):
    """The head trains in both stages: its course is that of a run that never had another."""
    options = {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}, "accumulative_counts": 3}}
    stages = [{"begin": 0, "train": "^head"}, {"begin": 4, "train": ["^head", "factors.t$"]}]
    one = watch(tmp_path / "one", stages[:1], **options).states
    two = watch(tmp_path / "two", stages, **options).states
    moves = [bool(changed(a, b) & {"head.weight"}) for a, b in pairwise(two)]
    # mmengine also steps at the very end.
    assert moves == [False, False, True, False, False, True, False, True]
    assert torch.equal(one[6]["head.weight"], two[6]["head.weight"])
    assert "backbone.2.factors.t" in changed(two[5], two[6])


SCHEDULES = {
    "steps by epoch": [{"type": "StepLR", "step_size": 1, "gamma": 0.5}],
    "a cosine with a floor": [{"type": "CosineAnnealingLR", "T_max": 4, "eta_min": 0.02}],
    "a warm-up and a cosine by iteration": [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 3},
        {
            "type": "CosineAnnealingLR",
            "T_max": 4,
            "eta_min_ratio": 0.1,
            "begin": 0,
            "end": 4,
            "convert_to_iter_based": True,
        },
    ],
    "one cycle": [{"type": "OneCycleLR", "eta_max": 0.3, "total_steps": 8, "by_epoch": False}],
    "restarts": [{"type": "CosineRestartLR", "periods": [2, 2], "restart_weights": [1, 0.5], "eta_min": 0.01}],
    "none": None,
}
GROUPS = {"optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": {"custom_keys": {"head": {"lr_mult": 3.0}}}}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_group_has_its_scheduled_rate_times_the_factor_of_the_stage(schedule, tmp_path):
    options = {"param_scheduler": SCHEDULES[schedule], "optim_wrapper": GROUPS}
    plain = watch(tmp_path / "plain", [], **options).rates
    stages = [{"begin": 0, "lr_mult": 2}, {"begin": 3, "lr_mult": 0.1}, {"begin": 6, "lr_mult": 0.5}]
    staged = watch(tmp_path / "staged", stages, **options).rates
    for rates, scheduled, factor in zip(staged, plain, [2] * 3 + [0.1] * 3 + [0.5] * 2, strict=True):
        assert rates == pytest.approx([factor * rate for rate in scheduled])
    if schedule != "one cycle":  # which has one peak for all
        assert plain[0][-1] == pytest.approx(3 * plain[0][0])


def test_parameters_can_have_factors_of_their_own(tmp_path):
    stages = [{"begin": 0}, {"begin": 3, "lr_mult": {r"factors\.t$": 5, "^backbone": 0.5}}]
    options = {"param_scheduler": None, "optim_wrapper": GROUPS}
    seen = watch(tmp_path, stages, **options)
    names = [name for name, _ in TinyRecognizer().named_parameters()]
    for name, before, after in zip(names, seen.rates[2], seen.rates[3], strict=True):
        factor = 5 if name.endswith("factors.t") else 0.5 if name.startswith("backbone") else 1
        assert after == pytest.approx(factor * before), name
    with pytest.raises(ValueError, match=r"one group of the optimizer must share lr_mult.*paramwise_cfg"):
        watch(tmp_path, stages)


@pytest.mark.parametrize("stop", [2, 3, 5], ids="after iteration {}".format)
def test_a_run_by_iteration_resumes_in_the_middle_of_a_stage(stop, tmp_path):
    options = {
        "train_cfg": {"by_epoch": False, "max_iters": 6},
        "param_scheduler": SCHEDULES["a cosine with a floor"][0] | {"by_epoch": False, "T_max": 6},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1, "by_epoch": False}},
        "train_dataloader": clips(12),  # one epoch: mmengine waits for seconds before it starts another
    }
    stages = [
        {"begin": 0, "train": ["^head"], "norm_eval": True},
        {"begin": 3, "train": "all", "lr_mult": {"^head": 0.1, "": 0.3}},
    ]
    options["optim_wrapper"] = GROUPS
    whole = watch(tmp_path / "whole", stages, **options)
    part = str(tmp_path / "whole" / f"iter_{stop}.pth")
    resumed = watch(tmp_path / "part", stages, load_from=part, resume=True, **options)
    assert resumed.rates == whole.rates[stop:]
    assert resumed.trained == whole.trained[stop:]
    for ours, theirs in zip(resumed.states, whole.states[stop:], strict=True):
        assert changed(ours, theirs) == set()


def test_what_was_frozen_before_training_stays_frozen_in_every_stage(tmp_path):
    torch.manual_seed(0)
    model = TinyRecognizer()
    model.backbone[0].requires_grad_(False)
    seen = watch(tmp_path, [{"begin": 0, "train": ["^backbone"]}, {"begin": 3}], model=model)
    assert "backbone.0.weight" not in changed(seen.states[0], seen.states[-1])
    assert "backbone.2.weights" in seen.trained[0]
    assert len(seen.trained[-1]) == len(list(model.parameters())) - 2
    with pytest.raises(ValueError, match=r"may train, got 'backbone.0': the 2 it matches, such as 'backbone.0.bias'"):
        watch(tmp_path, [{"begin": 0}, {"begin": 2, "train": ["^head", "backbone.0"]}], model=model)


def test_a_second_training_run_starts_from_what_was_free_at_first(tmp_path):
    hook, model = StagedUnfreezeHook([{"begin": 0}, {"begin": 1, "train": "^head"}]), TinyRecognizer()
    for folder in ("first", "second"):
        seen = Watch()
        make_runner(model, tmp_path / folder, [hook, seen], epochs=2).train()
        assert [len(names) for names in seen.trained] == [13, 13, 2, 2]


def test_norms_go_on_in_the_middle_of_an_epoch_unless_the_user_stopped_them(tmp_path):
    stages = [{"begin": 0, "train": "^head", "norm_eval": True}, {"begin": 3}]
    assert watch(tmp_path / "plain", stages, epochs=2).norms == [[False]] * 3 + [[True]]

    class Stopped(TinyRecognizer):
        def train(self, mode: bool = True):
            super().train(mode)
            self.backbone[1].eval()
            return self

    assert watch(tmp_path / "stopped", stages, epochs=2, model=Stopped()).norms == [[False]] * 4


@pytest.mark.parametrize("begins", [[], [1], [0, 3, 2], [0, 0]], ids=str)
def test_stages_out_of_order_are_refused(begins):
    with pytest.raises(ValueError, match="must begin at 0 and increase"):
        StagedUnfreezeHook([{"begin": b} for b in begins])


REFUSED = {
    "an unknown key": ({"trian": "all"}, ValueError, r"may have train, norm_eval, lr_mult, .*\(unknown: trian\)"),
    "an epoch that is no integer": ({"begin": 1.5}, ValueError, r"begin must be an integer from 0, got 1\.5"),
    "an epoch below zero": ({"begin": -1}, ValueError, "begin must be an integer from 0, got -1"),
    "no rate": ({"lr_mult": 0}, ValueError, "lr_mult must be positive and finite, got 0"),
    "a negative rate for one part": ({"lr_mult": {"^head": -1}}, ValueError, "positive and finite, got -1"),
    "a rate that is no number": ({"lr_mult": "0.1"}, ValueError, "positive and finite, got '0.1'"),
    "no pattern": ({"train": []}, ValueError, r"patterns must not be empty, got train=\[\]"),
    "no pattern for rates": ({"lr_mult": {}}, ValueError, r"patterns must not be empty, got lr_mult=\{\}"),
    "no regular expression": ({"train": ["factors[t"]}, ValueError, "must be regular expressions.*unterminated"),
    "a number for a pattern": ({"train": [3]}, ValueError, "must be regular expressions"),
    "patterns of another kind": ({"train": 3}, TypeError, "must be 'all' or patterns on parameter names, got 3"),
    "a word for a truth value": ({"norm_eval": "no"}, TypeError, "norm_eval must be True or False, got 'no'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_stage_that_makes_no_sense_is_refused_when_the_hook_is_built(case):
    fields, kind, text = REFUSED[case]
    with pytest.raises(kind, match=text):
        StagedUnfreezeHook([{"begin": 0} | fields])


@pytest.mark.parametrize("stages", [None, "all", [0]], ids=str)
def test_stages_of_another_kind_are_refused(stages):
    with pytest.raises(TypeError, match="stages must be a list of dicts"):
        StagedUnfreezeHook(stages)


def test_a_stage_without_a_beginning_is_refused():
    with pytest.raises(ValueError, match="a stage must have begin"):
        StagedUnfreezeHook([{"train": "all"}])


@pytest.mark.parametrize(("field", "where"), [("train", "train"), ("lr_mult", "lr_mult")])
def test_a_pattern_of_a_later_stage_that_matches_nothing_ends_the_run_at_once(field, where, tmp_path):
    value = {"factor_t": 2.0} if field == "lr_mult" else ["^head", "factor_t"]
    with pytest.raises(ValueError, match=f"pattern in {where} must match a parameter, got 'factor_t' .stage from 3"):
        run(tmp_path, stages=[{"begin": 0}, {"begin": 3, field: value}])


def test_a_stage_after_the_end_is_told(tmp_path, monkeypatch):
    hook = StagedUnfreezeHook([{"begin": 0}, {"begin": 2}])
    runner = make_runner(TinyRecognizer(), tmp_path, [hook], epochs=2)
    warnings = []
    monkeypatch.setattr(runner.logger, "warning", warnings.append)
    runner.train()
    assert [text for text in warnings if "never begins" in text] == [
        "StagedUnfreezeHook: the stage from epoch 2 never begins, training ends before epoch 2."
    ]


def test_epochs_of_a_loop_that_counts_iterations_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"an IterBasedTrainLoop counts iterations, got by_epoch=True"):
        watch(tmp_path, STAGES, by_epoch=True, train_cfg={"by_epoch": False, "max_iters": 2})


@pytest.fixture
def process_group(tmp_path):
    """A group of this process alone: DistributedDataParallel does all that it does in a larger one."""
    distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/rendezvous")
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"find_unused_parameters": False}, "needs find_unused_parameters=True"),
        ({"find_unused_parameters": True, "static_graph": True}, "needs static_graph=False"),
    ],
    ids=["unused parameters", "static graph"],
)
@pytest.mark.usefixtures("process_group")
def test_distributed_training_that_would_end_at_the_next_stage_is_refused(options, rule, tmp_path):
    with pytest.raises(ValueError, match=rule):
        watch(tmp_path, [{"begin": 0}, {"begin": 3, "train": "^head"}], model=_distributed(**options))


@pytest.mark.parametrize("views", [False, True], ids=["gradients", "gradients as views of buckets"])
@pytest.mark.usefixtures("process_group")
def test_distributed_training_follows_the_same_course(views, tmp_path):
    stages = [{"begin": 0}, {"begin": 3, "train": "^head", "norm_eval": True}, {"begin": 5, "lr_mult": 0.1}]
    options = {"optim_wrapper": MOVERS["momentum and decay"] | {"accumulative_counts": 2}}
    plain = watch(tmp_path / "plain", stages, **options).states
    model = _distributed(find_unused_parameters=True, gradient_as_bucket_view=views)
    wrapped = watch(tmp_path / "wrapped", stages, model=model, **options).states
    assert changed(plain[3], plain[5]) == {"head.weight", "head.bias"}
    assert "backbone.0.weight" in changed(plain[5], plain[-1])
    for ours, theirs in zip(wrapped, plain, strict=True):
        assert changed({name.removeprefix("module."): tensor for name, tensor in ours.items()}, theirs) == set()


def _distributed(**options):
    torch.manual_seed(2)
    return MMDistributedDataParallel(TinyRecognizer(), broadcast_buffers=False, **options)


@pytest.mark.parametrize("train", ["all", [".*"], ["backbone", "head"]], ids=str)
def test_everything_is_everything_however_it_is_written(tmp_path, train):
    states = run(tmp_path, epochs=2, stages=[{"begin": 0, "train": train, "norm_eval": True}]).states
    assert not {name for name in changed(states[0], states[-1]) if "running" in name}
