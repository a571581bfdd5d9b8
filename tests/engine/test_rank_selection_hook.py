import copy
import os
import subprocess
import sys

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from torch import nn
from torch.utils.data import DataLoader

from hocp_mm.engine import RankSelectionHook, StagedUnfreezeHook
from hocp_mm.errors import HOCPError
from hocp_mm.launch import load_weights
from tests.laws import assert_close, state_shapes
from tests.material.processes import ROOT
from tests.material.tiny_runs import TinyRecognizer, clips, make_runner

GAMMA = 3.0
"""Strong enough to kill some of the 6 components of the tiny model in two epochs, and not all."""
LAYER = "backbone.2"


class Watch(RankSelectionHook):
    """The hook under test, with a record of what it logs and does."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.lines: list[str] = []
        self.ranks: list[int] = []
        self.outputs: list[torch.Tensor] = []
        self.first: dict[str, torch.Tensor] = {}

    def before_run(self, runner) -> None:
        for level in ("info", "warning"):
            setattr(runner.logger, level, lambda text, *args, **kwargs: self.lines.append(str(text)))
        super().before_run(runner)

    def before_train(self, runner) -> None:
        super().before_train(runner)
        self.first = copy.deepcopy(runner.model.state_dict())

    def _prune(self, runner, done) -> None:
        model, x = runner.model.eval(), torch.randn(2, 3, 4, 8, 8)
        with torch.no_grad():
            self.outputs.append(model(x))
            super()._prune(runner, done)
            self.outputs.append(model(x))
        model.train()

    def after_train_epoch(self, runner) -> None:
        super().after_train_epoch(runner)
        self.ranks.append(runner.model.backbone[2].rank)

    def said(self, text: str) -> list[str]:
        return [line for line in self.lines if "RankSelectionHook" in line and text in line]


def run(work_dir, hook, *hooks, model=None, epochs=4, **options):
    """Train the same tiny model on the same data; return the runner."""
    torch.manual_seed(2)
    runner = make_runner(model or TinyRecognizer(), work_dir, [hook, *hooks], epochs=epochs, **options)
    runner.train()
    return runner


def assert_equal_states(actual, expected) -> None:
    assert {name: tensor.shape for name, tensor in actual.items()} == {n: t.shape for n, t in expected.items()}
    different = [name for name, tensor in expected.items() if not torch.equal(actual[name], tensor)]
    assert different == []


def test_lambdas_shrink_to_zero_and_pruning_them_keeps_the_function(tmp_path):
    hook = Watch(GAMMA, milestone=2)
    runner = run(tmp_path, hook)
    rank = runner.model.backbone[2].rank
    assert 1 < rank < 6
    assert hook.ranks == [6, rank, rank, rank], "pruned once, when two epochs were done"
    assert_close(hook.outputs[1], hook.outputs[0], 1e-6, "output of the pruned network")
    assert len(hook.outputs) == 2
    assert (runner.model.backbone[2].weights != 0).all(), "the lasso went on after the milestone"


def test_each_epoch_and_the_pruning_are_accounted_for(tmp_path):
    hook = Watch(GAMMA, milestone=2)
    layer = run(tmp_path, hook).model.backbone[2]
    dead = 6 - layer.rank
    assert len(hook.said("lambdas are zero")) == 2
    assert hook.said(f"after epoch 2, {dead} of 6 lambdas are zero, in 1 of 1 layers.")
    (account,) = hook.said("layers pruned")
    # Columns of out (4), in (8), t, h and w (3 each) and lambda, 22 numbers per component; 4 biases.
    assert f"{LAYER}  rank     6 -> {layer.rank:5}  parameters         136 -> {4 + 22 * layer.rank:11}" in account
    assert "1 of 1 layers pruned, 386 ->" in account


def test_factors_are_normalised_before_training_and_the_function_is_kept(tmp_path):
    torch.manual_seed(2)
    model = TinyRecognizer()
    with torch.no_grad():
        model.backbone[2].factors["out"].mul_(3)
    before, hook = copy.deepcopy(model), Watch(GAMMA, milestone=1)
    run(tmp_path, hook, model=model, epochs=1)
    after = TinyRecognizer()
    after.load_state_dict(hook.first)
    for mode, factor in after.backbone[2].factors.items():
        assert_close(factor.norm(dim=0), torch.ones(6), 1e-6, f"columns of {mode}")
    x = torch.randn(1, 3, 4, 8, 8)
    assert_close(after.eval()(x), before.eval()(x), 1e-5, "output of the normalised network")


class Steps(Hook):
    """Count what the lasso does, and by how much."""

    def __init__(self, monkeypatch) -> None:
        from hocp_mm.engine.hooks import rank_selection_hook as module

        self.amounts: list[float] = []
        shrink_ = module.shrink_layer_

        def spy(layer, amount) -> None:
            self.amounts.append(amount)
            shrink_(layer, amount)

        monkeypatch.setattr(module, "shrink_layer_", spy)


def test_the_amount_is_gamma_times_the_learning_rate_of_lambdas_own_group(tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    rule = {"custom_keys": {f"{LAYER}.weights": {"lr_mult": 0.5}}}
    wrapper = {"optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": rule}
    run(tmp_path, RankSelectionHook(0.01, milestone=3, begin=1), optim_wrapper=wrapper)
    # Two steps per epoch in epochs 1 and 2; the schedule halves the rate of 0.1 each epoch, lambda has half of it.
    assert steps.amounts == pytest.approx([0.01 * 0.1 / 4] * 2 + [0.01 * 0.1 / 8] * 2)


def test_gradient_accumulation_of_two_shrinks_half_as_often(tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    wrapper = {"optimizer": {"type": "SGD", "lr": 0.1}, "accumulative_counts": 2}
    hook = RankSelectionHook(0.01, milestone=3)
    run(tmp_path, hook, optim_wrapper=wrapper)
    assert steps.amounts == pytest.approx([0.001, 0.0005, 0.00025])


class ScaledOptimWrapper(OptimWrapper):
    """Loss scaling on a CPU, as AmpOptimWrapper does it; the gradient of every second step is infinite."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def backward(self, loss, **kwargs) -> None:
        factor = float("inf") if self._inner_count % 2 else 1.0
        super().backward(self.scaler.scale(loss) * factor, **kwargs)

    def step(self, **kwargs) -> None:
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_loss_scaling_skips_does_not_shrink(tmp_path, monkeypatch, fused):
    steps, model = Steps(monkeypatch), TinyRecognizer()
    wrapper = ScaledOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), 0.1, fused=fused))
    run(tmp_path, RankSelectionHook(0.01, milestone=2), model=model, optim_wrapper=wrapper)
    assert steps.amounts == pytest.approx([0.001, 0.0005]), "one of two steps per epoch is real"


class Mask(Watch):
    """The oracle: do not prune, but put the dead lambdas back to zero after every later step."""

    def _prune(self, runner, done) -> None:
        layer = runner.model.backbone[2]
        dead = layer.weights.detach() == 0

        def mask(optimizer, args, kwargs) -> None:
            with torch.no_grad():
                layer.weights[dead] = 0

        self.live = (~dead).nonzero().flatten()
        runner.optim_wrapper.optimizer.register_step_post_hook(mask)
        self._pruned = True


OPTIMIZERS = {
    "SGD with momentum": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
    "AdamW": {"type": "AdamW", "lr": 0.1},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_as_if_the_dead_components_stayed_at_zero(tmp_path, optimizer):
    wrapper = {"optimizer": optimizer}
    pruned = run(tmp_path / "pruned", Watch(GAMMA, milestone=2), optim_wrapper=wrapper)
    oracle = Mask(GAMMA, milestone=2)
    whole = run(tmp_path / "whole", oracle, optim_wrapper=wrapper)
    assert 0 < len(oracle.live) < 6
    states = [{**r.optim_wrapper.optimizer.state} for r in (pruned, whole)]
    twins = dict(whole.model.named_parameters())
    for name, parameter in pruned.model.named_parameters():
        twin = twins[name]
        axis = {f"{LAYER}.weights": 0}.get(name, 1 if name.startswith(f"{LAYER}.factors") else None)
        cut = (lambda t: t) if axis is None else (lambda t, axis=axis: t.index_select(axis, oracle.live))
        assert_close(parameter, cut(twin), 1e-5, name)
        for key, value in states[0][parameter].items():
            expected = states[1][twin][key]
            assert_close(value, cut(expected) if value.shape == parameter.shape else expected, 1e-4, f"{name}: {key}")


@pytest.mark.parametrize("stop", [1, 2, 3], ids=["before the milestone", "at the milestone", "after the milestone"])
def test_a_killed_and_resumed_run_ends_where_an_uninterrupted_one_ends(tmp_path, stop):
    whole = run(tmp_path / "whole", Watch(GAMMA, milestone=2))
    hook = Watch(GAMMA, milestone=2)
    checkpoint = str(tmp_path / "whole" / f"epoch_{stop}.pth")
    resumed = run(tmp_path / "part", hook, load_from=checkpoint, resume=True)
    assert_equal_states(resumed.model.state_dict(), whole.model.state_dict())
    ends = [
        torch.load(tmp_path / f / "epoch_4.pth", weights_only=False)["optimizer"]["state"] for f in ("whole", "part")
    ]
    for index, state in ends[0].items():
        assert torch.equal(state["momentum_buffer"], ends[1][index]["momentum_buffer"])
    assert len(hook.outputs) == (2 if stop == 1 else 0), "pruned a second time"
    assert len(hook.said("take the ranks")) == (stop > 1)


def test_iterations_can_be_counted_in_the_middle_of_an_epoch_and_of_an_accumulation(tmp_path):
    hook = Watch(8.0, milestone=3, by_epoch=False)
    wrapper = {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}, "accumulative_counts": 2}
    runner = run(tmp_path, hook, epochs=3, optim_wrapper=wrapper)
    assert hook.ranks[0] == 6
    assert hook.ranks[1] == hook.ranks[2] == runner.model.backbone[2].rank < 6
    assert_close(hook.outputs[1], hook.outputs[0], 1e-6, "output of the pruned network")


def test_an_iteration_based_loop_reports_and_prunes(tmp_path):
    hook = Watch(GAMMA, milestone=3, begin=1, by_epoch=False)
    loop = {"by_epoch": False, "max_iters": 4}
    data = DataLoader(clips().dataset, batch_size=1)  # 4 iterations: at the end of data mmengine sleeps
    make_runner(TinyRecognizer(), tmp_path, [hook], train_cfg=loop, param_scheduler=None, train_dataloader=data).train()
    assert len(hook.said("lambdas are zero")) == 2
    assert len(hook.said("layers pruned")) == 1


def test_pruning_at_the_very_end_leaves_a_pruned_checkpoint(tmp_path):
    runner = run(tmp_path, Watch(GAMMA, milestone=2), epochs=2)
    fresh = TinyRecognizer()
    load_weights(fresh, tmp_path / "epoch_2.pth")
    assert fresh.backbone[2].rank == runner.model.backbone[2].rank < 6
    x = torch.randn(1, 3, 4, 8, 8)
    assert torch.equal(fresh.eval()(x), runner.model.eval()(x))


class KeepAverage(EMAHook):
    """EMAHook with a record of its copy at the end."""

    def after_train(self, runner) -> None:
        self.average = copy.deepcopy(self.ema_model.module)


@pytest.mark.parametrize("buffers", [False, True], ids=["parameters", "parameters and buffers"])
def test_averages_keep_the_same_components_and_survive_a_resume(tmp_path, buffers):
    def average(folder, hook, **options):
        ema = KeepAverage(momentum=0.1, update_buffers=buffers)
        return run(tmp_path / folder, hook, ema, **options), ema.average

    oracle = Mask(GAMMA, milestone=2)
    pruned, mean = average("pruned", Watch(GAMMA, milestone=2))
    _, whole_mean = average("whole", oracle)
    assert mean.backbone[2].rank == pruned.model.backbone[2].rank == len(oracle.live)
    for mode, factor in mean.backbone[2].factors.items():
        assert_close(factor, whole_mean.backbone[2].factors[mode][:, oracle.live], 1e-5, f"average of {mode}")
    checkpoint = str(tmp_path / "pruned" / "epoch_3.pth")
    _, resumed = average("part", Watch(GAMMA, milestone=2), load_from=checkpoint, resume=True)
    assert_equal_states(resumed.state_dict(), mean.state_dict())


def test_a_frozen_lambda_neither_shrinks_nor_ends_the_run(tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    stages = [{"begin": 0, "train": [r"factors\.t$", "^head"]}, {"begin": 2, "train": "all"}]
    run(tmp_path, Watch(GAMMA, milestone=3), StagedUnfreezeHook(stages))
    assert len(steps.amounts) == 2, "the steps of epoch 2 alone"


def test_a_lambda_that_never_trains_ends_the_run_at_the_milestone(tmp_path):
    stages = [{"begin": 0, "train": "^head"}, {"begin": 2, "train": "all"}]
    with pytest.raises(HOCPError, match="lambda must train between epoch 0 and 2, got no step: it was frozen"):
        run(tmp_path, Watch(GAMMA, milestone=2), StagedUnfreezeHook(stages))
    assert not (tmp_path / "epoch_2.pth").exists()


def test_weights_of_a_pruned_run_start_a_selection_of_their_own(tmp_path):
    rank = run(tmp_path / "first", Watch(GAMMA, milestone=2)).model.backbone[2].rank
    hook = Watch(1e-4, milestone=1)  # too weak to kill any
    again = run(tmp_path / "second", hook, epochs=1, load_from=str(tmp_path / "first" / "epoch_4.pth"))
    assert again.model.backbone[2].rank == rank
    assert hook.said("0 of 1 layers pruned")
    assert hook.said("no component was weak enough to go; gamma is too small")


def test_a_milestone_that_a_resumed_run_finds_behind_it_is_made_up_for_at_once(tmp_path):
    run(tmp_path / "first", Watch(GAMMA, milestone=3))
    hook = Watch(GAMMA, milestone=2)
    run(tmp_path / "second", hook, load_from=str(tmp_path / "first" / "epoch_2.pth"), resume=True)
    assert hook.said("after epoch 2, 1 of 1 layers pruned")
    assert hook.ranks[0] == hook.ranks[1] < 6


def test_a_checkpoint_of_a_run_without_the_hook_is_not_taken_for_one_with_it(tmp_path):
    make_runner(TinyRecognizer(), tmp_path / "plain", []).train()
    hook = Watch(GAMMA, milestone=3)
    run(tmp_path / "before", hook, load_from=str(tmp_path / "plain" / "epoch_1.pth"), resume=True)
    assert hook.said("resumed from a run without it")
    assert hook.ranks[-1] < 6
    with pytest.raises(HOCPError, match="got no step: it was frozen, or the hook was not there"):
        run(tmp_path / "after", hook, load_from=str(tmp_path / "plain" / "epoch_3.pth"), resume=True)


def test_a_plain_runner_tests_a_pruned_checkpoint(tmp_path):
    pruned = run(tmp_path / "train", Watch(GAMMA, milestone=2)).model.eval()
    fresh = TinyRecognizer()
    runner = make_runner(fresh, tmp_path / "test", [Watch(GAMMA, milestone=2)])
    runner.load_checkpoint(str(tmp_path / "train" / "epoch_4.pth"), strict=True)
    x = torch.randn(1, 3, 4, 8, 8)
    assert torch.equal(fresh.eval()(x), pruned(x))


def test_a_hook_serves_a_second_run(tmp_path):
    hook = Watch(GAMMA, milestone=1)
    ranks = [run(tmp_path / name, hook, epochs=1).model.backbone[2].rank for name in ("first", "second")]
    assert ranks[0] == ranks[1]
    assert len(hook.outputs) == 4


def test_a_layer_that_dies_is_named(tmp_path):
    hook = Watch(1000.0, milestone=1)
    runner = run(tmp_path, hook, epochs=1)
    assert runner.model.backbone[2].rank == 1
    assert hook.said(f"all lambdas of {LAYER} are zero")


def test_training_that_stops_early_says_that_nothing_was_pruned(tmp_path):
    class Stop(Hook):
        def after_train_epoch(self, runner) -> None:
            runner.train_loop.stop_training = True

    hook = Watch(GAMMA, milestone=3)
    run(tmp_path, hook, Stop())
    assert hook.said("training was stopped before epoch 3, so nothing was pruned")


ARGUMENTS = {
    "gamma of 0": ({"gamma": 0}, "gamma must be above 0 and finite, got 0"),
    "an infinite gamma": ({"gamma": float("inf")}, "gamma must be above 0 and finite, got inf"),
    "gamma that is no number": ({"gamma": "0.1"}, "gamma must be above 0 and finite, got '0.1'"),
    "NaN": ({"gamma": float("nan")}, "gamma must be .*, got nan"),
    "a milestone before the begin": ({"milestone": 3, "begin": 3}, "milestone must be an integer above begin=3, got 3"),
    "half a milestone": ({"milestone": 2.5}, "milestone must be an integer .*, got 2.5"),
    "a negative begin": ({"begin": -1}, "begin must be an integer from 0, got -1"),
    "a threshold of 1": ({"threshold": 1.0}, r"threshold must be in \[0, 1\), got 1.0"),
    "no component": ({"min_rank": 0}, "min_rank must be an integer from 1, got 0"),
    "no pattern": ({"layers": "("}, r"layers must be regular expressions, got '\('"),
}


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_out_of_range_are_refused_when_the_hook_is_built(arguments, message):
    with pytest.raises(ValueError, match=f"RankSelectionHook: {message}"):
        RankSelectionHook(**{"gamma": 0.1, "milestone": 2, **arguments})


def dense():
    model = TinyRecognizer(temporal=False)
    model.backbone[2] = nn.Conv2d(8, 4, 3)
    return model


def with_teacher():
    model = TinyRecognizer()
    model.teacher = ExponentialMovingAverage(copy.deepcopy(model))
    return model


def compiled():
    model = TinyRecognizer()
    model.head.compile(backend="eager")
    return model


def with_group_norm():
    from hocp_mm.layers import HOCPConv2d

    model = TinyRecognizer()
    model.backbone[2] = HOCPConv2d(8, 4, 3, rank=6, inner_norm_cfg={"type": "GN", "num_groups": 2})
    return model


RUNS = {
    "no HO-CP layer": ({}, dense, {}, ValueError, "must hold an HO-CP layer, got none"),
    "a pattern without a layer": ({"layers": "layer9"}, TinyRecognizer, {}, ValueError, r"none \(layers='layer9'"),
    "a milestone after the end": ({"milestone": 5}, TinyRecognizer, {}, ValueError, "end of training, epoch 4, got 5"),
    "iterations after the end": (
        {"milestone": 9, "by_epoch": False}, TinyRecognizer, {}, ValueError, "end of training, iteration 8, got 9",
    ),
    "epochs in a loop without": (
        {"milestone": 1}, TinyRecognizer, {"train_cfg": {"by_epoch": False, "max_iters": 6}, "param_scheduler": None},
        ValueError, "an IterBasedTrainLoop counts iterations, got by_epoch=True",
    ),
    "a compiled training step": ({}, TinyRecognizer, {"cfg": {"compile": {"backend": "eager"}}}, NotImplementedError,
                                 "must not be compiled"),
    "a compiled part": ({}, compiled, {}, NotImplementedError, "must not be compiled"),
    "an average in the model": ({}, with_teacher, {}, NotImplementedError, "must not hold an average of itself"),
    "a norm that mixes components": ({}, with_group_norm, {}, NotImplementedError, "group norm mixes channels"),
}  # fmt: skip
if hasattr(torch.optim, "Adafactor"):  # torch >= 2.5
    RUNS["an optimizer with factored state"] = (
        {}, TinyRecognizer, {"optim_wrapper": {"optimizer": {"type": torch.optim.Adafactor, "lr": 0.1}}},
        NotImplementedError, "the state of Adafactor must have the shape of its parameter",
    )  # fmt: skip


@pytest.mark.parametrize("case", RUNS)
def test_what_cannot_work_ends_the_run_in_its_first_iteration(case, tmp_path):
    arguments, make, options, error, message = RUNS[case]
    model = make()
    before = state_shapes(model)
    with pytest.raises(error, match=message):
        run(tmp_path, RankSelectionHook(**{"gamma": GAMMA, "milestone": 2, **arguments}), model=model, **options)
    assert not list(tmp_path.glob("*.pth"))
    assert state_shapes(model) == before


def test_an_optimizer_without_lambda_is_refused(tmp_path):
    model = TinyRecognizer()
    wrapper = OptimWrapper(torch.optim.SGD(model.head.parameters(), 0.1))
    with pytest.raises(ValueError, match=r"must have the lambda of some layer, got none of 1 \(such as 'backbone.2'\)"):
        run(tmp_path, RankSelectionHook(GAMMA, milestone=2), model=model, optim_wrapper=wrapper)


DISTRIBUTED = """
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from torch.utils.data import DataLoader

from hocp_mm.compat import init_distributed
from hocp_mm.engine import RankSelectionHook, StagedUnfreezeHook
from hocp_mm.launch import fit_runner_, leave_distributed
from tests.material.tiny_runs import TinyRecognizer, make_runner

CFG = Config(dict(find_unused_parameters=True))
init_distributed("pytorch", CFG)
WORK_DIR = Path({work_dir!r})
SELECTION = RankSelectionHook({gamma}, milestone=2)
STAGES = [{{"begin": 0, "train": ["backbone.2", "head"]}}, {{"begin": 3, "train": "all"}}]


def make(name, selection=SELECTION, **options):
    torch.manual_seed(2)
    generator = torch.Generator().manual_seed(dist.get_rank())  # other data on each process
    data = [dict(inputs=torch.randn(3, 4, 8, 8, generator=generator)) for _ in range(4)]
    hooks = [hook for hook in (StagedUnfreezeHook(STAGES), selection) if hook is not None]
    return make_runner(
        TinyRecognizer(), WORK_DIR / name, hooks, name=name, train_dataloader=DataLoader(data, batch_size=2),
        launcher="pytorch", cfg=CFG, env_cfg=CFG.env_cfg, **options,
    )


def trained(runner):
    runner.train()
    model = runner.model.module
    for name, parameter in model.named_parameters():
        both = [torch.zeros_like(parameter) for _ in range(2)]
        dist.all_gather(both, parameter.detach())
        assert torch.equal(*both), f"{{name}} differs between the processes"
    assert runner.model.find_unused_parameters
    return {{name: parameter.detach().clone() for name, parameter in model.named_parameters()}}


runner = make("whole")
wrapper, start = runner.model, runner.model.module.backbone[0].weight.detach().clone()
end = trained(runner)
assert runner.model is not wrapper and runner.model.module.backbone[2].rank < 6
assert not torch.equal(start, end["backbone.0.weight"]), "the last stage trains what was frozen at the milestone"
checkpoint = dict(load_from=str(WORK_DIR / "whole" / "epoch_2.pth"), resume=True)
for name, selection in dict(hook=SELECTION, tool=None).items():
    runner = make(name, selection, **checkpoint)
    if selection is None:
        fit_runner_(runner, checkpoint["load_from"])
    again = trained(runner)
    for key in end:
        assert torch.allclose(again[key], end[key], rtol=1e-5, atol=1e-6), f"{{name}}: {{key}}"
# In the middle of an epoch and of an accumulation, where the last loss is still alive.
accumulation = dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=2)
runner = make("iterations", RankSelectionHook(8.0, milestone=3, by_epoch=False), optim_wrapper=accumulation)
trained(runner)
assert runner.model.module.backbone[2].rank < 6
if dist.get_rank() == 0:
    print("EQUAL")
runner = wrapper = None
leave_distributed()
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU mmengine starts nccl itself")
def test_two_processes_stay_equal_after_pruning_and_after_a_resume(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED.format(work_dir=str(tmp_path), gamma=GAMMA), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "EQUAL" in done.stdout
