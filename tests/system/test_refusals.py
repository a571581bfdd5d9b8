"""What is the user's ends in one bounded line; a fault of the program keeps its traceback."""

import errno
import pickle
from collections.abc import Callable

import pytest
import torch
from mmengine.registry import HOOKS, Registry
from torch._utils import ExceptionWrapper

from hocp_mm.engine import StagedUnfreezeHook
from hocp_mm.errors import DataError, HOCPError, OutputError
from hocp_mm.functional import ccc
from hocp_mm.system.refusals import config_errors, one_line, refusal, shorten


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def raiser(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def own_check() -> None:
    StagedUnfreezeHook(stages=[])


def in_worker(function: Callable[[], object]) -> Callable[[], None]:
    """Hand an error on as a data loader does."""

    def other_process() -> None:
        try:
            function()
        except Exception:
            wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
        wrapper.reraise()

    return other_process


USERS: dict[str, tuple[Callable[[], object], str]] = {
    "a check of this package": (own_check, "StagedUnfreezeHook: stages must"),
    "a check of this package, in a worker": (in_worker(own_check), r"^StagedUnfreezeHook: stages must"),
    "a full disk": (raiser(OSError(errno.ENOSPC, "No space left on device")), "a file of this run: cannot be written"),
    "a full disk with a name": (raiser(OSError(errno.ENOSPC, "No space", "a.log")), r"^a\.log: cannot be written"),
    "a file without permission": (raiser(PermissionError(errno.EACCES, "Permission denied", "a.csv")), r"^a\.csv: "),
    "a name too long": (lambda: open("n" * 999), "File name too long"),  # noqa: SIM115, PTH123 - it cannot be opened
    "a killed worker": (
        raiser(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")),
        r"^data loader: a worker process was ended by a signal \(Killed\)",
    ),
    "a lost worker": (
        raiser(RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")),
        "^data loader: a worker process was ended from outside",
    ),
    "a used port": (
        raiser(RuntimeError("The server socket has failed to listen. port: 29500, name: EADDRINUSE")),
        "^launcher: the port 29500 is in use",
    ),
    "a number that fits no memory": (lambda: torch.zeros(10**14), r"^memory: there is not enough .*400000000000000"),
    "a GPU that is full": (raiser(torch.OutOfMemoryError("CUDA out of memory. Tried to")), r"^memory: .*take smaller"),
}


@pytest.mark.parametrize("case", USERS)
def test_what_a_user_can_mend_becomes_one_line(case: str) -> None:
    function, text = USERS[case]
    line = refusal(caught(function))
    assert line is not None
    assert "\n" not in line
    with pytest.raises(HOCPError, match=text):
        raise HOCPError(line)


FAULTS: dict[str, Callable[[], object]] = {
    "a key that is not there": lambda: {}["a"],
    "an index": lambda: [][0],
    "an attribute": lambda: None.a,  # type: ignore[attr-defined]
    "a division": lambda: 1 / 0,
    "a value that torch refuses": lambda: torch.zeros(-1),
    "an operation in this package": lambda: ccc(None, None),  # type: ignore[arg-type]
    "a value error of another package": raiser(ValueError("x")),
    "a file that is not there": lambda: open("nowhere/a.csv"),  # noqa: SIM115, PTH123 - it cannot be opened
    "a fault in a worker": in_worker(lambda: int("a")),
    "memory": raiser(MemoryError()),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_of_the_program_stays_one(case: str) -> None:
    assert refusal(caught(FAULTS[case])) is None


HOOK = {"type": "hocp_mm.StagedUnfreezeHook"}
CONFIG = {"default_hooks": {"timer": {"type": "IterTimerHook"}}, "custom_hooks": [HOOK | {"stages": []}]}
BUILDS: dict[str, tuple[dict[str, object], str]] = {
    "a check": (
        HOOK | {"stages": []},
        r"^config: custom_hooks\.0 \(hocp_mm\.StagedUnfreezeHook\): Staged.* stages must",
    ),
    "an unknown class": (
        {"type": "IterTimeHook"},
        r"^config: IterTimeHook: type must be the name of a registered hook, got 'IterTimeHook'\.$",
    ),
    "an unknown argument": ({"type": "IterTimerHook", "colour": 1}, r"\(IterTimerHook|IterTimerHook\b.*arguments?"),
    "an operation in torch": (HOOK | {"stages": 5}, "stages must be a list"),
    "no type": ({"stages": 5}, r'config: .*must contain the key "type".*'),
}


@pytest.mark.parametrize("case", BUILDS)
def test_a_part_that_cannot_be_built_is_named(case: str) -> None:
    part, text = BUILDS[case]
    with pytest.raises(HOCPError, match=text), config_errors(CONFIG):
        HOOKS.build(part)


def test_while_building_only_our_own_faults_keep_their_traceback() -> None:
    parts = Registry("part")
    parts.register_module(name="Odd", module=lambda: torch.zeros(-1))
    with (
        pytest.raises(HOCPError, match=r"config: Odd: RuntimeError: .*; HOCP_TRACEBACK=1 shows"),
        config_errors(),
    ):
        parts.build({"type": "Odd"})
    with pytest.raises(AttributeError), config_errors():
        ccc(None, None)  # type: ignore[arg-type]


def test_errors_that_say_enough_are_not_wrapped() -> None:
    for error in (DataError("a.csv: wrong."), OutputError("b"), OSError(errno.ENOSPC, "full", "c")):
        with pytest.raises(type(error)) as got, config_errors():
            raise error
        assert got.value is error


def test_once_work_began_a_value_error_of_others_is_a_fault() -> None:
    def run_epoch() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match=r"^x$"), config_errors():
        run_epoch()


TEXTS: dict[str, str] = {
    "a long word": "a.csv: must be short, got " + "x" * 5000 + " (line 3).",
    "a long text in quotes": "a.csv: must be short, got '" + "x y " * 5000 + "' (line 3).",
    "a long list": f"a.csv: must be short, got {list(range(9999))} (line 3).",
    "a long dict": f"a.csv: must be short, got {dict.fromkeys(range(9999))} (line 3).",
    "long without marks": "a.csv: must be short, got " + "x y " * 5000 + "(line 3).",
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_line_keeps_its_beginning_and_end(case: str) -> None:
    line = one_line(TEXTS[case])
    assert line.startswith("a.csv: must be short, got ")
    assert line.endswith(" (line 3)." if case != "long without marks" else "(line 3).")
    assert len(line) <= (350 if case != "long without marks" else 600)


def test_lines_show_what_terminals_would_obey() -> None:
    assert one_line("a\nb\tc\x1b[31m\x00\u202e d\r") == r"a\nb\tc\x1b[31m\x00\u202e d\r"
    assert one_line("Größe, 数据, 'é'") == "Größe, 数据, 'é'"
    assert refusal(DataError("split\ninto lines")) == r"split\ninto lines"
    assert "\n" not in one_line("a\udcffb")


@pytest.mark.parametrize("limit", [7, 50, 300])
def test_shorten_keeps_to_its_limit(limit: int) -> None:
    text = "".join(map(str, range(999)))
    assert len(shorten(text, limit)) == limit
    assert shorten(text[:limit], limit) == text[:limit]


def test_an_output_error_survives_the_way_from_a_worker() -> None:
    assert (
        str(pickle.loads(pickle.dumps(OutputError("a: cannot be written (full).")))) == "a: cannot be written (full)."
    )


def test_an_error_that_repeats_a_whole_file_is_not_looked_at_letter_by_letter():
    """It would take minutes and gigabytes."""

    class Long(str):
        __slots__ = ()

        def __iter__(self):
            raise AssertionError("every letter is looked at")

    line = one_line(Long("a.npz: got " + "[1, " * 100_000))
    assert line.startswith("a.npz: got ")
    assert len(line) <= 600
