"""The command ``tools/prepare/synthetic.py``."""

from importlib import import_module

import pytest


@pytest.fixture(scope="module")
def command():
    return import_module("hocp_mm.commands.prepare.synthetic")


def test_command_writes_once_and_then_says_so(command, tmp_path, capsys):
    line = ["sewa", str(tmp_path / "set"), "--subjects", "1", "0", "1", "--frames", "3", "--workers", "1"]
    command.main(line)
    captured = capsys.readouterr()
    assert "2 clips of 3 frames, written" in captured.out
    assert "2/2 clips" in captured.err
    assert (tmp_path / "set" / "splits" / "test.txt").is_file()
    command.main(line)
    assert "nothing done" in capsys.readouterr().out


def test_command_writes_the_layout_of_afew_va(command, tmp_path, capsys):
    line = ["afew_va", str(tmp_path / "set"), "--actors", "5", "--clips", "1", "--frames", "2", "--height", "48"]
    command.main([*line, "--workers", "1"])
    assert "5 clips of 2 frames, written" in capsys.readouterr().out
    assert (tmp_path / "set" / "folds" / "fold_4" / "test.txt").is_file()
    with pytest.raises(SystemExit):
        command.main(["afew_va", str(tmp_path / "other"), "--actors", "4"])
    assert "actors must be at least 5, got 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "rule"),
    [("--frames 0", "frames must be at least 2"), ("--workers 0", "at least 1"), ("--motion-share 2", "motion_share")],
)
def test_wrong_number_is_refused_before_anything_is_written(command, tmp_path, capsys, options, rule):
    with pytest.raises(SystemExit) as exit_info:
        command.main(["sewa", str(tmp_path / "set"), *options.split()])
    assert exit_info.value.code == 2
    assert rule in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("layout", "options", "says", "written"),
    [
        ("affectnet", ["--people", "2", "1", "--images", "1"], "3 faces, written", "Manually_Annotated/training.csv"),
        (
            "affectnet", ["--release", "2021", "--people", "2", "1", "--images", "1"], "3 faces, written",
            "train_set/annotations",
        ),
        ("affwild2", ["--videos", "1", "1", "--frames", "3"], "2 videos of 3 frames, written", "cropped_aligned"),
    ],
)  # fmt: skip
def test_other_layouts_have_options_of_their_own(layout, options, says, written, command, tmp_path, capsys):
    command.main([layout, str(tmp_path / "set"), *options, "--workers", "1"])
    assert says in capsys.readouterr().out
    assert (tmp_path / "set" / written).exists()
    with pytest.raises(SystemExit):
        command.main([layout, str(tmp_path / "other"), "--clips", "3"])
