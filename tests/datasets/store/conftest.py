"""A small raw set and its store, for tests that only read them."""

from pathlib import Path

import pytest

from tests.material.raw_sets import prepare_sewa, write_talks


@pytest.fixture(scope="module")
def talks(tmp_path_factory) -> Path:
    """Four segments; read only."""
    return write_talks(tmp_path_factory.mktemp("raw") / "SEWAv02")


@pytest.fixture(scope="module")
def prepared(talks, tmp_path_factory) -> Path:
    """Their store, made by one process; read only."""
    out = tmp_path_factory.mktemp("store") / "crops"
    prepare_sewa(talks, out)
    return out
