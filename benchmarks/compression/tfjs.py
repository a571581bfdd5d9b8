"""Read the quantised shards of a TensorFlow.js weight manifest."""

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def read_manifest(path: Path) -> dict[str, Tensor]:
    """Read all tensors that a manifest describes.

    Args:
        path: Of the manifest, or of a ``model.json`` that holds one; the shards lie beside it.

    Returns:
        Name to tensor, in the layout of the file (filters ``[h, w, in, out]``), float32.
    """
    manifest = json.loads(path.read_text())
    groups = manifest if isinstance(manifest, list) else manifest["weightsManifest"]
    tensors: dict[str, Tensor] = {}
    for group in groups:
        data = b"".join((path.parent / shard).read_bytes() for shard in group["paths"])
        tensors.update(_tensors(group["weights"], data))
    return tensors


def read_scripts(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a model that a bundler has made scripts of: the manifest a literal, the shards in base64.

    Args:
        folder: Holds ``model.min.js`` and its shards.

    Returns:
        As `read_manifest`.
    """
    text = (folder / "model.min.js").read_text()
    # Keys of such a literal have no quotes, and numbers no zero before the point.
    entries = [
        {
            "name": name,
            "shape": [int(size) for size in shape.split(",") if size],
            "dtype": "float32",
            "quantization": {"min": float(least), "scale": float(scale), "dtype": "uint8"},
        }
        for name, shape, least, scale in re.findall(
            r'\{name:"([^"]+)",shape:\[([\d,]*)\],dtype:"float32",'
            r'quantization:\{min:([-+.\de]+),scale:([-+.\de]+),dtype:"uint8"\}\}',
            text,
        )
    ]
    shards = sorted(folder.glob("group1-shard*.min.js"), key=lambda file: int(file.name[12:].partition("of")[0]))
    data = b"".join(base64.b64decode(max(re.findall(r'"([^"]*)"', file.read_text()), key=len)) for file in shards)
    return _tensors(entries, data)


def _tensors(entries: list[dict[str, Any]], data: bytes) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    at = 0
    for entry in entries:
        stored = entry.get("quantization", {})
        kind = np.dtype(stored.get("dtype", entry["dtype"]))
        count = math.prod(entry["shape"])
        values = np.frombuffer(data, kind, count, at).astype(np.float32)
        at += count * kind.itemsize
        if stored and kind.kind == "u":
            values = values * np.float32(stored["scale"]) + np.float32(stored["min"])
        tensors[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    if at != len(data):
        raise ValueError(f"tfjs: the manifest must tell of all {len(data)} bytes of the shards, got {at}.")
    return tensors


def kernel(filters: Tensor) -> Tensor:
    """Turn filters ``[h, w, in, out]`` into PyTorch's ``[out, in, h, w]``."""
    return filters.permute(3, 2, 0, 1).contiguous()
