"""Tasks over processes: the same results in the same order, and the first exception ends all."""

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hocp_mm.system.parallel import end_with_launcher, is_first_process, launched, read_ahead, run_tasks
from tests.material.processes import ROOT

TASKS = [(n, 2) for n in range(5)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks_and_each_is_counted(workers):
    seen = []
    assert run_tasks(operator.pow, TASKS, workers, lambda *state: seen.append(state)) == [0, 1, 4, 9, 16]
    assert seen == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_of_a_task_is_raised(workers):
    with pytest.raises(ZeroDivisionError):
        run_tasks(operator.floordiv, [(1, 1), (1, 0), (2, 1)], workers, None)


def test_no_task_gives_no_result():
    assert run_tasks(operator.pow, [], None, None) == []


def test_what_is_read_ahead_comes_in_order_and_no_more_than_allowed_is_made():
    made = []

    def items():
        for number in range(30):
            made.append(number)
            yield number

    taken = []
    for number in read_ahead(items(), 3):
        taken.append(number)
        time.sleep(0.001)
        assert len(made) <= number + 6  # three that wait, the one in hand, and one on either side of the queue
    assert taken == made == list(range(30))


def test_an_exception_is_raised_in_its_turn():
    def items():
        yield 1
        raise KeyError("two")

    stream = read_ahead(items(), 5)
    assert next(stream) == 1
    with pytest.raises(KeyError, match="two"):
        next(stream)


def test_who_leaves_early_leaves_no_thread():
    before = threading.active_count()
    stream = read_ahead(iter(range(10**9)), 2)
    assert next(stream) == 0
    assert threading.active_count() == before + 1
    stream.close()
    assert threading.active_count() == before


def test_no_worker_is_refused():
    with pytest.raises(ValueError, match="workers must be 1 or more, got 0"):
        run_tasks(operator.pow, TASKS, 0, None)


CHILD = """
import sys, time
from hocp_mm.system.parallel import end_with_launcher
end_with_launcher({arguments})
print("ready", flush=True)
time.sleep(60)
"""

PARENT = """
import os, subprocess, sys
from hocp_mm.system.parallel import launched
environment = {environment}
child = subprocess.Popen([sys.executable, "-c", {code!r}], env=environment, stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline(), flush=True)
child.wait()
"""


def is_alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("arguments", "environment", "ends"),
    [
        ("'pytorch'", "os.environ", True),
        ("", "os.environ | {'TORCHELASTIC_RUN_ID': 'a'}", True),
        ("", "launched()", True),
        ("", "os.environ", False),
    ],
    ids=["a launcher", "torchrun", "a tool of this package", "a shell"],
)
def test_a_process_ends_with_the_program_that_launched_it(arguments, environment, ends):
    script = PARENT.format(environment=environment, code=CHILD.format(arguments=arguments))
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline().split()[0])
    try:
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + (30 if ends else 1)
        while is_alive(child) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert is_alive(child) is not ends
    finally:
        if is_alive(child):
            os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_a_process_whose_launcher_is_gone_already_ends_at_once():
    code = CHILD.format(arguments="")
    environment = launched() | {"HOCP_MM_LAUNCHED_BY": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_process_of_a_shell_is_left_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    before = {thread.name for thread in threading.enumerate()}
    end_with_launcher()
    assert {thread.name for thread in threading.enumerate()} == before


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
def test_one_process_of_a_run_is_the_first(name, monkeypatch):
    for other in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(other, raising=False)
    assert is_first_process()
    monkeypatch.setenv(name, "1")
    assert not is_first_process()
    monkeypatch.setenv(name, "0")
    assert is_first_process()
