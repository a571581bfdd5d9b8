"""Tasks that crash, hang or fail: each is told apart, and the others go on."""

import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hocp_mm.system.isolation import IsolatedPool, Outcome


def test_a_crash_and_an_endless_task_cost_only_themselves():
    tasks = [
        (operator.add, (1, 2), 60.0),
        (signal.raise_signal, (signal.SIGSEGV,), 60.0),
        (time.sleep, (600,), 0.5),
        (os._exit, (7,), None),
        (operator.add, (3, 4), None),
    ]
    with IsolatedPool(2) as pool:
        outcomes = dict(pool.run(tasks))
    assert outcomes == {
        0: Outcome(3),
        1: Outcome(failure="crashed (SIGSEGV)"),
        2: Outcome(failure="did not end within 0.5 s"),
        3: Outcome(failure="crashed (exit code 7)"),
        4: Outcome(7),
    }


def test_a_pool_serves_several_runs_and_an_abandoned_one_leaves_no_answer_behind():
    with IsolatedPool(1) as pool:
        unfinished = pool.run([(operator.add, (1, 1), None), (operator.add, (2, 2), None)])
        assert next(unfinished) == (0, Outcome(2))
        unfinished.close()
        assert dict(pool.run([(operator.mul, (5, 5), None)])) == {0: Outcome(25)}


def test_an_exception_of_a_function_is_a_fault_of_the_program():
    with IsolatedPool(1) as pool, pytest.raises(RuntimeError, match=r"task 0 failed(.|\n)*ZeroDivisionError"):
        list(pool.run([(operator.floordiv, (1, 0), None)]))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone limits the memory of a process")
def test_a_task_that_wants_too_much_memory_fails_alone():
    with IsolatedPool(1, memory_bytes=2**30) as pool:
        assert dict(pool.run([(bytearray, (2**20,), None)]))[0].value == bytes(2**20)
        with pytest.raises(RuntimeError, match=r"task 0 failed(.|\n)*MemoryError"):
            list(pool.run([(bytearray, (2**31,), None)]))
        assert dict(pool.run([(operator.add, (1, 2), None)])) == {0: Outcome(3)}


def test_a_process_that_was_killed_between_two_tasks_is_replaced():
    with IsolatedPool(1) as pool:
        ((_, outcome),) = pool.run([(os.getpid, (), None)])
        os.kill(outcome.value, signal.SIGKILL)
        _wait_until(lambda: not pool._workers[0]._process.is_alive())
        assert dict(pool.run([(operator.add, (1, 2), None)])) == {0: Outcome(3)}


def test_no_process_is_this_process():
    with IsolatedPool(0) as pool:
        assert dict(pool.run([(os.getpid, (), None)])) == {0: Outcome(os.getpid())}


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        IsolatedPool(-1)


SCRIPT = """
import os, sys, time
from hocp_mm.system.isolation import IsolatedPool

def hang(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()) + "\\n")
    time.sleep(600)

if __name__ == "__main__":
    with IsolatedPool(1) as pool:
        list(pool.run([(hang, (sys.argv[1],), None)]))
"""


POOL_SCRIPT = """
import multiprocessing, operator
from hocp_mm.system.isolation import IsolatedPool

def isolated(a, b):
    with IsolatedPool(1) as pool:
        ((_, outcome),) = pool.run([(operator.add, (a, b), None)])
    return outcome.value, multiprocessing.current_process().daemon

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(isolated, (1, 2)))
"""


def test_a_process_of_another_pool_can_have_one_too(tmp_path):
    (tmp_path / "script.py").write_text(POOL_SCRIPT)
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(3, True)"


def test_a_process_in_the_middle_of_an_endless_file_ends_with_a_killed_parent(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(note)])
    _wait_until(lambda: note.is_file() and note.read_text().endswith("\n"))
    parent.kill()
    parent.wait()
    child = int(note.read_text())
    try:
        _wait_until(lambda: not _runs(child))
    finally:
        if _runs(child):
            os.kill(child, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Ended, but not yet asked for by whoever inherited it.
    state = Path(f"/proc/{pid}/stat")
    return not (state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
