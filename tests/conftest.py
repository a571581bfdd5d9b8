"""What every test shares: one seed, one thread per operator, no display."""

import os

# Before torch and matplotlib are imported; subprocesses of tests inherit both.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"

import random

import numpy as np
import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start each test from the same random numbers, so that it does not matter which tests ran before."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test still draw from the global generator
    torch.manual_seed(0)
