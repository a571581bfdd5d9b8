"""What training starts or goes on from, and what is tested, is what the file holds, or the run is refused."""

import contextlib
from itertools import count

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from torch import nn

from hocp_mm.compat import apply
from hocp_mm.engine.resuming import find_checkpoint, read_training
from hocp_mm.errors import CheckpointError
from hocp_mm.launch import fit_runner_, load_weights, weights
from tests.material.tiny_runs import make_runner

PREFIXES = ["", "_orig_mod.", "module.", "module.module."]
NUMBERS = count()


class Net(BaseModel):
    """Weights, statistics and counters; one part has a name that MMEngine's Runner would take for a prefix."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.module_last = nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)

    def forward(self, inputs, mode="tensor"):
        """Return the loss in every mode."""
        return {"loss": self.module_last(self.norm(self.layer(inputs.mean((2, 3, 4))))).square().mean()}


class StoppedError(Exception):
    """Training would begin."""


class Stop(Hook):
    """Ends a run when its weights are loaded."""

    def before_train(self, runner):
        """End it."""
        raise StoppedError


def numbered(start, prefix=""):
    """Weights of the network, no two alike."""
    numbers = count(start)
    return {
        prefix + name: torch.tensor([next(numbers) for _ in range(tensor.numel())]).reshape(tensor.shape).to(tensor)
        for name, tensor in Net().state_dict().items()
    }


def average(prefix):
    """Weights of the network as MMEngine's average holds them."""
    return {"steps": torch.tensor(3), **{f"module.{name}": value for name, value in numbered(2000, prefix).items()}}


# How a file holds weights, and the number with which those begin that are to be taken.
FORMS = {
    "bare": (lambda p: numbered(1000, p), 1000),
    "state_dict": (lambda p: {"state_dict": numbered(1000, p)}, 1000),
    "model": (lambda p: {"model": numbered(1000, p)}, 1000),
    "model_state_dict": (lambda p: {"model_state_dict": numbered(1000, p)}, 1000),
    "model in state_dict": (lambda p: {"state_dict": {"model": numbered(1000, p)}}, 1000),
    "state_dict in model": (lambda p: {"model": {"state_dict": numbered(1000, p)}}, 1000),
    "state_dict before model": (lambda p: {"model": numbered(2000, p), "state_dict": numbered(1000, p)}, 1000),
    "an average alone": (lambda p: {"state_dict_ema": numbered(1000, p)}, 1000),
    "an average first": (lambda p: {"state_dict_ema": numbered(1000, p), "state_dict": numbered(2000)}, 1000),
    "an average beside model": (lambda p: {"model": numbered(2000, p), "model_ema": numbered(1000, "module.")}, 1000),
    "an average beside others": (lambda p: {"state_dict": {"x": torch.ones(1)}, "model_ema": numbered(1000, p)}, 1000),
    "two averages": (lambda p: {"state_dict_ema": numbered(1000, p), "model_ema": numbered(2000)}, 1000),
    "a part of an average": (
        lambda p: {"state_dict": numbered(1000, p), "model_ema": {"layer.weight": torch.ones(2, 3)}}, 1000,
    ),
    "MMEngine's average": (lambda p: {"state_dict": numbered(1000, p), "ema_state_dict": average(p)}, 1000),
}  # fmt: skip
ONE_SET = {name for name in FORMS if not name.startswith(("state_dict before", "an average", "two", "a part", "MM"))}
ONE_SET |= {"an average alone"}


@pytest.fixture
def told(monkeypatch):
    """Lines of the log."""
    apply()
    lines: list[str] = []
    monkeypatch.setattr(weights, "print_log", lambda text, **_: lines.append(text))
    return lines


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A whole checkpoint of a run."""
    folder = tmp_path_factory.mktemp("run")
    make_runner(Net(), folder, [EMAHook()], epochs=1).train()
    return torch.load(folder / "epoch_1.pth", weights_only=False)


def starting_runner(folder, hooks, **options):
    return make_runner(Net(), folder / "new", [Stop(), *hooks], name=str(next(NUMBERS)), **options)


def start(runner):
    """Let a run go as far as its first iteration."""
    with pytest.raises(StoppedError):
        runner.train()
    return runner.model.state_dict()


def assert_is(state, expected):
    assert state.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []


@pytest.mark.parametrize("form", FORMS)
def test_a_run_starts_from_the_weights_that_were_compared_with_its_model(tmp_path, told, form):
    make, first = FORMS[form]
    for number, prefix in enumerate(PREFIXES):
        path = tmp_path / f"{number}.pth"
        torch.save(make(prefix), path)
        ema = EMAHook()
        runner = starting_runner(tmp_path, [ema], load_from=str(path))
        told.clear()
        fit_runner_(runner, path)
        assert_is(start(runner), numbered(first))
        assert_is(ema.ema_model.module.state_dict(), numbered(first))
        assert bool(told) != (form in ONE_SET)
        assert all(f"{path}: " in line for line in told)


@pytest.mark.parametrize("form", FORMS)
def test_the_network_that_is_tested_has_the_weights_of_the_file(tmp_path, told, form):
    make, first = FORMS[form]
    for number, prefix in enumerate(PREFIXES):
        torch.save(make(prefix), tmp_path / f"{number}.pth")
        told.clear()
        load_weights(model := Net(), tmp_path / f"{number}.pth")
        assert_is(model.state_dict(), numbered(first))
        assert bool(told) != (form in ONE_SET)


def resumed_runner(run, hooks):
    """Prepare what goes on from the last checkpoint in a folder, as the tool does; None if that is refused."""
    with contextlib.suppress(CheckpointError):
        path = find_checkpoint(run)
        assert path is not None
        read_training(path)
        runner = starting_runner(run, hooks, load_from=str(path), resume=True)
        fit_runner_(runner, path)
        return runner
    return None


@pytest.mark.parametrize("averaging", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_run_goes_on_from_the_weights_of_the_file_or_is_refused(tmp_path, told, training, form, averaging):
    make, first = FORMS[form]
    rest = {name: part for name, part in training.items() if not name.endswith("state_dict")}
    for number, prefix in enumerate(PREFIXES):
        run = tmp_path / str(number)
        run.mkdir()
        content = make(prefix)
        torch.save({**rest, **content}, run / "epoch_1.pth")
        (run / "last_checkpoint").write_text("epoch_1.pth")
        ema = EMAHook()
        refusable = "state_dict" not in content or form == "model in state_dict"
        if averaging and form == "MMEngine's average":
            first, refusable = 2000, prefix != ""
        told.clear()
        runner = resumed_runner(run, [ema] * averaging)
        assert (runner is None) == refusable
        if runner is None:
            continue
        assert_is(start(runner), numbered(first))
        assert runner.epoch == 1
        assert bool(told) != (form in ONE_SET)
        if averaging:
            assert_is(ema.ema_model.module.state_dict(), numbered(1000))


def test_trained_weights_that_do_not_fit_their_average_are_refused(tmp_path, told, training):
    raw = training["ema_state_dict"]
    odd = {
        "one missing": {name: value for name, value in raw.items() if name != "module.layer.bias"},
        "one more": {**raw, "module.x": torch.ones(1)},
        "another shape": {**raw, "module.layer.bias": torch.ones(1)},
    }
    for number, content in enumerate(odd.values()):
        torch.save({**training, "ema_state_dict": content}, path := tmp_path / f"{number}.pth")
        runner = starting_runner(tmp_path, [EMAHook()], load_from=str(path), resume=True)
        with pytest.raises(CheckpointError, match=rf"{number}\.pth: ema_state_dict must have the names and shapes"):
            fit_runner_(runner, path)


def test_a_file_that_changes_after_it_was_compared_is_refused_where_it_does_not_fit(tmp_path, told):
    torch.save({"state_dict": numbered(1000)}, path := tmp_path / "a.pth")
    runner = starting_runner(tmp_path, [], load_from=str(path))
    fit_runner_(runner, path)
    torch.save({"state_dict": {**numbered(1000), "more": torch.ones(1)}}, path)
    with pytest.raises(RuntimeError, match="unexpected key"):
        runner.train()
