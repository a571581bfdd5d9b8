"""Write the hashes of every wheel that a lock file can install: ``python requirements/make_lock.py``.

The pins (``name==version``) of the file stay as they are; change those by hand. With ``--resolve`` the pins are first
replaced by what pip chooses for the names after it: how tools.txt was made. pip itself is asked, once for every Python,
and says which wheel it would take; nothing but metadata is downloaded.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PYTHONS = ("3.11", "3.12", "3.13")
OLDEST_GLIBC, NEWEST_GLIBC = 28, 50  # torch asks for 2.28; a wheel for a newer one may exist beside it
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([A-Za-z0-9_.+!-]+)", flags=re.MULTILINE)


def platforms(glibc: int) -> list[str]:
    """List the platform tags of Linux x86-64 with this minor version of glibc 2, best first, as pip does at home."""
    old = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    tags = []
    for minor in range(glibc, 4, -1):
        tags += [f"manylinux_2_{minor}_x86_64"] + ([f"{old[minor]}_x86_64"] if minor in old else [])
    return [*tags, "linux_x86_64"]


def needed_glibc(wheel: str) -> int:
    """Return the minor version of glibc 2 that a wheel asks for: the least of its tags; 0 without such a tag."""
    return min(map(int, re.findall(r"manylinux_2_(\d+)_", wheel)), default=0)


def ask_pip(arguments: list[str], python: str, glibc: int) -> list[tuple[str, str, str, str]]:
    """Return name, version, file name and SHA-256 of each wheel that pip would install.

    Args:
        arguments: What to install, in pip's words.
        python: ``3.12``.
        glibc: Minor version of glibc 2.

    Returns:
        One entry per wheel.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary", ":all:", "--target", folder, "--report", str(report)]
        command += ["--implementation", "cp", "--python-version", python]
        for tag in platforms(glibc):
            command += ["--platform", tag]
        environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run([*command, *arguments], check=True, env=environment)
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    wheels = []
    for item in items:
        url = item["download_info"]["url"]
        if not url.startswith("https://"):
            sys.exit(f"make_lock.py: every wheel must come from the registry, got {url}; mend pip's settings.")
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        wheels.append(
            (name, version, url.rpartition("/")[2], item["download_info"]["archive_info"]["hashes"]["sha256"])
        )
    return wheels


def collect_hashes(pins: list[str]) -> dict[str, set[str]]:
    """Return the SHA-256 of every wheel that pip takes for the pins, on any machine that the file is for."""
    hashes: dict[str, set[str]] = {pin: set() for pin in pins}
    names = {re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower(): pin for pin in pins}
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "pins.txt"
        requirements.write_text("\n".join(pins), encoding="utf-8")
        for python in PYTHONS:
            glibc = NEWEST_GLIBC
            while True:
                print(f"CPython {python}, glibc 2.{glibc}", file=sys.stderr)
                wheels = ask_pip(["--no-deps", "-r", str(requirements)], python, glibc)
                for name, _, _, digest in wheels:
                    hashes[names[re.sub(r"[-_.]+", "-", name).lower()]].add(digest)
                newest = max(needed_glibc(wheel) for _, _, wheel, _ in wheels)
                if newest <= OLDEST_GLIBC:
                    break
                glibc = newest - 1  # an older machine takes another wheel: look at that, too
    return hashes


def main() -> None:
    """Read a lock file, and write it again with its hashes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file", type=Path, default=FOLDER / "lock.txt", help="lock file; lock.txt by default")
    parser.add_argument("--resolve", nargs="+", metavar="NAME", help="take new pins for these and all they need")
    args = parser.parse_args()
    text = args.file.read_text(encoding="utf-8")
    head = [line for line in text.splitlines() if line.startswith(("#", "--only-binary"))]
    pins = [f"{name}=={version}" for name, version in PIN.findall(text)]
    if args.resolve:
        chosen = {wheel[:2] for python in PYTHONS for wheel in ask_pip(args.resolve, python, OLDEST_GLIBC)}
        pins = [f"{name}=={version}" for name, version in chosen]
    lines = list(head)
    for pin, digests in sorted(collect_hashes(sorted(pins)).items(), key=lambda item: item[0].lower()):
        lines.append(" \\\n".join([pin, *(f"    --hash=sha256:{digest}" for digest in sorted(digests))]))
    args.file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
