"""A file of a known affect network as a recogniser of this package: its config, and its weights under our names."""

from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import Tensor

from hocp_mm.checkpoints import KnownWeights, known_weights, read_checkpoint, unwrap_state_dict
from hocp_mm.checkpoints.affect_networks import AFFECT, NETWORKS, AffectNetwork
from hocp_mm.datasets.affectnet.rows import EXPRESSIONS
from hocp_mm.errors import CheckpointError

_SMOOTH = 5  # a fifth of a second: its authors average no boxes, and ours are looked for five times a second


def read_known_network(checkpoint: Path) -> tuple[AffectNetwork, Config, dict[str, Tensor]]:
    """Read a file that records no config.

    Args:
        checkpoint: The file.

    Returns:
        The network that it belongs to, the config of a recogniser of single frames, and all its weights.

    Raises:
        CheckpointError: If it cannot be read, belongs to no known network or, by its tensors and its name, to one of
            several, or the network predicts no valence and arousal.
    """
    known = known_weights(unwrap_state_dict(read_checkpoint(checkpoint), checkpoint), str(checkpoint))
    if isinstance(known, str):
        raise CheckpointError(
            f"{checkpoint}: the checkpoint records no config (meta['cfg']) and is of no known network "
            f"({', '.join(NETWORKS)}): got {known:.300}; give the config it was trained with: "
            "--config FILE, such as --config configs/hocp_sewa.py, or AffectInferencer(checkpoint, config)."
        )
    names = [network.name for network in known.networks]
    if len(names) > 1:
        raise CheckpointError(
            f"{checkpoint}: the weights must be those of one known network, got what fits {' and '.join(names)}; call "
            "the file by the name of the one that it is."
        )
    network = known.networks[0]
    if not network.has_affect:
        raise CheckpointError(
            f"{checkpoint}: a timeline needs valence and arousal, got {network.name}, which tells expressions alone "
            f"({', '.join(network.outputs)}); it may start a network (tools/train.py --static-checkpoint)."
        )
    return network, _config(network), _state(known)


def _config(network: AffectNetwork) -> Config:
    """Return the config of a dense image network that sees single frames."""
    model: dict[str, Any] = {
        "type": "hocp_mm.AffectRecognizer",
        "data_preprocessor": {
            "type": "hocp_mm.AffectDataPreprocessor",
            "mean": tuple(255 * value for value in network.mean),
            "std": tuple(255 * value for value in network.std),
        },
        "backbone": {
            "type": "hocp_mm.TimmHOCPBackbone",
            "model_name": network.architecture,
            "factorize": [],
            "temporal_kernel": 1,
            "out_indices": [],
            "head_features": True,
        },
        "head": {"type": "hocp_mm.AffectHead", "num_expressions": len(_expressions(network))},
    }
    pipeline = [
        {"type": "hocp_mm.SampleClip", "clip_len": 1, "mode": "window"},
        {"type": "hocp_mm.LoadFaceClip", "size": network.size, "margin": network.margin, "smooth": _SMOOTH},
        {"type": "hocp_mm.PackAffectInputs"},
    ]
    dataset = {
        "windows": {"clip_len": 1, "stride": 1},
        "pipeline": pipeline,
        "metainfo": {"expressions": _expressions(network)},
    }
    return Config({"default_scope": "hocp_mm", "model": model, "test_dataloader": {"dataset": dataset}})


def _expressions(network: AffectNetwork) -> list[str]:
    """Return the expressions that a network tells, in the order of AffectNet."""
    return [name for name in EXPRESSIONS if name in network.outputs]


def _state(known: KnownWeights) -> dict[str, Tensor]:
    """Return all weights under the names of a recogniser."""
    layers = {"regress": AFFECT, "classify": _expressions(known.networks[0])}
    head = {
        f"head.{layer}.{leaf}": tensor for layer, rows in layers.items() for leaf, tensor in known.rows(rows).items()
    }
    return {**{f"backbone.net.{name}": tensor for name, tensor in known.state.items()}, **head}
