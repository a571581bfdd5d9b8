"""Files of detectors that would end this process, or keep it busy for ever, are one error that names them."""

import os
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import make_detector
from hocp_mm.datasets.faces import opencv_files as opencv_detectors
from hocp_mm.errors import DataError
from tests.material.hostile_detectors import CASCADE, CASCADES, ENDLESS_CASCADE, NETWORKS, TREACHEROUS_CASCADE
from tests.material.processes import ROOT
from tests.material.tiny_yunet import red_faces, write_tiny_yunet

needs_cascades = pytest.mark.skipif(not hasattr(cv2, "CascadeClassifier"), reason="this OpenCV has no cascades")


def half_bright(side: int = 120) -> np.ndarray:
    """Return a frame with the face of `CASCADE`: bright on the left, dark on the right."""
    frame = np.full((240, 320, 3), 128, dtype=np.uint8)
    frame[60 : 60 + side, 100 : 100 + side // 2] = 255
    frame[60 : 60 + side, 100 + side // 2 : 100 + side] = 0
    return frame


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_yunet(tmp_path_factory.mktemp("yunet") / "tiny.onnx").read_bytes()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencv_detectors, "_SECONDS", 20.0)


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_is_refused(tmp_path: Path, network: bytes, case: str):
    model = tmp_path / "model.onnx"
    model.write_bytes(NETWORKS[case](network))
    with pytest.raises(DataError, match=r"^yunet: .*model\.onnx must be a YuNet onnx file that OpenCV .* \(.+\)") as e:
        make_detector("yunet", model)
    assert "\n" not in str(e.value)
    assert len(str(e.value).replace(str(model), "")) < 300


@needs_cascades
@pytest.mark.parametrize("case", CASCADES)
def test_a_cascade_is_refused(tmp_path: Path, case: str):
    model = tmp_path / "model.xml"
    model.write_bytes(CASCADES[case])
    with pytest.raises(DataError, match=r"^haar: .*model\.xml must be an XML cascade that OpenCV .* \(.+\)") as e:
        make_detector("haar", model)
    assert "\n" not in str(e.value)
    assert len(str(e.value).replace(str(model), "")) < 300


def test_a_huge_file_is_not_even_tried(tmp_path: Path):
    for name, file in (("yunet", "a.onnx"), ("haar", "a.xml")):
        (tmp_path / file).touch()
        os.truncate(tmp_path / file, 2**40)
        if name == "yunet" or hasattr(cv2, "CascadeClassifier"):
            with pytest.raises(DataError, match=rf"{file} must be .* of 67108864 bytes at most, got 1099511627776"):
                make_detector(name, tmp_path / file)


@needs_cascades
def test_a_cascade_of_the_user_finds_what_opencv_finds(tmp_path: Path):
    (tmp_path / "model.xml").write_text(CASCADE)
    boxes = make_detector("haar", tmp_path / "model.xml")(half_bright()).boxes
    expected = opencv_detectors.read_haar(str(tmp_path / "model.xml"))(cv2.cvtColor(half_bright(), cv2.COLOR_RGB2GRAY))
    assert len(boxes) == len(expected) >= 1
    assert (boxes[:, 0] > 90).all()
    assert (boxes[:, 2] < 230).all()


@needs_cascades
def test_a_cascade_that_crashes_at_the_first_face_only_is_named_and_the_next_detector_works(
    tmp_path: Path, network: bytes
):
    (tmp_path / "bad.xml").write_text(TREACHEROUS_CASCADE)
    (tmp_path / "good.onnx").write_bytes(network)
    bad = make_detector("haar", tmp_path / "bad.xml")
    good = make_detector("yunet", tmp_path / "good.onnx")
    assert bad(np.zeros((240, 320, 3), dtype=np.uint8)).boxes.shape == (0, 4)
    for _ in range(2):
        with pytest.raises(DataError, match=r"haar: .*bad\.xml must be an XML .* is not \(crashed \(SIGSEGV\)\)"):
            bad(half_bright())
        assert len(good(red_faces((320, 240), [(4, 5)])).boxes) == 1


@needs_cascades
def test_a_cascade_that_never_ends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opencv_detectors, "_SECONDS", 1.0)
    (tmp_path / "endless.xml").write_text(ENDLESS_CASCADE)
    with pytest.raises(DataError, match=r"endless\.xml must be .* but it is not \(did not end within 1 s\)"):
        make_detector("haar", tmp_path / "endless.xml")


@pytest.mark.parametrize("name", ["yunet", pytest.param("haar", marks=needs_cascades)])
@pytest.mark.parametrize("kind", ["cut", "flipped"])
def test_a_damaged_file_is_refused_or_works_but_ends_nothing(tmp_path: Path, network: bytes, name: str, kind: str):
    whole, draw = network if name == "yunet" else CASCADE.encode(), random.Random(0)
    model = tmp_path / "model"
    refused = []
    for place in draw.sample(range(len(whole)), 24):
        damaged = whole[:place] if kind == "cut" else whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        model.write_bytes(damaged)
        try:
            make_detector(name, model)(half_bright())
        except DataError as error:
            refused.append(str(error))
    assert refused
    assert all(text.startswith(f"{name}: {model} must be ") for text in refused)


def test_another_content_of_a_file_is_read_anew_and_a_lost_file_is_named(tmp_path: Path, network: bytes):
    model = tmp_path / "model.onnx"
    model.write_bytes(network)
    detector = make_detector("yunet", model)
    frame = red_faces((320, 240), [(4, 5)])
    assert len(detector(frame).boxes) == 1
    model.write_bytes(b"other")
    with pytest.raises(DataError, match="must be a YuNet onnx file"):
        detector(frame)
    model.unlink()
    with pytest.raises(DataError, match="No such file"):
        detector(frame)


def test_a_script_without_a_guard_can_use_a_detector(tmp_path: Path, network: bytes):
    (tmp_path / "model.onnx").write_bytes(network)
    script = tmp_path / "script.py"
    script.write_text(
        "print('started')\n"
        "import numpy as np\n"
        "from hocp_mm.datasets.faces.opencv_files import DetectorFile, read_yunet\n"
        "find = DetectorFile(read_yunet, 'model.onnx', 'it')\n"
        "print(find(np.zeros((64, 64, 3), np.uint8)).shape)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["started", "(0, 15)", ""]
