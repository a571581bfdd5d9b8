"""The command that writes the folds of AFEW-VA."""

import json
from importlib import import_module

import pytest

from hocp_mm.datasets.splits import check_folds, count_folds, read_fold
from hocp_mm.errors import DataError, MissingDataError
from tests.material.processes import ROOT
from tests.material.raw_sets import tree

TOOL = ROOT / "tools/prepare/split_afew_va.py"


@pytest.fixture(scope="module")
def main():
    return import_module("hocp_mm.commands.prepare.split_afew_va").main


def _root(tmp_path, clips=60, actors=20):
    """Clips of 20 actors, whose names change their case from clip to clip."""
    for number in range(1, clips + 1):
        name = f"{number:03d}"
        actor = f"Actor {number % actors}"
        (tmp_path / name).mkdir()
        content = {"actor": actor.upper() if number % 2 else actor, "video_id": name, "frames": {}}
        (tmp_path / name / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_actors_stay_together_and_the_table_counts_them(main, tmp_path, capsys):
    main([str(_root(tmp_path)), "--seed", "3"])
    folds = [read_fold(tmp_path, fold) for fold in range(5)]
    check_folds(folds, lambda key: str(int(key) % 20))
    assert [[len(keys) for keys in parts.values()] for parts in folds] == [[42, 6, 12]] * 5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["fold", "train", "actors", "val", "actors", "test", "actors"]
    assert lines[1].split() == ["0", "42", "14", "6", "2", "12", "4"]
    assert lines[6] == "clips and actors of each part; 60 clips of 20 actors"
    assert "seed=3" in (tmp_path / "folds/fold_4/train.txt").read_text()


def test_number_and_shares_are_options(main, tmp_path):
    main([str(_root(tmp_path)), "--folds", "4", "--val-share", "0.2"])
    assert count_folds(tmp_path) == 4
    assert len(read_fold(tmp_path, 3)["val"]) == 9


def test_other_folds_are_replaced_only_by_force(main, tmp_path):
    root = str(_root(tmp_path))
    main([root])
    main([root])  # the same folds again
    for other, told in ((["--seed", "1"], "holds another split"), (["--folds", "4"], "holds 5 folds")):
        with pytest.raises(DataError, match=rf"{told}, .* pass --force"):
            main([root, *other])
    with pytest.raises(DataError, match="holds 5 folds; delete it to write fewer"):
        main([root, "--folds", "4", "--force"])
    main([root, "--seed", "1", "--force"])
    assert "seed=1" in (tmp_path / "folds/fold_0/train.txt").read_text()


@pytest.mark.parametrize("name", ["fold_0/val.txt", "fold_1/train.txt", "fold_4/test.txt"])  # some count from 1
def test_folds_written_by_hand_are_replaced_only_by_force(main, tmp_path, name):
    file = _root(tmp_path) / "folds" / name
    file.parent.mkdir(parents=True)
    file.write_text("001\n")
    for number in range(int(name[5])):  # so that the folder counts
        (tmp_path / f"folds/fold_{number}").mkdir()
    with pytest.raises(DataError, match="pass --force"):
        main([str(tmp_path)])
    for number in range(int(name[5])):
        (tmp_path / f"folds/fold_{number}").rmdir()
    with pytest.raises(DataError, match="pass --force"):
        main([str(tmp_path)])
    assert tree(tmp_path / "folds") == {name: b"001\n"}
    main([str(tmp_path), "--force"])
    assert file.read_text() != "001\n"


def test_every_clip_without_an_actor_is_named(main, tmp_path):
    root = _root(tmp_path)
    (root / "007/007.json").unlink()
    (root / "008/008.json").write_text('{"video_id": "008"}')
    with pytest.raises(DataError, match=r"got 2 faults:\n.*007\.json: no such label file.*\n.*008\.json: 'actor' must"):
        main([str(root)])
    assert not (root / "folds").exists()


def test_a_folder_without_clips_or_with_too_few_people_is_named(main, tmp_path):
    with pytest.raises(DataError, match="must hold folders named by three digits"):
        main([str(tmp_path)])
    with pytest.raises(MissingDataError, match="no such folder"):
        main([str(tmp_path / "none")])
    with pytest.raises(DataError, match="5 folds need as many groups, got 3"):
        main([str(_root(tmp_path, clips=6, actors=3))])
