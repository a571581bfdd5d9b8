"""The command that draws what the network is shown."""

import functools
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from hocp_mm.data_check.browsing import browse_clips, build_browsed
from hocp_mm.system.cli import run
from tests.material.data_configs import dataset_config, loaders
from tests.material.processes import ROOT
from tests.material.sewa_files import KEYS, write_sewa

FILE = ROOT / "tools" / "browse_dataset.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return import_module("hocp_mm.commands.browse")


@pytest.fixture
def config(tmp_path) -> Path:
    root = write_sewa(tmp_path / "SEWA", num_frames=12)
    path = tmp_path / "config.py"
    loaders(train=dataset_config("SEWADataset", root, clip_len=6, size=130)).dump(path)
    return path


def contains(picture: np.ndarray, part: np.ndarray) -> bool:
    """Look for a block of pixels anywhere in a picture."""
    height, width = part.shape[:2]
    starts = np.argwhere((picture[: 1 - height, : 1 - width] == part[0, 0]).all(axis=2))
    return any(np.array_equal(picture[y : y + height, x : x + width], part) for y, x in starts.tolist())


def test_every_frame_that_the_pipeline_gives_is_found_on_the_sheet(tool, config, tmp_path, capsys):
    from hocp_mm.launch import load_config

    out = tmp_path / "new" / "sheet.png"
    options = ["--clips", "2", "--frames", "3", "--seed", "5", "--out", str(out)]
    tool.main([str(config), *options])
    assert capsys.readouterr().out == f"2 clips written to {out}\n"
    picture = np.array(Image.open(out))
    clips = browse_clips(build_browsed(load_config(config), "train").dataset, 2, 3, 5)
    assert len(clips) == 2
    for frame in (frame for clip in clips for frame in clip.frames):
        assert contains(picture, frame)
    assert not contains(picture, 255 - clips[0].frames[0])


def test_left_out_faults_are_counted(tool, config, tmp_path, capsys):
    (tmp_path / "SEWA" / KEYS[0] / f"{KEYS[0]}.avi").write_bytes(b"no video")
    tool.main([str(config), "--out", str(tmp_path / "sheet.png")])
    assert capsys.readouterr().out.startswith("1 fault is left out; tools/check_data.py")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--out", "sheet.pdf"], "must end in .png, .jpg or .webp, got sheet.pdf"),
        (["--clips", "0"], "argument --clips: must be at least 1, got 0"),
        (["--split", "test"], "error: check: the config must have one of test_dataloader."),
    ],
)
def test_wrong_usage_ends_with_two(tool, config, options, text, capsys):
    with pytest.raises(SystemExit) as end:
        run(functools.partial(tool.main, [str(config), *options]))
    assert end.value.code == 2
    assert text in capsys.readouterr().err
