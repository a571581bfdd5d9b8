"""Reading weights safely and fitting them into HO-CP networks; needs torch, safetensors and (lazily) timm."""

from hocp_mm.checkpoints._modules import ModuleDescription, ModuleState
from hocp_mm.checkpoints.affect_networks import KnownWeights, affect_network, known_weights
from hocp_mm.checkpoints.decomposition_cache import DecompositionCache
from hocp_mm.checkpoints.image_weights import follow_ranks_, load_image_weights_, require_finite
from hocp_mm.checkpoints.reading import (
    Weights,
    read_checkpoint,
    read_safetensors_notes,
    reading_once,
    unwrap_state_dict,
)
from hocp_mm.checkpoints.renaming import has_other_names, todays_names
from hocp_mm.checkpoints.report import LoadReport
from hocp_mm.checkpoints.stock import load_stock_weights_, stock_names
from hocp_mm.checkpoints.timm_source import (
    adapt_first_conv,
    check_timm_name,
    classifier_prefixes,
    download_timm_weights,
    names_file,
)
from hocp_mm.checkpoints.training_state import check_optimizer_state, check_scheduler_state, check_training_state

__all__ = [
    "DecompositionCache",
    "KnownWeights",
    "LoadReport",
    "ModuleDescription",
    "ModuleState",
    "Weights",
    "adapt_first_conv",
    "affect_network",
    "check_optimizer_state",
    "check_scheduler_state",
    "check_timm_name",
    "check_training_state",
    "classifier_prefixes",
    "download_timm_weights",
    "follow_ranks_",
    "has_other_names",
    "known_weights",
    "load_image_weights_",
    "load_stock_weights_",
    "names_file",
    "read_checkpoint",
    "read_safetensors_notes",
    "reading_once",
    "require_finite",
    "stock_names",
    "todays_names",
    "unwrap_state_dict",
]
