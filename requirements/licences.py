"""Write docs/licences.md, the licence of every package of a lock file: ``python requirements/licences.py``.

Read from the metadata of what is installed, so run it in the environment that the lock file made. A package whose
metadata names no licence is marked ``UNKNOWN``: read its files.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LOCK, TABLE = FOLDER / "lock.txt", FOLDER.parent / "docs" / "licences.md"
HEAD = """# Licences of what the lock file installs

From the packages' own metadata; `make audit` writes this file. `UNKNOWN`: the metadata names none. hocp_mm itself is
Apache-2.0 and contains no code of these packages. NVIDIA's come with torch's CUDA build on Linux and are not open
source. Wheels bundle libraries with licences of their own, such as FFmpeg (LGPL) in av, decord and OpenCV.

| package | version | licence |
|---|---|---|
"""


def pins(path: Path = LOCK) -> dict[str, str]:
    """Return the pins of a lock file: name -> version."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([A-Za-z0-9_.+!-]+)", path.read_text(encoding="utf-8"), flags=re.M))


def licence(about: metadata.PackageMetadata) -> str:
    """Return the licence that a package names: its SPDX expression, its classifiers, or the line of its own."""
    if about.get("License-Expression"):
        return about["License-Expression"]
    classifiers = [line.split(" :: ") for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    names = [parts[-1] for parts in classifiers if parts[-1] not in ("OSI Approved", "Other/Proprietary License")]
    if names:
        return ", ".join(names)
    # Some put the whole text there.
    line = next((line.strip() for line in (about.get("License") or "").splitlines() if line.strip()), "")
    if line and line.upper() != "UNKNOWN":
        return line[:80]
    return "proprietary" if classifiers else "UNKNOWN"


def main() -> None:
    """Write the table; end with 1 if a package is not installed in the version of the lock file."""
    rows, absent = [], []
    for name, version in sorted(pins().items(), key=lambda item: item[0].lower()):
        try:
            about = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            absent.append(f"{name}=={version}")
            continue
        if about["Version"] != version:
            absent.append(f"{name}=={version}")
        rows.append((name, version, licence(about).replace("|", "/")))
    if absent:
        sys.exit(f"licences.py: the lock file must be installed here (make setup), missing: {', '.join(absent)}.")
    TABLE.write_text(HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows), encoding="utf-8")
    unknown = [name for name, _, text in rows if text == "UNKNOWN"]
    print(
        f"{TABLE.name}: {len(rows)} packages, {len(unknown)} without a licence" + "".join(f"\n  {n}" for n in unknown)
    )


if __name__ == "__main__":
    main()
