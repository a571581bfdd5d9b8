"""The command from video to timeline."""

import errno
import json
import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hocp_mm.apis import AffectInferencer
from hocp_mm.datasets import probe_video, video_times
from hocp_mm.errors import HOCPError, MissingDataError, NoFaceError, OutputError, SomeFailedError
from hocp_mm.structures import AffectTimeline
from hocp_mm.system.cli import run
from hocp_mm.visualization import OverlayWriter
from tests.material import odd_videos
from tests.material.processes import ROOT
from tests.material.readings import count_readings
from tests.material.tiny_configs import (
    noise,
    portrait,
    portrait_box,
    read_video,
    tiny_config,
    tiny_network,
    write_checkpoint,
    write_video,
)

FILE = ROOT / "tools" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return import_module("hocp_mm.commands.demo")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("demo")
    cfg = tiny_config()
    return {
        "face": write_video(folder / "face.mp4", [portrait((-70 + i, -32), 0.9) for i in range(20)]),
        "empty": write_video(folder / "empty.mp4", noise(6, (320, 240))),
        "checkpoint": write_checkpoint(folder / "tiny.pth", cfg, tiny_network(cfg)),
        "folder": folder,
    }


def test_three_files_and_their_paths(demo: ModuleType, files: dict, tmp_path: Path, capsys: pytest.CaptureFixture):
    for name, value in (("Valence", 0.37), ("Arousal", -0.5)):
        rows = [f"frame,{name.lower()}", *(f"{i},{value + i / 100:.2f}" for i in range(20))]
        (tmp_path / f"face_{name}_AV_Aligned.csv").write_text("\n".join(rows))
    out = tmp_path / "new" / "out"
    argv = [str(files["face"]), "--checkpoint", str(files["checkpoint"]), "--out", str(out), "--device", "cpu"]
    demo.main([*argv, "--labels", str(tmp_path)])
    paths = [out / "face.csv", out / "face_timeline.png", out / "face_overlay.mp4"]
    assert capsys.readouterr().out.splitlines()[-3:] == [str(path) for path in paths]
    timeline = AffectTimeline.from_csv(paths[0])
    assert timeline.frames.tolist() == list(range(20))
    assert timeline.face_found.all()
    np.testing.assert_array_equal(timeline.target[0], np.float32([0.37, -0.5]))
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    frames, rate, _ = read_video(paths[2])
    assert (len(frames), rate) == (20, 25)


def test_given_box_and_no_video(demo: ModuleType, files: dict, tmp_path: Path):
    argv = [str(files["empty"]), "--checkpoint", str(files["checkpoint"]), "--out", str(tmp_path / "out")]
    demo.main([*argv, "--box", "100,80,60.5,60", "--no-video", "--stride", "2", "--flip", "--device", "cpu"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "empty.csv",
        "empty.json",
        "empty_timeline.png",
    ]


def run_demo(demo: ModuleType, files: dict, out: Path, *argv: str) -> None:
    demo.main([*argv, "--checkpoint", str(files["checkpoint"]), "--out", str(out), "--device", "cpu"])


def test_uneven_times_are_those_of_the_file(demo: ModuleType, files: dict, tmp_path: Path):
    """As a browser records: 30, then 10 frames a second; table and overlay last as long as the film."""
    times = [round(1000 * n / 30) for n in range(15)] + [500 + 100 * n for n in range(15)]
    video = odd_videos.write_video(tmp_path / "chat.webm", "libvpx", 30, milliseconds=times)
    run_demo(demo, files, tmp_path / "out", str(video), "--faces", "frame")
    timeline = AffectTimeline.from_csv(tmp_path / "out" / "chat.csv")
    np.testing.assert_allclose(timeline.time_s, np.array(times) / 1000, atol=2e-3)
    assert timeline.seen.all()
    info = probe_video(tmp_path / "out" / "chat_overlay.mp4")
    np.testing.assert_allclose(video_times(tmp_path / "out" / "chat_overlay.mp4", info), timeline.time_s, atol=2e-3)


def two_people(number: int) -> np.ndarray:
    """Return a picture of one person, beside whom a smaller one comes in from the right."""
    picture = portrait((-60, -20), 0.8, (640, 240))
    picture[:, 360:] = portrait((max(-40, 280 - 16 * number), 20), 0.6, (280, 240))
    return picture


def test_everybody_is_in_one_table_or_whoever_is_largest(demo: ModuleType, files: dict, tmp_path: Path, capsys):
    video = write_video(tmp_path / "two.mp4", [two_people(number) for number in range(40)])
    run_demo(demo, files, tmp_path / "all", str(video), "--person", "all", "--faces", "centerface")
    header, *rows = (tmp_path / "all" / "two.csv").read_text().splitlines()
    assert header.startswith("frame,time_s,person,valence,arousal,face_found,face_confidence,x1,y1,x2,y2,")
    people = {number: [int(row.split(",")[0]) for row in rows if row.split(",")[2] == number] for number in "12"}
    entry = people["2"][0]
    assert 5 <= entry <= 25
    assert people == {"1": list(range(40)), "2": list(range(entry, 40))}
    plots = sorted(path.name for path in (tmp_path / "all").glob("*.png"))
    assert plots == ["two_timeline_1.png", "two_timeline_2.png"]
    assert "40 of 40 frames (100 %) with a face, 2 people, 0 cuts" in capsys.readouterr().out
    run_demo(demo, files, tmp_path / "one", str(video), "--faces", "centerface")
    timeline = AffectTimeline.from_csv(tmp_path / "one" / "two.csv")
    assert timeline.person.tolist() == [1] * 40
    assert f"not watched: person 2 ({40 - entry} frames)" in capsys.readouterr().out
    x1, y1, x2, y2 = portrait_box((-40, 20), 0.6)
    point = f"{360 + (x1 + x2) / 2:.1f},{(y1 + y2) / 2:.1f}"
    run_demo(demo, files, tmp_path / "point", str(video), "--faces", "centerface", "--person", point)
    timeline = AffectTimeline.from_csv(tmp_path / "point" / "two.csv")
    arrived = int(np.flatnonzero(timeline.person)[0])
    assert arrived >= entry
    assert timeline.person.tolist() == [0] * arrived + [2] * (40 - arrived)
    assert timeline.seen.tolist() == (timeline.person > 0).tolist()


def test_where_nobody_is_seen_there_is_no_number(demo: ModuleType, files: dict, tmp_path: Path, capsys):
    frames = [portrait((-50, -20)) if n < 20 else np.full((240, 320, 3), 90, np.uint8) for n in range(60)]
    video = write_video(tmp_path / "gone.mp4", frames)
    run_demo(demo, files, tmp_path / "out", str(video), "--faces", "centerface")
    timeline = AffectTimeline.from_csv(tmp_path / "out" / "gone.csv")
    assert timeline.seen.tolist() == [n < 20 for n in range(60)]
    out = capsys.readouterr().out
    assert "20 of 60 frames (33 %) with a face, 1 person, 1 cut" in out
    assert "warning: " in out
    with pytest.raises(NoFaceError, match=r"at least 50 % of the frames \(--min-faces\), got 20 of 60 frames"):
        run_demo(demo, files, tmp_path / "new", str(video), "--faces", "centerface", "--min-faces", "50")
    assert list((tmp_path / "new").iterdir()) == []  # no half of it


def test_several_videos_and_what_another_one_left(demo: ModuleType, files: dict, tmp_path: Path):
    (tmp_path / "other").mkdir()
    videos = [write_video(tmp_path / name, noise(9, (64, 48), seed)) for seed, name in enumerate(("a.mp4", "b.avi"))]
    out, options = tmp_path / "out", ("--faces", "frame", "--no-video")
    run_demo(demo, files, out, *map(str, videos), *options)
    assert sorted(path.name for path in out.iterdir()) == [
        *("a.csv", "a.json", "a_timeline.png", "b.csv", "b.json", "b_timeline.png"),
    ]
    before = (out / "a.csv").read_bytes()
    run_demo(demo, files, out, str(videos[0]), *options)  # the same video again: nothing is lost
    other = write_video(tmp_path / "other" / "a.mp4", noise(9, (64, 48), 7))
    with pytest.raises(HOCPError, match=r"a\.csv: is there already, of .*/a\.mp4; name another --out, or give --overw"):
        run_demo(demo, files, out, str(other), *options)
    assert (out / "a.csv").read_bytes() == before
    (out / "b.json").unlink()
    with pytest.raises(HOCPError, match=r"b\.csv: is there already, of an unknown video"):
        run_demo(demo, files, out, str(videos[1]), *options)
    (out / "a_overlay.mp4").write_bytes(b"of the other one")
    run_demo(demo, files, out, str(other), *options, "--overwrite")
    assert (out / "a.csv").read_bytes() != before
    assert not (out / "a_overlay.mp4").exists()
    with pytest.raises(HOCPError, match="two videos of one name would be written to one place"):
        run_demo(demo, files, out, str(videos[0]), str(other), *options)


@pytest.mark.parametrize(
    "end", [".csv", ".json", "_timeline.png", "_overlay.mp4", "_timeline_1.png", "_timeline_12.png"]
)
def test_no_file_of_somebody_else_is_taken_for_one_of_ours(demo: ModuleType, tmp_path: Path, end: str):
    """Nor written through where it is a link; a note that is too large is none of ours."""
    video, out = tmp_path / "a[1].mp4", tmp_path / "out"
    out.mkdir()
    for name in ("a1_timeline_1.png", "a[1]_timeline_x.png", "a[1]_timeline_1_timeline.png", "a[1].txt"):
        (out / name).write_text("of others, and in nobody's way")
    demo.check_names([video], out, False)
    (out / f"a[1]{end}").write_text("{}")
    with pytest.raises(HOCPError, match=r"is there already, of an unknown video"):
        demo.check_names([video], out, False)
    demo.check_names([video], out, True)
    (out / "a[1].json").write_text(json.dumps({"video": str(video)}))
    demo.check_names([video], out, False)
    (out / "a[1].json").write_text(json.dumps({"video": str(video), "more": [[]] * 300_000}))
    with pytest.raises(HOCPError, match=r"the note on a video must have at most 1048576 bytes"):
        demo.check_names([video], out, False)
    (out / f"a[1]{end}").unlink()
    (out / f"a[1]{end}").symlink_to(tmp_path / "mine")
    with pytest.raises(HOCPError, match="is a link"):
        demo.check_names([video], out, True)


def test_nothing_is_written_through_a_link(demo: ModuleType, files: dict, tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", noise(9, (64, 48), 0))
    (tmp_path / "mine.csv").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.csv").symlink_to(tmp_path / "mine.csv")
    with pytest.raises(HOCPError, match=r"out/a\.csv: is a link"):
        run_demo(demo, files, tmp_path / "out", str(video), "--faces", "frame", "--no-video", "--overwrite")
    assert (tmp_path / "mine.csv").read_text() == "precious"


def test_one_video_that_fails_does_not_keep_the_others(demo: ModuleType, files: dict, tmp_path: Path, capsys):
    shown = {"a": portrait((-50, -20)), "b": np.full((240, 320, 3), 90, np.uint8), "c": portrait((-50, -20))}
    videos = [str(write_video(tmp_path / f"{name}.mp4", [picture] * 6)) for name, picture in shown.items()]
    with pytest.raises(SomeFailedError, match=r"VIDEO: 1 of 3 failed \(see above\), the first one: .*b\.mp4: a face m"):
        run_demo(demo, files, tmp_path / "out", *videos, "--faces", "centerface", "--no-video")
    assert {path.name for path in (tmp_path / "out").glob("*.csv")} == {"a.csv", "c.csv"}
    out = capsys.readouterr().out
    assert "failed: " in out
    table = [line.split() for line in out[out.index("with face") :].splitlines()[1:4]]
    assert [row[1] for row in table] == ["6", "failed", "6"]
    assert table[0][2:6] == ["0.2", "100", "%", "1"]


def test_what_cannot_be_opened_is_named_first_and_costs_no_other(
    demo: ModuleType, files: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The code says so: 1 where others are done, 2 where none is."""
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    words = ["--checkpoint", str(files["checkpoint"]), "--out", str(tmp_path / "out"), "--device", "cpu", "--no-video"]
    words += ["--faces", "frame"]
    good = write_video(tmp_path / "good.mp4", noise(6, (64, 48)))
    with pytest.raises(SystemExit) as caught:
        run(lambda: demo.main([str(tmp_path / "bad.mp4"), str(good), *words]))
    assert caught.value.code == 1
    assert (tmp_path / "out" / "good.csv").is_file()
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: VIDEO: 1 of 2 failed (see above)")
    with pytest.raises(SystemExit) as caught:
        run(lambda: demo.main([str(tmp_path / "bad.mp4"), str(tmp_path / "none.mp4"), *words]))
    assert caught.value.code == 2


def test_a_folder_keeps_its_shape_and_what_was_made_of_it_is_no_input(
    demo: ModuleType, files: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "deep").mkdir()
    for name in ("a.mp4", "deep/a.mp4"):
        write_video(tmp_path / name, noise(6, (64, 48)))
    Image.fromarray(noise(1, (64, 48))[0]).save(tmp_path / "me.png")
    for _ in range(2):  # the second time there are films and plots of the first
        run_demo(demo, files, tmp_path, str(tmp_path), "--faces", "frame", "--tables", "csv", "json")
        printed = capsys.readouterr()
        assert printed.err.count("reading affect: 13/13 frames") == 1  # one bar, for all
        assert [line.split()[1:4:2] for line in printed.out.splitlines()[-5:-2]] == [
            ["6", "100"],
            ["6", "100"],
            ["1", "100"],
        ]
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*_timeline.json")}
    assert made == {"a_timeline.json", "deep/a_timeline.json", "me_timeline.json"}
    rows = json.loads((tmp_path / "deep" / "a_timeline.json").read_text())["frames"]
    timeline = AffectTimeline.from_csv(tmp_path / "deep" / "a.csv")
    assert [np.float32(row["valence"]) for row in rows] == timeline.pred[:, 0].tolist()


def test_ctrl_c_leaves_the_files_of_what_was_done(demo: ModuleType, files: dict, tmp_path: Path, monkeypatch, capsys):
    """Of the finished video whole ones, of the one at hand those of its frames so far, of the next none."""
    videos = [str(write_video(tmp_path / f"{name}.mp4", noise(40, (64, 48)))) for name in "abc"]
    write, written = OverlayWriter.write, []

    def stop(self, *arguments):
        written.append(1)
        if len(written) == 60:
            raise KeyboardInterrupt
        write(self, *arguments)

    monkeypatch.setattr(OverlayWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        run_demo(demo, files, tmp_path / "out", *videos, "--faces", "frame")
    lengths = {name: len(AffectTimeline.from_csv(tmp_path / "out" / f"{name}.csv")) for name in "ab"}
    assert lengths == {"a": 40, "b": 20}
    assert [len(read_video(tmp_path / "out" / f"{name}_overlay.mp4")[0]) for name in "ab"] == [40, 19]
    notes = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text())["complete"] for name in "ab"}
    assert notes == {"a": True, "b": False}
    assert len(list((tmp_path / "out").iterdir())) == 8
    assert "a.mp4" in capsys.readouterr().out
    monkeypatch.undo()
    run_demo(demo, files, tmp_path / "out", videos[1], "--faces", "frame")  # the same video: it may be replaced
    assert len(AffectTimeline.from_csv(tmp_path / "out" / "b.csv")) == 40


def test_a_full_disk_leaves_the_tables_of_what_was_done(demo: ModuleType, files: dict, tmp_path: Path, monkeypatch):
    """The film finds no place, the numbers do; no other video is begun, as it would find none either."""
    videos = [str(write_video(tmp_path / f"{name}.mp4", noise(40, (64, 48)))) for name in "ab"]
    write, written = OverlayWriter.write, []

    def fill(self, *arguments):
        written.append(1)
        if len(written) == 30:
            raise OSError(errno.ENOSPC, "No space left on device", str(self._path))
        write(self, *arguments)

    monkeypatch.setattr(OverlayWriter, "write", fill)
    with pytest.raises(OutputError, match=r"a_overlay\.mp4: cannot be written \(No space left on device\)"):
        run_demo(demo, files, tmp_path / "out", *videos, "--faces", "frame")
    assert len(AffectTimeline.from_csv(tmp_path / "out" / "a.csv")) == 30
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.csv", "a.json", "a_timeline.png"]


def test_a_kind_of_table_that_cannot_be_written_is_refused_before_the_work(
    demo: ModuleType, monkeypatch, tmp_path: Path
):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    words = ["v.mp4", "--checkpoint", "c.pth", "--out", str(tmp_path), "--tables", "csv", "parquet"]
    with pytest.raises(MissingDataError, match="--tables: parquet needs pyarrow"):
        demo.main(words)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_is_a_clip_of_one_frame(demo: ModuleType, files: dict, tmp_path: Path, suffix: str):
    Image.fromarray(portrait((-50, -20))).save(tmp_path / f"me{suffix}")
    run_demo(demo, files, tmp_path / "out", str(tmp_path / f"me{suffix}"), "--faces", "centerface")
    timeline = AffectTimeline.from_csv(tmp_path / "out" / "me.csv", fps=25)
    assert timeline.seen.tolist() == [True]


MISTAKES = {
    "a missing video": ({"video": "missing.mp4"}, [], "missing.mp4: no such video"),
    "not a video": ({"video": "tiny.pth"}, [], "tiny.pth: not a readable video"),
    "a truncated video": ({"video": "cut.mp4"}, [], "cut.mp4"),
    "no face": ({"video": "empty.mp4"}, [], "--box x,y,w,h"),
    "a missing checkpoint": ({"checkpoint": "nothing.pth"}, [], "nothing.pth"),
    "not a checkpoint": ({"checkpoint": "face.mp4"}, [], "face.mp4: suffix must be"),
    "a box outside": ({}, ["--box", "900,0,10,10"], "the box must have a size and lie in the picture"),
    "missing landmarks": ({}, ["--landmarks", "none.zip"], "none.zip: no such landmarks"),
    "missing labels": ({}, ["--labels", "nowhere"], "nowhere"),
    "a detector without its file": ({}, ["--faces", "yunet"], "yunet: the onnx file must be given"),
    "a file that is no detector": ({}, ["--faces", "yunet", "--detector-model", __file__], "must be a YuNet onnx file"),
    "a file for no detector": (
        {},
        ["--faces", "frame", "--detector-model", "a.onnx"],
        "a.onnx is the file of a detector",
    ),
    "too long a stride": ({}, ["--stride", "9"], "--stride: must not exceed the clip length 8, got 9"),
    "a missing config": ({}, ["--config", "none.py"], "none.py"),
    "an unknown device": ({}, ["--device", "abacus"], "'abacus'"),
    "a file as folder": ({"out": "tiny.pth"}, [], "--out: must be a folder"),
}


@pytest.mark.parametrize(("change", "options", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_end_in_one_line(demo: ModuleType, files: dict, capsys, change: dict, options: list, message: str):
    names = {"video": "face.mp4", "checkpoint": "tiny.pth", "out": "out", **change}
    video, checkpoint, out = (str(files["folder"] / names[key]) for key in ("video", "checkpoint", "out"))
    if names["video"] == "cut.mp4":
        Path(video).write_bytes(files["face"].read_bytes()[:-900])
    with pytest.raises(SystemExit) as caught:
        run(lambda: demo.main([video, "--checkpoint", checkpoint, "--out", out, *options]))
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert message in lines[-1]
    assert lines[-1].startswith("error: ")
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    "option",
    [
        ["--box", "1,2,3"],
        ["--box", "a,b,c,d"],
        ["--box", "1,2,nan,3"],
        ["--stride", "0"],
        ["--faces", "dlib"],
        ["--person", "smallest"],
        ["--person", "0"],
        ["--person", "1,2,3"],
        ["--min-faces", "101"],
        ["--min-faces", "some"],
    ],
)
def test_wrong_options_are_refused_by_the_parser(demo: ModuleType, option: list, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as caught:
        demo.parse_args(["v.mp4", "--checkpoint", "c.pth", "--out", "o", *option])
    assert caught.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_faces_box_and_landmarks_exclude_each_other(demo: ModuleType, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        demo.parse_args(["v.mp4", "--checkpoint", "c", "--out", "o", "--box", "1,2,3,4", "--faces", "frame"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("config", [False, True])
def test_the_checkpoint_is_read_once(config: bool, files: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For its config and for its weights."""
    tiny_config().dump(tmp_path / "tiny.py")
    read = count_readings(monkeypatch)
    AffectInferencer(files["checkpoint"], tmp_path / "tiny.py" if config else None, "cpu")
    assert read == ["tiny.pth"]


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a_timeline.png", "a_overlay.mp4"])
def test_a_file_that_is_not_ours_is_not_replaced(demo: ModuleType, files: dict, tmp_path: Path, name: str):
    """Beside a video lie others of its name: what was downloaded with it, labels, a film that somebody cut."""
    video = write_video(tmp_path / "a.mp4", noise(4, (64, 48)))
    (tmp_path / name).write_text("[1]")
    with pytest.raises(HOCPError, match=rf"{name}: is there already, of an unknown video; name another --out"):
        run_demo(demo, files, tmp_path, str(video), "--faces", "frame")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"a.mp4", name})
    assert (tmp_path / name).read_text() == "[1]"


def test_a_video_that_is_still_to_be_read_is_not_replaced(demo: ModuleType, files: dict, tmp_path: Path):
    videos = [write_video(tmp_path / name, noise(4, (64, 48))) for name in ("a.mp4", "a_overlay.mp4")]
    before = videos[1].read_bytes()
    with pytest.raises(HOCPError, match=r"a_overlay\.mp4: is read and would be written, too; name another --out"):
        run_demo(demo, files, tmp_path, *map(str, videos), "--faces", "frame", "--overwrite")
    assert videos[1].read_bytes() == before


def test_a_call_that_was_ended_is_no_other_video(demo: ModuleType, files: dict, tmp_path: Path, monkeypatch):
    """And a name need not be UTF-8 to be known again."""
    video = write_video(tmp_path / "a.mp4", noise(4, (64, 48))).rename(tmp_path / os.fsdecode(b"\xe4 \xff.mp4"))
    with monkeypatch.context() as patch:
        patch.setattr(AffectTimeline, "to_csv", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_demo(demo, files, tmp_path / "out", str(video), "--faces", "frame")
    run_demo(demo, files, tmp_path / "out", str(video), "--faces", "frame")
    run_demo(demo, files, tmp_path / "out", str(video), "--faces", "frame", "--no-video")
    assert len(list((tmp_path / "out").iterdir())) == 4
