import copy

import pytest
from mmengine.config import Config

from hocp_mm.functional import choice
from hocp_mm.launch import runner as runners
from hocp_mm.launch.config import few


@pytest.mark.parametrize("gpu", [False, True])
def test_memory_is_pinned_where_there_is_a_gpu_to_copy_to(gpu, monkeypatch):
    monkeypatch.setattr(runners.torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("mmengine.runner.Runner", FakeRunner)
    loaders = {"train_dataloader": {"pin_memory": True}, "val_dataloader": {"pin_memory": False}, "test_dataloader": {}}
    cfg = Config({"work_dir": "w", **loaders})
    runner = runners.make_runner(cfg, {"train": [1], "val": [2], "test": [3]})
    pinned = [runner.arguments[name]["pin_memory"] for name in loaders]
    assert pinned == [gpu, False, False]
    assert {name: cfg[name].to_dict() for name in loaders} == loaders  # the record stays as it was written
    assert runner.arguments["train_dataloader"]["dataset"].dataset == [1]


def test_mmengines_parts_give_way_to_ours_and_others_stay():
    theirs = Config(
        {
            "default_hooks": {"checkpoint": {"type": "mmengine.CheckpointHook", "interval": 2}},
            "train_cfg": {"type": "mmengine.runner.loops.IterBasedTrainLoop", "max_iters": 3},
            "train_dataloader": {"sampler": {"type": "DefaultSampler", "shuffle": True}},
        }
    )
    runners.use_own_parts(theirs)
    runners.use_own_parts(theirs)  # once more changes nothing
    assert theirs.default_hooks.checkpoint.type == "hocp_mm.CheckpointHook"
    assert theirs.train_cfg.type == "hocp_mm.IterBasedTrainLoop"
    assert theirs.train_dataloader.sampler.type == "hocp_mm.NumberedSampler"
    assert theirs.train_dataloader.sampler.sampler.type == "DefaultSampler"
    short = Config({"train_cfg": {"by_epoch": True, "max_epochs": 2}})
    runners.use_own_parts(short)
    assert short.train_cfg == {"type": "hocp_mm.EpochBasedTrainLoop", "max_epochs": 2}
    others = Config(
        {
            "default_hooks": {"checkpoint": {"type": "foreign.CheckpointHook"}},
            "train_cfg": {"type": "foreign.EpochBasedTrainLoop"},
        }
    )
    before = copy.deepcopy(others.to_dict())
    runners.use_own_parts(others)
    assert others.to_dict() == before


@pytest.mark.parametrize("seed", [0, None])
def test_a_run_with_a_seed_measures_no_form(seed, monkeypatch):
    monkeypatch.setattr("mmengine.runner.Runner", FakeRunner)
    runners.make_runner(Config({"work_dir": "w", "randomness": {"seed": seed}}), {})
    assert choice._measuring_allowed == (seed is None)


class FakeRunner:
    """Keeps what it is built with."""

    def __init__(self, model=None, work_dir=None, cfg=None, **loaders):
        self.arguments = loaders


@pytest.mark.parametrize("line", ["\x1b]0;pwned\x07\x1b[2J", "\ud800", "y" * 500_000, "\u202e" * 100_000, "\r"])
def test_lines_of_a_recorded_config_are_told_as_text(line, monkeypatch, tmp_path):
    """They are those of whoever wrote the checkpoint."""
    told: list[str] = []
    monkeypatch.setattr(runners, "print_log", lambda text, **_: told.append(text))
    monkeypatch.setattr(runners, "read_training", lambda _: {"meta": {"cfg": f"a = 1\n{line}\n{line}b\n"}})
    (tmp_path / "evil.pth").touch()
    cfg = Config({"a": 1, "resume": True, "load_from": str(tmp_path / "evil.pth"), "work_dir": str(tmp_path)})
    assert runners.resume_path(cfg) == tmp_path / "evil.pth"
    assert told[0].isprintable()
    assert told[0].startswith("resume: the config is another than the one that ")
    assert len(told[0]) < len(str(tmp_path)) + 700
    assert few([line] * 9).isprintable()
    assert len(few([line] * 9)) < 1600
