"""No file of the package leads back to itself by way of what it imports, wherever in a file an import stands.

The rooms have an order, too: import-linter checks that (pyproject.toml).
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import hocp_mm


def imports(root: Path) -> dict[str, set[str]]:
    """Return what each file below a package imports from it; what a package re-exports counts for the file it is from.

    Args:
        root: Folder of the package.

    Returns:
        Modules by module, names with dots; packages themselves are left out.
    """
    files = {".".join(path.relative_to(root.parent).with_suffix("").parts): path for path in root.rglob("*.py")}
    said = {module.removesuffix(".__init__"): list(_said(path, root.name)) for module, path in files.items()}
    packages = {module.removesuffix(".__init__") for module in files if module.endswith(".__init__")}
    exports = {(package, name): source for package in packages for source, name in said[package] if name}

    def home(source: str, name: str | None) -> str:
        seen: set[str] = set()
        while name and f"{source}.{name}" not in said and source not in seen and (source, name) in exports:
            seen.add(source)
            source = exports[source, name]
        return f"{source}.{name}" if f"{source}.{name}" in said else source

    return {
        module: {home(*pair) for pair in pairs} - {module} - packages
        for module, pairs in said.items()
        if module not in packages
    }


def _said(path: Path, package: str) -> Iterator[tuple[str, str | None]]:
    """Yield module and name of every import from a package."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
            assert node.module is not None
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if f"{alias.name}.".startswith(f"{package}."))


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the files of a circle, or nothing."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_file_leads_back_to_itself():
    graph = imports(Path(hocp_mm.__file__).parent)
    assert len(graph) > 200
    assert circle(graph) == []


CIRCLES = {
    "files of one room": {"a/x.py": "from p.a.y import Y", "a/y.py": "from p.a import x"},
    "inside a function": {"a/x.py": "def f():\n    import p.a.y", "a/y.py": "from p.a.x import f"},
    "by way of what a package re-exports": {
        "a/__init__.py": "from p.a.x import X",
        "a/x.py": "from p.b.y import Y",
        "b/y.py": "from p.a import X",
    },
    "by way of two packages": {
        "__init__.py": "from p.a import X",
        "a/__init__.py": "from p.a.x import X",
        "a/x.py": "from p.b.y import Y",
        "b/y.py": "from p import X",
    },
    "for types alone": {
        "a/x.py": "if TYPE_CHECKING:\n    from p.b.y import Y",
        "b/y.py": "from p.a.x import X",
    },
}
LINES = {
    "down only": {"a/x.py": "from p.b.y import Y", "b/y.py": "import os, pathlib\nfrom px.a import x"},
    "a file beside a re-export of its own": {
        "a/__init__.py": "from p.a.x import X\nfrom p.a.y import Y",
        "a/x.py": "from p.a import Y",
        "a/y.py": "Y = 1",
    },
}


@pytest.mark.parametrize("case", [*CIRCLES, *LINES])
def test_a_circle_is_found(case: str, tmp_path: Path):
    for name, text in (CIRCLES | LINES)[case].items():
        file = tmp_path / "p" / name
        for folder in (file.parent, tmp_path / "p"):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "__init__.py").exists():
                (folder / "__init__.py").write_text("")
        file.write_text(text)
    found = set(circle(imports(tmp_path / "p")))
    assert found == ({f"p.{name[:-3].replace('/', '.')}" for name in CIRCLES.get(case, {}) if "__init__" not in name})


def test_whatever_ffmpeg_opens_has_an_absolute_name():
    """It takes what is before a colon in another one for a protocol."""
    calls = [
        (path.name, ast.unparse(call.args[0]))
        for path in Path(hocp_mm.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("av.open", "decord.VideoReader")
    ]
    assert len(calls) > 8
    assert [call for call in calls if not call[1].startswith(("full_name(", "io.BytesIO("))] == []
