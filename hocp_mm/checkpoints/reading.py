"""Read weight files without executing them.

A ``.pth`` file is a pickle, and unpickling calls whatever the file names. :func:`read_checkpoint` hands ``torch.load``
an unpickler that knows a closed list of names: tensors and their storages, containers, NumPy arrays and scalars, and
the few classes that MMEngine puts into a training checkpoint. Any other name ends in a :class:`CheckpointError`.

Where we differ from ``torch.load(weights_only=True)``: that one refuses MMEngine's ``HistoryBuffer`` whatever is added
to its list of safe globals (it sets the state of tensors and ordered dicts only), so it cannot resume a training run.
"""

import tarfile
import zipfile
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hocp_mm.checkpoints import _unpickling
from hocp_mm.errors import CheckpointError

__all__ = ["SUFFIXES", "read_checkpoint", "unwrap_state_dict"]

PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
WRAPPERS = ("state_dict", "model", "model_state_dict")

MapLocation = str | torch.device | Callable[..., Any] | None


def read_checkpoint(path: str | PathLike[str], map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Read a ``.safetensors``, ``.pth``, ``.pt``, ``.ckpt``, ``.bin`` or ``.pth.tar`` file; nothing in it is executed.

    Args:
        path: Local file; ``~`` is expanded.
        map_location: Device of the tensors, as in ``torch.load``. A callable cannot be asked for a device name, so
            a safetensors file then stays on the CPU.

    Returns:
        What the file holds: a state dict (always for safetensors), or a dict around one; see
        :func:`unwrap_state_dict`.

    Raises:
        CheckpointError: If the file is missing, empty, cut off, no weight file at all, holds an object whose class
            is not on the list, or is not a dict at the top. The text names the file.
    """
    file = Path(path).expanduser()
    _check_is_weight_file(file)
    if file.name.endswith(".safetensors"):
        device = "cpu" if map_location is None or callable(map_location) else str(map_location)
        try:
            return dict(load_file(file, device=device))
        except SafetensorError as error:
            raise CheckpointError(f"{file}: not a whole safetensors file ({error}).") from error
    content = _load_pickle(file, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: a checkpoint must hold a dict, got {type(content).__name__}.")
    return content


def unwrap_state_dict(checkpoint: Mapping[str, Any], source: str | PathLike[str] = "checkpoint") -> dict[str, Any]:
    """Return the state dict inside a checkpoint, under the names that the bare model uses.

    Looks under ``state_dict``, ``model`` and ``model_state_dict``, nested ones too; otherwise takes the mapping
    itself. A prefix ``module.`` (left by DistributedDataParallel) is stripped when every name carries it: a name that
    carries it alone belongs to a submodule that is called so.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
        source: File name for the error text.

    Returns:
        New dict with the same tensors. Values that are no tensors (``get_extra_state``) are kept if there is at least
        one tensor beside them.

    Raises:
        CheckpointError: If there is no tensor where the weights should be.

    Example:
        >>> list(unwrap_state_dict({"state_dict": {"module.fc.weight": torch.ones(1)}, "epoch": 3}))
        ['fc.weight']
    """
    state: Mapping[str, Any] = checkpoint
    while True:
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    if not any(isinstance(value, torch.Tensor) for value in state.values()):
        found = ", ".join(sorted(map(str, state))[:8]) or "nothing"
        raise CheckpointError(f"{source}: no weights under {', '.join(WRAPPERS)} or at the top, got keys {found}.")
    names = [str(name) for name in state]
    while all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    return dict(zip(names, state.values(), strict=True))


def _check_is_weight_file(file: Path) -> None:
    """Refuse what can be told from the name and the first bytes, in words that say what to do."""
    if not file.exists():
        raise CheckpointError(f"{file}: no such checkpoint file.")
    if not file.is_file():
        raise CheckpointError(f"{file}: a checkpoint must be a file, got a folder.")
    if not file.name.endswith(SUFFIXES):
        raise CheckpointError(f"{file}: suffix must be one of {', '.join(SUFFIXES)}, got {file.suffix or 'none'!r}.")
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}).") from error
    if not head:
        raise CheckpointError(f"{file}: the file is empty; download or copy it again.")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{file}: a web page, not weights; the download link needs another address or a login.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file}: a Git LFS pointer, not weights; run `git lfs pull`.")
    is_zip = head.startswith(b"PK\x03\x04")
    # A safetensors file begins with the length of its header, which may look like the first byte of a pickle.
    if file.name.endswith(".safetensors") and (is_zip or head.startswith(b"\x80")) and head[8:9] != b"{":
        raise CheckpointError(f"{file}: content is a torch pickle, not safetensors; rename it to .pth.")
    if is_zip and not zipfile.is_zipfile(file):
        raise CheckpointError(f"{file}: the file is cut off ({file.stat().st_size} bytes); download or copy it again.")


def _load_pickle(file: Path, map_location: MapLocation) -> Any:
    """Run ``torch.load`` with the restricted unpickler; whatever goes wrong inside names the file."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            # torch.load would hand a TorchScript archive to torch.jit.load, past the unpickler.
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise CheckpointError(f"{file}: a TorchScript program, not a checkpoint; save its state_dict().")
    elif _is_tar(file):
        raise CheckpointError(f"{file}: the tar format of torch 0.1 is not read; save it again with a newer torch.")
    try:
        # weights_only=False, because our module takes the place of the restricted one that True would choose.
        return torch.load(file, map_location=map_location, pickle_module=_unpickling, weights_only=False)
    except _unpickling.RefusedNameError as error:
        raise CheckpointError(
            f"{file}: holds {error}, which is not on the list of data that a checkpoint may hold; nothing was executed."
            " Save the state_dict() alone, as .safetensors if the file is to be shared."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything: EOFError, KeyError, UnicodeDecodeError, ...
        raise CheckpointError(f"{file}: damaged or no torch checkpoint ({type(error).__name__}: {error}).") from error


def _is_tar(file: Path) -> bool:
    """Tell a tar archive with members; a file of zeros counts as an empty one."""
    if not tarfile.is_tarfile(file):
        return False
    with tarfile.open(file) as archive:
        return bool(archive.getnames())
