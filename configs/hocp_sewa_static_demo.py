"""Stage 1 on the synthetic set: ``hocp_sewa_static`` made small, and from scratch (a demo downloads nothing)."""

from mmengine.config import read_base

with read_base():
    from .hocp_sewa_static import *
    from ._base_.datasets.small_clips import *

# Two frames of each of 32 videos a step: the more people in a batch, the better.
train_pipeline = [
    dict(type="hocp_mm.SampleClip", clip_len=2, fps=0.5, mode="random"),
    dict(type="hocp_mm.LoadFaceClip", size=54, margin=1.5, cache_mb=1024),
    dict(type="hocp_mm.RandomResizedClipCrop", size=48, scale=(0.55, 1.0)),
    dict(type="hocp_mm.ClipFlip", p=0.5),
    dict(type="hocp_mm.ClipColorJitter", brightness=0.5, contrast=0.5, saturation=0.8),
    dict(type="hocp_mm.PackAffectInputs"),
]
train_dataloader.update(batch_size=32, num_workers=1)
train_dataloader.update(dataset=dict(data_root="data/synthetic_sewa", clips_per_video=20, pipeline=train_pipeline))
val_dataloader.update(num_workers=1, dataset=dict(data_root="data/synthetic_sewa", pipeline=test_pipeline))
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], split="test"))
custom_hooks = []
optim_wrapper.update(optimizer=dict(lr=3e-3))
train_cfg.update(max_epochs=10, val_interval=2)
warm_up.update(end=40)
cosine.update(T_max=10, end=10, convert_to_iter_based=True)
param_scheduler = [warm_up, cosine]
default_hooks.update(logger=dict(interval=5))
