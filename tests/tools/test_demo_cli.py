"""The command from video to timeline."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hocp_mm.apis import AffectInferencer
from hocp_mm.structures import AffectTimeline
from hocp_mm.system.cli import run
from tests.material.processes import ROOT
from tests.material.readings import count_readings
from tests.material.tiny_configs import (
    noise,
    portrait,
    read_video,
    tiny_config,
    tiny_network,
    write_checkpoint,
    write_video,
)
from tests.material.tools import load_tool

FILE = ROOT / "tools" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return load_tool("demo")


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


@pytest.mark.parametrize("option", [["--box", "1,2,3"], ["--box", "a,b,c,d"], ["--stride", "0"], ["--faces", "dlib"]])
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
