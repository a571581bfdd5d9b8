"""Names of scope `hocp_mm` resolve from everywhere, and asking for one is what imports the code behind it."""

import mmengine.registry
import pytest

from hocp_mm import registry
from tests.material.processes import run_python

KINDS = ("MODELS", "DATASETS", "TRANSFORMS", "METRICS", "HOOKS", "OPTIM_WRAPPERS")


@pytest.mark.parametrize("kind", KINDS)
def test_registry_is_a_child_of_mmengines(kind):
    child, root = getattr(registry, kind), getattr(mmengine.registry, kind)
    assert child.parent is root
    assert root.children["hocp_mm"] is child
    assert child.name == root.name


def test_importing_the_registry_is_light():
    heavy = "torchvision mmcv mmaction timm cv2 av decord hocp_mm.models hocp_mm.datasets"
    code = f"import sys, hocp_mm.registry; print([name for name in '{heavy}'.split() if name in sys.modules])"
    assert run_python(code) == "[]"


def test_every_location_exists_and_registers_something():
    code = f"""
        from hocp_mm import registry
        for kind in {KINDS}:
            child = getattr(registry, kind)
            child.import_from_location()
            print(kind, len(child.module_dict))
    """
    counts = dict(line.split() for line in run_python(code).splitlines())
    assert list(counts) == list(KINDS)
    assert "0" not in counts.values()


def test_prefixed_name_resolves_from_the_root_with_nothing_imported():
    """As a config does; the unprefixed name belongs to the own scope only."""
    code = """
        from mmengine.registry import MODELS, DefaultScope
        print(MODELS.get("hocp_mm.AffectHead").__module__)
        print(MODELS.get("AffectHead"))
        with DefaultScope.overwrite_default_scope("hocp_mm"):
            print(type(MODELS.build(dict(type="AffectHead", in_channels=4))).__name__)
    """
    module, unprefixed, in_scope = run_python(code).splitlines()
    assert module.startswith("hocp_mm.models.")
    assert (unprefixed, in_scope) == ("None", "AffectHead")


def test_prefixed_name_resolves_inside_scope_mmaction():
    """As a stock MMAction2 config does; the registry of that scope imports `mmaction.models`, hence the cure."""
    code = """
        from hocp_mm.compat import apply
        apply()
        from mmaction.registry import MODELS
        from mmengine.registry import DefaultScope
        with DefaultScope.overwrite_default_scope("mmaction"):
            print(type(MODELS.build(dict(type="hocp_mm.AffectHead", in_channels=4))).__module__)
    """
    assert run_python(code).startswith("hocp_mm.models.")


def test_unknown_name_says_so():
    with pytest.raises(KeyError, match=r"hocp_mm\.NoSuchHead is not in the"):
        mmengine.registry.MODELS.build({"type": "hocp_mm.NoSuchHead"})
