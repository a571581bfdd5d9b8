"""SEWA DB v0.2 for networks that see single frames."""

from mmengine.config import read_base

with read_base():
    from .sewa import *

# Exact decoding starts at the beginning of the file, so single frames are dear: eight frames, one second apart, come
# from one pass. A video shorter than that fills up with frames that do not count.
train_pipeline = [
    dict(type="hocp_mm.SampleClip", clip_len=8, fps=1, mode="random"),
    dict(type="hocp_mm.LoadFaceClip", size=176, margin=1.5),
    dict(type="hocp_mm.RandomResizedClipCrop", size=160, scale=(0.7, 1.0)),
    dict(type="hocp_mm.ClipFlip", p=0.5),
    dict(type="hocp_mm.ClipColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
    dict(type="hocp_mm.PackAffectInputs"),
]
train_dataloader.update(dataset=dict(pipeline=train_pipeline))
# Windows need no overlap where no frame sees another.
val_dataloader.update(dataset=dict(windows=dict(stride=16)))
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], split="test"))
