"""All predictions in one pickle, for other programs."""

from typing import Any

from mmengine.evaluator import DumpResults
from mmengine.fileio import dump

from hocp_mm.registry import METRICS
from hocp_mm.system.files import replacing


@METRICS.register_module()
class DumpPredictions(DumpResults):
    """mmengine's ``DumpResults``, whose file is there whole or not at all."""

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Write the predictions of all processes."""
        with replacing(self.out_file_path) as draft:
            dump(results, str(draft))
        return {}
