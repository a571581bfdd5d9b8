"""The command that runs all folds: it goes on where it stopped, and pools what the tests wrote."""

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from hocp_mm.datasets.splits import make_folds, read_fold, write_fold_files
from hocp_mm.errors import DataError, HOCPError
from hocp_mm.evaluation.affect_metric import score
from hocp_mm.structures import AffectTimeline
from tests.material.processes import ROOT

CONFIG = """
fold = 0
train_dataloader = dict(dataset=dict(type="A", data_root={root!r}, fold=0))
val_dataloader = dict(dataset=dict(type="A", data_root={root!r}, fold=0))
test_dataloader = dict(dataset=dict(type="A", data_root={root!r}, fold=0))
default_hooks = dict(checkpoint=dict(save_best="affect/ccc_mean"))
"""
CLIPS = [f"{number:03d}" for number in range(1, 13)]


@pytest.fixture
def tool():
    return import_module("hocp_mm.commands.folds")


@pytest.fixture
def config(tmp_path):
    root = tmp_path / "data"
    write_fold_files(root, make_folds(CLIPS, CLIPS, 3), seed=0, grouped_by="actor")
    path = tmp_path / "recipe.py"
    path.write_text(CONFIG.format(root=str(root)))
    return path


class FakeTools:
    """Stands in for ``hocp train`` and ``hocp test``: writes what they write, and notes how it was called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[list[str]] = []
        self.fail_at: int | None = None
        self.predictions = None

    def __call__(self, fold: int, tool: str, words: list[str]) -> None:
        self.calls.append([tool, *words])
        if self.fail_at == len(self.calls):
            raise HOCPError(f"fold {fold}: {tool} must succeed, got exit code 9.")
        if tool == "train":
            folder = Path(words[words.index("--work-dir") + 1])
            for epoch in (9, 10):
                (folder / f"best_affect_ccc_mean_epoch_{epoch}.pth").write_text("")
            return
        folder = Path(words[words.index("--out-dir") + 1])
        timelines = []
        for clip in self.predictions or read_fold(self.root, fold)["test"]:
            rng = np.random.default_rng(int(clip))
            target = rng.uniform(-1, 1, (6, 2))
            timelines.append(AffectTimeline(clip, 25.0, np.arange(6), target / 2, target))
            timelines[-1].to_csv(folder / f"{clip}.csv")
        scores = {f"affect/{key}": value for key, value in score(timelines).items()}
        (folder / "metrics.json").write_text(json.dumps(scores))

    @property
    def done(self):
        """Which tool ran for which fold."""
        return [f"{words[0]} {words[words.index('--cfg-options') + 1][5:]}" for words in self.calls]


@pytest.fixture
def fake(tool, config, monkeypatch):
    fake = FakeTools(config.parent / "data")
    monkeypatch.setattr(tool, "call", fake)
    return fake


def run(tool, config, *options):
    tool.main([str(config), "--work-dir", str(config.parent / "work"), *options])
    return json.loads((config.parent / "work/folds.json").read_text())


def test_every_fold_is_trained_tested_and_pooled(tool, config, fake, capsys):
    scores = run(tool, config, "--cfg-options", "model.rank=4")
    assert fake.done == ["train 0", "test 0", "train 1", "test 1", "train 2", "test 2"]
    assert (scores["videos"], scores["frames"]) == (12, 72)
    # Half of the truth: rmse is half the root mean square, and equal signs.
    truth = np.concatenate([np.random.default_rng(int(clip)).uniform(-1, 1, (6, 2)) for clip in CLIPS])
    assert scores["pooled"]["rmse_valence"] == pytest.approx(np.sqrt((truth[:, 0] ** 2).mean()) / 2, abs=1e-5)
    assert scores["pooled"]["sagr_mean"] == 1
    values = [scores["folds"][str(fold)]["ccc_mean"] for fold in range(3)]
    assert scores["mean"]["ccc_mean"] == pytest.approx(np.mean(values))
    printed = capsys.readouterr().out
    assert "mean over 3 folds (standard deviation of CCC: valence " in printed
    assert "pooled: 72 valid frames of 12 clips of 3 folds" in printed
    train = fake.calls[2]
    assert train[train.index("--cfg-options") :] == ["--cfg-options", "fold=1", "model.rank=4"]
    assert "--resume" in train


def test_the_newest_best_checkpoint_is_tested(tool, config, fake):
    run(tool, config)
    assert fake.calls[1][2].endswith("work/fold_0/best_affect_ccc_mean_epoch_10.pth")


def test_a_second_call_goes_on_where_the_first_stopped(tool, config, fake):
    fake.fail_at = 4  # the test of fold 1
    with pytest.raises(HOCPError, match=r"fold 1: test must succeed"):
        run(tool, config)
    fake.calls.clear()
    fake.fail_at = None
    run(tool, config)
    assert fake.done == ["test 1", "train 2", "test 2"]
    fake.calls.clear()
    assert run(tool, config)["videos"] == 12
    assert fake.done == []


def test_some_folds_may_be_run_alone_and_the_rest_later(tool, config, fake):
    assert run(tool, config, "--folds", "2")["videos"] == 4
    assert fake.done == ["train 2", "test 2"]
    run(tool, config)
    assert fake.done[2:] == ["train 0", "test 0", "train 1", "test 1"]


def test_results_of_another_config_fold_or_source_are_not_mixed_in(tool, config, fake):
    run(tool, config)
    with pytest.raises(
        HOCPError, match=r"fold_0: holds a run with another config; name another --work-dir, or delete it"
    ):
        run(tool, config, "--cfg-options", "model.rank=4")
    with pytest.raises(HOCPError, match="another static_checkpoint"):
        run(tool, config, "--static-checkpoint", "x.pth")
    write_fold_files(config.parent / "data", make_folds(CLIPS, CLIPS, 3, seed=1), seed=1, grouped_by="actor")
    with pytest.raises(HOCPError, match="another fold; name"):
        run(tool, config)


def test_folds_that_could_not_be_pooled_are_refused_before_anything_is_run(tool, config, fake, capsys):
    data = config.parent / "data"
    folds = [read_fold(data, fold) for fold in range(3)]
    # Half of a new set of folds over an old one, as a killed writer leaves it.
    other = make_folds(CLIPS, CLIPS, 3, seed=1)
    write_fold_files(data, [folds[0], *other[1:]], seed=1, grouped_by="actor")
    with pytest.raises(DataError, match=r"folds: a clip is tested once, but '\d+' is in \d and \d"):
        run(tool, config)
    assert fake.done == []
    write_fold_files(data, folds, seed=0, grouped_by="actor")
    shutil.rmtree(data / "folds/fold_2")
    run(tool, config)
    missing = ", ".join(sorted(folds[2]["test"]))
    assert f"folds: 4 clips are in no test part: {missing}" in capsys.readouterr().out


def test_the_static_checkpoint_is_that_of_the_fold(tool, config, fake):
    run(tool, config, "--static-checkpoint", "static/fold_{fold}.pth")
    sources = [words[words.index("--static-checkpoint") + 1] for words in fake.calls if words[0] == "train"]
    assert sources == [f"static/fold_{fold}.pth" for fold in range(3)]


DEEP = "[" * 100_000
NOTES = ["[]", "null", '"x"', "1", DEEP, '{"a":' * 50_000, "{", "9" * 10_000, "\ufffe"]


@pytest.mark.parametrize("text", NOTES, ids=lambda text: text[:9])
def test_notes_of_another_kind_are_refused(tool, config, fake, text):
    """A work folder may be a copy from elsewhere."""
    run(tool, config)
    folder = config.parent / "work" / "fold_0"
    shutil.rmtree(folder / "results")
    for file in ("trained.json", "run.json"):  # the second is looked at first
        (folder / file).write_text(text)
        with pytest.raises(HOCPError, match=rf"{file}: (not readable as JSON|must hold a JSON object)"):
            run(tool, config)


@pytest.mark.parametrize("name", ["../../stolen.pth", "/stolen.pth", "..", "a/b.pth", "", "a\0b", 1, ["a.pth"], None])
def test_a_note_names_a_file_of_its_own_folder(tool, config, fake, name):
    run(tool, config)
    folder = config.parent / "work" / "fold_0"
    shutil.rmtree(folder / "results")
    (folder / "trained.json").write_text(json.dumps({"checkpoint": name}))
    with pytest.raises(HOCPError, match=r"trained\.json: must name a checkpoint of its folder, got "):
        run(tool, config)


def test_a_note_that_is_a_link_is_replaced(tool, config, fake):
    """And not what it leads to."""
    run(tool, config)
    folder, own = config.parent / "work" / "fold_0", config.parent / "own.txt"
    shutil.rmtree(folder / "results")
    for target in (own, folder / "trained.json"):
        (folder / "trained.json").unlink()
        (folder / "trained.json").symlink_to(target)
        run(tool, config)
        shutil.rmtree(folder / "results")
    assert not own.exists()


@pytest.mark.parametrize(
    "text",
    [DEEP, "[]", '{"a": [1]}', '{"a": ' + "9" * 400 + "}", '{"a": 1}' + " " * (1 << 20) + "x"],
    ids=lambda t: t[:9],
)
def test_scores_of_another_kind_are_refused(tool, config, fake, text):
    run(tool, config)
    (config.parent / "work/fold_0/results/metrics.json").write_text(text)
    with pytest.raises(
        DataError,
        match=r"metrics\.json: (not readable as scores|the scores must be|the file of scores must have at most)",
    ):
        run(tool, config)


def test_predictions_of_other_clips_are_refused(tool, config, fake):
    fake.predictions = CLIPS[:5]
    with pytest.raises(DataError, match=r"results: must hold the 4 test clips of fold 0, got \d missing and \d others"):
        run(tool, config)


def test_left_out_clips_are_named_where_skipping_is_allowed(tool, config, fake, capsys):
    config.write_text(config.read_text().replace("fold=0)", "fold=0, on_fault='skip')"))
    tested = read_fold(config.parent / "data", 0)["test"]
    fake.predictions = tested[:-1]
    run(tool, config, "--folds", "0")
    assert f"fold 0: 1 faulty clip was left out: {tested[-1]}" in capsys.readouterr().out


def test_clips_that_a_store_lacks_are_named_and_others_are_missing(tool, config, fake, capsys):
    """A store was prepared without them, whatever its reader says about faults."""
    tested = read_fold(config.parent / "data", 0)["test"]
    report = config.parent / "data" / "report.csv"
    report.write_text(f"kind,file,text\nrecord left out,{tested[-1]},a split names this record\n")
    fake.predictions = tested[:-1]
    run(tool, config, "--folds", "0")
    assert f"fold 0: 1 faulty clip was left out: {tested[-1]}" in capsys.readouterr().out
    report.write_text("kind,file,text\n")
    with pytest.raises(DataError, match="must hold the 4 test clips of fold 0, got 1 missing and 0 others"):
        run(tool, config, "--folds", "0")


def test_training_without_a_best_checkpoint_is_an_error(tool, config, fake, monkeypatch):
    monkeypatch.setattr(tool, "call", lambda *args: None)
    with pytest.raises(HOCPError, match="fold_0: training must leave a best checkpoint, got none"):
        run(tool, config)


def test_wrong_options_are_refused_before_anything_is_run(tool, config, fake):
    with pytest.raises(HOCPError, match="holds folds 0 to 2, got 3"):
        run(tool, config, "--folds", "0", "3")
    with pytest.raises(HOCPError, match="fold is set for each run, choose with --folds"):
        run(tool, config, "--cfg-options", "fold=1")
    with pytest.raises(HOCPError, match="must be KEY=VALUE, got 'rank'"):
        run(tool, config, "--cfg-options", "rank")
    (config.parent / "work/fold_0").mkdir(parents=True)
    (config.parent / "work/fold_0/mine.txt").write_text("x")
    with pytest.raises(HOCPError, match="fold_0: must be new, empty, or of an earlier call"):
        run(tool, config)
    assert fake.calls == []


def test_a_tool_that_fails_is_named_with_its_exit_code(tool, tmp_path, monkeypatch):
    (tmp_path / "hocp.py").write_text("import sys; raise SystemExit(len(sys.argv))")
    monkeypatch.setattr(tool, "HOCP", (sys.executable, str(tmp_path / "hocp.py")))
    with pytest.raises(
        HOCPError, match=r"fold 2: train must succeed, got exit code 3\. The same command again goes on"
    ):
        tool.call(2, "train", ["a.py"])


@pytest.mark.slow
def test_the_demo_recipe_runs_all_folds_on_the_synthetic_twin(tmp_path, monkeypatch):
    """Real tools in real processes: one epoch, five folds."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    data = tmp_path / "twin"
    options = ["--actors", "10", "--clips", "1", "--frames", "20", "--height", "96", "--workers", "1"]
    make = [sys.executable, str(ROOT / "tools/prepare/synthetic.py"), "afew_va", str(data), *options]
    subprocess.run(make, check=True, cwd=tmp_path)
    given = [f"{part}_dataloader.dataset.data_root={data}" for part in ("train", "val", "test")]
    given += ["train_cfg.max_epochs=1", "param_scheduler.1.T_max=1", "param_scheduler.1.end=1"]
    given += ["train_dataloader.dataset.clips_per_video=2", "custom_hooks=[]"]  # from scratch, without an image network
    command = [sys.executable, str(ROOT / "tools/run_folds.py"), str(ROOT / "configs/hocp_afew_va_demo.py")]
    subprocess.run([*command, "--work-dir", str(tmp_path / "work"), "--cfg-options", *given], check=True, cwd=tmp_path)
    scores = json.loads((tmp_path / "work/folds.json").read_text())
    assert (scores["videos"], scores["frames"]) == (10, 200)
    assert all(np.isfinite(list(scores["pooled"].values())))


@pytest.mark.parametrize(
    "note",
    ['{"checkpoint": "../best_x.pth"}', '{"checkpoint": "{outside}"}', '{"checkpoint": 5}', "[]", "5", "{", "{}",
     "[" * 10**5, '{"checkpoint": "link.pth"}', '{"checkpoint": "nothing.pth"}', '{"checkpoint": "a\\u0000.pth"}'],
    ids=lambda note: note[:30],
)  # fmt: skip
def test_a_copied_fold_names_checkpoints_of_its_own_folder_alone(tool, note: str, tmp_path: Path):
    folder = tmp_path / "fold_0"
    folder.mkdir()
    (tmp_path / "best_x.pth").write_bytes(b"x")
    (folder / "link.pth").symlink_to(tmp_path / "best_x.pth")
    (folder / "trained.json").write_text(note.replace("{outside}", str(tmp_path / "best_x.pth")))
    with pytest.raises(
        HOCPError, match=r"trained\.json: (must name a checkpoint|must hold a JSON object|not readable as JSON)"
    ):
        tool.chosen_checkpoint(folder / "trained.json")
    (folder / "trained.json").write_text('{"checkpoint": "best_y.pth"}')
    (folder / "best_y.pth").write_bytes(b"x")
    assert tool.chosen_checkpoint(folder / "trained.json") == folder / "best_y.pth"


def test_links_in_a_copied_fold_are_removed_and_not_what_they_lead_to(tool, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "metrics.json").write_text("precious")
    for name in ("results.part", "broken"):
        (tmp_path / name).symlink_to(tmp_path / ("outside" if name != "broken" else "nowhere"))
        tool.remove(tmp_path / name)
        assert not (tmp_path / name).is_symlink()
    tool.remove(tmp_path / "nowhere")
    assert (tmp_path / "outside" / "metrics.json").read_text() == "precious"


@pytest.mark.parametrize("name", ["fold_0", "fold_1", "fold_0/test"])
def test_a_fold_that_is_a_link_is_refused_before_anything_is_run(tool, config, fake, name: str, tmp_path: Path):
    """Of a copied folder: going on would be going on in the original."""
    run(tool, config)
    place, original = config.parent / "work" / name, tmp_path / "original"
    place.mkdir(exist_ok=True)
    place.rename(original)
    place.symlink_to(original)
    before = {file: file.read_bytes() for file in original.rglob("*") if file.is_file()}
    fake.calls.clear()
    with pytest.raises(HOCPError, match=rf"{name}: must be a folder, got a link"):
        run(tool, config)
    assert not fake.calls
    assert {file: file.read_bytes() for file in original.rglob("*") if file.is_file()} == before


def test_a_work_dir_may_be_a_link(tool, config, fake, tmp_path: Path):
    (tmp_path / "large_disk").mkdir()
    (config.parent / "work").symlink_to(tmp_path / "large_disk")
    run(tool, config)
    assert (tmp_path / "large_disk" / "folds.json").is_file()


@pytest.mark.parametrize("text", ["{}", "[]", "mine", '{"folds": "of a map"}'])
def test_a_file_of_somebody_else_with_the_name_of_the_scores_stays(tool, config, fake, text: str):
    file = config.parent / "work/folds.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(HOCPError, match=r"--work-dir: .*folds\.json was not written by an earlier call"):
        run(tool, config)
    assert file.read_text() == text
    assert not fake.done
    file.unlink()
    run(tool, config)
    run(tool, config)  # its own


@pytest.mark.parametrize("name", ["notes.md", "a.csv", "deep/a.csv"])
def test_results_without_scores_are_not_replaced_by_those_of_a_test(tool, config, fake, name: str):
    """Nobody but the user takes the scores away: results get their name when they are complete."""
    run(tool, config)
    results = config.parent / "work/fold_1/results"
    (results / "metrics.json").unlink()
    (results / name).parent.mkdir(exist_ok=True)
    (results / name).write_text("mine")
    done = list(fake.done)
    with pytest.raises(HOCPError, match=r"fold_1/results: must hold metrics\.json, got none; delete it to test again"):
        run(tool, config)
    assert (results / name).read_text() == "mine"
    assert fake.done == done
