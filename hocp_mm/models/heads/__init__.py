"""From features to valence and arousal."""

from hocp_mm.models.heads.affect_head import AffectHead

__all__ = ["AffectHead"]
