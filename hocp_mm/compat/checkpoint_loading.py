"""Let MMEngine load checkpoints through :func:`hocp_mm.checkpoints.reading.read_checkpoint`, as data of a stranger."""

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

import torch

from hocp_mm.checkpoints._plain_data import echo
from hocp_mm.checkpoints.reading import (
    AVERAGES,
    EXTRA_STATE,
    RAW,
    WRAPPERS,
    MapLocation,
    Mark,
    file_mark,
    plain_tensor,
    read_checkpoint,
    require_name,
    under_names,
)
from hocp_mm.errors import CheckpointError

__all__ = ["FILE_ENTRIES", "RECORDED", "hand_over", "load_checkpoints_safely", "load_from_address", "load_from_local"]

FILE_ENTRIES = ("best_ckpt", "last_ckpt")
"""How entries of MMEngine's message hub begin that hold paths; its hooks delete the files that they name."""
RECORDED = "recorded_"
"""Prefix under which such an entry is kept, as a name without its folder."""

_handed: dict[Mark, dict[str, Any]] = {}  # one at most


def hand_over(filename: str, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Read a local file that MMEngine loads next, and keep it until then: it is not read again.

    Args:
        filename: Path of the file. If it changes in the meantime, MMEngine reads it again.
        state: The weights in it, under the names of the model. MMEngine, which would look for them under
            ``state_dict`` alone, finds these there and no others.

    Returns:
        What MMEngine will be given.
    """
    mark = file_mark(filename)
    rest = read_checkpoint(filename)
    others = (*WRAPPERS, *AVERAGES)
    kept = {key: value for key, value in rest.items() if key not in others and not isinstance(value, torch.Tensor)}
    checkpoint = _disarmed({**kept, "state_dict": OrderedDict(state)}, filename)
    _handed.clear()
    _handed[mark] = checkpoint
    return checkpoint


def load_from_local(filename: str, map_location: MapLocation = None) -> dict[str, Any]:
    """Read a local file for MMEngine's ``CheckpointLoader``, which prints this function's name without ``load_from_``.

    Args:
        filename: Path of the file.
        map_location: As in ``torch.load``. What was handed over is on the CPU: whoever loads tensors copies them.

    Returns:
        The checkpoint, without what MMEngine would execute or delete: the config in ``meta["config"]``, which
        ``Runner.resume`` runs as Python, and the paths in the message hub.

    Raises:
        CheckpointError: If it cannot be read, or where MMEngine looks for weights there is something that cannot be
            copied into a model, or two tensors that MMEngine would give one name.
    """
    there = Path(filename).expanduser().is_file()
    if _handed and there and (handed := _handed.pop(file_mark(filename), None)) is not None:
        return handed
    checkpoint = read_checkpoint(filename, map_location=map_location)
    if "state_dict" not in checkpoint:
        checkpoint = _checked(checkpoint, filename, bare=True)
    elif isinstance(checkpoint["state_dict"], dict):
        checkpoint["state_dict"] = _checked(checkpoint["state_dict"], filename)
    else:
        raise CheckpointError(f"{filename}: state_dict must be a dict, got {echo(checkpoint['state_dict'], 100)}.")
    return _disarmed(checkpoint, filename)


def _checked(
    state: Mapping[str, Any], filename: str, prefix: str = "module.", bare: bool = False
) -> OrderedDict[str, Any]:
    """Return a state dict whose tensors can be copied, under names that are still their own without a prefix.

    What stands in ``_metadata`` besides versions would change how torch copies.

    Args:
        state: The state dict.
        filename: File name for the error text.
        prefix: What MMEngine takes off.
        bare: Whether other values (``epoch``) may stand beside the weights.

    Raises:
        CheckpointError: If it is anything else.
    """
    checked = OrderedDict[str, Any]()
    for name, value in state.items():
        require_name(name, filename)  # MMEngine replaces parts of them, and prints those that are not the model's
        if isinstance(value, torch.Tensor):
            checked[name] = plain_tensor(name, value, filename)
        elif bare or name.endswith(EXTRA_STATE):
            checked[name] = value
        else:
            raise CheckpointError(f"{filename}: weights must be tensors, got {echo(value)} for {echo(name, 100)}.")
    under_names(((name.removeprefix(prefix), value) for name, value in checked.items()), filename)
    versions = getattr(state, "_metadata", None)
    entries = versions.items() if isinstance(versions, Mapping) else ()
    checked._metadata = OrderedDict(  # pyright: ignore[reportAttributeAccessIssue]
        (name, {"version": entry["version"]})
        for name, entry in entries
        if isinstance(name, str) and isinstance(entry, dict) and type(entry.get("version")) is int
    )
    return checked


def _disarmed(checkpoint: dict[str, Any], filename: str) -> dict[str, Any]:
    """Take out, in place, what MMEngine would execute or delete, and look at the weights of its `EMAHook`."""
    meta, hub = (checkpoint.get(key) for key in ("meta", "message_hub"))
    if isinstance(raw := checkpoint.get(RAW), dict):
        checkpoint[RAW] = _checked(raw, filename, prefix="")
    if isinstance(meta, dict):
        meta.pop("config", None)
    if isinstance(hub, dict) and isinstance(info := hub.get("runtime_info"), dict):
        for key in [key for key in info if isinstance(key, str) and key.startswith(FILE_ENTRIES)]:
            value = info.pop(key)
            info[f"{RECORDED}{key}"] = Path(value).name if isinstance(value, str) else ""
            if isinstance(hub.get("resumed_keys"), dict):
                hub["resumed_keys"].pop(key, None)
    return checkpoint


def load_from_address(
    filename: str, map_location: MapLocation = None, model_dir: str | None = None, **options: Any
) -> dict[str, Any]:
    """Fetch a file from an address for MMEngine's ``CheckpointLoader``, and read the copy without executing it.

    Args:
        filename: ``http://`` or ``https://`` address.
        map_location: As in ``torch.load``.
        model_dir: Folder of the copy; that of ``torch.hub`` by default.
        **options: ``progress``.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If it cannot be fetched, or its checksum is not the one in its name.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir()) / "checkpoints")
    name = Path(urlparse(filename).path).name
    # Two addresses may end alike, and the copy of one must not be taken for the other.
    copy = folder / f"{hashlib.sha256(filename.encode()).hexdigest()[:16]}-{name}"
    if not copy.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        mark = re.search(r"-([0-9a-f]{8,64})\.", name)  # how the zoos of torch and OpenMMLab name their files
        try:
            torch.hub.download_url_to_file(
                filename, str(copy), mark[1] if mark else None, progress=options.get("progress", os.isatty(0))
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{filename}: cannot be fetched ({' '.join(str(error).split())[:200]}).") from error
    return load_from_local(str(copy), map_location)


def _refusing(scheme: str) -> Callable[..., NoReturn]:
    def load_from_elsewhere(filename: str, map_location: MapLocation = None) -> NoReturn:
        raise CheckpointError(f"{filename}: weights are not read from {scheme}; fetch the file and name the copy.")

    return load_from_elsewhere


def load_checkpoints_safely() -> str | None:
    """Replace MMEngine's readers of checkpoints.

    Fault: resuming, ``load_from`` and testing fail on torch >= 2.6 with ``Weights only load failed … HistoryBuffer``
        (MMEngine 0.10.7 leaves ``weights_only`` at torch's new default), or run whatever the file says (0.10.7 on
        older torch, and 0.11.0rc3, which passes ``weights_only=False``). ``Runner.resume`` runs ``meta["config"]`` as
        Python, and ``CheckpointHook`` deletes the files that ``message_hub`` names.
    Where: every MMEngine so far, hence no probe: either it fails or it is unsafe.
    Cure: our readers for local paths and for addresses (``https://``, and so ``torchvision://`` and
        ``open-mmlab://``); ``s3://``, ``petrel://`` and ``pavi://`` are refused.
    Source: https://github.com/open-mmlab/mmengine/issues/1655

    Returns:
        A line for the log, or None if it is in place.
    """
    from mmengine.runner import checkpoint as theirs

    loader: Any = theirs.CheckpointLoader
    if loader._schemes.get("") is load_from_local:
        return None
    for prefix, load in list(loader._schemes.items()):
        if prefix in ("http://", "https://"):
            loader.register_scheme(prefixes=prefix, loader=load_from_address, force=True)
        elif load.__name__ in ("load_from_ceph", "load_from_pavi"):
            loader.register_scheme(prefixes=prefix, loader=_refusing(prefix.split("?")[-1]), force=True)
    loader.register_scheme(prefixes="", loader=load_from_local, force=True)
    theirs.load_from_http = load_from_address  # what the readers of other model zoos call
    return "mmengine CheckpointLoader: files are read without executing them"
