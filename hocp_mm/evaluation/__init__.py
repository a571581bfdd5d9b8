"""Scores of predicted valence and arousal."""

from hocp_mm.evaluation.affect_metric import AffectMetric
from hocp_mm.evaluation.score_table import score_table

__all__ = ["AffectMetric", "score_table"]
