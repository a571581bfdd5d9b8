"""What Runner.resume believes, looked at before: what MMEngine saves passes, anything else is named in one line."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from hocp_mm.checkpoints.reading import read_checkpoint
from hocp_mm.checkpoints.training_state import check_optimizer_state, check_scheduler_state, check_training_state
from hocp_mm.errors import CheckpointError
from tests.checkpoints.hostile_files import training_checkpoint
from tests.material.tiny_runs import TinyRecognizer, make_runner


@pytest.mark.parametrize("optimizer", [{"type": "SGD", "lr": 0.1, "momentum": 0.9}, {"type": "AdamW", "lr": 0.1}])
def test_what_a_runner_saves_can_be_resumed(tmp_path, optimizer):
    """With a moving average, a plateau scheduler and a warm-up that begins later."""
    schedulers = [
        {"type": "LinearLR", "start_factor": 0.5, "begin": 1, "end": 3, "by_epoch": True},
        {"type": "MultiStepLR", "milestones": [1, 2], "by_epoch": True},
        {"type": "ReduceOnPlateauLR", "monitor": "loss", "rule": "less"},
    ]
    options = {"optim_wrapper": {"optimizer": optimizer}, "param_scheduler": schedulers, "epochs": 1}
    runner = make_runner(TinyRecognizer(), tmp_path, [{"type": "EMAHook"}], **options)
    runner.train()
    content = read_checkpoint(tmp_path / "epoch_1.pth")
    check_training_state(content, "epoch_1.pth")
    check_optimizer_state(content["optimizer"], runner.optim_wrapper, "epoch_1.pth")
    check_scheduler_state(content["param_schedulers"], runner.param_schedulers, "epoch_1.pth")


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad,
                                  torch.optim.Adadelta, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam,
                                  torch.optim.ASGD, torch.optim.Rprop, torch.optim.LBFGS])  # fmt: skip
def test_the_state_of_every_optimizer_passes(tmp_path, kind):
    layer = nn.Linear(3, 2)
    optimizer = kind(layer.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).square().mean().backward()
        optimizer.step(lambda: torch.tensor(1.0))
    torch.save({"w": torch.ones(1), "optimizer": optimizer.state_dict()}, tmp_path / "x.pth")
    check_optimizer_state(read_checkpoint(tmp_path / "x.pth")["optimizer"], optimizer, "x.pth")


def test_the_states_of_several_optimizers_pass():
    wrappers = {name: OptimWrapper(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)) for name in "ab"}
    both = OptimWrapperDict(**wrappers)
    state = both.state_dict()
    check_optimizer_state(state, both, "x.pth")
    with pytest.raises(CheckpointError, match=r"optimizer must be of optimizer\.a, optimizer\.b, got optimizer\.a\."):
        check_optimizer_state({"a": state["a"]}, both, "x.pth")
    with pytest.raises(CheckpointError, match=r"optimizer must be of optimizer\.a, optimizer\.b"):
        check_optimizer_state(state["a"], both, "x.pth")


def test_a_loss_scaler_passes():
    content = training_checkpoint()
    content["optimizer"]["loss_scaler"] = {
        "scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 1
    }  # fmt: skip
    content["optimizer"]["base_param_settings"] = {"lr": 0.1, "params": torch.tensor([0.0])}
    check_training_state(content, "x.pth")


def put(*path):
    """Return a function that sets what lies at a path; ``put("a", "b", 1)`` sets ``content["a"]["b"] = 1``."""

    def change(content):
        for key in path[:-2]:
            content = content[key]
        content[path[-2]] = path[-1]

    return change


def drop(*path):
    def change(content):
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


ODD_NUMBERS = {
    "text": "1",
    "a float": 1.0,
    "true": True,
    "negative": -1,
    "huge": 1 << 53,
    "NaN": math.nan,
    "none": None,
}
INFO, SCALARS = ("message_hub", "runtime_info"), ("message_hub", "log_scalars")
STATE, GROUP = ("optimizer", "state"), ("optimizer", "param_groups", 0)

ODD_STATES = {
    **{f"{key} missing": (drop(key), f"the checkpoint must have '{key}'")
       for key in ("meta", "state_dict", "message_hub")},
    **{f"{key} a list": (put(key, [1]), f"{key} must be a dict, got a list")
       for key in ("meta", "state_dict", "message_hub", "optimizer")},
    **{f"{key} none": (put(key, None), f"{key} must be a")
       for key in ("meta", "message_hub", "optimizer", "param_schedulers")},
    **{f"{key} {name}": (put("meta", key, value), rf"meta\.{key} must be a whole number")
       for key in ("epoch", "iter") for name, value in ODD_NUMBERS.items()},
    **{f"{key} missing": (drop("meta", key), f"meta must have '{key}'") for key in ("epoch", "iter")},
    "seed text": (put("meta", "seed", "0"), r"meta\.seed must be a whole number"),
    "seed too large": (put("meta", "seed", 1 << 32), r"meta\.seed must be a whole number"),
    "config to run": (put("meta", "config", "import os"), "meta must not have 'config'"),
    "config recorded as a dict": (put("meta", "cfg", {"a": {"b": 1}}), r"meta\.cfg must be text, got a dict"),
    "config recorded as a config": (put("meta", "cfg", ConfigDict(a=1)), r"meta\.cfg must be text"),
    "experiment name": (put("meta", "experiment_name", 3), r"meta\.experiment_name must be text, got 3"),
    "weight as text": (put("state_dict", "weight", "x"), r"state_dict\['weight'\] must be a tensor, got x"),
    "weight on meta": (put("state_dict", "weight", torch.ones(1, device="meta")), r"\['weight'\] must be a tensor"),
    "weight without a name": (put("state_dict", 3, torch.ones(1)), "state_dict must have text as names, got 3"),
    "moving average as text": (put("ema_state_dict", {"w": "x"}), r"ema_state_dict\['w'\] must be a tensor"),
    **{f"{part} missing": (drop("message_hub", part), f"message_hub must have '{part}'")
       for part in ("log_scalars", "runtime_info", "resumed_keys")},
    **{f"{part} a list": (put("message_hub", part, []), rf"message_hub\.{part} must be a dict")
       for part in ("log_scalars", "runtime_info", "resumed_keys")},
    "resumed key a number": (put("message_hub", "resumed_keys", "a", 1), r"resumed_keys\.a must be True or False"),
    "resumed key not text": (put("message_hub", "resumed_keys", 1, True), "resumed_keys must have text as names"),
    "best score as text": (put(*INFO, "best_score", "0.3"), r"best_score must be a number, got 0\.3"),
    "best score NaN": (put(*INFO, "best_score", math.nan), "best_score must be a number, got nan"),
    "best file elsewhere": (put(*INFO, "best_ckpt", "/home/me/thesis.tex"), r"best_ckpt must be the path of a best_"),
    "best folder": (put(*INFO, "best_ckpt", "/home/me"), r"best_ckpt must be the path of a best_"),
    "best of an indicator": (put(*INFO, "best_ckpt_ccc", "/home/me"), r"best_ckpt_ccc must be the path of a best_"),
    "best file a number": (put(*INFO, "best_ckpt", 3), r"best_ckpt must be the path of a best_"),
    "files to remove": (put(*INFO, "keep_ckpt_ids", ["../../x"]), r"keep_ckpt_ids must be a whole number"),
    "files to remove a number": (put(*INFO, "keep_ckpt_ids", 3), r"keep_ckpt_ids must be a list"),
    "epoch in the hub": (put(*INFO, "epoch", "x"), r"runtime_info\.epoch must be a whole number"),
    "optimizer empty": (put("optimizer", {}), "optimizer must have 'param_groups'"),
    "optimizer without state": (drop(*STATE), "optimizer must have 'state'"),
    "state a list": (put(*STATE, []), r"optimizer\.state must be a dict"),
    "groups a dict": (put("optimizer", "param_groups", {}), r"param_groups must be a list"),
    "group a list": (put(*GROUP, []), r"param_groups\[0\] must be a dict"),
    "group without parameters": (drop(*GROUP, "params"), r"param_groups\[0\] must have 'params'"),
    "parameters a dict": (put(*GROUP, "params", {}), r"params must be a list"),
    "parameter twice": (put(*GROUP, "params", [0, 0]), r"params must name each parameter once"),
    "parameter as text": (put(*GROUP, "params", ["0", "1"]), r"params must be a whole number"),
    "rate NaN": (put(*GROUP, "lr", math.nan), r"param_groups\[0\]\.lr must be finite"),
    "rate of NumPy infinite": (put(*GROUP, "lr", np.float64("inf")), r"param_groups\[0\]\.lr must be finite"),
    "state of no parameter": (put(*STATE, 7, {}), r"state\[7\] must belong to a parameter"),
    "state of text": (put(*STATE, "0", {}), r"state\[0\] must belong to a parameter"),
    "state of a parameter a list": (put(*STATE, 0, []), r"state\[0\] must be a dict"),
    "state on meta": (put(*STATE, 0, "momentum_buffer", torch.ones(1, device="meta")), "must be a plain tensor"),
    "step NaN": (put(*STATE, 0, "step", torch.tensor(math.nan)), r"state\[0\]\.step must be finite"),
    "scaler without growth": (put("optimizer", "loss_scaler", {"scale": 1.0}), r"growth_factor must be a finite"),
    "scaler of text": (put("optimizer", "loss_scaler", "x"), r"loss_scaler must be a dict"),
    "schedulers text": (put("param_schedulers", "x"), "param_schedulers must be a list"),
    "scheduler a list": (put("param_schedulers", 0, []), r"param_schedulers\[0\] must be a dict"),
    "scheduler with an optimizer": (put("param_schedulers", 0, "optimizer", 1), "must be settings, got optimizer"),
    "scheduler with a method": (put("param_schedulers", 0, "step", 1), "must be settings, got step"),
    "scheduler at NaN": (put("param_schedulers", 0, "gamma", math.nan), r"param_schedulers\[0\]\.gamma must be finite"),
    "scheduler's step as text": (put("param_schedulers", 0, "last_step", "x"), r"last_step must be a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(ODD_STATES))
def test_an_odd_training_state_is_named(case):
    change, rule = ODD_STATES[case]
    content = training_checkpoint()
    change(content)
    with pytest.raises(CheckpointError, match=rf"^run/x\.pth: cannot be resumed, .*{rule}") as caught:
        check_training_state(content, "run/x.pth")
    assert str(caught.value).isprintable()


def test_an_odd_history_is_named():
    for fields in (
        {"_log_history": "x"},
        {"_log_history": np.zeros(3)},
        {"_log_history": np.array([None, None], dtype=object)},
        {"max_length": 2.5},
    ):
        content, history = training_checkpoint(), HistoryBuffer([0.5, 0.25], [1, 1])
        vars(history).update(fields)
        content["message_hub"]["log_scalars"]["train/loss"] = history
        with pytest.raises(CheckpointError, match=r"log_scalars\.train/loss.* must (be|have)"):
            check_training_state(content, "x.pth")


def test_odd_versions_of_layers_are_named():
    for versions in ([], {"": 1}, {"": {"version": "2"}}, {3: {}}):
        content = training_checkpoint()
        content["state_dict"]._metadata = versions
        with pytest.raises(CheckpointError, match=r"state_dict\._metadata must be"):
            check_training_state(content, "x.pth")


def sgd(shape=(2, 3), groups=1):
    layers = [nn.Linear(shape[1], shape[0]) for _ in range(groups)]
    return torch.optim.SGD([{"params": layer.parameters()} for layer in layers], lr=0.1, momentum=0.9)


ODD_OPTIMIZERS = {
    "another shape": (lambda state: None, sgd((2, 4)), r"momentum_buffer must have shape \(2, 4\), got \(2, 3\)"),
    "more groups": (lambda state: None, sgd(groups=2), r"param_groups must be 2, got 1"),
    "fewer parameters": (put("param_groups", 0, "params", [0]), sgd(), r"state\[1\] must belong to a parameter"),
    "another one": (lambda state: None, torch.optim.Adam(nn.Linear(3, 2).parameters()), r"must have '(betas|eps)'"),
    "rate as text": (put("param_groups", 0, "lr", "0.1"), sgd(), r"param_groups\[0\]\.lr must be a float, got 0\.1"),
    "buffer as text": (put("state", 0, "momentum_buffer", "x"), sgd(), r"momentum_buffer must be a tensor, got x"),
    "buffer missing": (drop("state", 0, "momentum_buffer"), sgd(), None),
}  # fmt: skip


@pytest.mark.parametrize("case", list(ODD_OPTIMIZERS))
def test_a_state_of_another_optimizer_is_named(case):
    change, optimizer, rule = ODD_OPTIMIZERS[case]
    state = training_checkpoint()["optimizer"]
    change(state)
    if rule is None:  # SGD makes it anew
        check_optimizer_state(state, optimizer, "x.pth")
        return
    with pytest.raises(CheckpointError, match=rule):
        check_optimizer_state(state, optimizer, "x.pth")


def test_an_entry_that_one_parameter_lacks_is_named():
    """Adam would end as a KeyError at its first step."""
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.Adam(layers.parameters())
    layers(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    check_optimizer_state(state, optimizer, "x.pth")
    del state["state"][2]["exp_avg_sq"]
    with pytest.raises(CheckpointError, match=r"state\[2\] must have the same entries as others have"):
        check_optimizer_state(state, optimizer, "x.pth")


def test_states_of_other_schedulers_are_named(tmp_path):
    runner = make_runner(TinyRecognizer(), tmp_path, [], epochs=1)
    runner.train()
    saved = [scheduler.state_dict() for scheduler in runner.param_schedulers]
    check_scheduler_state(saved, runner.param_schedulers, "x.pth")
    for change, rule in (
        (lambda states: states.clear(), "must be 1 schedulers, got 0"),
        (lambda states: states.append(states[0]), "must be 1 schedulers, got 2"),
        (lambda states: states[0].pop("gamma"), "must be of a StepLR"),
        (lambda states: states[0].update(print_value=1), "must be of a StepLR"),
        (lambda states: states[0].update(gamma="x"), r"gamma must be a float, got x"),
    ):
        states = copy.deepcopy(saved)
        change(states)
        with pytest.raises(CheckpointError, match=rule):
            check_scheduler_state(states, runner.param_schedulers, "x.pth")
    with pytest.raises(CheckpointError, match=re.escape("must be of param_schedulers, got param_schedulers.a")):
        check_scheduler_state({"a": saved}, runner.param_schedulers, "x.pth")
