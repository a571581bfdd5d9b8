"""A script outside of the package as a module, for tests that call its functions."""

import importlib.util
from types import ModuleType

from tests.material.processes import ROOT


def load_tool(name: str, folder: str = "tools") -> ModuleType:
    """Run a script as a module of its own, fresh in every call.

    Args:
        name: Path below ``folder`` without suffix, such as ``"prepare/sewa"``.
        folder: Folder below the root of the repository.

    Returns:
        The module.
    """
    path = ROOT / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{folder}_{name.replace('/', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
