"""The page that the benchmark writes, from numbers that need no machine."""

import json
import re

import pytest
import torch

from benchmarks import contenders, report, timing
from benchmarks.data_sets import RAW, STOCK, STORE
from benchmarks.layers import FORMS, RIVALS, STAGES, saved_bytes
from benchmarks.peers import DENSE, OURS, PY_FEAT
from benchmarks.peers import STREAM as OUR_STREAM
from benchmarks.streaming import AGAIN, MANY, STREAM
from hocp_mm.layers import HOCPConv3d


@pytest.fixture
def folder(tmp_path):
    times = dict.fromkeys(RIVALS, 60.0) | {f"ours {form}": 12.0 for form in FORMS}
    times |= {"tltorch mobilenet": 36.0, "ours auto": 6.0, "ours auto, contiguous": 7.0}
    layers = [
        {"channels": c, "size": s, "expansion": 1, "training": False, "times": times, "limit": 4.0}
        for c, s in STAGES.items()
    ]
    networks = {"ours": 50.0, "dense 3-D twin": 300.0, "torchvision r3d_18": 400.0, "2-D parent": 100.0}
    sections = {
        "machine": {"text": "A machine."},
        "layers": layers,
        "memory": [{"channels": 64, "size": 56, "rank": 64, "bytes": {"conv3d": 2e6, "ours auto": 3e6}}],
        "networks": [{"network": "resnet18", "rank": "x1", "training": False, "times": networks}],
        "motion": [{"size": 112, "threads": 1, "training": False, "times": {"ours": 60.0, "ours with motion": 64.5}}],
        "choices": [
            ["1-D", 1, "float32", "fused", "fused", 1.0, 1.05],
            ["2-D", 3, "float64", "mobilenet", "factorized", 1.0, 1.2],
        ],
        "fits": {"networks": [["resnet18", 16, 30.0, 1.2]], "kernels": [["64", "random", 64, 0.2, 0.76, 3.0, 0.77]]},
    }
    sections["starts"] = [
        {
            "network": "resnet18",
            "layers": 16,
            "first": 30.0,
            "second": 0.5,
            "first_process": 40.0,
            "second_process": 9.5,
        }
    ]
    sections["data"] = {
        "videos": 8,
        "frames": 750,
        "clips_per_second": {
            STOCK: {"1 process": 10.0, "2 workers": 20.0},
            RAW: {"1 process": 15.0, "2 workers": 30.0},
            STORE: {"1 process": 60.0, "2 workers": 150.0},
        },
        "wrong": {STOCK: 384, RAW: 0},
        "checked": 1536,
        "memory": {kind: {"curve": {"200": 400.0, "2000": 404.0}, "growth": 0.01} for kind in (RAW, STORE)},
        "bytes": {"videos": 4e7, "packs": 6.5e7},
    }
    times = {STREAM: 4.0, MANY: 11.0, AGAIN: 44.0}
    sections["streaming"] = {
        "networks": [{"network": "causal", "threads": 2, "delay": 0, "times": times}],
        "history": [{"frames": 2**n, "stream": 4.0, "window": 44.0, "bytes": 3e6} for n in (3, 12)],
        "camera": {"pictures": 250, "low": 6.0, "median": 7.0, "high": 19.0, "mean": 8.5},
    }
    said = {OURS: (None, 6.0), OUR_STREAM: (5.0, 4.0), DENSE: (10.0, 9.0)}
    sections["peers"] = {
        "rows": [
            {"name": name, "pixels": 112, "parameters": 2.5e6, "live": live, "many": many}
            for name, (live, many) in said.items()
        ],
        "absent": [PY_FEAT],
    }
    sections["export"] = {
        "files": {
            "onnx": {"mb": 11.5, "error": 2e-6, "note": ""},
            "onnx-stream": {"mb": 11.4, "error": 3e-6, "note": "x"},
        },
        "clip": {"this package": 40.0, "onnx": 90.0},
        "frame": {"this package": 5.0, "onnx-stream": 7.0},
    }
    for name, numbers in sections.items():
        (tmp_path / f"cpu_float32-{name}.json").write_text(json.dumps(numbers))
    return tmp_path


def test_ratios_are_those_of_the_numbers(folder):
    page = report.write_report(folder, "cpu_float32").read_text()
    assert "| **geometric mean** | **10.00** | **6.00** | **10.00** | **1.50** |" in page
    assert "| resnet18, R = C | inference | 50 | 300 | 400 | 100 | **6.00** | **8.00** | **2.00** |" in page
    assert "3.0 (1.50x)" in page
    assert "| 112 x 112 | inference | 1 | 60.0 | 64.5 | **+7.5%** |" in page
    assert "| resnet18, 16 kernels | 30.0 | 0.50 | **60x** | 40.0 | 9.5 |" in page
    assert re.search(r"in 1 of 2 cases; worst\s+ratio 1\.20", page)
    assert "| 1 process | 10.0 | 15.0 | 60.0 | **6.0** | **1.5** | **4.0** |" in page
    assert "| 2 workers | 20.0 | 30.0 | 150.0 | **7.5** | **1.5** | **5.0** |" in page
    assert "| MMAction2 | 1536 | 384 | 25.0 % |" in page
    assert "| store | 400 | 404 | **+1.0 %** |" in page
    assert (folder / "cpu_float32.png").stat().st_size > 0
    assert "| causal | 2 | 0 | 4.0 | 11.0 | 44.0 | **11.0** |" in page
    assert "After 8 to 4096 frames the causal network keeps 3.0 MB" in page
    assert "](cpu_float32-streaming.png)" in page
    assert "| this package |  | 40.0 | 5.0 |  |  |" in page
    assert "| `onnx` | 11.5 | 90.0 |  | 2.0e-06 |  |" in page
    assert "| `onnx-stream` | 11.4 |  | 7.0 | 3.0e-06 | x |" in page
    assert f"| {OURS} | 112 | 2.5 M |  | 6.0 |  | 1.0 |" in page
    assert f"| {DENSE} | 112 | 2.5 M | 10.0 | 9.0 | 2.0 | 1.5 |" in page
    assert f"Not installed, so not timed: {PY_FEAT}." in page
    assert (folder / "cpu_float32-streaming.png").stat().st_size > 0


def test_contenders_take_turns_and_medians_are_kept(monkeypatch):
    now, calls = [0.0], []

    def step(name, seconds):
        def run():
            calls.append(name)
            now[0] += seconds[min(calls.count(name), len(seconds)) - 1]

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    found = timing.interleaved({"a": step("a", [9, 9, 1, 2, 30]), "b": step("b", [4])}, rounds=3)
    assert calls == ["a", "b"] * 5
    assert found == {"a": pytest.approx(2000), "b": pytest.approx(4000)}


def test_saved_bytes_count_activations_once_and_no_parameter():
    dense = torch.nn.Conv3d(8, 8, 3, padding=1)
    x = torch.randn(1, 8, 4, 6, 6)
    assert saved_bytes(dense, x) == x.numel() * 4
    chain = HOCPConv3d(8, 8, 3, padding=1, rank=8, implementation="mobilenet")
    assert saved_bytes(chain, x) > 2 * x.numel() * 4


def test_the_dense_twin_has_the_shape_and_parameters_of_its_name():
    twin = contenders.DenseVideo("resnet18")
    with torch.no_grad():
        assert twin(torch.randn(1, 3, 2, 32, 32)).shape == (1, 512, 2, 1, 1)
    layer = torch.nn.Conv3d(8, 8, 3, bias=False)
    pair = contenders.Conv2Plus1d(8)
    ours = sum(p.numel() for m in pair if isinstance(m, torch.nn.Conv3d) for p in m.parameters())
    assert ours == pytest.approx(layer.weight.numel(), rel=0.05)
