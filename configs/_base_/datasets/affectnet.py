"""AffectNet: single images as clips of one frame, with valence, arousal and one of eight expressions.

The official split; a test part was never published, so scores are those on the validation part, which also chooses the
best checkpoint. ``release="2021"`` reads the other release; it has crops of 224x224, whose landmarks allow no wider
margin than what the crop shows.

Faces are cropped by the landmarks without the jaw line, with the margin of SEWA's 49 points: the network of the static
stage then sees faces of the size that it will see in video.
"""

from mmengine.config import read_base

with read_base():
    from .clips import *

train_pipeline = [
    dict(type="hocp_mm.SampleClip", clip_len=1, mode="random"),
    dict(type="hocp_mm.LoadFaceClip", size=176, margin=1.5),
    dict(type="hocp_mm.RandomResizedClipCrop", size=160, scale=(0.7, 1.0)),
    dict(type="hocp_mm.ClipFlip", p=0.5),
    dict(type="hocp_mm.ClipColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
    dict(type="hocp_mm.PackAffectInputs"),
]
test_pipeline = [
    dict(type="hocp_mm.SampleClip", clip_len=1, mode="window"),
    dict(type="hocp_mm.LoadFaceClip", size=160, margin=1.5),
    dict(type="hocp_mm.PackAffectInputs"),
]
dataset = dict(
    type="hocp_mm.AffectNetDataset",
    data_root="data/AffectNet",
    release="2017",
    classes=8,
    faces="inner",
    on_fault="error",
)
train_dataloader.update(batch_size=128, dataset=dict(dataset, pipeline=train_pipeline))
val_dataloader.update(batch_size=128, dataset=dict(dataset, windows=dict(clip_len=1, stride=1), pipeline=test_pipeline))
test_dataloader = val_dataloader
del dataset
