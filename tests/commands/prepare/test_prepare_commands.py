"""The commands that prepare stores: what a store gives is what the raw folder gives, number for number, bit for bit."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hocp_mm.datasets import (
    AFEWVADataset,
    AffectDataset,
    AffectNetDataset,
    AffWild2Dataset,
    FaceCropDataset,
    SEWADataset,
)
from hocp_mm.datasets.faces.cascades import CascadeDetector
from hocp_mm.datasets.faces.detection import make_detector
from hocp_mm.datasets.splits import make_folds, write_fold_files
from hocp_mm.datasets.store import CropSettings, command, read_header, read_index
from hocp_mm.datasets.transforms.loading import LoadFaceClip
from hocp_mm.errors import DataError, HOCPError, MissingDataError
from hocp_mm.synthetic import (
    SyntheticAfewVaSpec,
    SyntheticAffectNetSpec,
    SyntheticAffWild2Spec,
    write_synthetic_afew_va,
    write_synthetic_affectnet,
    write_synthetic_affwild2,
    write_synthetic_sewa,
)
from hocp_mm.system.cli import run
from tests.material.processes import ROOT

TOOLS = ROOT / "tools/prepare"
SIZE = 40
CROPS = ("cropped_aligned", "cropped_aligned_new_50_vids")


def load(name: str) -> Callable[[list[str]], None]:
    return import_module(f"hocp_mm.commands.prepare.{name}").main


class Layout(NamedTuple):
    """How one layout is written, prepared and read.

    Attributes:
        tool: Command that prepares it.
        options: Its options.
        write: Writes a tiny set.
        read: Makes the raw data set of a part.
        parts: Parts, and the fold where they are those of one.
    """

    tool: str
    options: tuple[str, ...]
    write: Callable[[Path], object]
    read: Callable[[str, str], AffectDataset]
    parts: dict[str, int | None]


def _sewa(root: str, part: str) -> AffectDataset:
    return SEWADataset(root, part, lazy_init=True)


def _afew_va(root: str, part: str) -> AffectDataset:
    return AFEWVADataset(root, part, fold=1, faces="inner", lazy_init=True)


def _affectnet(release: Any, faces: Any) -> Callable[[str, str], AffectDataset]:
    return lambda root, part: AffectNetDataset(root, part, release=release, faces=faces, lazy_init=True)


def _affwild2(root: str, part: str) -> AffectDataset:
    return AffWild2Dataset(root, part, images=CROPS, lazy_init=True)


def _write_affectnet(release: Any) -> Callable[[Path], object]:
    spec = SyntheticAffectNetSpec(release, people=(6, 2), images_per_person=2)
    return lambda root: write_synthetic_affectnet(root, spec, workers=1)


LAYOUTS = {
    "sewa": Layout(
        "sewa",
        (),
        lambda root: write_synthetic_sewa(root, subjects=(2, 2, 2), frames=6, workers=1),
        _sewa,
        dict.fromkeys(("train", "val", "test")),
    ),
    "afew_va": Layout(
        "afew_va",
        (),
        lambda root: write_synthetic_afew_va(
            root, SyntheticAfewVaSpec(actors=6, clips_per_actor=1, frames=4), workers=1
        ),
        _afew_va,
        dict.fromkeys(("train", "val", "test"), 1),
    ),
    "affectnet 2017": Layout(
        "affectnet", (), _write_affectnet("2017"), _affectnet("2017", "inner"), dict.fromkeys(("train", "val"))
    ),
    "affectnet 2021": Layout(
        "affectnet",
        ("--release", "2021"),
        _write_affectnet("2021"),
        _affectnet("2021", "frame"),
        dict.fromkeys(("train", "val")),
    ),
    "affwild2": Layout(
        "affwild2",
        ("--images", *CROPS),
        lambda root: write_synthetic_affwild2(root, SyntheticAffWild2Spec(videos=(3, 2), frames=8), workers=1),
        _affwild2,
        dict.fromkeys(("train", "val")),
    ),
}


@pytest.fixture(scope="module", params=list(LAYOUTS), ids=list(LAYOUTS))
def prepared(request, tmp_path_factory) -> tuple[Layout, Path, Path]:
    """A layout, its raw folder and its store; read only."""
    layout, folder = LAYOUTS[request.param], tmp_path_factory.mktemp("prepared")
    layout.write(folder / "raw")
    load(layout.tool)(_arguments(layout, folder))
    return layout, folder / "raw", folder / "crops"


def _arguments(layout: Layout, folder: Path) -> list[str]:
    common = ["--size", str(SIZE), "--codec", "png", "--workers", "1"]
    return [str(folder / "raw"), str(folder / "crops"), *layout.options, *common]


def test_a_store_gives_what_the_raw_folder_gives(prepared):
    layout, root, out = prepared
    for part, fold in layout.parts.items():
        expected = {record["video"]: record for record in layout.read(str(root), part).load_videos()}
        got = {record["video"]: record for record in FaceCropDataset(str(out), part, fold=fold).load_videos()}
        assert list(got) == list(expected)
        for key, record in expected.items():
            for name in ("num_frames", "fps", "subject", "expression"):
                assert got[key].get(name) == record.get(name), (key, name)
            for name in ("affect", "valid", "face_found"):
                np.testing.assert_array_equal(got[key][name], record[name], err_msg=f"{key} {name}")
            assert (got[key]["boxes"] is None) == (record["boxes"] is None)
            if record["boxes"] is not None:
                np.testing.assert_array_equal(got[key]["boxes"], record["boxes"])


def test_every_pixel_is_that_of_the_raw_folder(prepared):
    layout, root, out = prepared
    loader = LoadFaceClip(SIZE)
    for part, fold in layout.parts.items():
        raw = layout.read(str(root), part).load_videos()
        stored = FaceCropDataset(str(out), part, fold=fold).load_videos()
        for record, copy in zip(raw, stored, strict=True):
            inds = np.arange(record["num_frames"])
            pictures = [loader({**which, "frame_inds": inds})["imgs"] for which in (record, copy)]
            np.testing.assert_array_equal(*pictures, err_msg=record["video"])


def test_the_table_counts_and_names_the_next_command(prepared, capsys):
    layout, _, out = prepared
    capsys.readouterr()
    load(layout.tool)(_arguments(layout, out.parent))
    table = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line.strip())
    records, frames = (read_header(out).counts[name] for name in ("records", "frames"))
    packs = len(list(out.glob("packs/*.avi")))
    assert table["records"] == str(records)
    assert table["frames"].startswith(f"{frames},")
    assert table["packs"] == f"0 made, {packs} found ready"
    assert table["skipped"] == "nothing"
    config = table["train"].split()[2]
    assert (TOOLS.parents[1] / config).is_file()
    assert table["train"].endswith(f"--cfg-options store={out}")


def test_crops_are_those_of_the_options(tmp_path):
    write_synthetic_sewa(tmp_path / "raw", subjects=(2, 0, 0), frames=2, workers=1)
    options = ["--margin", "1.2", "--smooth", "5", "--quality", "80", "--size", "24", "--workers", "1"]
    load("sewa")([str(tmp_path / "raw"), str(tmp_path / "crops"), *options])
    wanted = CropSettings(size=24, margin=1.2, smooth=5, codec="jpeg", quality=80)
    assert read_header(tmp_path / "crops").crop == wanted


def test_a_raw_folder_without_splits_names_the_tool(tmp_path):
    for tool, place in (("sewa", "splits"), ("afew_va", "folds")):
        with pytest.raises(MissingDataError, match=rf"{place}: must hold .* `python tools/prepare/split_{tool}\.py"):
            load(tool)([str(tmp_path), str(tmp_path / "crops")])
        with pytest.raises(MissingDataError, match="none: no such folder"):
            load(tool)([str(tmp_path / "none"), str(tmp_path / "crops")])
    for tool in ("affectnet", "affwild2"):
        with pytest.raises(MissingDataError):
            load(tool)([str(tmp_path / "none"), str(tmp_path / "crops")])


def test_wrong_options_are_usage_errors(tmp_path, capsys):
    cases = {
        ("sewa", "--size", "0"): "size must be",
        ("sewa", "--workers", "0"): "--workers: must be at least 1",
        ("sewa", "--faces", "frame", "--margin", "2"): "whole frames have no margin",
        ("sewa", "--faces", "given"): "faces='given' needs boxes_file",
        ("sewa", "--detector-model", "x.onnx"): "needs --detector",
        ("affectnet", "--release", "2021", "--faces", "box"): "faces='box' needs release='2017'",
        ("afew_va", "--fps", "0"): "fps must be positive",
    }
    write_synthetic_sewa(tmp_path / "sewa", subjects=(2, 0, 0), frames=2, workers=1)
    (tmp_path / "affectnet").mkdir()
    write_fold_files(tmp_path / "afew_va", make_folds(list("abcdef"), list("abcdef"), 3), seed=0, grouped_by="actor")
    for (tool, *options), text in cases.items():
        with pytest.raises(SystemExit) as error:
            load(tool)([str(tmp_path / tool), str(tmp_path / "crops"), *options])
        assert error.value.code == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "crops").exists()


def test_a_users_mistake_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        run(lambda: load("sewa")([str(tmp_path / "none"), str(tmp_path / "crops")]))
    assert error.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_detector_replaces_the_landmarks(tmp_path, capsys):
    write_synthetic_sewa(tmp_path / "raw", subjects=(2, 0, 0), frames=4, workers=1)
    for file in (tmp_path / "raw").rglob("*_Landmarks.zip"):
        file.unlink()
    out = tmp_path / "crops"
    with pytest.raises(DataError, match="no video can be used"):
        load("sewa")([str(tmp_path / "raw"), str(out), "--workers", "1"])
    load("sewa")([str(tmp_path / "raw"), str(out), "--workers", "1", "--detector", "cascade"])
    header, index = read_header(out), read_index(out / "index.npz")
    assert (header.crop.faces, header.crop.margin) == ("cascade", 1.5)
    assert header.metainfo["face_detector"] == "cascade"
    assert index[0].boxes.shape == (4, 4)


def test_a_store_names_the_detector_that_auto_has_chosen(tmp_path, monkeypatch):
    """Another machine, where auto is another detector, must not complete it."""
    chosen = ["cascade"]
    monkeypatch.setattr(command, "best_detector", lambda: chosen[0])
    write_synthetic_sewa(tmp_path / "raw", subjects=(2, 0, 0), frames=4, workers=1)
    argv = [str(tmp_path / "raw"), str(tmp_path / "crops"), "--workers", "1", "--detector", "auto"]
    load("sewa")(argv)
    header = read_header(tmp_path / "crops")
    assert (header.crop.faces, header.metainfo["face_detector"]) == ("cascade", "cascade")
    chosen[0] = "centerface"
    monkeypatch.setattr(
        command, "make_detector", lambda name, model: make_detector(name, model) if model else CascadeDetector()
    )
    with pytest.raises(DataError, match=r"'cascade'.*'centerface'"):
        load("sewa")(argv)
    with pytest.raises(HOCPError, match="auto: a file needs the name of its detector"):
        load("sewa")([*argv, "--detector-model", "a.onnx"])
