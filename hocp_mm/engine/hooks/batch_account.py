"""What a batch was made of: the files and frames behind a call of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from hocp_mm.engine.finite import non_finite

_NAMED = 4
_FILE_KEYS = ("video", "filename", "img_path", "frame_dir", "path")
"""Where data samples keep their file: ours, then MMAction2's and MMPretrain's."""


@dataclass
class Call:
    """One call of the model for its losses.

    Attributes:
        args: Its arguments by position.
        kwargs: Its arguments by name, the batch among them.
        terms: What enters the loss, by name, detached.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    terms: dict[str, Tensor]

    @property
    def inputs(self) -> Any:
        """What the preprocessor made of the clips; None where the model takes something else."""
        return self.kwargs.get("inputs", self.args[0] if self.args else None)

    @property
    def samples(self) -> list[Any]:
        """Data samples; empty where there are none."""
        samples = self.kwargs.get("data_samples", self.args[1] if len(self.args) > 1 else None)
        return list(samples) if isinstance(samples, Sequence) and not isinstance(samples, str) else []

    def bad_terms(self) -> dict[str, float]:
        """Return the terms that are not finite, with the mean that enters the loss."""
        return {name: float(term.float().mean()) for name, term in self.terms.items() if non_finite(term)}


def loss_terms(output: Any) -> dict[str, Tensor]:
    """Return what enters the loss: mmengine sums the keys that contain ``loss``, and logs the others.

    Args:
        output: What a model returned for ``mode="loss"``.

    Returns:
        Tensors by name, with their graph; a list of tensors is summed as mmengine does. Empty for anything else.
    """
    if not isinstance(output, Mapping):
        return {}
    terms: dict[str, Tensor] = {}
    for name, value in output.items():
        parts = value if isinstance(value, (list, tuple)) else [value]
        if "loss" in str(name) and parts and all(isinstance(part, Tensor) for part in parts):
            terms[str(name)] = value if isinstance(value, Tensor) else torch.stack([p.mean() for p in parts]).sum()
    return terms


def name_files(call: Call) -> str:
    """Say which files a batch was made of: four by name, and how many there are."""
    samples = call.samples
    if not samples:
        inputs = call.inputs
        return f"a batch of {len(inputs)} without data samples" if isinstance(inputs, (Tensor, list)) else "no batch"
    names = list(dict.fromkeys(_name(sample) for sample in samples))
    more = f", … {len(samples)} in all" if len(names) > _NAMED else ""
    return f"batch: {', '.join(names[:_NAMED])}{more}"


def bad_inputs(call: Call) -> tuple[str, str] | None:
    """Find clips that hold NaN or infinite values before the network sees them.

    Returns:
        Which value was found first, and the clips, with their bad frames where these are known; None if all pixels are
        finite.
    """
    inputs = call.inputs
    if not isinstance(inputs, (Tensor, list, tuple)):
        return None
    kinds, names = [], []
    samples = call.samples
    for index, clip in enumerate(inputs):
        kind = non_finite(clip) if isinstance(clip, Tensor) and clip.is_floating_point() else None
        if kind is None:
            continue
        kinds.append(kind)
        names.append(_name(samples[index], clip) if len(samples) == len(inputs) else f"clip {index}")
    if not names:
        return None
    more = f", … {len(names)} in all" if len(names) > _NAMED else ""
    return kinds[0], f"{', '.join(names[:_NAMED])}{more}"


def bad_prediction(output: object) -> tuple[int, str, str] | None:
    """Find what is not finite among predictions.

    Args:
        output: What a model returned for ``mode="predict"``: data samples, whose fields ``pred…`` count.

    Returns:
        Index of the sample, name of the field, and ``nan`` or ``inf``; None if all is finite.
    """
    for index, sample in enumerate(output if isinstance(output, list) else []):
        for name, value in sample.items() if isinstance(sample, BaseDataElement) else ():
            if name.startswith("pred") and isinstance(value, Tensor) and value.is_floating_point():
                kind = non_finite(value)
                if kind is not None:
                    return index, name, kind
    return None


def name_sample(samples: Sequence[Any], index: int) -> str:
    """Name one sample of a batch by its file and frames, or by its place where it has neither."""
    return _name(samples[index]) if index < len(samples) else f"clip {index}"


def _name(sample: Any, clip: Tensor | None = None) -> str:
    """Name the file of a sample and its frames: those that are bad in ``clip``, else the first and the last."""
    meta = getattr(sample, "metainfo", None) or {}
    file = next((str(meta[key]) for key in _FILE_KEYS if meta.get(key) is not None), "a sample without a file name")
    file = file if len(file) <= 60 else f"…{file[-59:]}"
    frames = meta.get("frame_inds")
    frames = [] if frames is None else [int(i) for i in torch.as_tensor(frames).flatten()]
    if clip is not None and clip.dim() == 4 and clip.shape[1] == len(frames):
        bad = ~clip.isfinite().all(dim=3).all(dim=2).all(dim=0)
        frames = [frame for frame, is_bad in zip(frames, bad.tolist(), strict=True) if is_bad]
    frames = [frame for frame in frames if frame >= 0]  # -1 is padding
    if not frames:
        return file
    low, high = min(frames), max(frames)
    return f"{file} frame {low}" if low == high else f"{file} frames {low}-{high}"
