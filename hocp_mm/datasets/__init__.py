"""Data sets of affect over one record contract, exact decoding, face crops and splits."""

from hocp_mm.datasets.affect_dataset import AffectDataset
from hocp_mm.datasets.affectnet import AffectNetDataset
from hocp_mm.datasets.faces import (
    crop_faces,
    face_track,
    fill_boxes,
    landmark_boxes,
    smooth_boxes,
    square_boxes,
)
from hocp_mm.datasets.landmarks import read_landmarks_zip
from hocp_mm.datasets.sewa import SEWADataset
from hocp_mm.datasets.sewa_files import SEWAKey, find_sewa_keys, parse_sewa_key, read_affect_csv
from hocp_mm.datasets.splits import check_no_leak, read_split_file, split_by_group, write_split_files
from hocp_mm.datasets.video import VideoInfo, iter_frames, probe_video, read_frames

__all__ = [
    "AffectDataset",
    "AffectNetDataset",
    "SEWADataset",
    "SEWAKey",
    "VideoInfo",
    "check_no_leak",
    "crop_faces",
    "face_track",
    "fill_boxes",
    "find_sewa_keys",
    "iter_frames",
    "landmark_boxes",
    "parse_sewa_key",
    "probe_video",
    "read_affect_csv",
    "read_frames",
    "read_landmarks_zip",
    "read_split_file",
    "smooth_boxes",
    "split_by_group",
    "square_boxes",
    "write_split_files",
]
