"""How a training ends that somebody ends: one line, nothing left running."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hocp_mm.system import cli
from tests.commands.test_train_test import ROOT
from tests.system.test_parallel import is_alive

SCRIPT = str(Path(__file__).with_name("endless_run.py"))
WORKERS = ["--cfg-options", "train_dataloader.num_workers=2", "train_dataloader.persistent_workers=True"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ON_CPUS = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would need two GPUs")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Run:
    """A training that goes on until it is ended."""

    def __init__(self, folder: Path, *words: str, launcher: list[str] | None = None, **environment: str) -> None:
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *(launcher or []), SCRIPT, str(folder / "run"), *words],
                cwd=folder,
                stdout=out,
                stderr=err,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
                start_new_session=True,
            )
        self.below: list[int] = []

    def wait_for_training(self) -> None:
        """Return when some iterations are done."""
        wait_until(lambda: "Epoch(train)" in self.out.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.err.read_text()[-3000:]
        self.below = children(self.process.pid)

    def wait(self) -> int:
        """Return the exit code."""
        return self.process.wait(90)

    @property
    def lines(self) -> list[str]:
        """Lines of errors."""
        return [line for line in self.err.read_text().splitlines() if line.startswith(("error: ", "Traceback"))]


@pytest.mark.slow
def test_sigterm_ends_a_training_without_traceback(tmp_path: Path) -> None:
    run = Run(tmp_path, *WORKERS)
    run.wait_for_training()
    run.process.terminate()
    assert run.wait() == 143
    assert run.lines == []  # the train loop hears it, and logs what to do
    assert "SIGTERM: the run ends here" in run.out.read_text() + run.err.read_text()
    wait_until(lambda: not any(map(is_alive, run.below)))


@pytest.mark.slow
def test_ctrl_c_ends_a_training_without_a_word(tmp_path: Path) -> None:
    run = Run(tmp_path, *WORKERS)
    run.wait_for_training()
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait() == 130
    assert run.lines == []
    wait_until(lambda: not any(map(is_alive, run.below)))


@pytest.mark.slow
def test_a_killed_loader_worker_ends_a_training_in_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path, *WORKERS)
    run.wait_for_training()
    os.kill(run.below[0], signal.SIGKILL)
    assert run.wait() == 2
    assert run.lines[0].startswith("error: data loader: a worker process was ended by a signal (Killed)")


@pytest.mark.slow
def test_loader_workers_end_with_a_killed_training(tmp_path: Path) -> None:
    run = Run(tmp_path, *WORKERS)
    run.wait_for_training()
    run.process.kill()
    run.wait()
    assert len(run.below) >= 2
    wait_until(lambda: not any(map(is_alive, run.below)))


@pytest.mark.slow
@ON_CPUS
def test_ranks_end_with_a_killed_torchrun(tmp_path: Path) -> None:
    run = Run(tmp_path, "--launcher", "pytorch", launcher=TORCHRUN)
    run.wait_for_training()
    assert len(run.below) == 2
    run.process.kill()
    run.wait()
    wait_until(lambda: not any(map(is_alive, run.below)))


@pytest.mark.slow
@ON_CPUS
def test_a_killed_rank_ends_the_others(tmp_path: Path) -> None:
    run = Run(tmp_path, "--launcher", "pytorch", launcher=TORCHRUN)
    run.wait_for_training()
    os.kill(run.below[0], signal.SIGKILL)
    assert run.wait() != 0
    wait_until(lambda: not any(map(is_alive, run.below)))


@pytest.fixture
def port() -> Iterator[str]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


@pytest.mark.slow
@ON_CPUS
def test_a_used_port_is_named(tmp_path: Path, port: str) -> None:
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    run = Run(tmp_path, "--launcher", "pytorch", **rank)
    assert run.wait() == 2
    (line,) = run.lines
    assert line.startswith(f"error: launcher: the port {port} is in use")


def test_dist_train_asks_for_its_port_first(port: str) -> None:
    command = ["bash", str(ROOT / "tools/dist_train.sh"), "config.py", "2"]
    environment = os.environ | {"PORT": port, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: PORT: must be free, but {port} is in use, perhaps by another training; choose another one.\n"
    )


def test_sigterm_lets_a_block_remove_its_drafts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_GRACE_SECONDS", 0.2)
    removed = []

    def body() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            removed.append(True)

    with pytest.raises(SystemExit) as ended:
        cli.run(body)
    assert ended.value.code == 143
    assert capsys.readouterr().err == "error: ended by SIGTERM.\n"
    assert removed == [True]
    time.sleep(0.4)  # a process that goes on is not ended later
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_block_ends_in_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_GRACE_SECONDS", 0.1)
    heard = []

    def body() -> None:
        before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.4)
        signal.signal(signal.SIGTERM, before)

    with pytest.raises(SystemExit) as ended:
        cli.run(body)
    assert ended.value.code == 0
    assert heard == [True]


STUCK = """
import os, signal, time
from hocp_mm.system import cli
cli._GRACE_SECONDS = 0.1
def body():
    os.kill(os.getpid(), signal.SIGTERM)
    while True:  # as a library that lets no handler end it
        try:
            time.sleep(30)
        except BaseException:
            pass
cli.run(body)
"""


def test_sigterm_ends_what_does_not_listen() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert done.returncode == 143
