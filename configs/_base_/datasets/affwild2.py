"""Aff-Wild2: clips of 16 frames for training, sliding windows over whole videos for validation.

The labels of the test part are not given out, so the test loader is the validation part again. Crops are the ones of
the release (112 x 112), taken as they are.
"""

from mmengine.config import read_base

with read_base():
    from .clips import *

train_pipeline = [
    dict(type="hocp_mm.SampleClip", clip_len=16, fps=30, mode="random", hold=(2,)),
    dict(type="hocp_mm.LoadFaceClip", size=124),
    dict(type="hocp_mm.RandomResizedClipCrop", size=112, scale=(0.7, 1.0)),
    dict(type="hocp_mm.ClipFlip", p=0.5),
    dict(type="hocp_mm.ClipColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
    dict(type="hocp_mm.PackAffectInputs"),
]
test_pipeline = [
    dict(type="hocp_mm.SampleClip", clip_len=16, fps=30, mode="window"),
    dict(type="hocp_mm.LoadFaceClip", size=112),
    dict(type="hocp_mm.PackAffectInputs"),
]
dataset = dict(
    type="hocp_mm.AffWild2Dataset",
    data_root="data/Aff-Wild2",
    images=("cropped_aligned", "cropped_aligned_new_50_vids"),
)
train_dataloader.update(dataset=dict(dataset, clips_per_video=32, pipeline=train_pipeline))
val_dataloader.update(dataset=dict(dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
del dataset
