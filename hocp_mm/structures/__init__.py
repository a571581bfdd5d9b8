"""Containers that travel through the pipeline: one clip with its labels, one video over time."""

from hocp_mm.structures.affect_data_sample import AROUSAL, VALENCE, AffectDataSample
from hocp_mm.structures.subject import same_actor
from hocp_mm.structures.timeline import AffectTimeline, WindowAverager

__all__ = ["AROUSAL", "VALENCE", "AffectDataSample", "AffectTimeline", "WindowAverager", "same_actor"]
