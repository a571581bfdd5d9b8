"""Put a trained network of timm into CP form on a folder of pictures, for a file that any later run starts from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hocp_mm.analysis.pictures import find_pictures, stack_pictures
from hocp_mm.analysis.twins import own_size
from hocp_mm.checkpoints import DecompositionCache, LoadReport
from hocp_mm.errors import CheckpointError, DataError
from hocp_mm.functional import RankLike
from hocp_mm.models import TimmHOCPBackbone
from hocp_mm.models.backbones.timm_network import create_network
from hocp_mm.models.backbones.timm_weights import read_image_weights

_BATCH = 16
_FITTED, _MOST_VARIANTS = 256, 11  # pictures that few are made up to


class Compressed(NamedTuple):
    """A network in CP form.

    Attributes:
        state: Its weights by timm's names, those of its classifier as they were.
        report: How near it is to the dense one.
    """

    state: dict[str, Tensor]
    report: LoadReport


def compress_timm(
    name: str,
    source: str,
    images: str | Path,
    *,
    rank: RankLike = "x1",
    budget: float | None = None,
    steps: int = 0,
    most: int = 256,
    size: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Compressed:
    """Compress a network to what it computes on pictures; they need no labels.

    Args:
        name: Name in timm.
        source: ``'timm'`` for its pretrained weights, else a file with dense ones.
        images: Folder of pictures like those that the network will see. A quarter of them judges the result; where the
            others are few, variants of them are drawn as in training.
        rank: Components per layer, where there is no budget (:func:`hocp_mm.functional.resolve_rank`).
        budget: Parameters of all CP layers together, as a part of the dense ones, in (0, 1]; ranks then go where
            errors cost most.
        steps: Of a distillation after the fits (:func:`hocp_mm.layers.distill_`).
        most: Pictures that are read.
        size: Height and width, pixels; the network's own by default.
        seed: Of the fits.
        progress: Called with a line of text for each step.

    Returns:
        The weights, and the account.

    Raises:
        UnknownModelError: If timm does not know ``name``.
        CheckpointError: If the weights cannot be read, are not those of a whole dense network, or do not fit.
        DataError: If there are fewer than 2 pictures, or one cannot be read.
    """
    size = size or own_size(name)
    files = find_pictures(images, most)
    if len(files) < 2:
        raise DataError(f"--images: {images} must hold 2 pictures, one of them to judge by, got {len(files)}.")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    files = [files[place] for place in order]
    cut = max(1, len(files) // 4)
    variants = min(_MOST_VARIANTS, _FITTED // len(files[cut:]) - 1)
    shown: dict[str, Any] = {
        "judged": stack_pictures(files[:cut], name, size).split(_BATCH),
        "pictures": stack_pictures(files[cut:], name, size, max(0, variants), seed).split(_BATCH),
    }
    network: Any = create_network(name, 3, None)[0]
    stages = range(len(network.feature_info))
    backbone = TimmHOCPBackbone(name, rank=rank, temporal_kernel=1, out_indices=stages, seed=seed)
    cache = DecompositionCache()
    report = backbone.load_image_weights(source, **shown, budget=budget, distill=steps, progress=progress, cache=cache)
    if not report.stages:
        raise CheckpointError(
            f"checkpoint: must hold the weights of a whole dense '{name}', which has layers to put in CP form, got "
            f"{report.source}."
        )
    own = backbone.net.state_dict()
    converted = set(backbone.factorized)
    others = {
        key: tensor
        for key, tensor in read_image_weights(source, name, 3, {}, fused=False).state.items()
        if key not in own and key.rpartition(".")[0] not in converted
    }
    return Compressed({**others, **own}, report)
