"""Packages with planted faults."""

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """Return a function that writes a package, which shadows an installed one of that name until the test ends."""
    monkeypatch.syspath_prepend(str(tmp_path))
    real: dict[str, dict] = {}

    def take_out(name: str) -> dict:
        return {module: sys.modules.pop(module) for module in list(sys.modules) if module.split(".")[0] == name}

    def write(name: str, files: dict[str, str]) -> Path:
        real.setdefault(name, take_out(name))
        for file, text in {"__init__.py": "", **files}.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return tmp_path / name

    yield write
    for name, modules in real.items():
        take_out(name)
        sys.modules.update(modules)
