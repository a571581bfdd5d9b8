"""The command from video to explanations."""

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hocp_mm.errors import HOCPError
from tests.material.tiny_configs import (
    noise,
    portrait,
    read_video,
    tiny_config,
    tiny_network,
    write_checkpoint,
    write_video,
)


@pytest.fixture(scope="module")
def command() -> ModuleType:
    return import_module("hocp_mm.commands.explain")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, cfg = tmp_path_factory.mktemp("explain"), tiny_config(size=64)
    image = tiny_config(clip_len=1, stride=1)
    image.model.backbone.temporal_kernel = 1
    (folder / "other").mkdir()
    return {
        "face": write_video(folder / "face.mp4", [portrait((-70 + i, -32), 0.9) for i in range(20)]),
        "other": write_video(folder / "other" / "face.mp4", noise(8, (320, 240))),
        "checkpoint": write_checkpoint(folder / "tiny.pth", cfg, tiny_network(cfg)),
        "image": write_checkpoint(folder / "image.pth", image, tiny_network(image)),
    }


def explain(command: ModuleType, video: Path, checkpoint: Path, out: Path, *words: str) -> None:
    command.main([str(video), "--checkpoint", str(checkpoint), "--out", str(out), "--device", "cpu", *words])


def test_all_files_and_what_is_said_of_them(command: ModuleType, files: dict, tmp_path: Path, capsys: Any):
    explain(command, files["face"], files["checkpoint"], tmp_path, "--faces", "centerface", "--stride", "4")
    note = json.loads((tmp_path / "face_explain.json").read_text())
    assert note["complete"]
    assert note["frames"] == note["frames_with_face"] == 20
    assert note["stride"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*note["files"], "face_explain.json"])
    out = capsys.readouterr().out
    assert "20 of 20 frames with a face, maps of backbone" in out
    assert "receptive field: 19 frames, 0.76 s: 9 before and 9 after; windows hold 8" in out
    frames, rate, _ = read_video(tmp_path / "face_explain_cam.mp4")
    assert (len(frames), rate, frames[0].shape) == (20, 25, (240, 640, 3))
    source, _, _ = read_video(files["face"])
    plain = np.abs(frames[9][:, :320].astype(int) - source[9]).max(-1)
    assert np.median(plain[90:, 200:]) < 8  # beside the face nothing is drawn, within what the encoder costs
    assert np.median(plain[60:110, 130:200]) > 8


def test_an_image_network_says_that_it_sees_one_frame(command: ModuleType, files: dict, tmp_path: Path, capsys: Any):
    explain(command, files["face"], files["image"], tmp_path, "--faces", "frame", "--no-video")
    out = capsys.readouterr().out
    assert "the network sees one frame at a time" in out
    assert "no layer of this network sees time" in out
    note = json.loads((tmp_path / "face_explain.json").read_text())
    assert note["moved_by_frames"] == []
    assert note["receptive_field"]["by_kernels"]["frames"] == note["receptive_field"]["by_gradients"]["frames"] == 1
    assert not (tmp_path / "face_explain_cam.mp4").exists()
    assert len((tmp_path / "face_explain_taps.csv").read_text().splitlines()) == 1


def test_files_of_another_video_stay(command: ModuleType, files: dict, tmp_path: Path):
    words = files["image"], tmp_path, "--faces", "frame", "--no-video"
    explain(command, files["face"], *words)
    explain(command, files["face"], *words)  # its own
    with pytest.raises(HOCPError, match=r"is there already, of .*face\.mp4; name another --out, or give --overwrite"):
        explain(command, files["other"], *words)
    explain(command, files["other"], *words, "--overwrite")
    assert json.loads((tmp_path / "face_explain.json").read_text())["video"] == str(files["other"])
    link = tmp_path / "link"
    link.mkdir()
    (link / "face_explain_cam.png").symlink_to(tmp_path / "face_explain_cam.png")
    with pytest.raises(HOCPError, match="is a link"):
        explain(command, files["face"], files["image"], link)


WRONG = {
    "a stride beyond the window": (["--stride", "9"], "--stride: must not exceed the clip length 8, got 9"),
    "a layer that is not there": (["--layer", "nowhere"], "--layer: must match a layer that gives a feature map"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_words_are_refused_before_the_work(case: str, command: ModuleType, files: dict, tmp_path: Path):
    words, text = WRONG[case]
    with pytest.raises(HOCPError, match=text):
        explain(command, files["face"], files["checkpoint"], tmp_path / "out", *words)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("words", [["--frame", "-1"], ["--at", "x"], ["--person", "all"], ["--box", "1,2"]])
def test_words_that_are_no_numbers(words: list[str], command: ModuleType, capsys: Any):
    with pytest.raises(SystemExit):
        command.make_parser().parse_args(["v.mp4", "--checkpoint", "c", "--out", "o", *words])
    assert "must be" in capsys.readouterr().err
