"""Scores of predicted valence and arousal."""

from hocp_mm.evaluation.affect_metric import AffectMetric
from hocp_mm.evaluation.dump_predictions import DumpPredictions
from hocp_mm.evaluation.fold_pooling import FoldScores, pool_folds, read_results
from hocp_mm.evaluation.score_report import ScoreReport
from hocp_mm.evaluation.score_table import score_table

__all__ = ["AffectMetric", "DumpPredictions", "FoldScores", "ScoreReport", "pool_folds", "read_results", "score_table"]
