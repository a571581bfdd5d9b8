"""AVEC 2017 to 2019 (cross-cultural emotion): clips of 16 frames for training, windows over whole recordings for test.

Labels are given out for Train and Devel only, so Devel is validation and test. Pictures come from the SEWA data base,
see ``AVECDataset``. Whole frames are shown here; a face fills little of a chat's picture, so better give boxes to each
of the three data sets: ``faces="given", boxes_file="boxes.json"``.

Labels lag behind the face, as raters of a running video react after seeing; the baseline of 2019 took 2 s. Nothing is
shifted here: ``dict(type="hocp_mm.CompensateLabelDelay", seconds=2.0)`` in front of both pipelines does, with seconds
chosen on Devel.
"""

from mmengine.config import read_base

with read_base():
    from .clips import *

test_pipeline = [
    dict(type="hocp_mm.SampleClip", clip_len=16, fps=25, mode="window"),
    dict(type="hocp_mm.LoadFaceClip", size=160, margin=1.5, cache_mb=512),
    dict(type="hocp_mm.PackAffectInputs"),
]
dataset = dict(type="hocp_mm.AVECDataset", data_root="data/AVEC2019", join="linear", faces="frame")
# Two to three minutes each: as many clips of one as of several of SEWA's segments.
train_dataloader.update(dataset=dict(dataset, clips_per_video=48))
val_dataloader.update(dataset=dict(dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
del dataset
