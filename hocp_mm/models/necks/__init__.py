"""Between backbone and head."""

from hocp_mm.models.necks.temporal_neck import HOCPTemporalNeck

__all__ = ["HOCPTemporalNeck"]
