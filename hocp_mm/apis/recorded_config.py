"""Read the config that mmengine writes into a checkpoint, and build its network, as data of a stranger.

``Config.fromstring`` runs the text as Python, and a registry of MMEngine imports and calls whatever a ``type`` names:
``mmengine.utils.package_utils.call_command`` starts programs. A downloaded weight file must be able to do neither.
What ``Config.pretty_text`` writes is literals and ``dict(...)`` only, so nothing is lost by accepting nothing else; a
``type`` inside the model is looked up among the modules in :func:`allowed_modules`, and never imported.
"""

import ast
import contextlib
import functools
import math
import re
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT
from mmengine.registry import registry as mmengine_registry
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from hocp_mm import compat
from hocp_mm.errors import CheckpointError
from hocp_mm.registry import MODELS, SCOPE

# From MMEngine's root registry: plain layers and preprocessors. Not its averages of models and test-time wrappers.
_ROOT_PACKAGES = ("torch.nn.", "mmcv.cnn.", "mmengine.model.base_model.", "mmengine.utils.dl_utils.")
_TRANSFORMERS = "mmcv.cnn.bricks.transformer"  # registered by some imports and not by others
# From MMAction2: the 3-D backbones that `AffectRecognizer` takes, and their layers. Others fetch weights when built.
_STOCK = frozenset(
    {
        "C2D", "C3D", "Conv2plus1d", "MViT", "ResNet2Plus1d", "ResNet3d", "ResNet3dCSN", "ResNet3dSlowFast",
        "ResNet3dSlowOnly", "SubBatchNorm3D", "SwinTransformer3D", "TPN", "TimeSformer", "X3D",
    }
)  # fmt: skip
_SCOPES = {SCOPE: SCOPE, "mmengine": "", "mmcv": "", "mmaction": "mmaction"}
# Words that layers look up in tables of their own; what `build_model` passes over may name how it would begin.
_OWN_TYPES = {
    "gate_cfg": ("SE",),
    "slow_pathway": ("resnet3d",),
    "fast_pathway": ("resnet3d",),
    "init_cfg": ("Caffe2Xavier", "Constant", "Kaiming", "Normal", "Pretrained", "TruncNormal", "Uniform", "Xavier"),
}

_MOST_TEXT = 2**18  # characters; recipes have some 10,000
_MOST_ITEMS = 10_000  # of a model: some layers copy what they are given for each of their blocks
# A constructor runs through numbers, or lists of them, in loops that nothing can watch.
_LARGEST = 2**16  # of the numbers that describe a network, and of the sum of a list; channels have some thousands
_DEEPEST = 512  # of those that say how many layers follow one another
_DEPTHS = re.compile("depth|layer|block|stage|repeat")
_LARGEST_SEED = 2**64
_MOST_MODULES = 8_000  # the largest of timm has two thousand
_SPARE_NUMBERS = 2**26  # that building may take besides those in the file: stages that are cut off, and the like
_MOST_WORK = 16  # times that many numbers may be computed while modules are built
_SMALL = 2**20  # numbers that are not worth a look before they are made
_SECONDS, _NUMBERS_PER_SECOND = 15, 5e6  # of the processor: networks take a tenth of it
# Patterns are searched in names of layers, of some 60 letters: a repeat may end at each of them.
_LETTERS = 60
_MOST_PATHS = 2 * _LETTERS**3
_LONGEST_WORD = 4096


def allowed_modules(stock: bool = True) -> dict[str, type[nn.Module]]:
    """Return what a recorded model may name.

    All of it is registered: the classes in the registry of this package (those that a plugin of the user put there,
    too), plain layers and preprocessors in MMEngine's, and some 3-D backbones of MMAction2. Their constructors read no
    file, fetch nothing and start nothing, whatever literals they are given.

    Args:
        stock: Look at MMAction2 as well, which takes seconds to import.

    Returns:
        Classes by name in a config: ``hocp_mm.X``, ``X`` for MMEngine's, ``mmaction.X``.
    """
    import mmcv.cnn  # noqa: F401 - registers layers

    found: dict[str, Any] = {f"{SCOPE}.{name}": kind for name, kind in _own_modules().items()}
    found |= {
        name: kind
        for name, kind in ROOT.module_dict.items()
        if (home := getattr(kind, "__module__", "")).startswith(_ROOT_PACKAGES) and home != _TRANSFORMERS
    }
    if stock:
        found |= _stock_modules()
    return {name: kind for name, kind in found.items() if _is_module(kind)}


def _own_modules() -> dict[str, Any]:
    MODELS.import_from_location()
    return {name: kind for name, kind in MODELS.module_dict.items() if _is_module(kind)}


def _is_module(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, nn.Module)


@functools.cache
def _stock_modules() -> dict[str, Any]:
    compat.apply()  # the published wheel cannot import its own models
    try:
        import mmaction.models  # noqa: F401 - registers
        from mmaction.registry import MODELS as STOCK
    except ImportError:  # not installed: then nothing of it can be built
        return {}
    return {f"mmaction.{name}": kind for name, kind in STOCK.module_dict.items() if name in _STOCK}


def read_recorded_config(text: str, source: str) -> Config:
    """Parse the text of a config.

    Args:
        text: Assignments of literals and ``dict(...)`` calls, as ``Config.pretty_text`` writes them.
        source: Name of the checkpoint, for error texts.

    Returns:
        The config. Its model names registered modules only; paths to classes become the names of these.

    Raises:
        CheckpointError: If the text is anything else, or its model names something that is not allowed or holds
            numbers that no network has.

    Example:
        >>> read_recorded_config("model = dict(type='hocp_mm.AffectHead', in_channels=8)", "a.pth").model.in_channels
        8
    """
    if len(text) > _MOST_TEXT:
        raise CheckpointError(f"{source}: the recorded config has {len(text)} characters; give the config itself.")
    try:
        statements = ast.parse(text).body
        values: dict[str, Any] = {}
        for statement in statements:
            match statement:
                case ast.Assign([ast.Name(name)], value):
                    values[name] = _evaluate(value, source)
                case _:
                    _refuse(source, statement)
    except SyntaxError as error:
        raise CheckpointError(
            f"{source}: the recorded config is not Python (line {error.lineno}); give the config itself."
        ) from error
    except (TypeError, ValueError, RecursionError, MemoryError) as error:  # {[]: 1}, -"a", "\0", - - - - …
        raise CheckpointError(
            f"{source}: the recorded config must hold values only, got what cannot be one ({type(error).__name__}); "
            "give the config itself."
        ) from error
    scope = values.get("default_scope")
    if scope is not None and (not isinstance(scope, str) or scope not in _SCOPES):
        raise CheckpointError(
            f"{source}: the recorded config's default_scope must be one of {', '.join(_SCOPES)}, got {scope!r:.100}."
        )
    if "model" in values:
        if not isinstance(values["model"], dict):
            raise CheckpointError(f"{source}: the recorded config's model must be a dict.")
        values["model"] = _checked(values["model"], "model", scope or SCOPE, source)
        _check_words(values["model"], source)
    try:
        return Config(values)
    except (KeyError, TypeError, ValueError) as error:  # names that mmengine keeps for itself
        raise CheckpointError(f"{source}: the recorded config is none ({error!s:.100}).") from error


def _evaluate(node: ast.expr, source: str) -> Any:
    """Return the value of a literal or a ``dict(...)`` of literals."""
    match node:
        case ast.Constant(value) if value is None or isinstance(value, bool | int | float | str):
            return value
        case ast.Name("inf" | "nan" as name):  # how repr writes these floats
            return float(name)
        case ast.UnaryOp(ast.USub(), operand):
            return -_evaluate(operand, source)
        case ast.Call(ast.Name("dict"), [], keywords) if all(k.arg for k in keywords):
            return {str(k.arg): _evaluate(k.value, source) for k in keywords}
        case ast.Call(ast.Name("dict"), [ast.Dict() as pairs], []):  # mmengine's way with keys that are no names
            return _evaluate(pairs, source)
        case ast.Dict(keys, values) if all(keys):
            pairs = zip(keys, values, strict=True)
            return {_evaluate(key, source): _evaluate(value, source) for key, value in pairs if key is not None}
        case ast.List(items):
            return [_evaluate(item, source) for item in items]
        case ast.Tuple(items):
            return tuple(_evaluate(item, source) for item in items)
        case ast.Set(items):
            return {_evaluate(item, source) for item in items}
        case _:
            return _refuse(source, node)


def _checked(value: Any, key: str, scope: str, source: str) -> Any:
    """Return a copy of a part of the model whose types are names in registries."""
    if isinstance(value, Mapping):
        checked: dict[str, Any] = {}
        for name, item in value.items():
            if not isinstance(name, str) or name.startswith("_"):  # such as _scope_, which imports what it names
                raise CheckpointError(f"{source}: the recorded model must not have the key {name!r:.100}.")
            is_name = name == "type"
            checked[name] = (_registered_name if is_name else _checked)(item, key if is_name else name, scope, source)
        return checked
    if (total := _total(value)) is not None:
        most = _LARGEST_SEED if key == "seed" else _DEEPEST if _DEPTHS.search(key) else _LARGEST
        if not total <= most:  # nor NaN
            what = "" if isinstance(value, int | float) else "the sum of "
            raise CheckpointError(
                f"{source}: {what}the recorded model's {key:.100} must be at most {most}, got {total:.3g}."
            )
    if isinstance(value, list | tuple | set):
        return type(value)(_checked(item, key, scope, source) for item in value)
    return value


def _total(value: Any) -> float | None:
    """Return the sum of the absolute values of a number or of numbers in lists, None where it is something else."""
    if isinstance(value, int | float):
        return math.inf if abs(value) > _LARGEST_SEED else abs(value)  # where no float is so large
    if isinstance(value, list | tuple | set):
        return sum(total for item in value if (total := _total(item)) is not None)
    return None


def _check_words(model: Mapping[str, Any], source: str) -> None:
    """Refuse more items than a model has, and words that would take long as regular expressions, which some are."""
    words: list[Any] = [model]
    items = paths = 0
    while words:
        word = words.pop()
        items += 1
        if items > _MOST_ITEMS:
            raise CheckpointError(f"{source}: the recorded model must have at most {_MOST_ITEMS} items, got more.")
        if isinstance(word, Mapping):
            words += [*word, *word.values()]
        elif isinstance(word, list | tuple | set):
            words += word
        elif isinstance(word, str) and (cost := _paths(word)) > 1:
            paths += cost
            if paths > _MOST_PATHS:
                raise CheckpointError(
                    f"{source}: the recorded model's patterns must be simple (few repeats, none of a group, and of "
                    f"what begins with (? only (?:, (?= and (?!), got {word!r:.100}; give the config itself."
                )


def _paths(pattern: str) -> int:
    """Return how many ways through a name a regular expression has at most.

    Example:
        >>> _paths("resnet18.a1_in1k"), _paths("^layer[34].*conv"), _paths("(a|b)(c|d)"), _paths("(a+)+") > _MOST_PATHS
        (1, 60, 4, True)
    """
    # Of what begins with (? the rest hides a repeat of a group behind blanks or comments, or is not needed; and what
    # repeats a back-reference repeats a group, be it empty.
    plain = re.sub(r"\(\?[:=!]", "(", pattern)
    if len(pattern) > _LONGEST_WORD or re.search(r"\(\?|(\)|\\\d+)[*+?{]", plain):
        return _MOST_PATHS + 1
    arms = math.prod(part.count("|") + 1 for part in plain.split("("))
    return min(arms * _LETTERS ** min(len(re.findall(r"[*+?{]", plain)), 9), _MOST_PATHS + 1)


def _registered_name(kind: Any, key: str, scope: str, source: str) -> str:
    """Return the name under which a ``type`` is registered; a path to a class is taken for the name of that class."""
    if isinstance(kind, str) and all(part.isidentifier() for part in kind.split(".")):
        if kind in _OWN_TYPES.get(key, ()):
            return kind
        prefix, _, name = kind.rpartition(".")
        # First, since a network of this package alone needs neither mmcv nor, for its sake, MMEngine's Runner.
        if _SCOPES.get(prefix or scope) == SCOPE and name in _own_modules():
            return kind
        allowed = allowed_modules(stock="mmaction" in (scope, prefix.partition(".")[0]))
        if not prefix and (f"{_SCOPES[scope]}.{name}" in allowed or name in allowed):  # as a registry looks
            return kind
        if prefix in _SCOPES and f"{_SCOPES[prefix]}.{name}".lstrip(".") in allowed:
            return kind
        for registered, module in allowed.items():  # a config of class objects is written with their paths
            if prefix and module.__name__ == name and f"{module.__module__}.".startswith(f"{prefix}."):
                return registered
    raise CheckpointError(
        f"{source}: the recorded config may name registered layers and backbones only, got {kind!r:.100}; if you trust "
        "it, give the config itself."
    )


def _refuse(source: str, node: ast.AST) -> NoReturn:
    raise CheckpointError(
        f"{source}: the recorded config must hold values only, got code in line {getattr(node, 'lineno', '?')}; "
        "give the config itself."
    )


@contextlib.contextmanager
def bounded_building(numbers: int, source: str) -> Iterator[None]:
    """Let modules be built in a size that fits the weights they will get, from names that are registered already.

    Checked types are not enough: some layers hand another of their words to a registry (``padding_mode`` of mmcv's
    ``ConvModule``), and a registry that does not know a name imports it.

    Args:
        numbers: Elements of all tensors in the file.
        source: Name of the checkpoint, for the error text.

    Yields:
        Nothing.

    Raises:
        CheckpointError: If more is asked for (numbers, bytes at one time, modules, seconds of the processor), something
            would be imported, or the arguments make no network.
    """
    most, modules, held, computed = 4 * numbers + _SPARE_NUMBERS, 0, 0, 0
    most_bytes, alive = 8 * most, 0  # twice what single precision takes
    storages: dict[int, weakref.ref[Any]] = {}
    deadline = time.thread_time() + _SECONDS + numbers / _NUMBERS_PER_SECOND

    def too_large() -> NoReturn:
        raise CheckpointError(f"{source}: the recorded config describes a larger network than the weights in the file.")

    def in_time() -> None:
        if time.thread_time() > deadline:
            raise CheckpointError(f"{source}: the recorded config describes a network that takes too long to build.")

    def count_module(*_: Any) -> None:
        nonlocal modules
        in_time()
        modules += 1
        if modules > _MOST_MODULES:
            too_large()

    def count_tensor(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal held
        held += 0 if tensor is None else tensor.numel()
        if held > most:
            too_large()

    def import_nothing(name: str, package: str | None = None) -> Any:
        if name in sys.modules and package is None:
            return sys.modules[name]  # what registries and scopes ask for has been imported
        raise CheckpointError(f"{source}: the recorded config may name registered parts only, got {name!r:.100}.")

    def find_nothing(name: str) -> Any:
        raise CheckpointError(f"{source}: the recorded config may name registered parts only, got {name!r:.100}.")

    def count_storage(tensor: torch.Tensor) -> None:
        nonlocal alive
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()

        def free(_: Any) -> None:
            nonlocal alive
            alive -= size
            del storages[key]

        if key not in storages:
            storages[key] = weakref.ref(storage, free)
            alive += size

    class Bounds(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal computed
            in_time()
            numbers, size = _foreseen(func, args, kwargs or {})  # before they become memory
            if (
                numbers > most
                or size + alive > most_bytes
                or (func.overloadpacket is torch.ops.aten.linspace and numbers > _MOST_MODULES)  # one for each block
            ):
                too_large()
            made = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    computed += tensor.numel()
                    count_storage(tensor)
            if computed > _MOST_WORK * most:
                too_large()
            return made

    handles = [
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_tensor),
        register_module_buffer_registration_hook(count_tensor),
    ]
    try:
        with (
            mock.patch.object(mmengine_registry, "get_object_from_string", find_nothing),
            mock.patch.object(mmengine_registry, "import_module", import_nothing),
            Bounds(),
        ):
            yield
    except CheckpointError:
        raise
    except (
        TypeError, ValueError, KeyError, IndexError, AttributeError, AssertionError, RuntimeError, NotImplementedError,
        ArithmeticError, MemoryError, NameError, OSError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{source}: the recorded config describes no network that can be built ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); give the config itself."
        ) from error
    finally:
        for handle in handles:
            handle.remove()


def _foreseen(func: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers and the bytes of what an operator of torch would make; (0, 0) where they are few."""
    values = tree_leaves((args, kwargs))
    shapes = [value.shape for value in values if isinstance(value, torch.Tensor)]
    factors = [abs(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    if shapes and math.prod(max(1, factor) for factor in [*factors, *map(math.prod, shapes)]) <= _SMALL:
        return 0, 0

    def without_data(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return torch.device("meta") if isinstance(value, torch.device) else value

    options = {name: without_data(value) for name, value in kwargs.items()}
    if not shapes and any(argument.name == "device" for argument in func._schema.arguments):
        options["device"] = torch.device("meta")
    try:
        made = [v for v in tree_leaves(func(*tree_map(without_data, args), **options)) if isinstance(v, torch.Tensor)]
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError):  # that depends on data, or is an error
        try:
            numbers = math.prod(torch.broadcast_shapes(*shapes))
        except RuntimeError:
            numbers = 0
        return numbers, 8 * numbers
    return max((v.numel() for v in made), default=0), sum(v.numel() * v.element_size() for v in made)


def count_numbers(state: Mapping[str, Any]) -> int:
    """Return the elements of all tensors of floating point in a state dict: others are no weights."""
    return sum(
        value.numel() for value in state.values() if isinstance(value, torch.Tensor) and value.is_floating_point()
    )


if __name__ == "__main__":
    print("\n".join(f"- `{name}`" for name in sorted(allowed_modules())))  # noqa: T201 - for docs/security.md
