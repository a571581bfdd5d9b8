"""What a command imports before it answers: nothing heavy for ``--help``, and for a video nothing of training."""

import pytest
import torch

from hocp_mm.functional import native_available
from tests.material.processes import ROOT, run_python

TOOLS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tools/*.py"))
TOOLS += ["tools/prepare/split_afew_va.py", "tools/prepare/split_sewa.py"]


@pytest.mark.parametrize("tool", TOOLS)
def test_help_imports_no_framework(tool: str):
    printed = run_python(f"""
        import runpy, sys
        sys.argv = [{tool!r}, "--help"]
        sys.path.insert(0, "tools")
        try:
            runpy.run_path({tool!r}, run_name="__main__")
        except SystemExit as end:
            assert end.code == 0, end.code
        print("imported:", [name for name in "torch mmengine timm av matplotlib".split() if name in sys.modules])
    """)
    assert printed.startswith("usage: ")
    assert printed.endswith("imported: []")


def test_inference_imports_nothing_of_training():
    """Then a network of this package is described and built: timm may bring the compiler, nobody the Runner."""
    printed = run_python("""
        import sys
        import torch
        own = set(sys.modules)  # of torch, which once imported its compiler at once
        from hocp_mm import compat
        compat.apply(training=False)
        import hocp_mm.apis, hocp_mm.visualization
        heavy = ["torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy"]
        if not hasattr(torch.compiler, "is_exporting"):  # torch < 2.7 brings its compiler with other parts of it
            heavy = [name for name in heavy if name not in ("torch._inductor", "sympy")]
        heavy += ["mmengine.model", "mmengine.optim", "timm", "torchvision", "matplotlib"]
        never = ["mmengine.runner", "mmengine.hooks", "mmengine.visualization", "mmaction", "mmcv", "skimage", "scipy"]
        never += ["sklearn", "pandas", "IPython", "matplotlib.pyplot", "hocp_mm.engine.hooks"]
        print([name for name in heavy + never if name in sys.modules and name not in own])
        from hocp_mm.apis.recorded_config import read_recorded_config
        from hocp_mm.launch import build_model
        backbone = "dict(type='hocp_mm.TimmHOCPBackbone', model_name='resnet18', rank=1)"
        model = f"dict(type='hocp_mm.AffectRecognizer', backbone={backbone}, head=dict(type='hocp_mm.AffectHead'))"
        build_model(read_recorded_config(f"default_scope = 'hocp_mm'; model = {model}", "a.pth"))
        print([name for name in never if name in sys.modules])
    """)
    assert printed.splitlines() == ["[]", "[]"]


def test_the_compiled_kernel_is_marked_as_torch_marks_a_constant():
    """By hand, since torch's decorator imports its compiler."""
    theirs = vars(torch.compiler.assume_constant_result(lambda: True))
    assert theirs
    assert theirs.items() <= vars(native_available).items()
