"""Tasks over processes: the same results in the same order, and the first exception ends all."""

import operator

import pytest

from hocp_mm.parallel import run_tasks

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


def test_no_worker_is_refused():
    with pytest.raises(ValueError, match="workers must be 1 or more, got 0"):
        run_tasks(operator.pow, TASKS, 0, None)
