"""What a pickle may name, call and set: data, in sizes that the file itself has.

Every callable must be harmless **for any arguments**; where the original is not, a narrower function stands in. Each
takes what it costs from the `Allowance` of the file.
"""

import argparse
import collections
import functools
import importlib.util
import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import _utils

LIMIT = 300


def echo(value: object, limit: int = LIMIT) -> str:
    r"""Return text from a file escaped and cut; of anything else that could be large, the type alone.

    Args:
        value: Any object; its own ``__repr__`` is called for small numbers only.
        limit: Most characters of the result.

    Returns:
        One printable line.

    Example:
        >>> echo("a\nb"), echo([[1]]), echo("x" * 1000, limit=4)
        ('a\\nb', 'a list', 'xxx…')
    """
    if isinstance(value, BaseException):
        # A KeyError shows its argument by `repr`, which takes for ever on a list that holds the same list twice.
        return ", ".join(echo(arg, limit) for arg in value.args)[:limit] or type(value).__name__
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a huge integer"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, Foreign | ForeignName):
        return value.title
    if not isinstance(value, str | bytes):
        return f"a {type(value).__name__}"
    text = repr(value[: limit + 1])
    text = text[1:-1] if isinstance(value, str) else text
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


__all__ = [
    "CALL_STEPS",
    "MAPPINGS",
    "SET_STEPS",
    "Allowance",
    "Foreign",
    "ForeignName",
    "RefusedError",
    "allowed_names",
    "check_keys",
    "container",
    "echo",
    "expect",
    "history_buffer",
    "is_count",
    "set_state",
    "stand_ins",
]

# A tensor takes 70 steps, so that 30 000 may be in a file; the unpickler makes a million steps in about a second.
MOST_STEPS = 1 << 21
CALL_STEPS, SET_STEPS, TUPLE_KEY_STEPS = 10, 4, 500
# What may be copied from a pickle (bytes become text, then an array), or be seen by tensors that share storages.
MOST_COPIES, FREE_BYTES = 8, 64 << 20
LONGEST_KEY, LARGEST_KEY = 64, 1 << 60
LONGEST_RANGE = 1 << 20

HISTORY_MODULE = "mmengine.logging.history_buffer"
HISTORY_STATISTICS = ("min", "max", "current", "mean")
HISTORY_STATE = ("_log_history", "_count_history", "max_length")

# Plain numbers, text and references. Records ("V") and dates carry further state, and nothing here needs them.
# Of elements without a length there could be any number.
PLAIN_DTYPE = re.compile(r"[biufcSUO][1-9]\d{0,5}")


class RefusedError(pickle.UnpicklingError):
    """The pickle asks for something that is not on the lists, or for too much; the text says what."""


class InertHistory:
    """Stands in for ``HistoryBuffer`` where mmengine is not installed: keeps the state, does nothing."""


class NDArrayName:
    """What the name ``numpy.ndarray`` becomes: a mark, since calling the class itself shows raw memory."""


class ForeignName:
    """A name that a file gives and that is not looked up.

    Attributes:
        module: As in the file.
        name: As in the file.
    """

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    @property
    def title(self) -> str:
        """Return both, fit to be shown."""
        return f"{echo(self.module, 100)}.{echo(self.name, 100)}"


class Foreign:
    """What a file makes of a foreign name.

    Attributes:
        title: The class, or what should have been called.
        state: What ``BUILD`` gave it, as far as that has names.
    """

    __slots__ = ("state", "title")

    def __init__(self, title: str):
        self.title = title
        self.state: dict[Any, Any] = {}

    def build(self, state: Any, allowance: "Allowance") -> None:
        """Take over attributes: a dict, or a pair of one and those in slots."""
        for part in state if type(state) is tuple and len(state) == 2 else (state,):
            if isinstance(part, dict):
                allowance.spend(len(part))
                check_keys(part, allowance)
                self.state.update(part)


class Allowance:
    """What one file may cost: steps of the unpickler, and bytes copied or viewed beyond those in the file."""

    def __init__(self, size: int):
        self.steps = MOST_STEPS
        self.bytes = MOST_COPIES * size + FREE_BYTES

    def spend(self, steps: int, copied: int = 0) -> None:
        """Take from the allowance; raise `RefusedError` when it is used up."""
        self.steps -= steps
        self.bytes -= copied
        if self.steps < 0:
            raise RefusedError(f"a pickle of more than {MOST_STEPS} steps")
        if self.bytes < 0:
            raise RefusedError("data that is copied or shared many times over")


# Stand-ins. Each takes the arguments that the original is pickled with.


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise RefusedError(what)


def is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 60


def check_keys(keys: Iterable[Any], allowance: Allowance) -> None:
    """Refuse what is slow to hash: Python hashes nested tuples anew each time, and equal hashes can be made at will."""
    for key in keys:
        if type(key) in (tuple, torch.Size):
            # Two numbers suffice to make equal hashes, each of which is then compared with all others.
            allowance.spend(TUPLE_KEY_STEPS)
            expect(len(key) <= LONGEST_KEY and all(map(_is_plain_key, key)), "a key that is a nested or long tuple")
        else:
            expect(_is_plain_key(key), f"{echo(key)} as a key")


def _is_plain_key(key: object) -> bool:
    # Whole numbers that differ by a multiple of 2**61 - 1 have the same hash.
    if isinstance(key, int):
        return abs(key) < LARGEST_KEY
    # Those that differ less than a double can tell, or are larger than any, too.
    if isinstance(key, np.complexfloating | np.longdouble):  # pyright: ignore[reportArgumentType]
        return False
    kinds = str | bytes | float | np.generic | torch.dtype | torch.device | type | Foreign | ForeignName
    return key is None or isinstance(key, kinds)


def container(kind: type, allowance: Allowance, *content: Any) -> Any:
    """Make a container of another one."""
    expect(len(content) <= 1, f"{kind.__name__} of {len(content)} arguments")
    for items in content:
        expect(type(items) in (list, tuple, set, frozenset, *MAPPINGS), f"{kind.__name__} of {echo(items)}")
        allowance.spend(len(items) * (SET_STEPS if kind in (set, frozenset, *MAPPINGS) else 1))
        if kind in (set, frozenset) or (kind in MAPPINGS and type(items) in MAPPINGS):
            check_keys(items, allowance)
        elif kind in MAPPINGS:
            pairs = all(type(pair) in (list, tuple) and len(pair) == 2 for pair in items)
            expect(pairs, f"{kind.__name__} of what are no pairs")
            check_keys((pair[0] for pair in items), allowance)
    return kind(*content)


def _default_dict(allowance: Allowance, factory: object = None, *content: Any) -> Any:
    plain = factory in (None, dict, list, set, int, float, str, bool, tuple) if callable(factory) else factory is None
    expect(plain, f"collections.defaultdict of {echo(factory)}")
    return collections.defaultdict(factory, container(dict, allowance, *content))  # pyright: ignore[reportArgumentType, reportCallIssue]


def _counter(allowance: Allowance, *content: Any) -> collections.Counter[Any]:
    expect(all(type(items) is dict for items in content), "collections.Counter of no dict")
    return collections.Counter(container(dict, allowance, *content))


def _range(_: Allowance, *limits: Any) -> range:
    expect(all(type(limit) is int for limit in limits), "range of no whole numbers")
    found = range(*limits)
    expect(abs(found.stop - found.start) < LARGEST_KEY and len(found) <= LONGEST_RANGE, "a range that is too long")
    return found


def _slice(_: Allowance, *limits: Any) -> slice:
    expect(all(limit is None or _is_plain_key(limit) for limit in limits), "slice of containers")
    return slice(*limits)


def _complex(_: Allowance, real: Any, imaginary: Any) -> complex:
    expect(type(real) is type(imaginary) is float, "complex of no floats")
    return complex(real, imaginary)


def _byte_string(_: Allowance, *content: Any) -> bytes:
    expect(not content, "bytes of something")  # protocol 2 writes empty ones so
    return b""


def _byte_array(allowance: Allowance, *content: Any) -> bytearray:
    expect(all(type(part) is bytes for part in content) and len(content) <= 1, "bytearray of no bytes")
    allowance.spend(0, sum(map(len, content)))
    return bytearray(*content)


def _encode(allowance: Allowance, text: str, encoding: str) -> bytes:
    """Undo how protocol 2 stores bytes; other codecs are not needed, and some of them decompress."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError(f"text in encoding {echo(encoding)}")
    allowance.spend(0, len(text))
    return text.encode("latin1")


def _size(allowance: Allowance, *content: Any) -> torch.Size:
    sizes = container(tuple, allowance, *content)
    expect(all(map(is_count, sizes)), "torch.Size of no whole numbers")
    return torch.Size(sizes)


def _device(_: Allowance, *content: Any) -> torch.device:
    plain = all(_is_plain_key(part) and len(str(part)) < LONGEST_KEY for part in content)
    expect(plain, "an odd torch.device")
    return torch.device(*content)


def _attribute(_: Allowance, owner: object, name: object) -> Callable[[], None] | Foreign:
    """Stand in for ``getattr``, by which protocol 2 stores methods: ``HistoryBuffer.min``, those of foreign objects."""
    if isinstance(owner, Foreign | ForeignName):
        return Foreign(f"{owner.title}.{echo(name, 100)}"[:LIMIT])
    if owner is not history_buffer() or name not in HISTORY_STATISTICS:
        raise RefusedError(f"builtins.getattr({echo(owner)}, {echo(name)})")
    return _unused_statistic


def _unused_statistic() -> None:
    """Fill the table of statistics in the file, which is dropped: the class has its own."""


def _rebuild_array(_: Allowance, kind: object, shape: tuple[int, ...], _typecode: object) -> np.ndarray:
    """Make the empty array that its state fills afterwards; NumPy itself always asks for shape ``(0,)``."""
    expect(kind is NDArrayName and type(shape) is tuple and shape == (0,), "an odd NumPy array")
    return np.empty((0,), dtype=np.int8)


def _rebuild_from_buffer(
    allowance: Allowance, data: Any, dtype: Any, shape: Any, order: str, axes: Any = None
) -> np.ndarray:
    """Make an array as protocol 5 stores it, from bytes that lie in the file."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes | bytearray):
        raise RefusedError(f"a NumPy array of dtype {dtype.__class__.__name__} from a buffer")
    _check_shape(shape, dtype, len(data))
    allowance.spend(0, len(data))
    array = np.frombuffer(bytearray(data), dtype=dtype)  # a copy, so that the array can be written
    return array.reshape(shape).transpose(axes) if axes is not None else array.reshape(shape, order=order)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _check_shape(shape: Any, dtype: np.dtype, size: int) -> None:
    expect(type(shape) is tuple and len(shape) <= 32 and all(map(is_count, shape)), "an odd shape of a NumPy array")
    expect(math.prod(shape) * dtype.itemsize == size, "a NumPy array whose size is not that of its data")


def _rebuild_scalar(allowance: Allowance, dtype: object, data: object) -> Any:
    """Make a NumPy scalar of a plain dtype."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise RefusedError(f"a NumPy scalar of dtype {dtype.__class__.__name__}")
    _check_shape((1,), dtype, len(data))
    allowance.spend(0, len(data))
    return np.frombuffer(data, dtype=dtype)[0]


def _rebuild_dtype(_: Allowance, code: object, _align: object = False, _copy: object = True) -> np.dtype:
    """Make a plain dtype, a copy of its own, because its state is set afterwards."""
    if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
        raise RefusedError(f"numpy.dtype of {echo(code)}")
    return np.dtype(code, copy=True)


def _tensor(
    original: Callable[..., Any], allowance: Allowance, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
) -> torch.Tensor:
    """Check a tensor against its storage: torch would let the storage grow, by memory that nobody has written."""
    expect(isinstance(storage, torch.storage.TypedStorage), "a tensor without a storage")
    shape = all(type(part) in (tuple, list, torch.Size) and all(map(is_count, part)) for part in (size, stride))
    expect(shape and is_count(offset) and len(size) == len(stride) <= LONGEST_KEY, "a tensor of an odd shape")
    dtype = rest[2] if original.__name__ == "_rebuild_tensor_v3" else storage.dtype
    expect(isinstance(dtype, torch.dtype), "a tensor of an odd dtype")
    count, held = math.prod(size), storage._untyped_storage.nbytes() // dtype.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else offset - 1
    expect(last < held or not count, "a tensor that is larger than its storage")
    expect(count <= held, "a tensor that shows parts of its storage more than once")
    expect(len(rest) < 2 or not rest[1], "a tensor with hooks")
    allowance.spend(0, count * dtype.itemsize)
    if len(rest) > 1:
        rest = (rest[0], collections.OrderedDict(), *rest[2:])  # the file's own could be filled later
    return original(storage, offset, tuple(size), tuple(stride), *rest)


def _parameter(_: Allowance, data: Any, requires_grad: Any = True, *rest: Any) -> Any:
    expect(isinstance(data, torch.Tensor) and type(requires_grad) is bool, "a parameter without a tensor")
    expect(not rest or not rest[0], "a parameter with hooks")
    made = torch.nn.Parameter(data, requires_grad)
    if len(rest) > 1:
        _set_attributes(made, rest[1])
    return made


def _device_tensor(original: Callable[..., Any], allowance: Allowance, data: Any, *rest: Any) -> torch.Tensor:
    expect(isinstance(data, torch.Tensor | np.ndarray), "a tensor without data")
    allowance.spend(0, 8 * math.prod(data.shape))
    return original(data, *rest)


@functools.cache
def history_buffer() -> type:
    """Return MMEngine's class, or the stand-in; imported late, since weights are read without MMEngine too."""
    if importlib.util.find_spec("mmengine") is None:
        return InertHistory
    from mmengine.logging import HistoryBuffer

    return HistoryBuffer


MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
# The list is that of torch 2.15; older ones lack some. Meta tensors are not on it, since they have no values.
TORCH_REBUILDS: Mapping[Any, Callable[..., Any]] = {
    getattr(_utils, name): stand_in if stand_in is _parameter else functools.partial(stand_in, getattr(_utils, name))
    for name, stand_in in (
        ("_rebuild_tensor", _tensor),
        ("_rebuild_tensor_v2", _tensor),
        ("_rebuild_tensor_v3", _tensor),
        ("_rebuild_parameter", _parameter),
        ("_rebuild_parameter_with_state", _parameter),
        ("_rebuild_device_tensor_from_numpy", _device_tensor),
        ("_rebuild_device_tensor_from_cpu_tensor", _device_tensor),
    )
    if hasattr(_utils, name)
}


@functools.cache
def allowed_names() -> dict[tuple[str, str], Any]:
    """Build the list of names: ``(module, name)`` as written in the file -> what it becomes here."""
    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): collections.defaultdict,
        ("collections", "Counter"): collections.Counter,
        ("argparse", "Namespace"): argparse.Namespace,  # timm's training script
        ("_codecs", "encode"): _encode,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("torch.nn.parameter", "Parameter"): torch.nn.Parameter,
        ("torch.storage", "UntypedStorage"): torch.UntypedStorage,  # of dtypes without a storage class, as uint16
        ("numpy", "ndarray"): NDArrayName,
        ("numpy", "dtype"): np.dtype,
        # Configs reach checkpoints through data set metainfo. A plain dict has the same keys and no lazy imports.
        ("mmengine.config.config", "ConfigDict"): dict,
        (HISTORY_MODULE, "HistoryBuffer"): history_buffer(),
    }
    names["__builtin__", "xrange"] = range
    plain = (dict, list, tuple, set, frozenset, int, float, bool, str, bytes, bytearray, complex, slice, range)
    for builtins in ("builtins", "__builtin__"):  # protocols 0 to 2 keep the names of Python 2
        names[builtins, "getattr"] = _attribute
        for kind in plain:
            names[builtins, kind.__name__] = kind
    for numpy_module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1 and 2
        names[numpy_module, "_reconstruct"] = _rebuild_array
        names[numpy_module, "scalar"] = _rebuild_scalar
    for numpy_module in ("numpy.core.numeric", "numpy._core.numeric"):
        names[numpy_module, "_frombuffer"] = _rebuild_from_buffer
    names |= {("torch._utils", rebuild.__name__): rebuild for rebuild in TORCH_REBUILDS}
    for name in HISTORY_STATISTICS:  # protocol 4 and later write the dotted name
        names[HISTORY_MODULE, f"HistoryBuffer.{name}"] = _unused_statistic
    names.update({("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)})
    return names


@functools.cache
def stand_ins() -> dict[Any, Callable[..., Any]]:
    """Build the list of calls: what a name became -> the function that is called in its place."""
    calls: dict[Any, Callable[..., Any]] = {
        kind: functools.partial(container, kind)
        for kind in (dict, list, tuple, set, frozenset, collections.OrderedDict)
    }
    calls |= {
        collections.defaultdict: _default_dict,
        collections.Counter: _counter,
        range: _range,
        slice: _slice,
        complex: _complex,
        bytes: _byte_string,
        bytearray: _byte_array,
        torch.Size: _size,
        torch.device: _device,
        torch.nn.Parameter: _parameter,
        np.dtype: _rebuild_dtype,
    }
    calls |= {own: own for own in (_encode, _attribute, _rebuild_array, _rebuild_scalar, _rebuild_from_buffer)}
    return calls | dict(TORCH_REBUILDS)


def _set_attributes(target: Any, state: Any) -> None:
    """Set attributes that the class of the target does not have itself, as ``_metadata`` of a state dict."""
    expect(type(state) is dict, "attributes that are no dict")
    for name in state:
        expect(isinstance(name, str), "attributes without names")
        expect(not hasattr(type(target), name), f"{echo(name)} set for {type(target).__name__}")
    vars(target).update(state)


def _set_dtype(target: np.dtype, state: Any) -> None:
    """Set the byte order alone: NumPy would believe flags, by which numbers become addresses."""
    expect(type(state) is tuple and len(state) == 8 and state[1] in ("<", ">", "|", "="), "an odd numpy.dtype")
    expect(all(part is None for part in state[2:5]), "numpy.dtype with fields")
    own = target.__reduce__()[2]  # pyright: ignore[reportIndexIssue]
    order = state[1] if own[1] in ("<", ">") else own[1]
    target.__setstate__((own[0], order, *own[2:]))  # pyright: ignore[reportAttributeAccessIssue]


def _set_array(target: np.ndarray, state: Any, allowance: Allowance) -> None:
    """Set an array's content, from bytes or, for references, from a list; raw bytes would be taken for addresses."""
    expect(isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], np.dtype), "an odd NumPy array")
    _, shape, dtype, _, data = state
    expect(type(data) is (list if dtype.hasobject else bytes), "a NumPy array without its data")
    _check_shape(shape, dtype, len(data) * (dtype.itemsize if dtype.hasobject else 1))
    allowance.spend(len(data) if dtype.hasobject else 0, len(data))
    target.__setstate__(state)


def set_state(target: Any, state: Any, allowance: Allowance) -> None:
    """Give an object the state that the file holds for it; only the kinds below take one."""
    kind = type(target)
    if isinstance(target, np.dtype):
        _set_dtype(target, state)
    elif kind is np.ndarray:
        _set_array(target, state, allowance)
    elif kind is history_buffer():
        expect(type(state) is dict and all(name in state for name in HISTORY_STATE), "an odd HistoryBuffer")
        fields = {name: state[name] for name in HISTORY_STATE}
        target.__setstate__(fields) if hasattr(target, "__setstate__") else vars(target).update(fields)
    elif kind in (collections.OrderedDict, argparse.Namespace):
        allowance.spend(len(state) if isinstance(state, dict) else 0)
        _set_attributes(target, state)
    else:
        raise RefusedError(f"state for {kind.__module__}.{kind.__qualname__}")
