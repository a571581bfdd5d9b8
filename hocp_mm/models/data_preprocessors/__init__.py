"""From a list of packed clips to one normalised batch on the device."""

from hocp_mm.models.data_preprocessors.affect_data_preprocessor import AffectDataPreprocessor

__all__ = ["AffectDataPreprocessor"]
