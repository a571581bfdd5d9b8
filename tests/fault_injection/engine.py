"""Do one damage to a copy of a small set, and see what training, skipping and the check make of it.

Each step has a process of its own with a time limit and a memory limit, so that a hang, a crash or a bomb is a result
and not the end of the tests.
"""

import multiprocessing
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.fault_injection.delivery import Delivery, Pairs, config_of, deliver
from tests.fault_injection.layouts import Damage, Layout

SECONDS = 60
_MEMORY = 2 << 30
_LONGEST_MESSAGE = 4000
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["hocp_mm.datasets", "hocp_mm.datasets.transforms"])


class RuleError(AssertionError):
    """The data path broke a rule."""


@dataclass(frozen=True)
class Verdict:
    """One row of the table."""

    layout: str
    damage: str
    training: str
    skip: str
    message: str


def isolated(function: Callable[..., Any], *args: Any, seconds: float = SECONDS) -> Any:
    """Call a function in a process of its own and return what it returns.

    Raises:
        RuleError: If it hangs, crashes, or takes too much memory.
    """
    ours, theirs = _context.Pipe(duplex=False)
    process = _context.Process(target=_serve, args=(theirs, function, args))
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise RuleError(f"did not end within {seconds} s")
        return ours.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        raise RuleError(f"crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})") from None
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(connection: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    connection.send(function(*args))


def undamaged(layout: Layout, root: Path) -> Pairs:
    """Write the small set to ``root`` and return what it delivers."""
    layout.write(root)
    told = isolated(deliver, config_of(layout, root, {}))
    assert not told.error, told.error
    assert not told.crash, told.crash
    return told.pairs


def copy_and_harm(layout: Layout, damage: Damage, root: Path, scratch: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the damaged copy and the names of which one must be told."""
    copy = Path(shutil.copytree(root, scratch / damage.folder, symlinks=True))
    named = damage.harm(copy)
    files = named if isinstance(named, tuple) else () if named is None else (named,)
    return copy, tuple(map(str, files))


def examine(layout: Layout, damage: Damage, root: Path, clean: Pairs, scratch: Path) -> Verdict:
    """Do the damage to a copy of ``root`` below ``scratch`` and judge what comes of it.

    Raises:
        RuleError: If the data path hangs, crashes, raises another exception, names no file, or delivers a wrong pair.
    """
    copy, named = copy_and_harm(layout, damage, root, scratch)
    before = _names(scratch)
    strict, lenient = isolated(_deliver_both, config_of(layout, copy, damage.options))
    if _names(scratch) != before:
        raise RuleError(f"wrote {sorted(_names(scratch) - before)}")
    training = judge_training(damage, strict, clean, named)
    skip = judge_skip(damage, lenient, clean, named)
    message = strict.error or next((line for line in strict.warnings if any(name in line for name in named)), "")
    return Verdict(layout.name, damage.name, training, skip, shorten(message, copy, scratch))


def _deliver_both(config: dict[str, Any]) -> tuple[Delivery, Delivery]:
    return deliver(config), deliver({**config, "on_fault": "skip"})


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def judge_training(damage: Damage, told: Delivery, clean: Pairs, named: tuple[str, ...]) -> str:
    """Compare a run over the damaged set with what was expected, and say it in two words."""
    if told.crash:
        raise RuleError(f"training raised another exception:\n{told.crash}")
    if told.error:
        _check_message(told.error, named)
        verdict = "refused"
        detail = "refused at the start" if told.at_start else "refused at the clip"
    else:
        verdict = detail = _compare(told, clean, named)
    if verdict != damage.expects:
        differing = sorted(key for key in clean if told.pairs.get(key, (0, b""))[:2] != clean[key][:2])
        text = f"{told.error} {differing[:3]} … {len(differing)} differ, {told.warnings}"
        raise RuleError(f"training: expected {damage.expects}, got {verdict} ({text})")
    return {"harmless": "same pairs", "fewer": "frames left out, told", "unseen": "not seen"}.get(detail, detail)


def judge_skip(damage: Damage, told: Delivery, clean: Pairs, named: tuple[str, ...]) -> str:
    """Compare a run with ``on_fault="skip"`` with what was expected, and say it in two words."""
    if told.crash:
        raise RuleError(f"skip raised another exception:\n{told.crash}")
    if told.error:
        _check_message(told.error, named)
        if damage.records is not None:
            raise RuleError(f"skip: must deliver the rest of the set, got {told.error}")
        return "refused"
    if damage.expects == "unseen":
        return "not seen"
    for key, pair in clean.items():
        if damage.records is None or key[0] in damage.records:
            continue
        if not same_pair(told.pairs.get(key), pair):
            raise RuleError(f"skip: the rest of the set must be unchanged, but {key} is not")
    if told.pairs.keys() - clean.keys() or any(not same_pair(pair, clean[key]) for key, pair in told.pairs.items()):
        raise RuleError(f"skip: delivered a wrong pair ({sorted(told.pairs.keys() - clean.keys())})")
    if damage.expects == "harmless":
        if told.pairs.keys() != clean.keys():
            raise RuleError(f"skip: left out {sorted(clean.keys() - told.pairs.keys())} of a set that is in order")
        return "nothing to skip"
    by_name = [text for _, text in told.faults if any(name in text for name in named)]
    by_log = [line for line in told.warnings if any(name in line or Path(name).stem in line for name in named)]
    if not by_name and not by_log:
        raise RuleError(f"skip: {named} must be named, got {told.faults} and {told.warnings}")
    if told.pairs.keys() == clean.keys():
        return "told"
    lost = {key[0] for key in clean} - {key[0] for key in told.pairs}
    if not by_name:
        return "clip replaced" if damage.expects == "refused" else "frames left out"
    return "left out" if lost else "frames left out"


def _compare(told: Delivery, clean: Pairs, named: tuple[str, ...]) -> str:
    wrong = [key for key, pair in told.pairs.items() if key not in clean or not same_pair(pair, clean[key])]
    if wrong:
        return "unseen"
    if told.pairs.keys() == clean.keys():
        return "harmless"
    if any(name in line or Path(name).stem in line for line in told.warnings for name in named):
        return "fewer"
    return "unseen"


def same_pair(got: tuple[int, bytes, bytes] | None, wanted: tuple[int, bytes, bytes]) -> bool:
    """Tell whether number and labels are equal, and the picture but for what another codec does to it."""
    if got is None or got[:2] != wanted[:2]:
        return False
    one, other = (np.frombuffer(raw, np.uint8).astype(np.int16) for raw in (got[2], wanted[2]))
    return one.shape == other.shape and float(np.abs(one - other).mean()) < 4


def _check_message(text: str, named: tuple[str, ...]) -> None:
    if not any(name in text for name in named):
        raise RuleError(f"the message must name one of {named}, got: {text}")
    if len(text) > _LONGEST_MESSAGE:
        raise RuleError(f"the message must be readable, got {len(text)} characters: {text[:300]}")


def shorten(text: str, copy: Path, scratch: Path) -> str:
    """Leave the folders of this machine out of a message, and all lines but the last."""
    lines = [line.strip() for line in text.splitlines()]
    line = next((line for line in lines[1:] if line), lines[0]) if lines else ""
    return line.replace(f"{copy}/", "").replace(str(copy), "<root>").replace(str(scratch), "…")
