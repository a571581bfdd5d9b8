"""The command that labels a folder: goes on after a stop, names what is wrong, loses nothing."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from hocp_mm.datasets import read_taught_csv
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from tests.material.raw_sets import tree
from tests.material.tiny_configs import noise, tiny_config, tiny_network, write_checkpoint, write_video


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label")
    cfg = tiny_config()
    network = tiny_network(cfg)
    write_checkpoint(folder / "tiny.pth", cfg, network)
    network.head.regress.bias.data += 0.1
    write_checkpoint(folder / "other.pth", cfg, network)
    for number, name in enumerate(("a.mp4", "show/a.mp4", "show/b.avi")):
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / "videos" / name, noise(10, seed=number))
    (folder / "videos" / "notes.txt").write_text("no video")
    return folder


@pytest.fixture
def folder(material, tmp_path):
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    return tmp_path


def label(folder: Path, *more: str, checkpoint: str = "tiny.pth") -> None:
    words = [folder / "videos", "--checkpoint", folder / checkpoint, "--out", folder / "labels", "--faces", "frame"]
    import_module("hocp_mm.commands.label").main([*map(str, words), "--device", "cpu", *more])


def states(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {name: (raw, (folder / name).stat().st_mtime_ns) for name, raw in tree(folder).items()}


def test_every_video_is_labelled_and_a_rerun_changes_no_file(folder, capsys):
    label(folder)
    names = ["a.mp4", "show/a.mp4", "show/b.avi"]
    made = {f"{name}.{end}" for name in names for end in ("csv", "json")} | {"teacher.json", ".lock"}
    assert set(tree(folder / "labels")) == made
    assert [len(read_taught_csv(folder / "labels" / f"{name}.csv").times) for name in names] == [10] * 3
    out = capsys.readouterr().out
    assert "10 frames, 100 % with a label, confidence 0." in out
    assert "videos: 1 left out, no videos by their names or links to folders, the first one: " in out
    assert "notes.txt" in out
    before = states(folder / "labels")
    label(folder)
    assert states(folder / "labels") == before
    assert capsys.readouterr().out.count("labelled already") == 3


def test_it_goes_on_after_a_stop_and_makes_the_same_bytes(folder, monkeypatch):
    label(folder)
    whole = tree(folder / "labels")
    shutil.rmtree(folder / "labels")
    import hocp_mm.apis.teaching as teaching

    write, count = teaching.write_taught_csv, []

    def stop(path, labels):
        count.append(path)
        if len(count) == 2:
            raise KeyboardInterrupt
        write(path, labels)

    monkeypatch.setattr(teaching, "write_taught_csv", stop)
    with pytest.raises(KeyboardInterrupt):
        label(folder)
    first = states(folder / "labels")["a.mp4.csv"]
    monkeypatch.setattr(teaching, "write_taught_csv", write)
    label(folder)
    assert tree(folder / "labels") == whole
    assert states(folder / "labels")["a.mp4.csv"] == first


def test_a_bad_video_is_one_line_and_costs_no_other(folder, capsys):
    (folder / "videos/b.mp4").write_bytes(b"this is no video")
    with pytest.raises(HOCPError, match=r"FOLDER: 1 of 4 failed \(see above\), the first one: .*b\.mp4"):
        label(folder)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 1
    assert len([name for name in tree(folder / "labels") if name.endswith(".csv")]) == 3
    assert not (folder / "labels/b.mp4.json").exists()


def test_another_video_under_the_same_name_is_labelled_anew(folder):
    label(folder)
    before = states(folder / "labels")
    shutil.copy(folder / "videos/show/a.mp4", folder / "videos/a.mp4")
    label(folder)
    after = states(folder / "labels")
    assert {name for name in after if after[name] != before[name]} == {"a.mp4.csv", "a.mp4.json"}
    assert after["a.mp4.csv"][0] == after["show/a.mp4.csv"][0]


@pytest.mark.parametrize(
    ("more", "checkpoint", "name"),
    [
        ([], "other.pth", "checkpoint_sha256 '[0-9a-f]{64}' there, '[0-9a-f]{64}' now"),
        (["--smooth", "0.4"], "tiny.pth", "seconds 0.2 there, 0.4 now"),
        (["--tolerance", "0.2"], "tiny.pth", "tolerance 0.1 there, 0.2 now"),
    ],
)
def test_another_teacher_is_refused_in_one_line(folder, more, checkpoint, name):
    label(folder)
    before = states(folder / "labels")
    with pytest.raises(
        DataError, match=f"teacher.json: all labels of a folder must be of one teacher, got {name}"
    ) as found:
        label(folder, *more, checkpoint=checkpoint)
    assert "\n" not in str(found.value)
    assert states(folder / "labels") == before


def test_the_same_weights_under_another_name_are_the_same_teacher(folder):
    label(folder)
    before = states(folder / "labels")
    shutil.copy(folder / "tiny.pth", folder / "copy.pth")
    label(folder, checkpoint="copy.pth")
    assert states(folder / "labels") == before


def test_a_table_of_somebody_else_is_not_replaced(folder):
    (folder / "labels").mkdir()
    (folder / "labels/a.mp4.csv").write_text("mine")
    (folder / "labels/teacher.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match=r"teacher\.json: is there already, and no note on labels"):
        label(folder)
    (folder / "labels/teacher.json").unlink()
    with pytest.raises(HOCPError, match=r"a\.mp4\.csv: is there already, and no a\.mp4\.json says of what"):
        label(folder)
    assert (folder / "labels/a.mp4.csv").read_text() == "mine"


def test_a_folder_without_videos_and_none_are_refused(folder):
    shutil.rmtree(folder / "videos")
    with pytest.raises(MissingDataError, match="no such folder of videos"):
        label(folder)
    (folder / "videos").mkdir()
    with pytest.raises(MissingDataError, match=r"must hold videos \(\.3gp, \.avi, "):
        label(folder)


@pytest.mark.parametrize(
    "words", [["--smooth", "-1"], ["--smooth", "nan"], ["--tolerance", "0"], ["--tolerance", "inf"]]
)
def test_numbers_out_of_their_range_end_at_once(folder, words, capsys):
    with pytest.raises(SystemExit):
        label(folder, *words)
    assert f"argument {words[0]}: must be" in capsys.readouterr().err
