"""Video in, timeline out."""

from hocp_mm.apis.face_track import track_faces
from hocp_mm.apis.ground_truth import with_ground_truth
from hocp_mm.apis.inferencer import AffectInferencer
from hocp_mm.apis.people import WatchLog, choose_people
from hocp_mm.apis.streaming import AffectStream, StreamedFrame
from hocp_mm.apis.teaching import Teacher, find_videos, label_folder
from hocp_mm.apis.watching import Watched
from hocp_mm.datasets import FaceTrack

__all__ = [
    "AffectInferencer",
    "AffectStream",
    "FaceTrack",
    "StreamedFrame",
    "Teacher",
    "WatchLog",
    "Watched",
    "choose_people",
    "find_videos",
    "label_folder",
    "track_faces",
    "with_ground_truth",
]
