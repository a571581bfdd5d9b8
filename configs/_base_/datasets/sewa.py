"""SEWA DB v0.2: clips of 16 frames for training, sliding windows over whole videos for validation and test."""

from mmengine.config import read_base

with read_base():
    from .clips import *

dataset = dict(type="hocp_mm.SEWADataset", data_root="data/SEWAv02", labels="V", faces="landmarks")
train_dataloader.update(dataset=dict(dataset, clips_per_video=8))
val_dataloader.update(dataset=dataset)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], split="test"))
del dataset
