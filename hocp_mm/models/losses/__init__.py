"""Losses on valence, arousal and expression."""

from hocp_mm.models.losses.affect_loss import AffectLoss
from hocp_mm.models.losses.expression_loss import ExpressionLoss

__all__ = ["AffectLoss", "ExpressionLoss"]
