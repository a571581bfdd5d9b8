"""Every damage to every layout: refused with one clear error, skipped with the rest unchanged, and found by the check."""

from pathlib import Path

import pytest

from tests.fault_injection.engine import examine, undamaged
from tests.fault_injection.layouts import Damage, Layout
from tests.fault_injection.report import LAYOUTS, TABLE, committed_rows

CASES = [
    pytest.param(layout, damage, id=f"{layout.name}: {damage.name}") for layout in LAYOUTS for damage in layout.damages
]


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """Give the small set of a layout and what it delivers, written once."""
    known = {}

    def of(layout: Layout):
        if layout.name not in known:
            root = tmp_path_factory.mktemp("small") / "set"
            known[layout.name] = root, undamaged(layout, root)
        return known[layout.name]

    return of


@pytest.fixture(scope="session")
def told() -> dict[tuple[str, str], tuple[str, ...]]:
    return {row[:2]: row for row in committed_rows()}


@pytest.mark.parametrize(("layout", "damage"), CASES)
def test_a_damage_is_told_or_harmless_and_stands_in_the_table(
    small_set, told, tmp_path: Path, layout: Layout, damage: Damage
):
    root, clean = small_set(layout)
    verdict = examine(layout, damage, root, clean, tmp_path)
    assert told.get(verdict.cells[:2]) == verdict.cells, f"{TABLE.name} must be written again (see its first lines)"


def test_the_table_holds_just_these_damages(told):
    assert list(told) == [(layout.name, damage.name) for layout in LAYOUTS for damage in layout.damages]
