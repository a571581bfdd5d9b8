"""Whole modules in a pickle (``torch.save(model)``), read without the classes that they are of.

What a pickle names that is not on the list of :mod:`hocp_mm.checkpoints._plain_data` becomes a `ForeignName`, and
whatever it makes of one, an instance or the result of a call, a `Foreign`: a title and the state that the file holds.
Nothing is imported, looked up or called for them, so they do nothing, whatever they are called.

``nn.Module`` keeps tensors and children in three dicts of its state. A foreign object that has the three is a module,
and a walk over them gives what its ``state_dict()`` would be. Foreign objects anywhere else are refused by name.
"""

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from hocp_mm.checkpoints._plain_data import Foreign, ForeignName, RefusedError, echo, expect

__all__ = ["ModuleDescription", "ModuleState", "instance", "modules_to_states", "result"]

MOST_VISITS = 1 << 16  # modules and tensors of a file, shared ones as often as they have a name
DEEPEST, LONGEST_NAME = 64, 1000
# What is kept of a module's own attributes, and of what the file wanted to have called.
MOST_ATTRIBUTES, LONGEST_TEXT, LONGEST_TUPLE, MOST_CALLS = 64, 200, 16, 20
DICTS = (PARAMETERS, BUFFERS, MODULES) = ("_parameters", "_buffers", "_modules")
FLEETING = "_non_persistent_buffers_set"

# How pickle makes an object of a class without calling the class; protocol 2 writes the name of Python 2.
_MAKERS = {(module, name) for module in ("copyreg", "copy_reg") for name in ("_reconstructor", "__newobj__")}

Plain: TypeAlias = "bool | int | float | str | tuple[Plain, ...] | None"


def instance(kind: ForeignName | Foreign) -> Foreign:
    """Make what stands for an object of a foreign class."""
    return Foreign(kind.title)


def result(called: ForeignName | Foreign, arguments: tuple[Any, ...], calls: set[str]) -> Foreign:
    """Make what stands for the result of a foreign call, which is not made.

    Args:
        called: What the file would call.
        arguments: What it would be called with.
        calls: Titles of such calls so far; grows.

    Returns:
        An object of its first argument where pickle makes objects so, else one that is called as the function.
    """
    maker = isinstance(called, ForeignName) and (called.module, called.name) in _MAKERS
    if maker and arguments and isinstance(arguments[0], ForeignName):
        return instance(arguments[0])
    if len(calls) < MOST_CALLS:
        calls.add(called.title)
    return Foreign(called.title)


@dataclass(frozen=True)
class ModuleDescription:
    """What a pickled module says besides its tensors. All text is that of a stranger, made printable.

    Attributes:
        classes: Class by the name of each module; ``''`` is the whole.
        attributes: Plain attributes of each module that has some, such as ``{'conv_stem': {'stride': (2, 2)}}``.
        not_called: What the file would have had called, twenty names at most.
    """

    classes: Mapping[str, str]
    attributes: Mapping[str, Mapping[str, Plain]]
    not_called: tuple[str, ...]


class ModuleState(dict[str, Any]):
    """What ``state_dict()`` of a pickled module would be: tensors by name, in the order of torch.

    Attributes:
        description: What else the module says.
    """

    description: ModuleDescription


def modules_to_states(content: Any, calls: Iterable[str]) -> Any:
    """Replace a module, or those that are values of a dict, by their state dicts.

    Args:
        content: What an unpickler returned; a dict is changed.
        calls: What the file would have had called.

    Returns:
        The same, or a `ModuleState`.

    Raises:
        RefusedError: If something in a module is not what torch has in that place.
    """
    met = _Met()
    if _is_module(content):
        return _state(content, calls, met)
    if isinstance(content, dict):
        for key, value in content.items():
            if _is_module(value):
                content[key] = _state(value, calls, met)
    return content


def _is_module(value: Any) -> bool:
    return isinstance(value, Foreign) and all(isinstance(value.state.get(name), dict) for name in DICTS)


@dataclass
class _Met:
    """What was met in a file so far: one module may stand under any number of keys, and have any number of names."""

    visits: int = 0
    attributes: dict[int, Mapping[str, Plain]] = field(default_factory=dict)


def _state(module: Foreign, calls: Iterable[str], met: _Met) -> ModuleState:
    walk = _Walk(met)
    walk.visit(module, "", ())
    walk.state.description = ModuleDescription(
        types.MappingProxyType(walk.classes), types.MappingProxyType(walk.attributes), tuple(sorted(calls))
    )
    return walk.state


class _Walk:
    """Collects the tensors of a module and of those in it, as ``state_dict`` does."""

    def __init__(self, met: _Met) -> None:
        self.state = ModuleState()
        self.classes: dict[str, str] = {}
        self.attributes: dict[str, Mapping[str, Plain]] = {}
        self._met = met

    def visit(self, module: Foreign, name: str, above: tuple[Foreign, ...]) -> None:
        """Take up a module under one of its names."""
        expect(all(module is not other for other in above), "a module that holds itself")
        expect(len(above) < DEEPEST, f"modules more than {DEEPEST} levels deep")
        self._count()
        self.classes[name] = module.title
        if id(module) not in self._met.attributes:
            self._met.attributes[id(module)] = _plain_attributes(module)
        if found := self._met.attributes[id(module)]:
            self.attributes[name] = found
        fleeting = module.state.get(FLEETING, frozenset())
        expect(type(fleeting) in (set, frozenset), f"a {FLEETING} that is no set")
        for kind in (PARAMETERS, BUFFERS):
            for own, tensor in module.state[kind].items():
                path = self._path(name, own)
                if tensor is None or (kind == BUFFERS and own in fleeting):
                    continue
                if not isinstance(tensor, torch.Tensor):
                    raise RefusedError(f"{echo(tensor, 100)} in the place of tensor {echo(path, 100)}")
                expect(path not in self.state, f"two tensors called {echo(path, 100)}")
                self.state[path] = tensor.detach()
        for own, child in module.state[MODULES].items():
            path = self._path(name, own)
            if child is None:
                continue
            if not _is_module(child):
                raise RefusedError(f"{echo(child, 100)} in the place of module {echo(path, 100)}")
            self.visit(child, path, (*above, module))

    def _count(self) -> None:
        self._met.visits += 1
        expect(self._met.visits <= MOST_VISITS, f"more than {MOST_VISITS} modules and tensors")

    def _path(self, name: str, own: Any) -> str:
        self._count()
        if not isinstance(own, str):
            raise RefusedError(f"{echo(own)} as the name of a tensor or module")
        path = f"{name}.{own}" if name else own
        expect(len(path) <= LONGEST_NAME, "a name that is too long")
        return path


def _plain_attributes(module: Foreign) -> Mapping[str, Plain]:
    """Return the attributes that are numbers, short texts or tuples of them; torch's own begin with a line."""
    found: dict[str, Plain] = {}
    for name, value in module.state.items():
        if not isinstance(name, str) or name.startswith("_") or name == "training" or len(name) > LONGEST_TEXT:
            continue
        if isinstance(value, list | tuple) and len(value) <= LONGEST_TUPLE and all(map(_is_plain, value)):
            found[echo(name)] = tuple(map(_shown, value))
        elif _is_plain(value):
            found[echo(name)] = _shown(value)
        if len(found) == MOST_ATTRIBUTES:
            break
    return types.MappingProxyType(found)


def _shown(value: Any) -> Any:
    return echo(value) if isinstance(value, str) else value


def _is_plain(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= LONGEST_TEXT
    return value is None or type(value) in (bool, float) or (type(value) is int and value.bit_length() < 64)
