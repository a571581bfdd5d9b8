"""Data sets of affect over one record contract, exact decoding, face crops and splits."""

from hocp_mm.datasets.afew_va.dataset import AFEWVADataset
from hocp_mm.datasets.affectnet.dataset import AffectNetDataset
from hocp_mm.datasets.affwild2.dataset import AffWild2Dataset
from hocp_mm.datasets.affwild2.files import read_va_file, write_va_file
from hocp_mm.datasets.avec.dataset import AVECDataset
from hocp_mm.datasets.avec.files import labels_at, read_avec_csv
from hocp_mm.datasets.faces.boxes import (
    crop_faces,
    face_track,
    fill_boxes,
    landmark_boxes,
    smooth_boxes,
    square_boxes,
)
from hocp_mm.datasets.faces.cascades import Detections
from hocp_mm.datasets.faces.detection import FaceDetector, make_detector, track_detections
from hocp_mm.datasets.faces.tracking import FaceTrack
from hocp_mm.datasets.media.images import check_image, read_image
from hocp_mm.datasets.media.self_check import AccessReport, check_random_access
from hocp_mm.datasets.media.video import VideoInfo, frame_times, iter_frames, probe_video, read_frames, video_times
from hocp_mm.datasets.records.dataset import AffectDataset, Partition, Scan, scale_labels
from hocp_mm.datasets.records.faults import Fault, attempt
from hocp_mm.datasets.records.record import Record, RecordTable
from hocp_mm.datasets.records.twins import Claim
from hocp_mm.datasets.sewa.dataset import SEWADataset
from hocp_mm.datasets.sewa.files import (
    SEWAKey,
    SEWAMetadata,
    find_sewa_keys,
    parse_sewa_key,
    read_affect_csv,
    read_landmarks_zip,
    read_sewa_metadata,
)
from hocp_mm.datasets.splits import (
    check_folds,
    check_no_leak,
    make_folds,
    read_fold,
    read_split_file,
    split_by_group,
    write_fold_files,
    write_split_files,
)
from hocp_mm.datasets.store.dataset import FaceCropDataset
from hocp_mm.datasets.taught.dataset import TaughtVideoDataset
from hocp_mm.datasets.taught.files import TaughtLabels, read_taught_csv, write_taught_csv

__all__ = [
    "AFEWVADataset",
    "AVECDataset",
    "AccessReport",
    "AffWild2Dataset",
    "AffectDataset",
    "AffectNetDataset",
    "Claim",
    "Detections",
    "FaceCropDataset",
    "FaceDetector",
    "FaceTrack",
    "Fault",
    "Partition",
    "Record",
    "RecordTable",
    "SEWADataset",
    "SEWAKey",
    "SEWAMetadata",
    "Scan",
    "TaughtLabels",
    "TaughtVideoDataset",
    "VideoInfo",
    "attempt",
    "check_folds",
    "check_image",
    "check_no_leak",
    "check_random_access",
    "crop_faces",
    "face_track",
    "fill_boxes",
    "find_sewa_keys",
    "frame_times",
    "iter_frames",
    "labels_at",
    "landmark_boxes",
    "make_detector",
    "make_folds",
    "parse_sewa_key",
    "probe_video",
    "read_affect_csv",
    "read_avec_csv",
    "read_fold",
    "read_frames",
    "read_image",
    "read_landmarks_zip",
    "read_sewa_metadata",
    "read_split_file",
    "read_taught_csv",
    "read_va_file",
    "scale_labels",
    "smooth_boxes",
    "split_by_group",
    "square_boxes",
    "track_detections",
    "video_times",
    "write_fold_files",
    "write_split_files",
    "write_taught_csv",
    "write_va_file",
]
