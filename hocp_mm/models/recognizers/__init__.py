"""Whole networks: data preprocessor, backbone, neck and head."""

from hocp_mm.models.recognizers.affect_recognizer import AffectRecognizer

__all__ = ["AffectRecognizer"]
