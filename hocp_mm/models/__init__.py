"""The registered parts of a recogniser; importing this package registers them and the HO-CP layers."""

from hocp_mm.models import conv_registration as conv_registration
from hocp_mm.models.backbones import TimmHOCPBackbone
from hocp_mm.models.data_preprocessors import AffectDataPreprocessor
from hocp_mm.models.heads import AffectHead
from hocp_mm.models.losses import AffectLoss, ExpressionLoss
from hocp_mm.models.necks import HOCPTemporalNeck
from hocp_mm.models.recognizers import AffectRecognizer
from hocp_mm.models.streaming import FrameStream

__all__ = [
    "AffectDataPreprocessor",
    "AffectHead",
    "AffectLoss",
    "AffectRecognizer",
    "ExpressionLoss",
    "FrameStream",
    "HOCPTemporalNeck",
    "TimmHOCPBackbone",
]
