"""The campaign of hostile files: a miniature, and all of it."""

import os
import re
import subprocess
import sys

import pytest

from tests.material.processes import ROOT

SOME = "mmengine load,backbone,decomposition cache,affectnet cache,store index,boxes,landmarks,trained.json"


def campaign(*options: str) -> str:
    """Run it in a process of its own, which never used threads; return what it prints."""
    command = [sys.executable, "-m", "tests.reliability.hostile", *options]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def test_some_files_at_some_doors_do_nothing():
    printed = campaign("--most", "3", "--doors", SOME)
    assert printed.splitlines()[-1] == "24 pairs, 0 wrong"
    assert len(re.findall(r"^[^:]+: 3 files, \d refused, \d read harmlessly, 0 wrong", printed, re.MULTILINE)) == 8


@pytest.mark.slow
def test_no_file_does_anything_at_any_door():
    assert campaign().splitlines()[-1].endswith("pairs, 0 wrong")
