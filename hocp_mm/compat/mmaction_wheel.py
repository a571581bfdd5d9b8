"""Make ``mmaction.models`` importable from the published wheel of MMAction2 1.2.0."""

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

__all__ = ["skip_broken_multimodal", "supply_missing_drn"]

LOCALIZERS = "mmaction.models.localizers"


def supply_missing_drn() -> str | None:
    """Put an empty ``drn`` package where the wheel lost it.

    Fault: ``import mmaction.models`` ends in ``No module named 'mmaction.models.localizers.drn'``: the folder has no
        ``__init__.py`` and was left out of the wheel, while ``localizers/__init__.py`` imports from it.
    Where: mmaction2 1.2.0 from PyPI; a source checkout has the folder.
    Cure: modules in ``sys.modules`` with a placeholder class ``DRN`` that refuses to be built.
    Source: https://github.com/open-mmlab/mmaction2/issues/2714

    Returns:
        A line for the log, or None where nothing had to be done.
    """
    spec = importlib.util.find_spec("mmaction")  # finds the folder; imports nothing
    if spec is None or spec.origin is None or f"{LOCALIZERS}.drn" in sys.modules:
        return None
    localizers = Path(spec.origin).parent / "models" / "localizers"
    if not localizers.is_dir() or (localizers / "drn" / "drn.py").is_file():
        return None
    package, module = ModuleType(f"{LOCALIZERS}.drn"), ModuleType(f"{LOCALIZERS}.drn.drn")
    package.__path__ = []  # what makes it a package
    package.drn = module  # pyright: ignore[reportAttributeAccessIssue]
    module.DRN = DRN  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules[package.__name__], sys.modules[module.__name__] = package, module
    return f"{LOCALIZERS}.drn: placeholder, the mmaction2 wheel lacks it"


class DRN(nn.Module):
    """Placeholder for the temporal localizer that the wheel of MMAction2 1.2.0 does not contain."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError("DRN is missing from the mmaction2 1.2.0 wheel; install MMAction2 from source.")


def skip_broken_multimodal() -> str | None:
    """Keep MMAction2 from importing its multimodal models beside a transformers that they do not fit.

    Fault: ``import mmaction.models`` ends in ``cannot import name 'find_pruneable_heads_and_indices' from
        'transformers.modeling_utils'`` (or another name), raised by ``mmaction/models/multimodal/vindlu``, whenever a
        transformers >= 4.28 is installed.
    Where: mmaction2 1.2.0 with transformers >= 4.45 and 5, which moved these helpers.
    Cure: ``mmaction.utils.dependency.WITH_MULTIMODAL = False``, as if transformers were absent; the classes then say
        what they need when they are built.
    Source: https://github.com/xinyu1205/recognize-anything/issues/219 (the same imports, elsewhere).

    Returns:
        A line for the log, or None where nothing had to be done.
    """
    transformers, mmaction = importlib.util.find_spec("transformers"), importlib.util.find_spec("mmaction")
    if transformers is None or transformers.origin is None or mmaction is None or mmaction.origin is None:
        return None
    missing = _missing_transformers_name(Path(mmaction.origin).parent, Path(transformers.origin).parent)
    # Without mmcv, mmaction cannot be imported at all and says so itself.
    if missing is None or importlib.util.find_spec("mmcv") is None:
        return None
    from mmaction.utils import dependency

    if not dependency.WITH_MULTIMODAL:
        return None
    dependency.WITH_MULTIMODAL = False
    return f"mmaction.models.multimodal: switched off, the installed transformers has no {missing}"


def _missing_transformers_name(mmaction: Path, transformers: Path) -> str | None:
    """Find a name that the multimodal models import and transformers lacks.

    Reads both as text, because importing transformers takes seconds.

    Returns:
        ``module.name``, or None if all are there.
    """
    for source in sorted((mmaction / "models" / "multimodal" / "vindlu").glob("*.py")):
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("transformers."):
                continue
            target = transformers.joinpath(*str(node.module).split(".")[1:])
            if target.is_dir():  # a lazy package: what it offers cannot be read off its text
                continue
            text = target.with_suffix(".py").read_text(encoding="utf-8") if target.with_suffix(".py").is_file() else ""
            for alias in node.names:
                if not re.search(rf"\b{alias.name}\b", text):
                    return f"{node.module}.{alias.name}"
    return None
