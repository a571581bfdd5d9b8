"""The wheel of MMAction2: its faults are planted in small packages; the real one is in `test_workarounds`."""

import sys

import pytest

from hocp_mm.compat import mmaction_wheel
from tests.material.processes import ROOT


def test_a_complete_mmaction_keeps_its_own_drn(fake_package):
    fake_package("mmaction", {"models/localizers/drn/drn.py": "class DRN: ..."})
    assert mmaction_wheel.supply_missing_drn() is None
    assert "mmaction.models.localizers.drn" not in sys.modules


def test_missing_drn_gets_a_placeholder_that_refuses_to_be_built(fake_package):
    fake_package("mmaction", {"models/__init__.py": "", "models/localizers/__init__.py": "from .drn.drn import DRN"})
    assert "placeholder" in str(mmaction_wheel.supply_missing_drn())
    assert mmaction_wheel.supply_missing_drn() is None
    with pytest.raises(NotImplementedError, match="install MMAction2 from source"):
        sys.modules["mmaction.models.localizers.drn.drn"].DRN(1)


VINDLU = "import transformers\nfrom transformers.modeling_utils import PreTrainedModel, prune_linear_layer\n"
DEPENDENCY = "WITH_MULTIMODAL = True"


@pytest.mark.parametrize(
    ("helpers", "fits"), [("class PreTrainedModel: ...", False), ("PreTrainedModel = prune_linear_layer = 1", True)]
)
def test_multimodal_models_are_switched_off_only_if_a_name_is_missing(fake_package, helpers, fits):
    fake_package(
        "mmaction",
        {
            "models/multimodal/vindlu/modeling_bert.py": VINDLU,
            "utils/__init__.py": "",
            "utils/dependency.py": DEPENDENCY,
        },
    )
    fake_package("transformers", {"__init__.py": "raise AssertionError('imported')", "modeling_utils.py": helpers})
    line = mmaction_wheel.skip_broken_multimodal()
    from mmaction.utils import dependency

    assert dependency.WITH_MULTIMODAL is fits
    assert (line is None) is fits
    assert fits or "transformers.modeling_utils.prune_linear_layer" in str(line)
    assert mmaction_wheel.skip_broken_multimodal() is None  # the second call finds nothing to do


def test_without_mmaction_nothing_happens(monkeypatch):
    monkeypatch.setattr(mmaction_wheel.importlib.util, "find_spec", lambda name: None)
    assert mmaction_wheel.supply_missing_drn() is None
    assert mmaction_wheel.skip_broken_multimodal() is None


def test_undeclared_dependency_of_mmaction_is_declared_by_us():
    assert "importlib_metadata" in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "importlib_metadata==" in (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")
