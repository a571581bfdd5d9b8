"""`apply` as a whole: enough for stock MMAction2, light, and told to whoever installs."""

import torch

from hocp_mm.compat import __main__ as compat_main
from hocp_mm.errors import HOCPError
from tests.material.processes import run_python


def test_after_apply_stock_mmaction_models_build():
    code = """
        import sys
        from hocp_mm.compat import apply
        lines = apply()
        assert apply() == lines, "the second call changes nothing"
        heavy = [name for name in ("mmaction.models", "torchvision", "timm", "transformers") if name in sys.modules]
        assert not heavy, heavy
        import mmaction.models
        from mmaction.registry import MODELS
        net = MODELS.build(dict(type="ResNet3d", depth=18, pretrained=None, pretrained2d=False))
        print(type(net).__name__, len(MODELS.module_dict) > 70)
        try:
            mmaction.models.DRN()
        except (NotImplementedError, TypeError) as error:
            print(type(error).__name__)
    """
    assert run_python(code).splitlines()[0] == "ResNet3d True"


def test_module_prints_the_report_that_make_setup_ends_with(capsys):
    assert compat_main.main() == 0
    printed = capsys.readouterr().out
    assert f"torch {torch.__version__}" in printed
    assert "work-around: mmengine CheckpointLoader" in printed


def test_module_prints_a_refusal_without_traceback(capsys, monkeypatch):
    def refuse():
        raise HOCPError("compat: install it differently")

    monkeypatch.setattr(compat_main, "apply", refuse)
    assert compat_main.main() == 2
    assert capsys.readouterr().err == "error: compat: install it differently\n"
