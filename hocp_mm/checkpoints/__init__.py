"""Reading weights safely and fitting them into HO-CP networks; needs torch, safetensors and (lazily) timm."""

from hocp_mm.checkpoints.image_weights import load_image_weights_
from hocp_mm.checkpoints.reading import read_checkpoint, unwrap_state_dict
from hocp_mm.checkpoints.report import LoadReport
from hocp_mm.checkpoints.timm_source import check_timm_name, classifier_prefixes, download_timm_weights

__all__ = [
    "LoadReport",
    "check_timm_name",
    "classifier_prefixes",
    "download_timm_weights",
    "load_image_weights_",
    "read_checkpoint",
    "unwrap_state_dict",
]
