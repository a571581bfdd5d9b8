"""A miniature of the crash campaign; the whole one is ``python -m tests.reliability.crashes``."""

import subprocess
import sys

import pytest

from tests.material.processes import ROOT


def run(*options: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.reliability.crashes", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_few_kills_lose_nothing():
    told = run("--moments", "2", "--kills", "0", "--preparations", "1", "--folds", "0", "--workers", "0")
    assert "2 kills, 2 died, 0 wrong" in told


@pytest.mark.slow
def test_the_whole_campaign_loses_nothing():
    assert "0 wrong" in run()
