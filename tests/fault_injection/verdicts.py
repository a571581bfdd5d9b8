"""What came of a damage, compared with what must come of it, in a word or two."""

from pathlib import Path

import numpy as np

from tests.fault_injection.delivery import Checked, Delivery, Pairs
from tests.fault_injection.layouts import Damage

_LONGEST_MESSAGE = 4000
_MEAN_DIFFERENCE = 4.0  # grey levels; another codec changes a crop by less, another picture by more than ten


class RuleError(AssertionError):
    """The data path broke a rule."""


def judge_training(damage: Damage, told: Delivery, clean: Pairs, named: tuple[str, ...]) -> str:
    """Compare a run over the damaged set with what was expected.

    Raises:
        RuleError: If it is something else, another exception, or an error that does not name the file.
    """
    if told.crash:
        raise RuleError(f"training raised another exception:\n{told.crash}")
    if told.error:
        _check_message(told.error, named)
        outcome, words = "refused", "refused at the start" if told.at_start else "refused at the clip"
    else:
        outcome = _compare(told, clean, named)
        words = {"harmless": "same pairs", "fewer": "frames left out, told", "unseen": "not seen"}[outcome]
    if outcome != damage.expects:
        wrong = sorted(key for key in clean if not same_pair(told.pairs.get(key), clean[key]))
        text = f"{told.error} {wrong[:3]} … {len(wrong)} differ, {told.log}"
        raise RuleError(f"training: expected {damage.expects}, got {outcome} ({text})")
    return words


def judge_skip(damage: Damage, told: Delivery, clean: Pairs, named: tuple[str, ...]) -> str:
    """Compare a run with ``on_fault="skip"`` with what was expected.

    Raises:
        RuleError: If another record changes, a wrong pair is delivered, or the damage is not named.
    """
    if told.crash:
        raise RuleError(f"skip raised another exception:\n{told.crash}")
    if told.error:
        _check_message(told.error, named)
        if damage.records is not None:
            raise RuleError(f"skip: must deliver the rest of the set, got {told.error}")
        return "refused"
    if damage.expects == "unseen":
        return "not seen"
    changed = [key for key, pair in clean.items() if not same_pair(told.pairs.get(key), pair)]
    if others := [key for key in changed if damage.records is None or key[0] not in damage.records]:
        raise RuleError(f"skip: the rest of the set must be unchanged, but {others[:3]} is not")
    if wrong := [key for key, pair in told.pairs.items() if not same_pair(pair, clean.get(key))]:
        raise RuleError(f"skip: delivered the wrong pair {wrong[0]}")
    if damage.expects == "harmless":
        if changed:
            raise RuleError(f"skip: left out {changed[:3]} of a set that is in order")
        return "nothing to skip"
    listed = any(name in text for _, text in told.faults for name in named)
    if not listed and not _is_named(told.log, named):
        raise RuleError(f"skip: {named} must be named, got {told.faults} and {told.log}")
    if not changed:
        return "named"
    if not listed and damage.expects == "refused":
        return "clip replaced"
    return "left out" if {key[0] for key in clean} - {key[0] for key in told.pairs} else "frames left out"


def judge_check(damage: Damage, told: Checked, named: tuple[str, ...]) -> str:
    """Compare what the check of the set found with what was expected.

    Raises:
        RuleError: If it misses a fault that training refuses, or finds one in a set that is in order.
    """
    if told.crash:
        raise RuleError(f"the check raised an exception:\n{told.crash}")
    kinds = sorted({kind for kind, text in told.faults if any(name in text for name in named)})
    expected = damage.expects == "refused" if damage.found is None else damage.found
    if expected and not kinds:
        raise RuleError(f"check: must name one of {named}, got {told.faults}")
    if not expected and told.faults:
        raise RuleError(f"check: must find nothing, got {told.faults}")
    if kinds:
        return f"found ({', '.join(kinds)})"
    return {"harmless": "in order", "unseen": "not found"}.get(damage.expects, "in order")


def same_pair(got: tuple[int, bytes, bytes] | None, wanted: tuple[int, bytes, bytes] | None) -> bool:
    """Tell whether number and labels are equal, and the picture but for what another codec does to it."""
    if got is None or wanted is None or got[:2] != wanted[:2]:
        return False
    one, other = (np.frombuffer(raw, np.uint8).astype(np.int16) for raw in (got[2], wanted[2]))
    return one.shape == other.shape and float(np.abs(one - other).mean()) < _MEAN_DIFFERENCE


def _compare(told: Delivery, clean: Pairs, named: tuple[str, ...]) -> str:
    if any(not same_pair(pair, clean.get(key)) for key, pair in told.pairs.items()):
        return "unseen"
    if told.pairs.keys() == clean.keys():
        return "harmless"
    return "fewer" if _is_named(told.log, named) else "unseen"


def _is_named(warnings: list[str], named: tuple[str, ...]) -> bool:
    """Tell whether a warning names a file, or a frame by its folder and number."""
    words = [(name,) if name.count("/") < 2 else (Path(name).stem, Path(name).parent.name) for name in named]
    return any(all(word in line for word in group) for line in warnings for group in [*words, *((n,) for n in named)])


def _check_message(text: str, named: tuple[str, ...]) -> None:
    if not any(name in text for name in named):
        raise RuleError(f"the message must name one of {named}, got: {text}")
    if len(text) > _LONGEST_MESSAGE:
        raise RuleError(f"the message must be readable, got {len(text)} characters: {text[:300]}")
