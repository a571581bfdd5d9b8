"""What every test shares: one seed, one thread per operator, no display, no scope left behind."""

import os

# Before torch and matplotlib are imported; subprocesses of tests inherit both.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"

import contextlib
import random
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from yapf.yapflib import yapf_api  # here: before workers start at once, with a cache that is empty as yet

from hocp_mm.functional import native_available
from hocp_mm.functional.choice import allow_measuring
from hocp_mm.system.cache_folder import cache_folder

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep decompositions out of the user's cache, and the user's out of the tests, in subprocesses, too.

    The compiled kernel is taken from there as usual; building it again for each session would take seconds.
    """
    folder = tmp_path_factory.mktemp("cache")
    if native_available():
        for library in cache_folder().glob("*.so"):
            shutil.copy(library, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOCP_MM_CACHE", str(folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def _lay_out_configs_once() -> Iterator[None]:
    """Remember how a config is laid out: mmengine does it anew for every checkpoint, most of the time of a tiny run."""
    lay_out = yapf_api.FormatCode
    known: dict[str, Any] = {}

    def remember(text: str, **style: Any) -> Any:
        if text not in known:
            known[text] = lay_out(text, **style)
        return known[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, "FormatCode", remember)
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start each test from the same random numbers, so that it does not matter which tests ran before."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test still draw from the global generator
    torch.manual_seed(0)
    allow_measuring(True)  # a training with a seed forbids it for the whole process


@contextlib.contextmanager
def _same_scopes() -> Iterator[None]:
    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    """Undo what a Runner or a config sets for the whole process: the scope in which unprefixed names are looked up."""
    with _same_scopes():
        yield


@pytest.fixture(autouse=True, scope="module")
def _scope_of_module() -> Iterator[None]:
    """The same for what is set up once for the tests of a file, before those of each test."""
    with _same_scopes():
        yield
