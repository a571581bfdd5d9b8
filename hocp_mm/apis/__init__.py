"""Video, picture, array or camera in, timeline out."""

from hocp_mm.apis.face_track import track_faces
from hocp_mm.apis.ground_truth import with_ground_truth
from hocp_mm.apis.inferencer import AffectInferencer, expand
from hocp_mm.apis.people import WatchLog, choose_people
from hocp_mm.apis.smoothing import smooth_over_time
from hocp_mm.apis.sources import Source, open_source
from hocp_mm.apis.streaming import AffectStream, StreamedFrame
from hocp_mm.apis.teaching import Teacher, find_videos, label_folder
from hocp_mm.apis.watching import Watched
from hocp_mm.datasets import FaceTrack

__all__ = [
    "AffectInferencer",
    "AffectStream",
    "FaceTrack",
    "Source",
    "StreamedFrame",
    "Teacher",
    "WatchLog",
    "Watched",
    "choose_people",
    "expand",
    "find_videos",
    "label_folder",
    "open_source",
    "smooth_over_time",
    "track_faces",
    "with_ground_truth",
]
