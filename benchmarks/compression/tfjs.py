"""Read the quantised shards of a TensorFlow.js weight manifest."""

import json
import math
from pathlib import Path

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
        at = 0
        for entry in group["weights"]:
            stored = entry.get("quantization", {})
            kind = np.dtype(stored.get("dtype", entry["dtype"]))
            count = math.prod(entry["shape"])
            values = np.frombuffer(data, kind, count, at).astype(np.float32)
            at += count * kind.itemsize
            if stored and kind.kind == "u":
                values = values * np.float32(stored["scale"]) + np.float32(stored["min"])
            tensors[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    return tensors


def kernel(filters: Tensor) -> Tensor:
    """Turn filters ``[h, w, in, out]`` into PyTorch's ``[out, in, h, w]``."""
    return filters.permute(3, 2, 0, 1).contiguous()
