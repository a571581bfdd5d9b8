import copy
import os
from pathlib import Path

import pytest
from mmengine.config import Config

from hocp_mm.errors import HOCPError
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


RUN = "launcher = 'none'\n{}model = dict(type='X')\nwork_dir = 'w'\n"
BY_HAND = {
    "a remark": ("mine.py", RUN.format("# a year of notes\n")),
    "a remark behind a value": ("mine.py", RUN.format("lr = 1  # why\n")),
    "a docstring": ("mine.py", '"""Mine."""\n' + RUN.format("")),
    "a base": ("mine.py", "_base_ = 'other.py'\n"),
    "a base in a run": ("mine.py", "_base_ = 'other.py'\n" + RUN.format("")),
    "a computation": ("mine.py", RUN.format("if True:\n    x = 2\n")),
    "an import": ("mine.py", "import os\n" + RUN.format("")),
    "another order": ("mine.py", RUN.format("").replace("model", "x")),
    "no run": ("mine.py", "a = 1\nb = 2\n"),
    "no program": ("mine.py", "a = (\n"),
    "no text": ("mine.py", "\0"),
    "json": ("mine.json", '{\n"launcher": "none",\n"work_dir": "w"\n}'),
    "json of no run": ("mine.json", "[1]"),
    "no json": ("mine.json", "{"),
    "yaml": ("mine.yaml", "# mine\nlauncher: none\nwork_dir: w\n"),
    "yaml in another order": ("mine.yaml", "work_dir: w\nlauncher: none\n"),
}


@pytest.mark.parametrize(("name", "text"), BY_HAND.values(), ids=BY_HAND)
@pytest.mark.parametrize("itself", [True, False])
def test_a_config_written_by_hand_is_not_replaced_by_the_copy_in_the_folder_of_a_run(tmp_path, name, text, itself):
    (tmp_path / name).write_text(text)
    source = tmp_path / name if itself else tmp_path / "configs" / name
    source.parent.mkdir(exist_ok=True)
    source.write_text(text)
    cfg = Config({"work_dir": str(tmp_path), "launcher": "none", "model": {"type": "X"}}, filename=str(source))
    with pytest.raises(HOCPError, match=rf"work_dir: .* must not replace one written by hand, got .*{name} \(name"):
        runners.make_runner(cfg, {})
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("suffix", ["py", "json", "yaml"])
def test_the_copy_of_an_earlier_run_is_replaced(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("mmengine.runner.Runner", FakeRunner)
    source = tmp_path / f"configs.{suffix}" / f"mine.{suffix}"
    source.parent.mkdir()
    source.write_text("")
    settings = {"z": [{"a": 1}], "work_dir": str(tmp_path), "a": {"text": "no # remark", "list": [1, 2]}}
    cfg = Config({**settings, "launcher": "none"}, filename=str(source))
    kept = tmp_path / f"mine.{suffix}"
    kept.touch()
    for _ in range(3):
        runners.make_runner(cfg, {})
        assert Config.fromfile(kept).to_dict() == {**settings, "launcher": "none"}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("suffix", ["py", "json", "yaml"])
def test_a_run_that_is_killed_while_it_writes_the_copy_can_be_started_again(tmp_path, suffix, before, monkeypatch):
    monkeypatch.setattr("mmengine.runner.Runner", FakeRunner)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"mine.{suffix}").write_text("")
    settings = {"work_dir": str(tmp_path), "launcher": "none", "x": "x" * 99}
    cfg = Config(settings, filename=str(tmp_path / "configs" / f"mine.{suffix}"))
    kept, whole = tmp_path / f"mine.{suffix}", Config.dump
    if before:
        runners.make_runner(cfg, {})

    def cut(self, file):
        whole(self, file)
        os.truncate(file, Path(file).stat().st_size // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(Config, "dump", cut)
    with pytest.raises(KeyboardInterrupt):
        runners.make_runner(cfg, {})
    assert kept.exists() == before
    monkeypatch.setattr(Config, "dump", whole)
    runners.make_runner(cfg, {})
    assert Config.fromfile(kept).to_dict() == settings


class FakeRunner:
    """Keeps what it is built with, and writes its config as MMEngine's does."""

    timestamp = "now"

    def __init__(self, model=None, work_dir=None, cfg=None, **loaders):
        self.arguments, self.work_dir, self.cfg = loaders, work_dir, cfg
        if cfg.filename is not None:
            self.dump_config()

    def dump_config(self):
        self.cfg.dump(Path(self.work_dir) / Path(self.cfg.filename).name)


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


@pytest.mark.parametrize("name", ["5_2", "99_1", "30_000001", "2999_12", "3_old", "20990101_000000_kept"])
def test_links_of_the_user_beside_logs_to_come_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").symlink_to(tmp_path / "data")
    (tmp_path / f"{name}1").symlink_to(tmp_path / "data")
    (tmp_path / "20990101_000000").symlink_to(tmp_path / "data")  # MMEngine would write through it then
    runners._remove_links_to_come(tmp_path)
    assert (tmp_path / name / "mine").is_symlink()
    assert (tmp_path / f"{name}1").is_symlink()
    assert not (tmp_path / "20990101_000000").is_symlink()
