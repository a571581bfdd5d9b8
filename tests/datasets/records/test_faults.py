"""Faults know their kind, survive a pickle and are told together."""

import pickle
from types import SimpleNamespace

import pytest

from hocp_mm.datasets.records import dataset
from hocp_mm.datasets.records.faults import Fault, attempt, raise_faults, skipped_text
from hocp_mm.errors import DataError, MissingDataError


def _raise(error):
    raise error


def test_attempt_returns_the_value_or_collects_the_fault_with_its_kind():
    faults = []
    assert attempt(faults, "labels", "a.csv", int, "7") == 7
    assert attempt(faults, "labels", "a.csv", _raise, DataError("a.csv: wrong.")) is None
    assert attempt(faults, "video", "b.avi", _raise, MissingDataError("b.avi: no such video.")) is None
    assert [(fault, fault.kind, fault.file) for fault in faults] == [
        ("a.csv: wrong.", "labels", "a.csv"),
        ("b.avi: no such video.", "video missing", "b.avi"),
    ]


def test_attempt_lets_faults_of_the_program_through():
    with pytest.raises(KeyError):
        attempt([], "labels", "a.csv", _raise, KeyError("x"))


def test_a_fault_keeps_its_kind_between_processes():
    fault = pickle.loads(pickle.dumps(Fault("a.csv", "a.csv: wrong.", "labels")))
    assert (fault, fault.kind) == ("a.csv: wrong.", "labels")


def test_no_fault_is_no_error_and_several_are_counted_with_the_first_ten():
    raise_faults("Set", [])
    with pytest.raises(DataError) as caught:
        raise_faults("Set", [f"{n}: x" for n in range(12)])
    lines = str(caught.value).splitlines()
    assert lines[0] == "Set: the data must be complete, got 12 faults:"
    assert lines[1:] == [f"  {n}: x" for n in range(10)] + ["  … and 2 more"]


def test_names_cannot_give_commands_to_the_terminal():
    name = "\x1b[2J\udcff"
    with pytest.raises(DataError) as caught:
        raise_faults("Set", [name])
    for text in (str(caught.value), skipped_text("Set", [Fault(name, name)], [name])):
        assert "\\x1b[2J\\udcff" in text
        assert "\x1b" not in text


def test_nor_can_those_in_warnings(monkeypatch):
    """What is told at once has them as escapes; the check of the data, which shows its notes so itself, as they are."""
    told = []
    monkeypatch.setattr(dataset, "print_log", lambda text, **_: told.append(text))
    own = SimpleNamespace(name="Set", notes=[])
    dataset.AffectDataset.warn(own, "a\x1b[2J\nb")  # pyright: ignore[reportArgumentType]
    assert told == ["Set: a\\x1b[2J\\nb"]
    assert own.notes == ["Set: a\x1b[2J\nb"]


def test_skipped_faults_are_counted_by_kind_and_all_that_is_left_out_is_named():
    faults = [Fault("a", "a: x", "labels"), Fault("b", "b: x", "video"), Fault("c", "c: x", "labels")]
    assert skipped_text("Set", faults, ["k1", "k2"]).splitlines() == [
        "Set: on_fault='skip', 3 faults skipped: 2 labels, 1 video, 2 left out (k1, k2):",
        *(f"  {fault}" for fault in faults),
    ]
