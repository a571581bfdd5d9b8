"""Metadata, lock file and Makefile: what holds the two commands of a fresh machine together."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hocp_mm

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "lock.txt"
# One headless build stands for both; see the head of the lock file.
REPLACED = {"opencv-python", "opencv-contrib-python"}
LINUX = {
    "extra": "",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}
# What the lock file is for, whatever the tests run on.
TARGETS = [LINUX | {"python_version": v, "python_full_version": f"{v}.0"} for v in ("3.11", "3.12", "3.13")]


def locked() -> dict[str, str]:
    """Return the pins of the lock file: canonical name -> version."""
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if line and line[0] not in "#-"]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.fixture(scope="module")
def declared(tmp_path_factory) -> dict[str, list[Requirement]]:
    """Run setup.py and return its requirements by extra; the key "" holds those of a plain install."""
    target = tmp_path_factory.mktemp("egg_info")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text = (target / "hocp_mm.egg-info" / "PKG-INFO").read_text(encoding="utf-8")
    assert f"\nVersion: {hocp_mm.__version__}\n" in text
    requirements: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^Requires-Dist: (.+)$", text, flags=re.MULTILINE):
        extra = re.search(r'extra == [\'"](\w+)', line)
        requirements.setdefault(extra.group(1) if extra else "", []).append(Requirement(line))
    return requirements


def test_lock_holds_exact_versions_and_no_addresses():
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"(#.*|--only-binary :all:|[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+)?", line), line
        assert "://" not in line
        assert "file:" not in line


def test_lock_satisfies_every_declared_range(declared):
    pins = locked()
    for requirement in [item for group in declared.values() for item in group]:
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement} against {pins[name]}"


def test_lock_is_complete():
    """`--no-deps` installs the list and nothing else, so whatever a package on it needs must be on it."""
    pins = locked()
    missing = set()
    for name, version in pins.items():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # tests also run beside a user's own stack
        if distribution.version != version:
            continue
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or any(map(requirement.marker.evaluate, TARGETS)):
                missing |= {canonicalize_name(requirement.name)} - set(pins) - REPLACED
    assert missing == set()


def test_plain_install_brings_no_mmcv_and_no_decord(declared):
    """The modules of mmcv and mmcv-lite overwrite each other; decord has no wheel for ARM."""
    core = {canonicalize_name(requirement.name) for requirement in declared[""]}
    assert not core & {"mmcv", "mmcv-lite", "mmaction2", "decord", "opencv-python"}
    assert {"torch", "torchvision", "timm", "mmengine", "safetensors", "av"} <= core


@pytest.fixture
def makefile_folder(tmp_path):
    """Copy what `make setup` reads, so that nothing happens to the real environment."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    for name in ("Makefile", "setup.py", "pyproject.toml", "requirements"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60, env=environ
    )


def fake_python(folder: Path, body: str) -> Path:
    path = folder / "fake-python"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_make_alone_lists_the_targets(makefile_folder):
    done = make(makefile_folder)
    assert done.returncode == 0
    for target in ("setup", "test", "demo"):
        assert f"make {target} " in done.stdout


def test_old_python_is_refused_with_a_way_out(makefile_folder):
    old = fake_python(makefile_folder, 'case "$1" in --version) echo Python 3.8.1;; *) exit 1;; esac')
    done = make(makefile_folder, "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Python >= 3.10 is needed" in done.stderr
    assert "Python 3.8.1" in done.stderr
    assert not (makefile_folder / ".venv").exists()


def test_python_without_ensurepip_names_the_package(makefile_folder):
    bare = fake_python(makefile_folder, 'case "$2" in *ensurepip*) exit 1;; *) exit 0;; esac')
    done = make(makefile_folder, "setup", f"PYTHON={bare}")
    assert done.returncode != 0
    assert "apt install python3-venv" in done.stderr
    assert not (makefile_folder / ".venv").exists()


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("exec make test")
