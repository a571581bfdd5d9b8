"""Which file did it, after a data set took its process down while it was built."""

from pathlib import Path

from hocp_mm.datasets import check_image, probe_video
from hocp_mm.datasets.faults import Fault
from hocp_mm.errors import HOCPError
from hocp_mm.isolation import IsolatedPool, Task

_VIDEOS = (".avi", ".mp4", ".mkv", ".mov", ".webm")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def suspect_files(root: str | Path, pool: IsolatedPool, seconds: float) -> list[Fault]:
    """Open every picture and video below a folder in a process that may be lost.

    Args:
        root: Folder of the data set.
        pool: The processes.
        seconds: Time for each file.

    Returns:
        One fault, of kind ``"crash"``, per file that took its process down or did not end.
    """
    files = sorted(file for file in Path(root).rglob("*") if file.suffix.lower() in (*_VIDEOS, *_IMAGES))
    tasks: list[Task] = [(open_file, (str(file),), seconds) for file in files]
    faults: list[Fault] = []
    for number, outcome in pool.run(tasks):
        if outcome.failure:
            faults.append(Fault(f"{files[number]}: opening it {outcome.failure}.", "crash"))
    return sorted(faults)


def open_file(path: str) -> None:
    """Open a file as the data sets do; what they would refuse by themselves is not asked for here."""
    try:
        (probe_video if Path(path).suffix.lower() in _VIDEOS else check_image)(path)
    except HOCPError:
        return
