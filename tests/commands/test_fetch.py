"""The command that gets the files of known networks, without a network."""

import hashlib
import io
import urllib.error
from importlib import import_module
from types import ModuleType

import pytest
import torch

from hocp_mm.checkpoints.affect_networks import NETWORKS
from hocp_mm.system import fetching
from hocp_mm.system.cli import run
from tests.material.affect_networks import efficientnet


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return import_module("hocp_mm.commands.fetch")


def serve(monkeypatch, body: bytes | None) -> list[str]:
    """Let every address have this content, or none be reached; returns those that are asked for."""
    asked: list[str] = []

    def opener(address: str):
        asked.append(address)
        if body is None:
            raise urllib.error.URLError(OSError(-2, "Name or service not known"))
        return io.BytesIO(body)

    monkeypatch.setattr(fetching, "https_opener", opener)
    return asked


def saved(net) -> bytes:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    return buffer.getvalue()


def refusal(tool: ModuleType, capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(lambda: tool.main(list(argv)))
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_file_is_kept_with_its_licence_and_checksum_told(tool, tmp_path, monkeypatch, capsys):
    body = saved(efficientnet("b0", 8, sequence=True))
    asked = serve(monkeypatch, body)
    tool.main(["enet_b0_8_best_vgaf", "--out", str(tmp_path / "new")])
    file = tmp_path / "new" / "enet_b0_8_best_vgaf.pt"
    assert asked == [NETWORKS["enet_b0_8_best_vgaf"].address]
    assert file.read_bytes() == body
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("enet_b0_8_best_vgaf: Apache-2.0")
    assert lines[1].startswith("cite: A. V. Savchenko")
    assert lines[2] == f"SHA-256 {hashlib.sha256(body).hexdigest()} (not confirmed, none is known)"
    assert lines[3:] == [str(file)]


def test_another_network_or_a_web_page_is_not_kept(tool, tmp_path, monkeypatch, capsys):
    for body, why in (
        (saved(efficientnet("b0", 10)), "must hold the weights of enet_b0_8_best_vgaf, got enet_b0_8_va_mtl"),
        (b"<!DOCTYPE html>", "a web page, not weights"),
        (b"", "the file is empty"),
        (saved(efficientnet("b0", 8, sequence=True))[:-1000], "damaged"),
    ):
        serve(monkeypatch, body)
        line = refusal(tool, capsys, "enet_b0_8_best_vgaf", "--out", str(tmp_path))
        assert why in line
        assert line.startswith(f"error: {NETWORKS['enet_b0_8_best_vgaf'].address}: ")
        assert list(tmp_path.iterdir()) == []


def test_without_a_network_one_line_says_where_the_file_is_and_belongs(tool, tmp_path, monkeypatch, capsys):
    serve(monkeypatch, None)
    line = refusal(tool, capsys, "enet_b2_8", "--out", str(tmp_path))
    assert line.startswith(f"error: {NETWORKS['enet_b2_8'].address}: cannot be fetched (")
    assert line.endswith(f"put it at {tmp_path / 'enet_b2_8.pt'}.")


def test_names_that_are_not_taken_ask_nobody(tool, tmp_path, monkeypatch, capsys):
    asked = serve(monkeypatch, b"")
    assert "must be one of enet_b0_8_va_mtl, " in refusal(tool, capsys, "enet", "--out", str(tmp_path))
    assert "emonet is not taken: " in refusal(tool, capsys, "emonet", "--out", str(tmp_path))
    assert asked == []
