"""Do one damage to a copy of a small set, and see what training, skipping and the check make of it.

Each copy is read in a process of its own with a time limit and a memory limit, so that a hang, a crash or a bomb is a
result and not the end of the tests.
"""

import gc
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.fault_injection.delivery import Checked, Delivery, Pairs, check, config_of, deliver
from tests.fault_injection.layouts import Damage, Layout
from tests.fault_injection.verdicts import RuleError, judge_check, judge_skip, judge_training
from tests.material.processes import ROOT

SECONDS = 60.0
_MEMORY = 2 << 30
_context = multiprocessing.get_context("forkserver")
# Imported once, in the server; each process is a copy of it.
_context.set_forkserver_preload(["pytest", "tests.fault_injection.delivery"])


@dataclass(frozen=True)
class Verdict:
    """One row of the table.

    Attributes:
        layout: Name of the layout.
        damage: What was done.
        training: What training does about it.
        skip: What it does with ``on_fault="skip"``.
        check: What the check says.
        message: The error or warning, without folders of this machine.
    """

    layout: str
    damage: str
    training: str
    skip: str
    check: str
    message: str

    @property
    def cells(self) -> tuple[str, ...]:
        """What must be the same everywhere: texts of FFmpeg and Pillow change between versions."""
        return self.layout, self.damage, self.training, self.skip, self.check


def isolated(function: Callable[..., Any], *args: Any, seconds: float = SECONDS) -> Any:
    """Call a function in a process of its own and return what it returns.

    Raises:
        RuleError: If it hangs, crashes, or takes too much memory.
    """
    _start_server()
    ours, theirs = _context.Pipe(duplex=False)
    process = _context.Process(target=_serve, args=(theirs, function, args))
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise RuleError(f"did not end within {seconds:g} s")
        return ours.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        raise RuleError(f"crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})") from None
    finally:
        process.kill()
        process.join()
        ours.close()


@lru_cache(maxsize=1)
def _start_server() -> None:
    """Start the server where it finds this folder: it has no other path than that of the environment."""
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])):
        forkserver.ensure_running()


def _serve(connection: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    gc.freeze()  # mmengine collects garbage for each data set, which takes half a second among all imported objects
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    connection.send(function(*args))


def undamaged(layout: Layout, root: Path) -> Pairs:
    """Write the small set to ``root`` and return what it delivers; nothing may be wrong with it."""
    layout.write(root)
    strict, _, checked = isolated(_walk, *_configs(layout, root, {}))
    if wrong := strict.error or strict.crash or checked.faults or checked.crash:
        raise RuleError(f"{layout.name}: the undamaged set must be in order, got {wrong}")
    return strict.pairs


def copy_and_harm(damage: Damage, root: Path, scratch: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the damaged copy and the names of which one must be told."""
    copy = Path(shutil.copytree(root, scratch / damage.folder, symlinks=True))
    named = damage.harm(copy)
    files = named if isinstance(named, tuple) else () if named is None else (named,)
    return copy, tuple(map(str, files))


def examine(layout: Layout, damage: Damage, root: Path, clean: Pairs, scratch: Path) -> Verdict:
    """Do the damage to a copy of ``root`` below ``scratch`` and judge what comes of it.

    Raises:
        RuleError: If the data path hangs, crashes, raises another exception, names no file, delivers a wrong pair, or
            writes a file.
    """
    copy, named = copy_and_harm(damage, root, scratch)
    before = _names(scratch)
    strict, lenient, checked = isolated(_walk, *_configs(layout, copy, damage.options))
    if written := _names(scratch) - before:
        raise RuleError(f"wrote {sorted(written)}")
    training = judge_training(damage, strict, clean, named)
    skip = judge_skip(damage, lenient, clean, named)
    found = judge_check(damage, checked, named)
    warned = next((line for line in strict.log if any(name in line for name in named)), "")
    return Verdict(layout.name, damage.name, training, skip, found, shorten(strict.error or warned, copy, scratch))


def _configs(layout: Layout, root: Path, changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return config_of(layout, root, changes, "train"), config_of(layout, root, changes, "val")


def _walk(train: dict[str, Any], val: dict[str, Any]) -> tuple[Delivery, Delivery, Checked]:
    return deliver(train), deliver({**train, "on_fault": "skip"}), check(train, val)


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def shorten(text: str, copy: Path, scratch: Path) -> str:
    """Leave out the folders of this machine, and all faults but the first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 else "".join(lines)
    return line.replace(f"{copy}/", "").replace(str(copy), "<root>").replace(str(scratch), "…")
