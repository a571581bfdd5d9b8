"""Read weight files without executing them.

A ``.pth`` file is a pickle, and unpickling calls whatever the file names. :func:`read_checkpoint` hands ``torch.load``
an unpickler that knows a closed list of names: tensors and their storages, containers, NumPy arrays and scalars, and
the few classes that MMEngine puts into a training checkpoint. Whole modules (``torch.save(model)``) are read as state
dicts, whatever their classes are (:mod:`hocp_mm.checkpoints._modules`). Any other name ends in a
:class:`CheckpointError`.

Nothing in a file is believed before it was compared with the rest: checksums, sizes and places of records
(:mod:`hocp_mm.checkpoints._archive`), what the pickle asks for (:mod:`hocp_mm.checkpoints._unpickling`), and whether
the result can be walked (:mod:`hocp_mm.checkpoints._tree`).

Where we differ from ``torch.load(weights_only=True)``: that one refuses MMEngine's ``HistoryBuffer`` whatever is added
to its list of safe globals (it sets the state of tensors and ordered dicts only), so it cannot resume a training run.
"""

import contextlib
import copy
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hocp_mm.checkpoints._archive import check_archive
from hocp_mm.checkpoints._modules import ModuleDescription, ModuleState, modules_to_states
from hocp_mm.checkpoints._onnx import read_onnx
from hocp_mm.checkpoints._plain_data import LIMIT, Foreign, RefusedError, echo
from hocp_mm.checkpoints._tree import check_tree
from hocp_mm.checkpoints._unpickling import pickle_module
from hocp_mm.errors import CheckpointError

__all__ = [
    "SUFFIXES",
    "Weights",
    "file_mark",
    "plain_tensor",
    "read_checkpoint",
    "reading_once",
    "require_name",
    "under_names",
    "unwrap_state_dict",
]

PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar")
ONNX = ".onnx"
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES, ONNX)
_KERAS = (".h5", ".hdf5", ".keras", ".pb", ".tflite")
WRAPPERS = ("state_dict", "model", "model_state_dict")
# Moving averages as timm and torchvision save them beside the last weights; timm takes them when it loads a file.
AVERAGES = ("state_dict_ema", "model_ema")
RAW = "ema_state_dict"  # of MMEngine: what is trained, the average of it is in `state_dict`
PARALLEL = ("module.", "_orig_mod.")  # what DataParallel, AveragedModel and torch.compile put in front
COUNTERS = ("num_batches_tracked", "n_averaged")
AVERAGED = "n_averaged"  # the counter of torch's AveragedModel
DEEPEST_WRAPPER = 8
ZIP = b"PK\x03\x04"
EXTRA_STATE = "_extra_state"  # torch's only way to put something else than tensors into a state dict
LONGEST_NAME = 1000  # of a tensor
# What can be computed with, compared with zero and copied into a model: no complex ones, which lose a part, no float8.
PLAIN_DTYPES = frozenset(
    getattr(torch, name)
    for name in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
)
LONGEST_HEADER = 8 << 20  # of safetensors; the library makes objects of it before it looks at the sizes

MapLocation = str | torch.device | Callable[..., Any] | None
Mark = tuple[str, int, int, int, int]


class Weights(dict[str, Any]):
    """A state dict, and what was found out on the way to it.

    Attributes:
        notes: Lines for the `LoadReport`.
        description: What a whole module says besides its tensors, under its own names; None for others.
    """

    def __init__(
        self, state: Mapping[str, Any], notes: Iterable[str] = (), description: ModuleDescription | None = None
    ):
        super().__init__(state)
        self.notes = list(notes)
        self.description = description


_kept: dict[tuple[Mark, MapLocation], dict[str, Any]] | None = None  # by the open block of `reading_once`


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Let :func:`read_checkpoint` read a file once within the block, however many ask: a large one takes seconds.

    A file that has changed is read again. At the end of the block all is let go; blocks inside it are part of it.

    Yields:
        Nothing. Who reads within the block does not change what the dicts in a checkpoint hold.
    """
    global _kept
    outer, _kept = _kept, {} if _kept is None else _kept
    try:
        yield
    finally:
        _kept = outer


def file_mark(path: str | PathLike[str]) -> Mark:
    """Return what tells a state of a file from others: place, device, inode, size and time of the last change."""
    state = os.stat(file := os.path.realpath(Path(path).expanduser()))  # noqa: PTH116 - of the place that is returned
    return file, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def read_checkpoint(path: str | PathLike[str], map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Read a file of weights (``.safetensors``, ``.pth``, ``.pt``, ``.ckpt``, ``.bin``, ``.pth.tar``, ``.onnx``).

    Nothing in it is executed.

    Args:
        path: Local file; ``~`` is expanded.
        map_location: Device of the tensors, as in ``torch.load``. A callable cannot be asked for a device name, so
            a safetensors or ONNX file then stays on the CPU.

    Returns:
        What the file holds: a state dict (always for safetensors and ONNX), or a dict around one; see
        :func:`unwrap_state_dict`. A whole module, at the top or beside other entries, becomes its state dict, which
        has a ``description``: classes and plain attributes of the modules in it.

    Raises:
        CheckpointError: If the file is missing, empty, damaged (in a zip archive, by a single bit), no weight file at
            all, is not a dict at the top, or holds an object whose class is not on the list, one that holds itself, or
            a tensor without values. The text names the file.
    """
    file = Path(path).expanduser()
    _check_is_weight_file(file)
    key = file_mark(file), map_location  # before it is read
    if _kept is not None and key in _kept:
        return copy.copy(_kept[key])
    kinds = {".safetensors": _load_safetensors, ONNX: _load_onnx}
    load = next((kind for suffix, kind in kinds.items() if file.name.endswith(suffix)), _load_pickle)
    content = load(file, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: a checkpoint must hold a dict, got {type(content).__name__}.")
    if _kept is not None:
        _kept[key] = copy.copy(content)
    return content


def unwrap_state_dict(checkpoint: Mapping[str, Any], source: str | PathLike[str] = "checkpoint") -> Weights:
    """Return the state dict inside a checkpoint, under the names that the bare model uses.

    Looks under ``state_dict_ema`` and ``model_ema`` (the moving average, which timm takes, too, if it is one of all
    weights), under ``state_dict``,
    ``model`` and ``model_state_dict``, nested ones too; otherwise takes the one whole module that stands in it, or the
    mapping itself. Prefixes ``module.`` (left by DistributedDataParallel) and ``_orig_mod.`` (by ``torch.compile``) are
    stripped when every name carries them: a name that carries it alone belongs to a submodule that is called so.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        source: File name for the error text.

    Returns:
        New dict with the same values: plain real tensors without gradients. What ``get_extra_state`` gave, and other
        values that stand beside bare weights (``epoch``), are left out. Its ``notes`` say what was chosen.

    Raises:
        CheckpointError: If there is no tensor where the weights should be, or anything beside tensors in a
            ``state_dict``; if a tensor is sparse, quantised, nested, complex, of float8 or has no values; or if a name
            is no printable text of at most 1000 characters.

    Example:
        >>> list(unwrap_state_dict({"state_dict": {"module.fc.weight": torch.ones(1)}, "epoch": 3}))
        ['fc.weight']
    """
    state: Mapping[str, Any] = checkpoint
    wrapped, notes = False, list[str](getattr(checkpoint, "notes", ()))
    for _ in range(DEEPEST_WRAPPER):
        key = _wrapper(state)
        if key is None:
            break
        notes += _about_choice(key, state)
        state, wrapped = state[key], True
    description = state.description if isinstance(state, ModuleState) else None
    if description is not None:
        notes.append(_about_module(description))
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        found = ", ".join(sorted(echo(key, 100) for key in list(state)[:8]))[:LIMIT] or "nothing"
        raise CheckpointError(f"{source}: no weights under {', '.join(WRAPPERS)} or at the top, got keys {found}.")
    kept: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            kept[name] = plain_tensor(name, value, source)
        elif wrapped and not (isinstance(name, str) and name.endswith(EXTRA_STATE)):
            raise CheckpointError(f"{source}: weights must be tensors, got {echo(value)} for {echo(name, 100)}.")
    if AVERAGED in kept and len(kept) > 1 and all(name.startswith("module.") for name in kept if name != AVERAGED):
        del kept[AVERAGED]
    names = list(kept)
    for _ in range(DEEPEST_WRAPPER):
        prefix = next((p for p in PARALLEL if all(name.startswith(p) for name in names)), None)
        if prefix is None:
            break
        names = [name.removeprefix(prefix) for name in names]
    return Weights(dict(zip(names, kept.values(), strict=True)), notes, description)


def _wrapper(state: Mapping[str, Any]) -> str | None:
    """Return the key under which the weights are, or None if they are here."""
    last = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), {})
    for key in (*AVERAGES, *WRAPPERS):
        inner = state.get(key)
        if isinstance(inner, Mapping) and (key in WRAPPERS or _tensors(inner) >= max(1, _tensors(last))):
            return key
    holders = [key for key, value in state.items() if isinstance(value, Mapping) and _tensors(value)]
    holders += [key for key, value in state.items() if isinstance(value, torch.Tensor)]
    return holders[0] if len(holders) == 1 and isinstance(state[holders[0]], ModuleState) else None


def _tensors(state: Mapping[str, Any]) -> int:
    """Count the tensors in a state dict, or in one that is wrapped, but for counters, which an average may lack."""
    for _ in range(DEEPEST_WRAPPER):
        state = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), state)
    return sum(
        isinstance(value, torch.Tensor) and not (isinstance(name, str) and name.endswith(COUNTERS))
        for name, value in state.items()
    )


def _about_choice(key: str, state: Mapping[str, Any]) -> list[str]:
    """Tell which of the sets of weights beside each other was taken."""
    sets = [other for other in (*WRAPPERS, *AVERAGES, RAW) if isinstance(state.get(other), Mapping)]
    beside = [other for other in sets if other != key and state[other]]
    notes: list[str] = []
    if key in AVERAGES and any(other in WRAPPERS for other in beside):
        notes.append(f"the moving average under '{key}' was taken, not the last weights beside it")
        beside = [other for other in beside if other not in WRAPPERS]
    elif key in WRAPPERS and (partial := [other for other in beside if other in AVERAGES]):
        notes.append(f"'{partial[0]}' is not an average of all weights, so the last ones were taken")
        beside = [other for other in beside if other not in AVERAGES]
    if others := [f"'{other}'" for other in beside if _tensors(state[other])]:
        notes.append(f"the weights under '{key}' were taken, not those under {', '.join(others)}")
    return notes


def _about_module(about: ModuleDescription) -> str:
    calls = f" (it names functions: {', '.join(about.not_called)[:LIMIT]})" if about.not_called else ""
    return f"a whole module of class {about.classes['']}, of which nothing was imported or called{calls}"


def under_names(tensors: Iterable[tuple[str, torch.Tensor]], source: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """Make a state dict of tensors and their new names; the later of two must not take the place of the other.

    Returns:
        The state dict.

    Raises:
        CheckpointError: If two have one name.
    """
    state: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        if name in state:
            raise CheckpointError(f"{source}: tensors must have names of their own, got two for {echo(name, 100)}.")
        state[name] = tensor
    return state


def require_name(name: object, source: str | PathLike[str]) -> None:
    """Refuse a name of a tensor that nobody would give: whoever loads weights splits, compares and prints names.

    Args:
        name: Key of a state dict.
        source: File name for the error text.

    Raises:
        CheckpointError: If it is not printable text of at most ``LONGEST_NAME`` characters.
    """
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
        rule = f"must be printable text of at most {LONGEST_NAME} characters"
        raise CheckpointError(f"{source}: names of weights {rule}, got {echo(name, 100)}.")


def plain_tensor(name: object, tensor: torch.Tensor, source: str | PathLike[str]) -> torch.Tensor:
    """Return a tensor that can be copied into a model, without its gradient.

    Args:
        name: Its name.
        tensor: The tensor.
        source: File name for the error text.

    Raises:
        CheckpointError: If it is sparse, quantised, nested, complex, of float8 or has no values, or has an odd name.
    """
    require_name(name, source)
    kinds = {
        "without values": tensor.is_meta,
        "quantised": tensor.is_quantized,
        "nested": tensor.is_nested,
        "sparse": tensor.layout != torch.strided,
        f"of {tensor.dtype}": tensor.dtype not in PLAIN_DTYPES,
    }
    found = [kind for kind, holds in kinds.items() if holds]
    if found:
        raise CheckpointError(f"{source}: weights must be plain tensors, got one {found[0]} for {echo(name, 100)}.")
    return tensor.detach()


def _check_is_weight_file(file: Path) -> None:
    """Refuse what can be told from the name and the first bytes, in words that say what to do."""
    if not file.exists():
        raise CheckpointError(f"{file}: no such checkpoint file.")
    if not file.is_file():
        got = "a folder" if file.is_dir() else "a device or pipe"
        raise CheckpointError(f"{file}: a checkpoint must be a file, got {got}.")
    if not file.name.endswith(SUFFIXES):
        hint = " (of Keras or TensorFlow: export it with python -m tf2onnx.convert)" if file.suffix in _KERAS else ""
        raise CheckpointError(
            f"{file}: suffix must be one of {', '.join(SUFFIXES)}, got {file.suffix or 'none'!r}{hint}."
        )
    try:
        # An empty file is not opened: some that the system makes say they are, and wait for ever (/proc/kmsg).
        head = b""
        if file.stat().st_size:
            with file.open("rb") as stream:
                head = stream.read(tarfile.BLOCKSIZE)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}).") from error
    if not head:
        raise CheckpointError(f"{file}: the file is empty; download or copy it again.")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{file}: a web page, not weights; the download link needs another address or a login.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file}: a Git LFS pointer, not weights; run `git lfs pull`.")
    is_pickle = head.startswith((ZIP, b"\x80"))
    # A safetensors file begins with the length of its header, which may look like the first byte of a pickle.
    if file.name.endswith(".safetensors") and is_pickle and head[8:9] != b"{":
        raise CheckpointError(f"{file}: content is a torch pickle, not safetensors; rename it to .pth.")
    if not file.name.endswith((".safetensors", ONNX)) and _is_tar(head):
        raise CheckpointError(f"{file}: the tar format of torch 0.1 is not read; save it again with a newer torch.")


def _is_tar(head: bytes) -> bool:
    """Tell the first block of a tar archive as torch does, which would unpack it past our checks."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:  # a block of zeros, too
        return False
    return True


def _load_safetensors(file: Path, map_location: MapLocation) -> dict[str, Any]:
    """Let the library read a file; it compares sizes and places itself."""
    device = "cpu" if map_location is None or callable(map_location) else str(map_location)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    try:
        if length > LONGEST_HEADER:
            raise ValueError(f"header of {length} bytes, the most is {LONGEST_HEADER}")
        return dict(load_file(file, device=device))
    except Exception as error:  # unknown dtypes are no SafetensorError
        text = echo(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{file}: not a whole safetensors file ({text}).") from error


def read_safetensors_notes(path: str | PathLike[str]) -> dict[str, str]:
    """Return the text beside the weights of a ``.safetensors`` file; nothing for other files.

    Args:
        path: Local file, which `read_checkpoint` has read.
    """
    file = Path(path).expanduser()
    if not file.name.endswith(".safetensors"):
        return {}
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata() or {})


def _load_onnx(file: Path, map_location: MapLocation) -> dict[str, Any]:
    """Take the numbers out of an ONNX file."""
    device = "cpu" if map_location is None or callable(map_location) else map_location
    try:
        tensors, notes = read_onnx(file)
        return Weights({name: tensor.to(device) for name, tensor in tensors.items()}, notes)
    except RefusedError as error:
        raise CheckpointError(f"{file}: holds {error}, but weights of a network are wanted.") from error
    except ImportError as error:
        raise CheckpointError(f"{file}: the package onnx reads such files, and is not installed ({error}).") from error
    except Exception as error:  # protobuf has errors of its own
        text = echo(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{file}: not a whole ONNX file ({text}).") from error


def _load_pickle(file: Path, map_location: MapLocation) -> Any:
    """Run ``torch.load`` with the restricted unpickler; whatever goes wrong inside names the file."""
    with file.open("rb") as stream:
        is_zip = stream.read(4) == ZIP  # what torch goes by
    records = check_archive(file) if is_zip else None
    # torch.load would hand a TorchScript archive to torch.jit.load, past the unpickler.
    if any(name.endswith("constants.pkl") for name in records or ()):
        raise CheckpointError(f"{file}: a TorchScript program, not a checkpoint; save its state_dict().")
    size = file.stat().st_size if records is None else sum(records.values())
    module = pickle_module(records, size)
    try:
        # weights_only=False, because our module takes the place of the restricted one that True would choose.
        content = torch.load(file, map_location=map_location, pickle_module=module, weights_only=False)
        if any(isinstance(part, Foreign) for part in (content.values() if isinstance(content, dict) else [content])):
            content = modules_to_states(content, module.calls)
        check_tree(content, on_device="meta" not in str(map_location))
    except RefusedError as error:
        raise CheckpointError(
            f"{file}: holds {error}, but a checkpoint may hold tensors and plain data, each once and as large as"
            " it says; nothing was executed. Save the state_dict() alone, as .safetensors if the file is to be shared."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything: EOFError, KeyError, UnicodeDecodeError, ...
        text = echo(f"{type(error).__name__}: {echo(error)}")
        raise CheckpointError(f"{file}: damaged or no torch checkpoint ({text}).") from error
    return content
