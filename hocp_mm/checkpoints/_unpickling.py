"""A pickle module for ``torch.load`` that makes plain data only.

Pickle reaches code in two ways: by a name, which ``find_class`` looks up, and by the state of an object, which
``BUILD`` hands to ``__setstate__``. Both go through closed lists here. Every callable on the list must be harmless
**for any arguments**; where the original is not, a narrower function stands in.
"""

import argparse
import collections
import functools
import importlib.util
import pickle
import re
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import _utils

__all__ = ["RefusedNameError", "Unpickler", "load"]

HISTORY_MODULE = "mmengine.logging.history_buffer"
HISTORY_STATISTICS = ("min", "max", "current", "mean")
HISTORY_STATE = ("_log_history", "_count_history", "max_length")

TORCH_REBUILDS = (
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_meta_tensor_no_storage",
    "_rebuild_device_tensor_from_numpy",
    "_rebuild_device_tensor_from_cpu_tensor",
)

# Plain numbers, text and references. Records ("V") and dates carry further state, and nothing here needs them.
PLAIN_DTYPE = re.compile(r"[biufcSUO]\d+")


class RefusedNameError(pickle.UnpicklingError):
    """The pickle asks for something that is not on the lists; the text says what."""


class InertHistory:
    """Stands in for ``HistoryBuffer`` where mmengine is not installed: keeps the state, does nothing."""


class NDArrayName:
    """What the name ``numpy.ndarray`` becomes: a mark, since calling the class itself shows raw memory."""


def _rebuild_array(kind: object, shape: tuple[int, ...], _typecode: object) -> np.ndarray:
    """Make the empty array that its state fills afterwards; NumPy itself always asks for shape ``(0,)``."""
    if kind is not NDArrayName or shape != (0,):
        raise RefusedNameError(f"a NumPy array of kind {kind!r} and shape {shape!r}")
    return np.empty((0,), dtype=np.int8)


def _rebuild_from_buffer(data: Any, dtype: object, shape: tuple[int, ...], order: str, axes: Any = None) -> np.ndarray:
    """Make an array as protocol 5 stores it, from bytes that lie in the file."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes | bytearray):
        raise RefusedNameError(f"a NumPy array of dtype {dtype!r} from a buffer")
    array = np.frombuffer(bytearray(data), dtype=dtype)  # a copy, so that the array can be written
    return array.reshape(shape).transpose(axes) if axes is not None else array.reshape(shape, order=order)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _rebuild_scalar(dtype: object, data: object) -> Any:
    """Make a NumPy scalar of a plain dtype."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise RefusedNameError(f"a NumPy scalar of dtype {dtype!r}")
    return np.frombuffer(data, dtype=dtype)[0]


def _rebuild_dtype(code: object, _align: object = False, _copy: object = True) -> np.dtype:
    """Make a plain dtype, a copy of its own, because its state is set afterwards."""
    if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
        raise RefusedNameError(f"numpy.dtype of {code!r}")
    return np.dtype(code, copy=True)


def _encode(text: str, encoding: str) -> bytes:
    """Undo how protocol 2 stores bytes; other codecs are not needed, and some of them decompress."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedNameError(f"text in encoding {encoding!r}")
    return text.encode("latin1")


def _statistic(owner: object, name: object) -> Callable[[], None]:
    """Stand in for ``getattr``, by which protocol 2 stores ``HistoryBuffer.min`` and its kin."""
    if owner is not _history_buffer() or name not in HISTORY_STATISTICS:
        raise RefusedNameError(f"builtins.getattr({owner!r}, {name!r})")
    return _unused_statistic


def _unused_statistic() -> None:
    """Fill the table of statistics in the file, which is dropped: the class has its own."""


@functools.cache
def _history_buffer() -> type:
    """Return MMEngine's class, or the stand-in; imported late, since weights are read without MMEngine too."""
    if importlib.util.find_spec("mmengine") is None:
        return InertHistory
    from mmengine.logging import HistoryBuffer

    return HistoryBuffer


@functools.cache
def _allowed() -> dict[tuple[str, str], Any]:
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
        ("numpy", "ndarray"): NDArrayName,
        ("numpy", "dtype"): _rebuild_dtype,
        # Configs reach checkpoints through data set metainfo. A plain dict has the same keys and no lazy imports.
        ("mmengine.config.config", "ConfigDict"): dict,
        (HISTORY_MODULE, "HistoryBuffer"): _history_buffer(),
    }
    names["__builtin__", "xrange"] = range
    for builtins in ("builtins", "__builtin__"):  # protocols 0 to 2 keep the names of Python 2
        names[builtins, "getattr"] = _statistic
        for kind in (dict, list, tuple, set, frozenset, int, float, bool, str, complex, slice, range):
            names[builtins, kind.__name__] = kind
    for numpy_module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1 and 2
        names[numpy_module, "_reconstruct"] = _rebuild_array
        names[numpy_module, "scalar"] = _rebuild_scalar
    for numpy_module in ("numpy.core.numeric", "numpy._core.numeric"):
        names[numpy_module, "_frombuffer"] = _rebuild_from_buffer
    for name in TORCH_REBUILDS:
        if hasattr(_utils, name):  # the list is that of torch 2.15; older ones lack some
            names["torch._utils", name] = getattr(_utils, name)
    for name in HISTORY_STATISTICS:  # protocol 4 and later write the dotted name
        names[HISTORY_MODULE, f"HistoryBuffer.{name}"] = _unused_statistic
    names.update({("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)})
    return names


def _set_state(target: Any, state: Any) -> None:
    """Give an object the state that the file holds for it; only the kinds below take one."""
    if isinstance(target, np.dtype):
        if not isinstance(state, tuple) or len(state) != 8 or any(part is not None for part in state[2:5]):
            raise RefusedNameError("numpy.dtype with fields")
        target.__setstate__(state)  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(target, np.ndarray):
        # References must arrive as a list; raw bytes would be taken for addresses.
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], np.dtype):
            raise RefusedNameError("a NumPy array with an unknown state")
        if state[2].hasobject and not isinstance(state[4], list):
            raise RefusedNameError("a NumPy array of objects without a list of them")
        target.__setstate__(state)
    elif type(target) is _history_buffer():
        fields = {name: state[name] for name in HISTORY_STATE}
        target.__setstate__(fields) if hasattr(target, "__setstate__") else vars(target).update(fields)
    elif type(target) in (collections.OrderedDict, argparse.Namespace) and isinstance(state, dict):
        vars(target).update(state)  # a state dict carries `_metadata` this way
    else:
        raise RefusedNameError(f"state for {type(target).__module__}.{type(target).__qualname__}")


# The Python implementation, because the one in C cannot be told what BUILD may do.
_PythonUnpickler: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


class Unpickler(_PythonUnpickler):
    """``pickle.Unpickler`` over the closed lists; ``torch.load`` derives its own from it."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(_PythonUnpickler.dispatch)

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Resolve a name from the list; any other is a `RefusedNameError`."""
        try:
            return _allowed()[module_name, global_name]
        except KeyError:
            raise RefusedNameError(f"{module_name}.{global_name}") from None

    def load_build(self) -> None:
        """Give the object below the top of the stack its state."""
        state = self.stack.pop()
        _set_state(self.stack[-1], state)

    dispatch[pickle.BUILD[0]] = load_build

    def get_extension(self, code: int) -> None:
        """Refuse the numbered names of ``copyreg``, which skip ``find_class`` once they are cached."""
        raise RefusedNameError(f"copyreg extension {code}")


def load(file: Any, **options: Any) -> Any:
    """Read one object; ``torch.load`` calls this for the header of files older than torch 1.6."""
    return Unpickler(file, **options).load()
