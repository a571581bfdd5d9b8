"""What a teacher does to a folder: it loses nothing of anybody's, and what is wrong with one video ends no other."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hocp_mm.apis import find_videos, label_folder, teaching
from hocp_mm.datasets import TaughtLabels
from hocp_mm.errors import DataError, HOCPError
from tests.material.raw_sets import tree


class Quick:
    """A teacher that looks at nothing."""

    def __init__(self, name: str = "a") -> None:
        self.facts = {"checkpoint": name, "checkpoint_sha256": name}
        self.seen: list[Path] = []

    def label(self, video: Path, *_: Any) -> TaughtLabels:
        self.seen.append(video)
        return TaughtLabels(
            np.arange(2.0), np.zeros((2, 2), np.float32), np.ones(2, bool), np.ones(2, np.float32), None
        )


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "show/a.mp4", "show/b.avi"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_text(name)
    return tmp_path


def failures(folder: Path, teacher: Any = None) -> list[HOCPError]:
    outcomes = label_folder(teacher or Quick(), folder / "videos", folder / "labels", "frame")
    return [outcome for _, outcome in outcomes if isinstance(outcome, HOCPError)]


@pytest.mark.parametrize("link", ["show", "show/deep"])
def test_links_in_a_copied_folder_of_labels_are_not_written_through(folder, tmp_path_factory, link):
    """Nor is anything behind them deleted, nor a video looked at for nothing."""
    outside = tmp_path_factory.mktemp("outside")
    for name in ("a.mp4", "deep/a.mp4"):  # of what is to be labelled in show, and in show/deep
        (outside / name).parent.mkdir(exist_ok=True)
        (outside / f"{name}.csv").write_text("labels that took a week")
        (outside / f"{name}.json").write_text(json.dumps({"video": name, "video_sha256": "0"}))
    (outside / "mine.json").write_text("mine")
    (folder / "videos/show/deep").mkdir()
    shutil.copy(folder / "videos/a.mp4", folder / "videos/show/deep/a.mp4")
    (folder / "labels" / link).parent.mkdir(parents=True)
    (folder / "labels" / link).symlink_to(outside, target_is_directory=True)
    (folder / "labels/teacher.json").symlink_to(outside / "new.json")
    (folder / "labels/a.mp4.json").symlink_to(outside / "new.json")
    before, teacher = tree(outside), Quick()
    failed = failures(folder, teacher)
    assert tree(outside) == before
    assert (folder / "labels/a.mp4.csv").is_file()
    assert len(failed) == (3 if link == "show" else 1)
    assert all(f"{link}: must be a folder, got a link" in str(error) for error in failed)
    assert len(teacher.seen) == 4 - len(failed)


NOT_OURS = ["{}", "[]", "null", '{"title": "cannot be fetched again"}', '{"video": "a.mp4"}', "no JSON", "[" * 3000,
            json.dumps({"video": [[]] * 300_000, "video_sha256": "", "checkpoint_sha256": ""})]  # fmt: skip


@pytest.mark.parametrize("text", NOT_OURS, ids=lambda text: text[:9])
@pytest.mark.parametrize("beside", [False, True], ids=["apart", "beside the videos"])
def test_notes_of_somebody_else_are_not_replaced(folder, text, beside):
    """With a table or without; also where labels and videos share a folder, which downloads with metadata fill."""
    if beside:
        (folder / "labels").symlink_to(folder / "videos")
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels/a.mp4.json").write_text(text)
    (error,) = failures(folder)
    assert str(error).startswith(f"{folder / 'labels/a.mp4.json'}: ")
    assert (folder / "labels/a.mp4.json").read_text() == text
    assert not (folder / "labels/a.mp4.csv").exists()
    (folder / "labels/teacher.json").write_text(text)
    with pytest.raises(DataError, match=r"teacher\.json: "):
        failures(folder)
    assert (folder / "labels/teacher.json").read_text() == text


def a_long_name(videos: Path, labels: Path) -> None:
    shutil.copy(videos / "a.mp4", videos / ("b" * 250 + ".mp4"))


def a_long_name_of_the_note_alone(videos: Path, labels: Path) -> None:
    shutil.copy(videos / "a.mp4", videos / ("b" * 247 + ".mp4"))


def a_folder_with_the_name_of_a_table(videos: Path, labels: Path) -> None:
    (videos / "a.mp4.csv").mkdir()
    shutil.copy(videos / "a.mp4", videos / "a.mp4.csv/b.mp4")


def a_folder_with_the_name_of_the_note_on_the_teacher(videos: Path, labels: Path) -> None:
    (videos / "teacher.json").mkdir()
    shutil.copy(videos / "a.mp4", videos / "teacher.json/b.mp4")


def a_folder_in_the_place_of_a_table(videos: Path, labels: Path) -> None:
    (labels / "a.mp4.csv").mkdir()
    (labels / "a.mp4.json").write_text(json.dumps({"video": "a.mp4", "video_sha256": ""}))


def a_folder_in_the_place_of_a_note(videos: Path, labels: Path) -> None:
    (labels / "a.mp4.json").mkdir()


def a_pipe_in_the_place_of_a_note(videos: Path, labels: Path) -> None:
    os.mkfifo(labels / "a.mp4.json")


def a_circle_of_links_in_the_place_of_a_folder(videos: Path, labels: Path) -> None:
    shutil.rmtree(videos / "show")
    (videos / "circle").mkdir()
    for name in ("circle/b.mp4", "z.mp4"):
        shutil.copy(videos / "a.mp4", videos / name)
    (labels / "circle").symlink_to("circle")


def a_file_in_the_place_of_a_folder(videos: Path, labels: Path) -> None:
    (videos / "sub").mkdir()
    shutil.copy(videos / "a.mp4", videos / "sub/b.mp4")
    (labels / "sub").write_text("mine")


def a_video_that_is_a_circle_of_links(videos: Path, labels: Path) -> None:
    (videos / "b.mp4").symlink_to("b.mp4")


@pytest.mark.parametrize(
    "spoil",
    [
        a_long_name, a_long_name_of_the_note_alone, a_folder_with_the_name_of_a_table,
        a_folder_with_the_name_of_the_note_on_the_teacher, a_folder_in_the_place_of_a_table,
        a_folder_in_the_place_of_a_note, a_pipe_in_the_place_of_a_note, a_circle_of_links_in_the_place_of_a_folder,
        a_file_in_the_place_of_a_folder, a_video_that_is_a_circle_of_links,
    ],
)  # fmt: skip
def test_an_odd_name_is_one_line_and_costs_no_other(folder, spoil):
    (folder / "labels").mkdir()
    spoil(folder / "videos", folder / "labels")
    (error,) = failures(folder)
    assert "\n" not in str(error)
    labelled = [file for file in (folder / "labels").rglob("*.csv") if file.is_file()]
    assert len(labelled) == len(find_videos(folder / "videos")[0]) - 1 >= 2


def test_two_teachers_do_not_label_into_one_folder_at_a_time(folder):
    one, two = (
        label_folder(Quick(name), folder / "videos", folder / "labels", "frame")  # pyright: ignore[reportArgumentType]
        for name in "ab"
    )
    next(one)
    with pytest.raises(DataError, match="labels: another process is writing to this folder"):
        next(two)
    assert len(list(one)) == 2
    with pytest.raises(DataError, match="must be of one teacher"):
        failures(folder, Quick("b"))


def test_videos_of_all_kinds_are_taken_and_what_is_left_out_is_known(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "g.mp4").write_text("g")
    (folder / "videos/linked").symlink_to(elsewhere)
    (folder / "videos/z.mp4").symlink_to(elsewhere / "g.mp4")
    taken = ["b.M4V", "c.mpg", "d.ts", "e.wmv", "f.mpeg"]
    for name in (*taken, "h.mp4.part", ".hidden.mp4", "notes.txt", "a.mp4.csv", "a.mp4.json", ".lock"):
        (folder / "videos" / name).write_text(name)
    videos, others = find_videos(folder / "videos")
    assert {str(file.relative_to(folder / "videos")) for file in videos} == {
        "a.mp4", "show/a.mp4", "show/b.avi", "z.mp4", *taken,
    }  # fmt: skip
    assert [file.name for file in others] == [".hidden.mp4", "h.mp4.part", "linked", "notes.txt"]


class Finder:
    """A detector with a file, or of a name alone."""

    def __init__(self, model: Path | None) -> None:
        self.model = model

    def __call__(self, frame: Any) -> None:
        raise AssertionError("looked")


class OtherFinder(Finder):
    pass


def test_another_detector_is_another_teacher(folder):
    """Of another name, or with another file of the same name; not with the same file elsewhere."""
    files = [folder / "a.onnx", folder / "b.onnx", folder / "c.onnx"]
    for file, text in zip(files, "aba", strict=True):
        file.write_text(text)
    one, two, same = (Finder(file) for file in files)

    def label(faces: Any) -> list[Any]:
        teacher: Any = Quick()
        return list(label_folder(teacher, folder / "videos", folder / "labels", faces))

    label(one)
    for other in (two, Finder(None), OtherFinder(files[0]), "frame", (1, 2, 3, 4)):
        with pytest.raises(DataError, match=r"must be of one teacher, got (faces|detector_sha256) "):
            label(other)
    assert all(text == "labelled already" for _, text in label(same))


def test_a_name_of_a_detector_is_the_detector_that_it_means(folder, monkeypatch):
    """The best one that is installed, which is another one where something else is."""
    finder = Finder(None)
    monkeypatch.setattr(teaching, "make_detector", lambda name: finder)
    teacher: Any = Quick()
    list(label_folder(teacher, folder / "videos", folder / "labels", "auto"))
    note = json.loads((folder / "labels/teacher.json").read_text())
    assert (note["faces"], note["detector_sha256"]) == ("Finder", None)


def labelled_by(folder: Path, name: str) -> dict[str, bytes]:
    assert not failures(folder, Quick(name))
    return tree(folder / "labels")


def as_an_earlier_version(labels: Path) -> None:
    """Take out of the notes what was not in them then."""
    for note in labels.rglob("*.mp4.json"):
        facts = json.loads(note.read_text())
        del facts["teacher_sha256"]
        note.write_text(f"{json.dumps(facts, indent=2)}\n")


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("kept", ["a.mp4", "show/a.mp4", "all"])
@pytest.mark.parametrize("moved", [False, True], ids=["the same videos", "other videos"])
def test_labels_are_not_taken_for_those_of_another_teacher_where_nothing_says_whose_they_are(
    folder, earlier, kept, moved
):
    """After `teacher.json` was deleted, or some of the labels were copied without it."""
    labelled_by(folder, "a")
    labels = folder / "labels"
    if earlier:
        as_an_earlier_version(labels)
    (labels / "teacher.json").unlink()
    for table in [file for file in labels.rglob("*.csv") if kept not in ("all", f"{file.relative_to(labels)}"[:-4])]:
        table.unlink()
    if moved:
        for name in ("a.mp4", "show"):
            (folder / "videos" / name).rename(folder / "videos" / f"other {name}")
    before = tree(labels)
    with pytest.raises(DataError, match=r"teacher\.json: is missing, and nothing says that .*\.csv is of this teacher"):
        failures(folder, Quick("b"))
    assert tree(labels) == before


@pytest.mark.parametrize("change", ["none", "video"])
def test_a_table_that_another_teacher_wrote_is_neither_taken_nor_replaced(folder, change):
    """Copied with its note into a folder of labels of this one; also if the video is another one by now."""
    labelled_by(folder, "a")
    shutil.move(folder / "labels/a.mp4.csv", folder / "a.csv")
    shutil.move(folder / "labels/a.mp4.json", folder / "a.json")
    shutil.rmtree(folder / "labels")
    labelled_by(folder, "b")
    for end in ("csv", "json"):
        shutil.copy(folder / f"a.{end}", folder / f"labels/a.mp4.{end}")
    if change == "video":
        (folder / "videos/a.mp4").write_text("another")
    before = tree(folder / "labels")
    (error,) = failures(folder, Quick("b"))
    assert f"{folder / 'labels/a.mp4.csv'}: is of another teacher than " in str(error)
    assert tree(folder / "labels") == before


def test_the_note_on_a_teacher_that_all_tables_name_is_written_again(folder):
    before = labelled_by(folder, "a")
    (folder / "labels/teacher.json").unlink()
    (folder / "labels/numbers.csv").write_text("mine")
    (folder / "labels/numbers.json").write_text("[]")
    teacher = Quick("a")
    assert not failures(folder, teacher)
    assert not teacher.seen
    mine = {"numbers.csv": b"mine", "numbers.json": b"[]"}
    assert tree(folder / "labels") == {**before, **mine}


def test_labels_of_an_earlier_version_beside_their_note_stay_as_they_are(folder):
    labelled_by(folder, "a")
    as_an_earlier_version(folder / "labels")
    before, teacher = tree(folder / "labels"), Quick("a")
    assert not failures(folder, teacher)
    assert not teacher.seen
    assert tree(folder / "labels") == before


def test_a_folder_with_a_note_of_somebody_else_gets_no_lock(folder):
    (folder / "labels").mkdir()
    (folder / "labels/teacher.json").write_text("{}")
    with pytest.raises(DataError, match="no note on labels"):
        failures(folder)
    assert tree(folder / "labels") == {"teacher.json": b"{}"}
