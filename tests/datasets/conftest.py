"""A tiny SEWA set on disk: written once, copied for the tests that damage it."""

import shutil
from pathlib import Path

import pytest

from tests.material.sewa_files import write_sewa


@pytest.fixture(scope="session")
def sewa_root(tmp_path_factory) -> Path:
    """Two segments of 40 frames that show 0..39 and 40..79; read only."""
    return write_sewa(tmp_path_factory.mktemp("sewa") / "SEWAv02")


@pytest.fixture
def damaged_root(sewa_root, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(sewa_root, tmp_path / "SEWAv02"))
