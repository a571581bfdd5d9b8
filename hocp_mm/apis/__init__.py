"""Video in, timeline out."""

from hocp_mm.apis.data_check import TimeLimits, check_data
from hocp_mm.apis.data_report import DataReport, PartReport
from hocp_mm.apis.face_track import track_faces
from hocp_mm.apis.ground_truth import with_ground_truth
from hocp_mm.apis.inferencer import AffectInferencer
from hocp_mm.datasets import FaceTrack

__all__ = [
    "AffectInferencer",
    "DataReport",
    "FaceTrack",
    "PartReport",
    "TimeLimits",
    "check_data",
    "track_faces",
    "with_ground_truth",
]
