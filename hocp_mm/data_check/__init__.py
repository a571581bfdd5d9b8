"""Reports on data: every file of every data set of a config, and what its pipelines deliver."""

from hocp_mm.data_check.check import TimeLimits, check_data
from hocp_mm.data_check.report import DataReport, PartReport

__all__ = ["DataReport", "PartReport", "TimeLimits", "check_data"]
