"""Losses on valence and arousal."""

from hocp_mm.models.losses.affect_loss import AffectLoss

__all__ = ["AffectLoss"]
