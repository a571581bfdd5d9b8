"""A network to be counted, without weights: from a config or from timm, with a clip of zeros to feed it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hocp_mm.errors import CheckpointError, HOCPError
from hocp_mm.functional import RankLike
from hocp_mm.launch import ClipRule, build_model, is_type, load_config
from hocp_mm.layers.complexity import Complexity, Progress, complexity
from hocp_mm.models import AffectRecognizer, TimmHOCPBackbone


def timm_network(
    name: str, rank: RankLike = "x1", temporal_kernel: int = 3, frames: int = 16, size: int = 112
) -> tuple[nn.Module, Tensor]:
    """Build a timm network as a video backbone with random weights; nothing is fetched or decomposed.

    Args:
        name: Name in timm.
        rank: As in :class:`hocp_mm.models.TimmHOCPBackbone`.
        temporal_kernel: Taps in time; 1 gives the image network.
        frames: Length of the clip.
        size: Height and width of the clip, pixels.

    Returns:
        The backbone and a clip ``[1, 3, frames, size, size]``.

    Raises:
        UnknownModelError: If timm does not know ``name``.
        HOCPError: If the network cannot be built so.
    """
    try:
        backbone = TimmHOCPBackbone(name, pretrained=False, rank=rank, temporal_kernel=temporal_kernel)
    except HOCPError:
        raise
    except (ValueError, RuntimeError) as error:  # timm: no stages to take features from
        raise HOCPError(f"timm: '{name}' cannot become a video network ({_first_line(error)}).") from error
    return backbone, torch.zeros(1, 3, frames, size, size)


def config_network(path: str | Path, frames: int | None = None, size: int | None = None) -> tuple[nn.Module, Tensor]:
    """Build the network of a config with random weights.

    Args:
        path: Config file.
        frames: Length of the clip; the config's own in test, or else validation, by default.
        size: Height and width of the clip, pixels; the config's own by default.

    Returns:
        The recogniser, or the bare backbone of a model that is not an ``AffectRecognizer``, and a clip
        ``[1, 3, frames, size, size]``.

    Raises:
        MissingDataError: If there is no such file.
        HOCPError: If the config has no model with a backbone, or does not tell the size of its input.
    """
    cfg = load_config(path)
    model = cfg.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("backbone"), dict):
        raise HOCPError(f"{path}: the config must have a model with a backbone.")
    if frames is None or size is None:
        try:
            own_frames, own_size = _input_of(ClipRule.from_config(cfg, str(path)))
        except CheckpointError as error:
            # Not `from error`: the command line shows the innermost of its errors.
            raise HOCPError(f"{error} Or give --frames and --size.") from None
        frames, size = frames or own_frames, size or own_size
    whole = is_type(model.get("type"), AffectRecognizer.__name__)
    return build_model(cfg, None if whole else "backbone"), torch.zeros(1, 3, frames, size, size)


def network_cost(
    network: nn.Module, clip: Tensor, measure: bool | int = False, progress: Progress | None = None
) -> Complexity:
    """Call :func:`hocp_mm.layers.complexity.complexity`; a clip that the network refuses is the user's error.

    Args:
        network: What one of the functions above returned.
        clip: The same.
        measure: Repetitions of each measurement.
        progress: Called after each measured layer.

    Returns:
        The cost of every layer.

    Raises:
        HOCPError: If the network cannot run on the clip.
    """
    try:
        return complexity(network, clip, measure=measure, progress=progress)
    except (ValueError, RuntimeError) as error:
        shape = "x".join(str(size) for size in clip.shape)
        raise HOCPError(f"--frames, --size: the network cannot run on {shape} ({_first_line(error)}).") from error


def _input_of(rule: ClipRule) -> tuple[int, int]:
    """Return clip length and side of what enters the network after the last transform."""
    clip: dict[str, Any] = {"imgs": np.zeros((rule.clip_len, rule.size, rule.size, 3), np.uint8)}
    for transform in rule.after:
        clip = transform(clip)
    return clip["imgs"].shape[0], clip["imgs"].shape[1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
