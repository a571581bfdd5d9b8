"""Backbones."""

from hocp_mm.models.backbones.timm_hocp import TimmHOCPBackbone

__all__ = ["TimmHOCPBackbone"]
