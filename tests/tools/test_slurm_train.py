"""``tools/slurm_train.sh`` with stand-ins for Slurm's programs that write down how they were called."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.material.processes import ROOT

SCRIPT = ROOT / "tools" / "slurm_train.sh"
SRUN = """#!/usr/bin/env bash
trap 'echo "srun was told" >>"$CALLS"; sleep 0.2; echo "srun is through" >>"$CALLS"; exit "$AFTER"' TERM
echo "srun $*" >>"$CALLS"
[ "$DURING" != wait ] && exit "$DURING"
for _ in {1..600}; do sleep 0.05; done
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then
  if [ -n "$EARLY" ]; then kill -TERM "$PPID"; sleep 0.1; fi
  echo node7; sleep 0.05; echo node8
else
  echo "scontrol $*" >>"$CALLS"
fi
"""


class Job:
    """A job in a folder with stand-ins on its PATH."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.calls.touch()
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755)
        self.environ = {
            "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(self.calls), "PYTHON": "python-of-mine",
            "SLURM_JOB_ID": "61234", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_GPUS_ON_NODE": "4", "SLURM_SUBMIT_DIR": str(ROOT),
        }  # fmt: skip

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start the script as Slurm does: a copy, somewhere else."""
        copy = self.calls.parent / "slurm_script"
        copy.write_bytes(SCRIPT.read_bytes())
        environ = {key: value for key, value in (self.environ | environ).items() if value}
        return subprocess.Popen(
            ["bash", str(copy), *arguments], env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def made(self) -> list[str]:
        return self.calls.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, errors = process.communicate(timeout=30)
    return process.returncode, output + errors


def test_starts_torchrun_on_every_node_and_always_resumes(job):
    code, _ = ended(job.start("configs/a.py", "--work-dir", "runs of mine/a", DURING="0"))
    (call,) = job.made()
    assert code == 0
    assert call == (
        "srun --ntasks-per-node=1 --kill-on-bad-exit=1 python-of-mine -m torch.distributed.run --nnodes=2"
        " --nproc_per_node=4 --max_restarts=0 --rdzv_backend=c10d --rdzv_id=61234 --rdzv_endpoint=node7:21234"
        f" {ROOT}/tools/train.py configs/a.py --work-dir runs of mine/a --launcher pytorch --resume"
    )


def test_variables_are_heeded(job):
    ended(job.start("a.py", DURING="0", PROCESSES="2", PORT="29501", MAX_RESTARTS="3", SLURM_GPUS_ON_NODE=""))
    (call,) = job.made()
    assert " --nproc_per_node=2 --max_restarts=3 " in call
    assert " --rdzv_endpoint=node7:29501 " in call


def test_failure_keeps_its_code_and_is_not_put_back(job):
    code, _ = ended(job.start("a.py", DURING="7"))
    assert code == 7
    assert len(job.made()) == 1


def told(job: Job, **environ: str) -> tuple[int, str]:
    """Let a job train, send what Slurm sends before the end, and wait for it."""
    process = job.start("a.py", DURING="wait", **environ)
    deadline = time.monotonic() + 30
    while not job.made():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    return ended(process)


@pytest.mark.parametrize("after", ["1", "143"])
def test_warning_reaches_the_trainers_and_puts_the_job_back_when_they_have_ended(job, after):
    """Its torchrun ends with 1, trainers alone with 143."""
    code, output = told(job, AFTER=after)
    assert job.made()[1:] == ["srun was told", "srun is through", "scontrol requeue 61234"]
    assert code == 143
    assert "goes back into the queue" in output


def test_warning_that_comes_before_there_are_trainers_is_not_forgotten(job):
    code, _ = ended(job.start("a.py", DURING="wait", AFTER="1", EARLY="yes"))
    assert code == 143
    assert job.made()[-1] == "scontrol requeue 61234"


def test_training_that_ends_well_in_spite_of_a_warning_is_not_put_back(job):
    code, _ = told(job, AFTER="0")
    assert job.made()[1:] == ["srun was told", "srun is through"]
    assert code == 0


REFUSED = {
    "no config": ([], {}, "usage: sbatch"),
    "an option for a config": (["--resume"], {}, "usage: sbatch"),
    "no Slurm": (["a.py"], {"SLURM_JOB_ID": ""}, "to be started with sbatch, which sets SLURM_JOB_ID"),
    "another folder": (["a.py"], {"SLURM_SUBMIT_DIR": "/"}, "call sbatch in the repository or set HOCP_MM_ROOT"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_in_one_line(job, case):
    arguments, environ, text = REFUSED[case]
    code, output = ended(job.start(*arguments, **environ))
    assert code == 2
    assert text in output
    assert len(output.splitlines()) == 1
    assert job.made() == []


def test_slurm_is_asked_for_a_warning_and_for_logs_that_go_on():
    directives = [line for line in SCRIPT.read_text(encoding="utf-8").splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@120", "#SBATCH --open-mode=append"} <= set(directives)
