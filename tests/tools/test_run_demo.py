"""The demos: which commands they run, what they show of them, and that all of them run through."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hocp_mm.errors import HOCPError
from tests.material.processes import ROOT
from tests.material.raw_sets import tree

DIMENSIONS = ("valence", "arousal", "mean")
SCORES = {f"{name}_{row}": 0.5 for name in ("ccc", "pcc", "rmse", "sagr") for row in DIMENSIONS}


@pytest.fixture
def tool(monkeypatch):
    """The script, found as Python finds it when it runs: with its own folder on the path."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("run_demo")


@pytest.fixture
def steps(tool):
    return importlib.import_module("demos.steps")


@pytest.fixture
def make(tool, tmp_path):
    """Make the run of some options, with its folders in `tmp_path`."""

    def make(*options):
        return tool.make_demo(tool.parse_args([*options, "--out", str(tmp_path / "out")]))

    return make


class FakeSteps:
    """Stands in for `Steps`: notes the commands, and writes what the demos read of their results."""

    def __init__(self, data: Path) -> None:
        self.data, self.commands = data, []

    def __call__(self, title, command):
        words = [str(word) for word in command]
        self.commands.append(words)
        for option, act in (("--work-dir", self._work), ("--out-dir", self._results)):
            if option in words:
                act(Path(words[words.index(option) + 1]), words[0])

    def call(self, title, function):
        self.commands.append([title])
        return 3

    def _work(self, folder: Path, tool: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if tool == "tools/train.py":
            (folder / "best_affect_ccc_mean_epoch_2.pth").touch()
            (folder / "epoch_3.pth").touch()
        if tool == "tools/run_folds.py":
            scores = {"folds": {"0": SCORES, "1": SCORES}, "mean": SCORES, "pooled": SCORES}
            (folder / "folds.json").write_text(json.dumps(scores))

    def _results(self, folder: Path, tool: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        scores = SCORES | {"expression_accuracy": 0.6, "expression_f1": 0.4}
        (folder / "metrics.json").write_text(json.dumps({f"affect/{key}": value for key, value in scores.items()}))
        rows = ["image,valid,expression_true", "a,1,0", "b,1,3", "c,1,3", "d,0,0", "e,1,3"]
        (folder / "images.csv").write_text("\n".join(rows))


@pytest.fixture
def run_fake(tool, make, tmp_path):
    """Run a demo with fake commands; return its outcome and the commands."""
    from dataclasses import replace

    from hocp_mm.datasets.splits import write_split_files

    def run(*options):
        data = tmp_path / "data"
        parts = {"train": ["A"], "val": ["B"], "test": ["C", "D"]}
        write_split_files(data / "splits", parts, seed=0, grouped_by="person")
        demo = replace(make(*options, "--data", str(data)), step=FakeSteps(data))
        args = tool.parse_args(options)
        outcome = tool.SETS[args.set].run(demo)
        assert len(demo.step.commands) == tool.SETS[args.set].STEPS
        return outcome, demo.step.commands

    return run


def test_without_options_it_is_the_demo_of_sewa_in_its_old_folders(tool):
    demo = tool.make_demo(tool.parse_args([]))
    assert (demo.out, demo.data) == (ROOT / "demo_output", ROOT / "data/synthetic_sewa")
    assert demo.cfg_options(training=True) == []


@pytest.mark.parametrize("name", ["afew_va", "affectnet"])
def test_the_others_have_folders_of_their_own(tool, name):
    demo = tool.make_demo(tool.parse_args(["--set", name]))
    assert (demo.out, demo.data) == (ROOT / "demo_output" / name, ROOT / f"data/synthetic_{name}")


def test_the_folder_of_the_data_is_the_one_the_configs_name(tool):
    from hocp_mm.launch import load_config

    for name, config in (
        ("sewa", "hocp_sewa_demo"),
        ("afew_va", "hocp_afew_va_demo"),
        ("affectnet", "hocp_affectnet_demo"),
    ):
        demo = tool.make_demo(tool.parse_args(["--set", name]))
        cfg = load_config(ROOT / f"configs/{config}.py")
        for part in ("train", "val", "test"):
            assert ROOT / cfg[f"{part}_dataloader"].dataset.data_root == demo.data


def test_an_unknown_set_is_refused(tool, capsys):
    with pytest.raises(SystemExit, match="2"):
        tool.parse_args(["--set", "cohn_kanade"])
    assert "afew_va" in capsys.readouterr().err


def test_what_the_user_sets_comes_last_and_wins(make):
    demo = make("--quick", "--data", "elsewhere", "--cfg-options", "model.rank=4", "train_cfg.max_epochs=1")
    words = demo.cfg_options("a=1", training=True)
    assert words[0] == "--cfg-options"
    assert words[1] == f"train_dataloader.dataset.data_root={Path('elsewhere').resolve()}".replace(f"{ROOT}/", "")
    assert words.index("a=1") < words.index("train_cfg.max_epochs=2") < words.index("train_cfg.max_epochs=1")
    assert not any(word.startswith("train_cfg.max_epochs=2") for word in demo.cfg_options())


def test_sewa_goes_from_images_to_a_timeline(run_fake, tmp_path):
    outcome, commands = run_fake("--set", "sewa")
    tools = [words[0] for words in commands]
    assert tools == [
        "tools/prepare/synthetic.py", "tools/train.py", "tools/test.py", "tools/train.py", "tools/test.py",
        "draw the timelines of the test videos", "tools/demo.py",
    ]  # fmt: skip
    static = str(tmp_path / "out/static/best_affect_ccc_mean_epoch_2.pth")
    assert commands[3][commands[3].index("--static-checkpoint") + 1] == static
    assert commands[4][2] == str(tmp_path / "out/video/epoch_3.pth")
    assert commands[6][1] == str(tmp_path / "data/C/C.avi")
    assert "| video network, arousal | 0.500 | 0.500 | 0.500 | 0.500 |" in outcome.table


def test_afew_va_starts_all_folds_from_one_image_network_of_other_people(run_fake, tmp_path):
    outcome, commands = run_fake("--set", "afew_va")
    images, train, clips, split, folds = commands[:5]
    assert (images[1], clips[1]) == ("affectnet", "afew_va")
    assert images[images.index("--seed") + 1] != "0"
    assert "--seed" not in clips
    assert f"train_dataloader.dataset.data_root={tmp_path / 'data_images'}" in train
    assert split == ["tools/prepare/split_afew_va.py", str(tmp_path / "data")]
    static = str(tmp_path / "out/static/best_affect_ccc_mean_epoch_2.pth")
    assert folds[folds.index("--static-checkpoint") + 1] == static
    assert "| fold 1 | 0.500 | 0.500 | 0.500 |" in outcome.table
    assert "| pooled, mean | 0.500 |" in outcome.table


def test_affectnet_names_what_guessing_would_score(run_fake):
    outcome, commands = run_fake("--set", "affectnet")
    assert [words[0] for words in commands[:3]] == ["tools/prepare/synthetic.py", "tools/train.py", "tools/test.py"]
    assert "accuracy 0.600, mean F1 0.400 (always naming the most frequent one: accuracy 0.750)" in outcome.table


def test_the_table_has_each_number_in_its_cell(steps):
    scores = {key: place / 100 for place, key in enumerate(SCORES)}
    lines = steps.score_rows({"net, ": scores}).splitlines()
    assert lines[0] == "| | CCC | PCC | RMSE | SAGR |"
    assert lines[3] == "| net, arousal | 0.010 | 0.040 | 0.070 | 0.100 |"


def test_the_timelines_drawn_are_the_first_of_each_fold(tool, tmp_path):
    for fold in range(2):
        for name in ("003", "001", "002", "per_video"):
            file = tmp_path / f"fold_{fold}/results/{name}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    files = importlib.import_module("demos.afew_va").timelines_to_draw(tmp_path)
    assert [(file.parts[-3], file.stem) for file in files] == [
        ("fold_0", "001"), ("fold_0", "002"), ("fold_1", "001"), ("fold_1", "002"),
    ]  # fmt: skip


SHOWN = {
    "11/22 16:01:44 - mmengine - INFO - Epoch(train) [1][5/9]  loss: 1.0": "16:01:44 Epoch(train) [1][5/9]  loss: 1.0",
    "11/22 16:01:44 - mmengine - INFO - Hooks will be executed in the following order:": None,
    "             CCC     PCC    RMSE    SAGR": "             CCC     PCC    RMSE    SAGR",
    "CCC       valence  arousal     mean": "CCC       valence  arousal     mean",
    "fold 3      0.863    0.577    0.720": "fold 3      0.863    0.577    0.720",
    "pooled: 1200 valid frames of 30 clips of 2 folds": "pooled: 1200 valid frames of 30 clips of 2 folds",
    "expression: accuracy 0.655, mean F1 0.512": "expression: accuracy 0.655, mean F1 0.512",
    "[2/5] fold 1 in demo_output/afew_va/folds/fold_1": "[2/5] fold 1 in demo_output/afew_va/folds/fold_1",
    "data/synthetic_sewa: 88 clips of 120 frames, written.": "data/synthetic_sewa: 88 clips of 120 frames, written.",
    "synthetic set: 5/88 clips, 3 s": "synthetic set: 5/88 clips, 3 s",
    "looking for faces: 60/120 frames": "looking for faces: 60/120 frames",
    "error: no such file": "error: no such file",
    "    mean=[123.675, 116.28, 103.53],": None,
    "folder = 'x'": None,
    "": None,
}


@pytest.mark.parametrize(("line", "expected"), SHOWN.items(), ids=range(len(SHOWN)))
def test_what_a_spectator_sees(steps, line, expected):
    assert steps.worth_showing(f"{line}\n") == expected


def test_a_step_shows_what_matters_and_keeps_everything(steps, tmp_path, capsys):
    script = tmp_path / "tool.py"
    script.write_text("import sys\nprint('noise')\nprint('written to', *sys.argv[1:])")
    step = steps.Steps(tmp_path, total=2)
    step("do it: well", [script, ROOT / "data/x", 7])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "[1/2] do it: well", f"$ python {script} data/x 7", "  written to data/x 7",
    ]  # fmt: skip
    assert (tmp_path / "1_do_it.log").read_text() == "noise\nwritten to data/x 7\n"
    assert step.call("count", lambda: 5) == 5
    assert "[2/2] count" in capsys.readouterr().out


def test_a_step_that_fails_ends_the_demo_with_its_last_lines(steps, tmp_path, capsys):
    script = tmp_path / "tool.py"
    script.write_text("print('the reason')\nraise SystemExit(3)")
    with pytest.raises(HOCPError, match=r"step 'do it' must succeed, got exit code 3 \(whole log: .*1_do_it\.log\)"):
        steps.Steps(tmp_path, total=1)("do it", [script])
    assert "the reason" in capsys.readouterr().out


def test_the_newest_checkpoint_of_a_kind_counts(steps, tmp_path):
    for kind in ("best", "epoch"):
        with pytest.raises(HOCPError, match=rf"must leave a checkpoint {kind}_\*\.pth, got none"):
            steps.newest_checkpoint(tmp_path, kind)
    for age, name in enumerate(
        ("epoch_11", "best_affect_ccc_mean_epoch_10", "epoch_9", "best_affect_ccc_mean_epoch_8")
    ):
        file = tmp_path / f"{name}.pth"
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    assert steps.newest_checkpoint(tmp_path).name == "best_affect_ccc_mean_epoch_10.pth"
    assert steps.newest_checkpoint(tmp_path, "epoch").name == "epoch_11.pth"


def test_what_an_earlier_demo_left_is_gone(steps, tmp_path):
    folders = [tmp_path / "static", tmp_path / "logs"]
    steps.fresh(folders)
    (tmp_path / "static/best_x.pth").touch()
    (tmp_path / "static/vis_data").mkdir()
    (tmp_path / "static/vis_data/scalars.json").touch()
    (tmp_path / f"logs/.1_train.{'0' * 32}.part.log").touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").touch()
    (tmp_path / "static/linked").symlink_to(outside)
    steps.fresh(folders)
    assert [path.name for folder in folders for path in folder.iterdir()] == [steps.MARKER] * 2
    assert (outside / "mine.txt").exists()


def full(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("a year of work")


def with_folders(folder: Path) -> None:
    full(folder / "deep")


def hidden(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / ".mine").write_text("a year of work")


def marked_otherwise(folder: Path) -> None:
    full(folder)
    (folder / "MADE_BY_DEMO.txt").write_text("another demo of mine\n")


def marked_by_a_link(folder: Path) -> None:
    full(folder)
    ours = folder.with_name("of a demo")
    importlib.import_module("demos.steps").fresh([ours])
    (folder / "MADE_BY_DEMO.txt").symlink_to(ours / "MADE_BY_DEMO.txt")


def a_file(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a year of work")


def a_link(folder: Path) -> None:
    full(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


def of_an_earlier_version(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "results.md").write_text("| | CCC | PCC | RMSE | SAGR |\n")


@pytest.mark.parametrize(
    "spoil",
    [full, with_folders, hidden, marked_otherwise, marked_by_a_link, a_file, a_link, of_an_earlier_version],
)
@pytest.mark.parametrize("name", ["static", "results", "logs"])  # the first and the last to be emptied
def test_no_demo_empties_a_folder_that_none_has_made(tool, tmp_path, monkeypatch, spoil, name):
    """Nor one of its own before it has looked at all of them."""
    steps = importlib.import_module("demos.steps")
    monkeypatch.setattr(tool.SETS["affectnet"], "run", lambda demo: pytest.fail("ran"))
    out = tmp_path / "out"
    steps.fresh([out / "static"] if name != "static" else [out / "logs"])
    spoil(out / name)
    ours = out / ("static" if name != "static" else "logs")
    (ours / "of an earlier demo").touch()
    before = tree(tmp_path)
    with pytest.raises(HOCPError, match=f"{name}.* must be ") as error:
        tool.main(["--set", "affectnet", "--out", str(out), "--data", str(tmp_path / "data")])
    assert "\n" not in str(error.value)
    assert tree(tmp_path) == before


OUTCOMES = {
    "sewa": ("video/*_timeline.png", "demo/*_overlay.mp4"),
    "afew_va": ("timelines/*.png", "../folds/fold_4/results/*.csv"),
    "affectnet": ("images.csv", "expressions.csv", "plane.png"),
}


def run_quickly(tmp_path, name):
    """Run a demo in miniature, in real processes; return what it printed."""
    command = [sys.executable, str(ROOT / "tools/run_demo.py"), "--set", name, "--quick"]
    command += ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTCOMES)
def test_a_demo_runs_through(tmp_path, name):
    printed = run_quickly(tmp_path, name)
    results = tmp_path / "out/results"
    table = (results / "results.md").read_text()
    assert table.startswith("| ")
    assert table in printed
    assert all(list(results.glob(pattern)) for pattern in OUTCOMES[name]), sorted(results.rglob("*"))


@pytest.mark.slow
def test_a_second_demo_keeps_the_data_and_replaces_the_results(tmp_path):
    assert "faces, written." in run_quickly(tmp_path, "affectnet")
    stray = tmp_path / "out/results/of_an_earlier_run.csv"
    stray.touch()
    assert "faces, already there with these numbers" in run_quickly(tmp_path, "affectnet")
    assert not stray.exists()
