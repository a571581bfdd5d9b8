"""The command that reads all data before training: its table, its exit code, its file."""

import csv
import functools
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from hocp_mm import data_check
from hocp_mm.system.cli import run
from tests.material.affectnet_files import row, write_2017
from tests.material.data_configs import dataset_config, loaders
from tests.material.processes import ROOT

FILE = ROOT / "tools" / "check_data.py"


@pytest.fixture
def tool(monkeypatch) -> ModuleType:
    """The tool, which here starts no processes: importing everything again takes seconds for each."""
    module = import_module("hocp_mm.commands.check")
    check = data_check.check_data
    monkeypatch.setattr(data_check, "check_data", lambda cfg, **options: check(cfg, **{**options, "workers": 0}))
    return module


@pytest.fixture
def root(tmp_path) -> Path:
    write_2017(tmp_path / "set", [row(f"0/{n}.jpg", n, 0.1 * n, -0.2) for n in range(4)])
    return write_2017(tmp_path / "set", [row("0/9.jpg")], part="validation")


@pytest.fixture
def config(root, tmp_path) -> Path:
    train = dataset_config("AffectNetDataset", root, clip_len=1)
    val = dataset_config("AffectNetDataset", root, clip_len=1, split="val", test_mode=True)
    path = tmp_path / "config.py"
    loaders(train=train, val=val).dump(path)
    return path


def damage(root: Path) -> None:
    image = root / "Manually_Annotated/Manually_Annotated_Images/0/2.jpg"
    image.write_bytes(image.read_bytes()[:-40])


def exit_code(main) -> int:
    with pytest.raises(SystemExit) as end:
        run(main)
    return end.value.code


def test_whole_data_end_with_zero(tool, config, capsys):
    assert exit_code(functools.partial(tool.main, [str(config)])) == 0
    out, err = capsys.readouterr()
    lines = {line.split("  ")[0]: line.split()[-2:] for line in out.splitlines() if line}
    assert out.splitlines()[0].split() == ["train", "val"]
    assert lines["records"] == lines["frames"] == ["4", "1"]
    assert out.endswith("\nno faults\n")
    assert "check: 5/5 records" in err


def test_faults_end_with_one_and_are_named(tool, config, root, tmp_path, capsys):
    damage(root)
    path = tmp_path / "faults.csv"
    assert exit_code(functools.partial(tool.main, [str(config), "--csv", str(path)])) == 1
    out = capsys.readouterr().out
    assert "\nimage: 1 fault\n" in out
    assert f"written to {path}" in out
    with path.open(newline="") as file:
        (fault,) = csv.DictReader(file)
    assert (fault["part"], fault["kind"], Path(fault["file"]).name) == ("train", "image", "2.jpg")
    assert fault["text"] in out
    assert exit_code(functools.partial(tool.main, [str(config), "--fast"])) == 0
    assert exit_code(functools.partial(tool.main, [str(config), "--splits", "val"])) == 0
    assert "train" not in capsys.readouterr().out.rpartition("\n\n")[0].rpartition("\n\n")[2].splitlines()[0]


def test_wrong_usage_ends_with_two(tool, config, capsys):
    options = ["--cfg-options", "train_dataloader.dataset.release=1999"]
    assert exit_code(functools.partial(tool.main, [str(config), *options])) == 2
    assert "error: check: train_dataloader: AffectNetDataset: release must be one of" in capsys.readouterr().err
    assert exit_code(functools.partial(tool.main, [str(config), "--workers", "0"])) == 2
    assert exit_code(functools.partial(tool.main, ["none.py"])) == 2
    assert "error: config: no such file: none.py." in capsys.readouterr().err


def test_the_command_itself_reads_in_processes_of_its_own(config, root):
    damage(root)
    done = subprocess.run(
        [sys.executable, str(FILE), str(config), "--workers", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=FILE.parents[1],
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith("\n1 fault in all\n")
    assert "Traceback" not in done.stderr
