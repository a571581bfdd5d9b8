"""The guard in real runs: what it stops, what it names, what a skipped update leaves behind, and what is no fault."""

import copy
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn
from torch.utils.data import DataLoader

from hocp_mm.engine import NonFiniteHook, RankSelectionHook, StagedUnfreezeHook
from hocp_mm.engine.finite import first_non_finite, seems_finite
from hocp_mm.engine.hooks.batch_account import Call
from hocp_mm.engine.hooks.fault_search import search_backward, search_forward
from hocp_mm.engine.wrapping import unwrapped
from hocp_mm.errors import DivergedError, HOCPError
from hocp_mm.registry import HOOKS, MODELS
from hocp_mm.structures import AffectDataSample
from hocp_mm.system import cli
from tests.material.processes import ROOT
from tests.material.tiny_runs import TinyRecognizer, make_runner

NAN, INF = float("nan"), float("inf")


class BadBackward(torch.autograd.Function):
    """The identity, whose gradient is NaN where the input is above 5."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.where(x > 5, NAN, grad)


class Sick(nn.Module):
    """A layer of its own name with a sick backward pass."""

    def forward(self, x):
        return BadBackward.apply(x)


class Net(TinyRecognizer):
    """The tiny recogniser for batches of samples; ``sick`` puts a faulty gradient in front of the head."""

    def __init__(self, sick: bool = False) -> None:
        torch.manual_seed(2)
        super().__init__()
        self.sick = Sick() if sick else nn.Identity()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = torch.stack(inputs)
        self.frame_axis.length = x.shape[2]
        feats = self.backbone(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), x.shape[2]))
        # Brightness beyond all reason reaches the sick layer.
        feats = self.sick(feats.mean(dim=(3, 4)) + x.mean().detach())
        loss = (self.head(feats) - 1).square().mean()
        return {"loss_tiny": loss, "ccc": loss.detach() * NAN} if mode == "loss" else feats


def data(count: int = 4, *, bad=(), value: float = NAN, drop=(), batch: int = 1) -> DataLoader:
    """Clips ``v0``, ``v1``, …; ``bad`` ones have one pixel of ``value`` in their third frame, ``drop`` are left out."""
    generator = torch.Generator().manual_seed(0)
    clips = []
    for index in range(count):
        clip = torch.randn(3, 4, 8, 8, generator=generator)
        if index in bad:
            clip[0, 2, 3, 3] = value
        sample = AffectDataSample.from_clip(video=f"v{index}.avi", frame_inds=[5, 6, 7, 8], num_frames=9, fps=25)
        if index not in drop:
            clips.append({"inputs": clip, "data_samples": sample})
    return DataLoader(clips, batch_size=batch, collate_fn=pseudo_collate)


class Ending(Hook):
    """Count what happened, and keep the log."""

    def __init__(self) -> None:
        self.iterations, self.lines = 0, []

    def before_run(self, runner) -> None:
        runner.logger.warning = lambda text, *args, **kwargs: self.lines.append(str(text))

    def after_train_iter(self, runner, **_) -> None:
        self.iterations += 1


SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9}


def run(work_dir, *hooks, skip=0, model=None, loader=None, optimizer=None, wrapper=None, epochs=1, **options):
    """Train; return the runner, whose ``ending`` says how far it came."""
    ending = Ending()
    wrapper = wrapper or {"optimizer": optimizer or SGD}
    runner = make_runner(
        model or Net(), work_dir, [NonFiniteHook(skip=skip), *hooks, ending], epochs=epochs,
        train_dataloader=loader or data(), optim_wrapper=wrapper, param_scheduler=None, **options,
    )  # fmt: skip
    runner.ending = ending
    try:
        runner.train()
    finally:
        hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in unwrapped(runner.model).modules()]
        assert not any(own for pair in hooks for own in pair), "a hook stays on the model"
    return runner


def stop(work_dir, *hooks, **options) -> str:
    """Train to a stop; return its text, one line, with the model as it was before the faulty update."""
    with pytest.raises(DivergedError) as caught:
        run(work_dir, *hooks, **options)
    text = str(caught.value)
    assert isinstance(caught.value, (HOCPError, FloatingPointError))
    assert "\n" not in text
    assert text.startswith("NonFiniteHook: ")
    assert text.endswith(".")
    assert len(text) < 700
    return text


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_a_pixel_ends_the_run_and_its_clip_and_frame_are_named(tmp_path, value):
    model = Net()
    text = stop(tmp_path, model=model, loader=data(8, bad=[5], value=value, batch=2))
    kind = "nan" if value != value else "inf"
    assert f"pixels must be finite, got {kind} in v5.avi frame 7 (loss_tiny=" in text
    assert "at iteration 3 (epoch 1)" in text
    assert "v4" not in text
    assert "default_hooks.guard.skip=1" in text
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_pixel_of_a_preprocessor_that_stacks_is_found_too(tmp_path):
    class Stack(nn.Module):
        def forward(self, batch, training=False):
            return {**batch, "inputs": torch.stack(batch["inputs"])}

    model = Net()
    model.data_preprocessor = Stack()
    model.forward = lambda inputs, data_samples=None, mode="loss": Net.forward(model, list(inputs), data_samples, mode)
    assert "got nan in v1.avi frame 7 (" in stop(tmp_path, model=model, loader=data(4, bad=[1], batch=2))


def test_a_loss_names_its_terms_the_first_bad_layer_and_four_files(tmp_path):
    class Overflow(Net):
        def forward(self, inputs, data_samples=None, mode="tensor"):
            out = super().forward(inputs, data_samples, mode)
            if mode == "loss":
                out |= {"loss_list": [out["loss_tiny"] * 0, out["loss_tiny"] * INF], "loss_fine": out["loss_tiny"]}
            return out

    text = stop(tmp_path, model=Overflow(), loader=data(12, batch=6))
    files = "v0.avi frames 5-8, v1.avi frames 5-8, v2.avi frames 5-8, v3.avi frames 5-8, … 6 in all"
    assert "losses must be finite, got loss_list=nan at iteration 1 (epoch 1)" in text or "loss_list=inf" in text
    assert "loss_fine" not in text
    assert "first in the output of the whole model" in text
    assert f"(batch: {files})" in text
    assert "lower the learning rate (now 0.1)" in text


@pytest.mark.parametrize(
    ("layer", "found"),
    [("backbone.0", "backbone.0"), ("backbone.2", "backbone.2"), ("head", "the whole model")],
    ids=["dense", "factorised", "behind the last layer"],
)
def test_the_first_bad_layer_is_found_in_the_forward_pass(layer, found, tmp_path):
    class Burst(Hook):
        """Weights that are finite and overflow when they are used."""

        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            if batch_idx == 1:
                module = runner.model.get_submodule(layer)
                for parameter in module.parameters():
                    parameter.data.fill_(1e38)

    assert f"first in the output of {found} (batch: v1.avi" in stop(tmp_path, Burst())


def test_numbers_for_the_log_alone_may_be_nan(tmp_path):
    assert run(tmp_path).ending.iterations == 4  # `ccc` of Net is NaN at every step


@pytest.mark.parametrize("clip", [None, {"max_norm": 1.0}], ids=["as it is", "clipped"])
def test_a_gradient_alone_names_its_layer_even_where_clipping_spreads_it(clip, tmp_path):
    loader = data()
    loader.dataset[2]["inputs"] += 100
    model = Net(sick=True)
    wrapper = {"optimizer": SGD, "clip_grad": clip}
    text = stop(tmp_path, model=model, loader=loader, wrapper=wrapper)
    assert "gradients must be finite, got nan (such as backbone." in text
    assert "at iteration 3 (epoch 1), first in the backward pass of sick (batch: v2.avi frames 5-8)" in text
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("layer", "checkpointing"),
    [("backbone.net.layer4.0.act1", False), ("backbone.net.layer4.0.act1", True), ("neck.blocks.0.act", False)],
    ids=["in a branch", "in a checkpointed branch", "in the neck"],
)
def test_the_search_finds_a_layer_of_a_network_with_branches_and_works_in_place(layer, checkpointing):
    backbone = {"type": "hocp_mm.TimmHOCPBackbone", "model_name": "test_resnet", "rank": 4, "temporal_kernel": 3}
    model = MODELS.build({
        "type": "hocp_mm.AffectRecognizer",
        "backbone": backbone | {"grad_checkpointing": checkpointing},
        "neck": {"type": "hocp_mm.HOCPTemporalNeck", "hidden_channels": 8, "rank": 4},
        "head": {"type": "hocp_mm.AffectHead"},
    }).train()  # fmt: skip
    samples = [
        AffectDataSample.from_clip(torch.rand(2, 2), video="v", frame_inds=[0, 1], num_frames=2, fps=25)
        for _ in range(2)
    ]
    call = Call((torch.randn(2, 3, 2, 32, 32), samples), {"mode": "loss"}, {})
    before = copy.deepcopy(model.state_dict())
    assert search_forward(model, call, nullcontext) is None
    assert search_backward(model, call, nullcontext) == (None, None)
    parent, _, name = layer.rpartition(".")
    healthy = getattr(model.get_submodule(parent), name)
    setattr(model.get_submodule(parent), name, Poisoning(healthy))
    place, parameter = search_backward(model, call, nullcontext)
    assert place == f"first in the backward pass of {layer}"
    assert parameter.startswith(parent)  # the norm in front of it
    setattr(model.get_submodule(parent), name, healthy)
    assert_equal_states(model.state_dict(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


class Poisoning(nn.Module):
    """A layer, with NaN for the gradient of what it gives; its own parts are not to blame."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.forward = lambda x: BadBackward.apply(layer(x).clone() + 100) - 100


def test_a_gradient_between_layers_and_the_loss_is_placed_there(tmp_path):
    class Root(Net):
        def forward(self, inputs, data_samples=None, mode="tensor"):
            out = super().forward(inputs, data_samples, "tensor")
            # The slope of a root at zero is infinite.
            return {"loss": (self.head(out) * 0).square().sum().sqrt()}

    assert "first behind head (batch: v0.avi" in stop(tmp_path, model=Root())


def test_an_update_that_overflows_is_seen_before_anything_is_saved_or_averaged(tmp_path):
    class Steep(Net):
        def forward(self, inputs, data_samples=None, mode="tensor"):
            return {"loss": super().forward(inputs, data_samples, "loss")["loss_tiny"] * 1e15}

    ema = EMAHook(momentum=0.5)
    text = stop(tmp_path, ema, model=Steep(), optimizer={"type": "SGD", "lr": 1e30}, skip=5)
    assert "weights must be finite, got NaN or inf in" in text
    assert "after the update of iteration 1 (epoch 1), whose gradients were finite" in text
    assert first_non_finite(ema.ema_model) is None
    assert not list(tmp_path.glob("*.pth"))


def test_weights_that_are_bad_already_are_refused_with_their_file(tmp_path):
    model = Net()
    model.backbone[1].running_var[3] = INF
    torch.save({"state_dict": model.state_dict()}, tmp_path / "bad.pth")
    text = stop(tmp_path / "run", load_from=str(tmp_path / "bad.pth"), skip=9)
    assert "weights must be finite before training, got NaN or inf in backbone.1.running_var" in text
    assert f"load_from={tmp_path / 'bad.pth'}" in text


def test_weights_that_something_else_spoils_are_not_blamed_on_the_batch_and_not_skipped(tmp_path):
    class Spoil(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            if batch_idx == 2:
                runner.model.head.bias.data[0] = NAN

    assert "weights must be finite, got NaN or inf in head.bias before iteration 3" in stop(tmp_path, Spoil(), skip=9)


def state(runner):
    """Weights, buffers and the optimizer's state, by name."""
    (one,) = [runner.optim_wrapper.optimizer]
    model = unwrapped(runner.model)
    names = {p: name for name, p in model.named_parameters()}
    inner = {f"{names[p]}:{key}": torch.as_tensor(v) for p, entry in one.state.items() for key, v in entry.items()}
    return {**model.state_dict(), **inner}


def assert_equal_states(actual, expected) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(actual[name], value)] == []


OPTIMIZERS = {
    "SGD with momentum": SGD | {"weight_decay": 0.1},
    "Adam": {"type": "Adam", "lr": 0.01, "foreach": True},
    "AdamW": {"type": "AdamW", "lr": 0.01, "foreach": False},
    "fused AdamW": {"type": "AdamW", "lr": 0.01, "fused": True},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("first", [False, True], ids=["in the middle", "the very first"])
def test_a_skipped_update_leaves_no_trace(optimizer, first, tmp_path):
    bad = [0] if first else [2]
    got = run(tmp_path / "bad", skip=1, loader=data(bad=bad), optimizer=optimizer)
    expected = run(tmp_path / "good", loader=data(drop=bad), optimizer=optimizer)
    assert got.ending.iterations == 4
    assert_equal_states(state(got), state(expected))
    skipped, total = [line for line in got.ending.lines if "NonFiniteHook" in line]
    assert f"got nan in v{bad[0]}.avi frame 7" in skipped
    assert skipped.endswith("; update skipped (1 of at most 1).")
    assert "1 updates were skipped in this run (at most 1)" in total


def test_a_gradient_that_is_skipped_leaves_no_trace_either(tmp_path):
    loader, rest = data(), data(drop=[2])
    loader.dataset[2]["inputs"] += 100
    clip = {"optimizer": SGD, "clip_grad": {"max_norm": 1.0}}
    got = run(tmp_path / "bad", skip=1, loader=loader, model=Net(sick=True), wrapper=clip)
    clip = {"optimizer": SGD, "clip_grad": {"max_norm": 1.0}}
    expected = run(tmp_path / "good", loader=rest, model=Net(sick=True), wrapper=clip)
    assert_equal_states(state(got), state(expected))


def test_the_search_for_a_layer_draws_no_random_numbers(tmp_path):
    class Noisy(Net):
        def forward(self, inputs, data_samples=None, mode="tensor"):
            return super().forward([nn.functional.dropout(x) for x in inputs], data_samples, mode)

    class Draw(Hook):
        def after_train(self, runner) -> None:
            self.number = torch.rand(())

    bad, good = Draw(), Draw()
    run(tmp_path / "bad", bad, skip=1, model=Noisy(), loader=data(bad=[2]))
    run(tmp_path / "good", good, model=Noisy())
    assert bad.number == good.number


@pytest.mark.parametrize("skip", [1, 2])
def test_skips_count_over_the_whole_run_and_the_next_fault_ends_it(skip, tmp_path):
    bad = [0, 2, 5][: skip + 1]
    text = stop(tmp_path, skip=skip, loader=data(8, bad=bad))
    assert f"got nan in v{bad[-1]}.avi" in text
    assert f"; {skip} updates were skipped before; " in text
    assert f"default_hooks.guard.skip={skip + 1}" in text
    assert run(tmp_path / "more", skip=skip + 1, loader=data(8, bad=bad)).ending.iterations == 8


class Average(EMAHook):
    """EMAHook that follows its own rule by hand."""

    def after_train_iter(self, runner, **kwargs) -> None:
        super().after_train_iter(runner, **kwargs)
        now = {k: v.clone() for k, v in runner.model.state_dict().items() if v.is_floating_point()}
        old = getattr(self, "by_hand", now)
        self.by_hand = {k: old[k] + self.ema_model.momentum * (v - old[k]) for k, v in now.items()}


def test_averages_are_those_of_finite_weights_and_buffers(tmp_path):
    ema = Average(momentum=0.5, update_buffers=True)
    run(tmp_path, ema, skip=1, loader=data(bad=[2]))
    for name, value in ema.by_hand.items():
        torch.testing.assert_close(ema.ema_model.module.state_dict()[name], value)


@pytest.mark.parametrize("place", [0, 1], ids=["first of its cycle", "last of its cycle"])
def test_with_accumulation_all_batches_of_the_update_are_lost(place, tmp_path):
    bad = 2 + place
    wrapper = {"optimizer": SGD, "accumulative_counts": 2}
    got = run(tmp_path / "bad", skip=1, loader=data(6, bad=[bad]), wrapper=wrapper)
    expected = run(tmp_path / "good", loader=data(6, drop=[2, 3]), wrapper=dict(wrapper))
    assert_equal_states(state(got), state(expected))
    text = stop(tmp_path / "stop", loader=data(6, bad=[bad]), wrapper=dict(wrapper))
    assert f"got nan in v{bad}.avi frame 7" in text
    assert f"at iteration {bad + 1} " in text


def test_with_accumulation_a_bad_gradient_is_laid_to_its_own_batch(tmp_path):
    loader = data(6)
    loader.dataset[2]["inputs"] += 100
    text = stop(tmp_path, model=Net(sick=True), loader=loader, wrapper={"optimizer": SGD, "accumulative_counts": 4})
    assert "at iteration 3 (epoch 1), first in the backward pass of sick (batch: v2.avi" in text


def test_a_checkpoint_within_a_poisoned_cycle_is_finite(tmp_path):
    class Save(Hook):
        def after_train_iter(self, runner, batch_idx, **_) -> None:
            assert first_non_finite(runner.model) is None, batch_idx

    wrapper = {"optimizer": SGD, "accumulative_counts": 4}
    run(tmp_path, Save(), skip=1, loader=data(8, bad=[1]), wrapper=wrapper)


class Scaled(OptimWrapper):
    """Loss scaling on a CPU, as AmpOptimWrapper does it; some gradients overflow."""

    def __init__(self, overflow=lambda count: False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.loss_scaler, self.overflow = torch.amp.GradScaler("cpu", init_scale=8.0), overflow

    def backward(self, loss, **kwargs) -> None:
        factor = INF if self.overflow(self._inner_count) else 1.0
        super().backward(self.loss_scaler.scale(loss) * factor, **kwargs)

    def step(self, **kwargs) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


def scaled(model, overflow=lambda count: False, *, fused=False, **options):
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=fused)
    return {"model": model, "wrapper": Scaled(overflow, optimizer=optimizer, **options)}


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("options", [{}, {"accumulative_counts": 2}, {"clip_grad": {"max_norm": 1.0}}], ids=str)
def test_steps_that_loss_scaling_skips_are_no_fault(fused, options, tmp_path):
    runner = run(tmp_path, **scaled(Net(), lambda count: count % 2, fused=fused, **options), loader=data(8))
    assert runner.ending.iterations == 8
    assert runner.optim_wrapper.loss_scaler.get_scale() == 8.0 / 2**4


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_loss_that_is_not_finite_is_one_under_loss_scaling_too(fused, tmp_path):
    assert "got nan in v2.avi frame 7" in stop(tmp_path, **scaled(Net(), fused=fused), loader=data(bad=[2]))
    got = run(tmp_path / "bad", skip=1, loader=data(bad=[2]), **scaled(Net(), fused=fused))
    expected = run(tmp_path / "good", loader=data(drop=[2]), **scaled(Net(), fused=fused))
    assert_equal_states(state(got), state(expected))


def test_loss_scaling_that_never_finds_a_scale_ends_the_run(tmp_path):
    loader = data(60)
    for entry in loader.dataset:
        entry["inputs"] += 100
    text = stop(tmp_path, loader=loader, **scaled(Net(sick=True)))
    assert "got 50 overflows of loss scaling (such as backbone." in text
    assert "at iteration 50 (epoch 1), first in the backward pass of sick" in text


def test_bfloat16_is_guarded_and_searched_in_bfloat16(tmp_path):
    wrapper = {"type": "hocp_mm.CPUAmpOptimWrapper", "optimizer": SGD}
    assert "got nan in v2.avi frame 7" in stop(tmp_path, loader=data(bad=[2]), wrapper=wrapper)
    assert run(tmp_path / "skip", skip=1, loader=data(bad=[2]), wrapper=dict(wrapper)).ending.iterations == 4


class TwoOptimizers(BaseModel):
    """Two parts with an optimizer each; the second one takes every other step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.count = 0

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = torch.stack(inputs).mean(dim=(1, 3))[..., :4]
        return {"loss_first": self.first(x).square().mean(), "loss_second": self.second(x).square().mean()}

    def train_step(self, data, optim_wrapper):
        self.count += 1
        losses = self(**self.data_preprocessor(data, True), mode="loss")
        optim_wrapper["first"].update_params(losses["loss_first"])
        if self.count % 2 == 0:
            optim_wrapper["second"].update_params(losses["loss_second"])
        return losses


def test_several_optimizers_are_guarded(tmp_path):
    def wrapper(model):
        parts = {name: getattr(model, name).parameters() for name in ("first", "second")}
        return OptimWrapperDict(**{name: OptimWrapper(torch.optim.SGD(p, 0.1)) for name, p in parts.items()})

    for bad in (1, 2):
        model = TwoOptimizers()
        text = stop(tmp_path, model=model, wrapper=wrapper(model), loader=data(bad=[bad]))
        assert f"got nan in v{bad}.avi frame 7 (loss_first=nan, loss_second=nan at iteration {bad + 1}" in text
        model = TwoOptimizers()
        run(tmp_path / "skip", model=model, wrapper=wrapper(model), loader=data(bad=[bad]), skip=1)
        assert first_non_finite(model) is None


def test_a_frozen_stage_is_neither_a_fault_nor_in_the_way(tmp_path):
    stages = [{"begin": 0, "train": "^head"}, {"begin": 1, "train": "all"}]
    assert run(tmp_path, StagedUnfreezeHook(stages), epochs=2).ending.iterations == 8
    hooks = StagedUnfreezeHook(stages), StagedUnfreezeHook(stages)
    got = run(tmp_path / "bad", hooks[0], skip=2, loader=data(bad=[2]), epochs=2)
    expected = run(tmp_path / "good", hooks[1], loader=data(drop=[2]), epochs=2)
    assert_equal_states(state(got), state(expected))


@pytest.mark.parametrize("bad", [0, 2], ids=["the very first", "in the middle"])
def test_a_skipped_update_does_not_shrink_lambda(bad, tmp_path):
    got = run(tmp_path / "bad", RankSelectionHook(0.5, milestone=1), skip=1, loader=data(bad=[bad]))
    expected = run(tmp_path / "good", RankSelectionHook(0.5, milestone=1), loader=data(drop=[bad]))
    assert_equal_states(state(got), state(expected))


def test_a_second_run_counts_anew_and_looks_once(tmp_path):
    hook = NonFiniteHook(skip=1)
    for name in ("first", "second"):
        runner = make_runner(
            Net(), tmp_path / name, [hook], epochs=1, train_dataloader=data(bad=[1]), param_scheduler=None
        )
        runner.train()
        assert hook.skipped == 1
        assert hook._handles == []


@pytest.mark.parametrize("value", [-1, 1.5, True, "2", None], ids=repr)
def test_a_skip_that_is_no_count_is_refused(value):
    with pytest.raises(ValueError, match=f"NonFiniteHook: skip must be an integer from 0, got {value!r}"):
        NonFiniteHook(skip=value)


def test_masks_may_be_infinite_weights_and_statistics_may_not():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("mask", torch.tensor([0.0, -INF]))
    assert first_non_finite(model) is None
    model[1].running_mean[0] = INF
    assert first_non_finite(model) == "1.running_mean"
    with torch.no_grad():
        model[0].weight[0, 0] = -INF
    assert first_non_finite(model) == "0.weight"
    model.mask[0] = NAN
    assert not seems_finite([model.mask])


def test_numbers_whose_norm_overflows_are_finite_all_the_same(tmp_path):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(1e30)
    assert first_non_finite(model) is None

    class Steep(Net):
        def forward(self, inputs, data_samples=None, mode="tensor"):
            return {"loss": super().forward(inputs, data_samples, "tensor").sum() * 1e25}

    assert run(tmp_path, model=Steep(), optimizer={"type": "SGD", "lr": 1e-30}).ending.iterations == 4


def test_every_recipe_has_the_guard_and_the_command_line_sets_it():
    cfg = Config.fromfile(ROOT / "configs" / "hocp_sewa.py")
    assert HOOKS.build(copy.deepcopy(cfg.default_hooks.guard)).skip == 0
    cfg.merge_from_dict({"default_hooks.guard.skip": 3})
    cfg = Config.fromstring(cfg.pretty_text, ".py")
    assert HOOKS.build(cfg.default_hooks.guard).skip == 3


@MODELS.register_module(name="PoisonedPreprocessor", force=True)
class PoisonedPreprocessor(BaseModel):
    """Normalise as usual, and put one NaN into the second frame of the video ``v2``."""

    def __init__(self, batch: int = -1) -> None:
        super().__init__()
        self.usual, self.batch, self.count = MODELS.build({"type": "hocp_mm.AffectDataPreprocessor"}), batch, 0

    def forward(self, data, training=False):
        out = self.usual(data, training)
        self.count += training
        for clip, sample in zip(out["inputs"], out["data_samples"], strict=True):
            if training and sample.video == "v2" and self.count >= self.batch > 0:
                clip[0, 1, 0, 0] = NAN
        return out


def tool(tmp_path, *options, rate: str = "0.01", poison: int = -1):
    """Run ``tools/train.py`` in this process; return its exit code and the checkpoints it left."""
    from tests.commands import test_train_test as tools

    poisoned = f'data_preprocessor=dict(type="PoisonedPreprocessor", batch={poison})'
    text = tools.CONFIG.replace("head=dict", f"{poisoned}, head=dict").replace("save_best=", "interval=1, save_best=")
    text = text.replace("default_hooks = dict(", 'default_hooks = dict(guard=dict(type="NonFiniteHook"), ')
    text = text.replace("lr=0.01", f"lr={rate}").replace("max_epochs=2", "max_epochs=6")
    (tmp_path / "recipe.py").write_text(text)
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: tools.train(tmp_path / "recipe.py", *options))
    saved = [torch.load(file, weights_only=False)["state_dict"] for file in (tmp_path / "work").glob("*.pth")]
    assert all(value.isfinite().all() for weights in saved for value in weights.values())
    return caught.value.code, len(saved)


@pytest.mark.parametrize("options", [[], ["--no-validate"]], ids=["validated", "not validated"])
@pytest.mark.parametrize(
    ("rate", "poison", "texts"),
    [
        ("1e30", -1, ["losses must be finite, got loss_affect=nan", "predictions must be finite, got"]),
        ("0.01", 3, ["pixels must be finite, got nan in v2 frame 1 (loss_affect=nan at iteration 4 (epoch 2))"]),
    ],
    ids=["learning rate", "pixel"],
)
def test_the_tool_ends_with_one_line_and_finite_checkpoints(rate, poison, texts, options, tmp_path, capsys):
    code, saved = tool(tmp_path, *options, rate=rate, poison=poison)
    assert code == cli.USER_ERROR
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert any(text in errors[0] for text in texts)
    assert saved == (0 if poison < 0 else 1 if "--no-validate" in options else 2)


def test_predictions_of_weights_that_are_finite_and_useless_end_the_run(tmp_path, capsys):
    """One step to the end of the epoch: no loss sees these weights before the validation does."""
    code, _ = tool(tmp_path, "--cfg-options", "train_dataloader.batch_size=4", rate="1e30")
    assert code == cli.USER_ERROR
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "predictions must be finite, got" in error
    assert "in pred_affect of v0 frames 0-2 after iteration 1 (epoch 1), first in the output of " in error


DISTRIBUTED = """
from pathlib import Path

import torch
from mmengine import dist
from mmengine.config import Config

from hocp_mm.compat import init_distributed
from hocp_mm.engine import SyncNormHook
from hocp_mm.errors import DivergedError
from hocp_mm.launch import leave_distributed
from tests.engine.test_non_finite_hook import Net, data, run, state

CFG = Config(dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", find_unused_parameters=True)))
init_distributed("pytorch", CFG)
RANK = dist.get_rank()


def attempt(name, *hooks, bad=True, sick=False, skip=0, **options):
    # The third batch of process 1 is faulty, or left out in both.
    loader = data(4, bad=[2] if bad and RANK == 1 else [], drop=[] if bad or sick else [2])
    if sick and RANK == 1:
        loader.dataset[2]["inputs"] += 100
    try:
        return run(Path({folder!r}) / name, *hooks, skip=skip, model=Net(sick=True), loader=loader,
                   launcher="pytorch", cfg=CFG, env_cfg=CFG.env_cfg, experiment_name=name, **options)
    except DivergedError as error:
        texts = dist.all_gather_object(str(error))
        assert texts[0] == texts[1], texts
        return texts[0]


text = attempt("pixel")
assert "got nan in v2.avi frame 7 (loss_tiny=nan at iteration 3 (epoch 1, process 1))" in text, text
text = attempt("norms", SyncNormHook())  # the passes of the search talk to each other
assert "got nan in v2.avi frame 7 (loss_tiny=nan at iteration 3 (epoch 1, process 1))" in text, text
text = attempt("gradient", bad=False, sick=True)
assert "first in the backward pass of sick (batch: v2.avi" in text, text
# Before the cycle ends, gradients are not exchanged.
wrapper = dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=4)
text = attempt("accumulation", wrapper=wrapper)
assert "got nan in v2.avi frame 7 (loss_tiny=nan at iteration 3 (epoch 1, process 1))" in text, text
text = attempt("gradient in a cycle", bad=False, sick=True, wrapper=wrapper)
assert "first in the backward pass of sick (batch: v2.avi" in text and "process 1" in text, text
got, expected = attempt("skip", skip=1), attempt("left out", bad=False)
assert got.ending.iterations == 4
got, expected = state(got), state(expected)
assert [name for name in expected if not torch.equal(got[name], expected[name])] == []
print(f"process {{RANK}} is done")
leave_distributed()
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU mmengine starts nccl itself")
def test_processes_stop_and_skip_together_and_tell_what_the_faulty_one_knows(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED.format(folder=str(tmp_path)), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 0 is done" in done.stdout
    assert "process 1 is done" in done.stdout
