"""Every damage to every layout is refused or harmless, skipped with the rest unchanged, and found by the check."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from hocp_mm.system.parallel import cpu_cores
from tests.fault_injection.engine import Verdict, examine, undamaged
from tests.fault_injection.layouts import Damage, Layout
from tests.fault_injection.report import LAYOUTS, TABLE, committed_rows

CASES = [(layout, damage) for layout in LAYOUTS for damage in layout.damages]


@pytest.fixture(scope="session")
def told() -> dict[tuple[str, str], tuple[str, ...]]:
    return {(row[0], row[1]): row for row in committed_rows()}


@pytest.fixture(scope="session")
def verdict_of(request, tmp_path_factory) -> Iterator[Callable[[Layout, Damage], Verdict]]:
    """Examine the damages of all selected tests, as many at once as there are cores: each waits for its process."""
    selected = [
        item.callspec.params for item in request.session.items if "verdict_of" in getattr(item, "fixturenames", ())
    ]
    small: dict[str, Future] = {}
    found: dict[tuple[str, str], Future] = {}

    def write(layout: Layout):
        root = tmp_path_factory.mktemp("small") / "set"
        return root, undamaged(layout, root)

    def run(layout: Layout, damage: Damage) -> Verdict:
        root, clean = small[layout.name].result()
        return examine(layout, damage, root, clean, tmp_path_factory.mktemp("damage"))

    with ThreadPoolExecutor(cpu_cores()) as pool:
        for layout in {case["layout"].name: case["layout"] for case in selected}.values():
            small[layout.name] = pool.submit(write, layout)
        for case in selected:
            found[case["layout"].name, case["damage"].name] = pool.submit(run, **case)
        yield lambda layout, damage: found[layout.name, damage.name].result()
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("layout", "damage"), CASES, ids=[f"{layout.name}: {damage.name}" for layout, damage in CASES])
def test_a_damage_is_told_or_harmless_and_stands_in_the_table(verdict_of, told, layout, damage):
    row = verdict_of(layout, damage).cells
    assert told.get((layout.name, damage.name)) == row, f"{TABLE.name} must be written again (see its first lines)"


def test_the_table_holds_just_these_damages(told):
    assert list(told) == [(layout.name, damage.name) for layout, damage in CASES]
