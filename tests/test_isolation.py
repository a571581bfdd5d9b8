"""Tasks that crash, hang or fail: each is told apart, and the others go on."""

import operator
import os
import signal
import time

import pytest

from hocp_mm.isolation import IsolatedPool, Outcome


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


def test_no_process_is_this_process():
    with IsolatedPool(0) as pool:
        assert dict(pool.run([(os.getpid, (), None)])) == {0: Outcome(os.getpid())}


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        IsolatedPool(-1)
