"""A preparation that is killed can be taken up again, and ends in the same bytes as one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hocp_mm.datasets import SEWADataset
from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.datasets.store.prepare import prepare_store
from hocp_mm.datasets.store.task import DetectorChoice
from hocp_mm.errors import DataError
from tests.material.processes import ROOT
from tests.material.raw_sets import CROPS, FRAMES, SquareDetector, prepare_sewa, tree, write_talks

KEYS = tuple(f"SAH_C1_S{talk:03d}_P{2 * talk:03d}_VC1_000100_{99 + FRAMES:06d}" for talk in range(1, 13))
SCRIPT = """
import sys
from pathlib import Path
from tests.material.raw_sets import prepare_sewa
if __name__ == "__main__":
    prepare_sewa(Path(sys.argv[1]), Path(sys.argv[2]), workers=int(sys.argv[3]))
"""


def _kill_in_the_middle(script: Path, root: Path, out: Path, workers: int, packs: int) -> None:
    """Start a preparation, and kill it with no chance to tidy up once it has made some packs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(root), str(out), str(workers)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(out.glob("packs/[!.]*.npz"))) < packs:
        assert process.poll() is None, process.stderr.read().decode()[-2000:] if process.stderr else ""
        assert time.monotonic() < deadline, "no pack was made in time"
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert (len(children) >= workers) == (workers > 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(_is_alive(child) for child in children):
        assert time.monotonic() < deadline, "a worker process outlives the one that started it"
        time.sleep(0.01)
    assert not (out / "index.npz").exists(), "it had finished before it was killed"


def _is_alive(pid: str) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _check_resumes(tmp_path: Path, workers: int, packs: int) -> None:
    root, out = write_talks(tmp_path / "SEWAv02", KEYS), tmp_path / "killed"
    script = tmp_path / "prepare.py"
    script.write_text(SCRIPT)
    _kill_in_the_middle(script, root, out, workers, packs)
    (out / "packs" / f".{KEYS[-1]}.{'0' * 32}.part.avi").write_bytes(b"half a pack")
    (out / f".store.{'0' * 32}.part.json").write_bytes(b"half a header")
    summary = prepare_sewa(root, out)
    assert summary.packs_kept >= packs
    assert summary.packs_made >= 1
    prepare_sewa(root, tmp_path / "undisturbed")
    assert tree(out) == tree(tmp_path / "undisturbed")


def test_the_same_bytes_after_a_kill(tmp_path):
    _check_resumes(tmp_path, workers=1, packs=2)


@pytest.mark.slow
def test_the_same_bytes_after_a_kill_of_several_processes(tmp_path):
    _check_resumes(tmp_path, workers=2, packs=1)


@pytest.mark.parametrize("stage", ["pack without facts", "facts without pack", "index missing", "header missing"])
def test_every_state_between_two_steps_is_completed(tmp_path, stage):
    root, out = write_talks(tmp_path / "SEWAv02", KEYS[:2]), tmp_path / "crops"
    prepare_sewa(root, out)
    before = tree(out)
    gone = {
        "pack without facts": [f"packs/{KEYS[0]}.npz", "index.npz"],
        "facts without pack": [f"packs/{KEYS[0]}.avi", "index.npz"],
        "index missing": ["index.npz", "report.csv"],
        "header missing": ["index.npz", "report.csv", "store.json", "splits/train.txt", "splits/val.txt"],
    }[stage]
    for name in gone:
        (out / name).unlink()
    if stage == "header missing":
        (out / "splits").rmdir()
    summary = prepare_sewa(root, out)
    assert summary.packs_made == ("facts" in stage)
    assert tree(out) == before


class SuddenEnd(SquareDetector):
    """A detector whose process is killed, as by a system without memory."""

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        os._exit(9)


@pytest.mark.slow
def test_a_killed_worker_ends_in_one_sentence(tmp_path):
    root = write_talks(tmp_path / "SEWAv02", KEYS[:3])
    parts = {part: SEWADataset(str(root), part, faces="frame", lazy_init=True) for part in ("train", "val")}
    choice = DetectorChoice(SuddenEnd(), "sudden end")
    with pytest.raises(DataError, match=r"a worker process was ended from outside, .* the same command goes on"):
        prepare_store(
            tmp_path / "crops", parts, CROPS, split_folders={"splits": root / "splits"}, detector=choice, workers=2
        )
