"""Whether what was read can be walked by code that trusts it.

A pickle of a few hundred bytes may hold itself, or a list that holds a list twice, forty levels deep: cheap to build,
endless to copy, print or compare. What passes here is finite, and small even for code that visits shared parts anew.
"""

import argparse
import collections
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from hocp_mm.checkpoints._modules import ModuleState
from hocp_mm.checkpoints._plain_data import RefusedError, echo, history_buffer

__all__ = ["check_tree"]

DEEPEST = 64
MOST_VISITS = 1 << 22
LONGEST_INTEGER = 512  # bits; Python turns at most 4300 digits into text

_SEQUENCES = (list, tuple, set, frozenset, torch.Size)
_MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
# What files have most of, asked for first.
_SMALL = frozenset((type(None), bool, float))
_PLAIN_CONTAINERS = frozenset((list, tuple, dict, set))
_LEAVES = (type(None), bool, float, complex, range, slice, np.dtype, torch.dtype, torch.device, type)


def check_tree(content: Any, on_device: bool = True) -> None:
    """Walk everything once, without recursion.

    Args:
        content: What an unpickler returned.
        on_device: Whether tensors must have data, as all have that were not sent to the meta device.

    Raises:
        RefusedError: If a container holds itself, containers lie deeper than ``DEEPEST``, a walk that visits shared
            parts anew would take more than ``MOST_VISITS`` steps, or there is an object that no checkpoint holds.
    """
    sizes: dict[int, int] = {}  # steps of a walk through each container that is finished
    open_ones: dict[int, Any] = {}
    # A frame is a container, an iterator over its parts, and the steps counted so far.
    frames: list[list[Any]] = [[None, iter((content,)), 0]]
    while True:
        frame = frames[-1]
        for part in frame[1]:
            kind = type(part)
            if kind in _SMALL or (kind in _PLAIN_CONTAINERS and not part):
                frame[2] += 1
                continue
            if id(part) in open_ones:
                raise RefusedError("a container that holds itself")
            steps = sizes.get(id(part))
            if steps is None:
                inner = _parts(part, on_device)
                if inner is not None:
                    break
                steps = _weight(part)
            frame[2] += steps
            if frame[2] > MOST_VISITS:
                raise RefusedError(f"more than {MOST_VISITS} parts, if shared ones count each time they occur")
        else:
            frames.pop()
            if not frames:
                return
            del open_ones[id(frame[0])]
            sizes[id(frame[0])] = frame[2]
            frames[-1][2] += frame[2]
            if frames[-1][2] > MOST_VISITS:
                raise RefusedError(f"more than {MOST_VISITS} parts, if shared ones count each time they occur")
            continue
        if len(frames) > DEEPEST:
            raise RefusedError(f"containers more than {DEEPEST} levels deep")
        open_ones[id(part)] = part
        frames.append([part, iter(inner), 1])


def _parts(value: Any, on_device: bool) -> Iterable[Any] | None:
    """Return what a container holds, or None for a leaf."""
    kind = type(value)
    if kind in _SEQUENCES:
        return value
    if kind in _MAPPINGS:
        return [*value, *value.values(), *getattr(value, "__dict__", {}).values()]
    if kind is ModuleState:
        return value.values()
    if kind in (argparse.Namespace, history_buffer()):
        return [*vars(value), *vars(value).values()]
    if kind is np.ndarray:
        return value.ravel().tolist() if value.dtype.hasobject else None
    if isinstance(value, torch.Tensor):
        if value.is_meta and on_device:
            raise RefusedError("a tensor of the meta device, which has no values")
        return vars(value).values() if vars(value) else None
    return None


def _weight(leaf: Any) -> int:
    """Return the steps that a leaf stands for: long text takes longer to print and compare."""
    kind = type(leaf)
    if kind in (str, bytes, bytearray):
        return 1 + len(leaf) // 32
    if kind is int:
        if leaf.bit_length() > LONGEST_INTEGER:
            raise RefusedError("an integer that is too long")
        return 1
    if kind in _LEAVES or isinstance(leaf, np.generic | np.ndarray | np.dtype | torch.Tensor | type):
        return 1
    if isinstance(leaf, torch.storage.TypedStorage):
        return 1
    raise RefusedError(echo(leaf))
