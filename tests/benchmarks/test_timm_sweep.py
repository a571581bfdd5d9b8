"""The sweep over timm: which networks it takes, what it writes, and that it does not call a fault a success."""

import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import timm_examination, timm_sweep
from benchmarks.timm_examination import Row, examine

SOUND = Row("resnet", "r", "", 64, 9, 9, 6, 1e-15, 2e-15, 0.0, 0.5, result="ok")
COUNTED = {
    "resnet": [(30, "resnet18", True), (20, "resnet10", True), (10, "linear", False)],
    "vit": [(40, "vit_b", False), (4, "vit_s", False)],
    "byobnet": [(3, "repvgg_a0", True)],
}


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_of_each_module_the_smallest_network_that_can_be_converted_is_taken():
    chosen = timm_sweep.choose(COUNTED)
    assert ("resnet", "resnet10", False) in chosen  # not the smaller one, which can not
    assert ("vit", "vit_s", False) in chosen  # of those that can not, the smallest
    assert ("vit", "vit_b", False) not in chosen


def test_special_networks_are_taken_too_and_some_of_them_fused():
    chosen = timm_sweep.choose(COUNTED)
    assert ("resnet", "resnet18", False) in chosen
    assert [task for task in chosen if task[0] == "byobnet"] == [
        ("byobnet", "repvgg_a0", False), ("byobnet", "repvgg_a0", True)
    ]  # fmt: skip


def test_a_pattern_chooses_and_everything_is_everything():
    assert {task[0] for task in timm_sweep.choose(COUNTED, "^res")} == {"resnet"}
    assert len({name for _, name, _ in timm_sweep.choose(COUNTED, everything=True)}) == 6


def test_special_networks_exist():
    import timm

    assert set(timm_sweep.FUSED) | set(timm_sweep.SPECIAL) <= set(timm.list_models())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"framewise": 1e-4}, "frame-wise error 1.0e-04"),
        ({"framewise": math.inf}, "frame-wise error inf"),
        ({"framewise": math.nan}, "frame-wise error nan"),
        ({"leak": 1e-4}, "time leaks 1.0e-04"),
        ({"reach": 0.0}, "no temporal factor acts"),
        ({"dense": 1e-4}, "error 1.0e-04 against the dense network"),
        ({"temporal": ["a.factors.t (zero)"]}, "1 temporal factors without gradient: a.factors.t (zero)"),
        ({"parameters": ["a", "b"]}, "2 parameters without gradient: a, b"),
    ],
)
def test_every_fault_is_a_failure(change: dict, fault: str):
    assert timm_examination._verdict(SOUND) == "ok"
    verdict = timm_examination._verdict(replace(SOUND, **change))
    assert verdict.startswith("FAILED: ")
    assert fault in verdict


def test_the_page_counts_results_and_has_a_line_per_network():
    rows = [
        SOUND,
        replace(SOUND, model="fused", options="reparameterize", result="FAILED: a | b\nc", leak=0.25, temporal=["t"]),
        Row("vit", "v", result="refused: a transformer"),
    ]
    page = timm_sweep.page(rows, "the command")
    assert "Written by `the command` with timm " in page
    assert "**3 networks: 1 ok, 1 refused, 1 failed.**" in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    assert table[2:] == [
        "| resnet | r | 64 | 9 | 9 | 6 | 1e-15 | 2e-15 | 0e+00 | 0 | ok |",
        "| resnet | fused (reparameterize) | 64 | 9 | 9 | 6 | 1e-15 | 2e-15 | 2e-01 | 1 | FAILED: a \\| b c |",
        "| vit | v |  |  |  |  |  |  |  |  | refused: a transformer |",
    ]


def test_three_networks_from_the_command_line_to_the_page(tmp_path: Path, capsys, monkeypatch):
    counted = {
        "resnet": [(1, "test_resnet", True)],
        "efficientnet": [(1, "test_efficientnet", True)],
        "vit": [(1, "test_vit", False)],
    }
    monkeypatch.setattr(timm_sweep, "count_networks", lambda pattern: counted)
    timm_sweep.main(["--only", "test_", "--processes", "1", "--out", str(tmp_path / "page.md")])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert printed[-1].startswith("3/3 ")
    page = (tmp_path / "page.md").read_text()
    assert "**3 networks: 2 ok, 1 refused, 0 failed.**" in page
    rows = {line.split(" | ")[1]: line for line in page.splitlines() if " | test_" in line}
    assert rows["test_resnet"].split(" | ")[2:6] == ["64", "9", "9", "6"]
    assert rows["test_resnet"].endswith("| ok |")
    assert rows["test_efficientnet"].endswith("| ok |")
    assert "refused: TimmHOCPBackbone: the network must have a k x k convolution" in rows["test_vit"]


def test_a_network_that_breaks_does_not_end_the_sweep(monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("first line\nsecond")

    monkeypatch.setattr(timm_examination, "build_twins", broken)
    row = examine(("resnet", "test_resnet", False))
    assert re.fullmatch(r"FAILED: RuntimeError: first line \(test_timm_sweep.py:\d+\)", row.result)
    assert row.size == 64


def _crash(task: object) -> None:
    os.kill(os.getpid(), signal.SIGFPE)


def test_a_network_that_ends_its_process_fails_and_the_others_are_examined(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timm_sweep, "examine_alone", _crash)
    rows = list(timm_sweep.sweep([("resnet", "a", False), ("resnet", "b", True)], 1))
    assert [(row.model, row.options, row.result) for row in rows] == [
        ("a", "", "FAILED: it crashed (SIGFPE)"), ("b", "reparameterize", "FAILED: it crashed (SIGFPE)")
    ]  # fmt: skip


def test_a_gradient_that_is_missing_in_float32_alone_is_a_fault(monkeypatch: pytest.MonkeyPatch):
    real = timm_examination.untouched_parameters

    def lost_in_float32(video, clip):
        found = real(video, clip)
        return found._replace(parameters=["net.a"]) if clip.dtype == torch.float32 else found

    monkeypatch.setattr(timm_examination, "untouched_parameters", lost_in_float32)
    assert examine(("resnet", "test_resnet", False)).result == "FAILED: 1 parameters without gradient: net.a"


def test_an_error_that_is_no_refusal_of_ours_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("a fault of some layer")

    monkeypatch.setattr(timm_examination, "build_twins", broken)
    assert examine(("resnet", "test_resnet", False)).result.startswith("FAILED: ValueError: a fault of some layer")


def test_a_network_with_one_input_size_is_found_by_its_option():
    assert timm_examination._input_of("test_resnet") == (64, {})
    assert timm_examination._input_of("vit_tiny_r_s16_p8_224") == (64, {"img_size": 64})


def test_networks_are_counted_without_memory_and_leave_torch_as_it_was():
    counted = timm_sweep.count_networks("^(selecsls|vgg)/")
    assert set(counted) == {"selecsls", "vgg"}
    assert (132_863_336, "vgg11", True) in counted["vgg"]
    assert torch.zeros(1).fill_(2).item() == 2


def test_a_pattern_without_network_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(timm_sweep, "count_networks", lambda pattern: {})
    with pytest.raises(SystemExit) as caught:
        timm_sweep.main(["--only", "nothing"])
    assert caught.value.code == 2
    assert "--only must match a network, got 'nothing'" in capsys.readouterr().err
