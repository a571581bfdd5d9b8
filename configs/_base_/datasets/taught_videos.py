"""Videos that a network labelled, for training; SEWA's people, with labels of people, for validation and test.

``tools/label_videos.py data/videos --checkpoint BEST.pth --out data/videos_labels`` labels a folder.
"""

from mmengine.config import read_base

with read_base():
    from .sewa import *

train_dataloader = dict(
    train_dataloader,
    dataset=dict(
        type="hocp_mm.TaughtVideoDataset",
        data_root="data/videos",
        labels_root="data/videos_labels",
        split="train",
        min_confidence=0.1,
        clips_per_video=8,
        on_fault="skip",
        pipeline=train_pipeline,
    ),
)
