"""AFEW-VA: clips of 16 frames for training, sliding windows over whole clips for validation and test.

One of five subject-independent folds, written by ``tools/prepare/split_afew_va.py``. ``--cfg-options fold=K`` of
``tools/train.py`` and ``tools/test.py`` chooses it for all three loaders; ``tools/run_folds.py`` runs them all.
"""

from mmengine.config import read_base

with read_base():
    from .clips import *

fold = 0
dataset = dict(
    type="hocp_mm.AFEWVADataset",
    data_root="data/AFEW-VA",
    fold=fold,
    label_range=(-10, 10),
    pixel_aspect=4 / 3,
    fps=25.0,
    faces="inner",
    on_fault="error",
)
train_dataloader.update(dataset=dict(dataset, clips_per_video=8))
val_dataloader.update(dataset=dataset)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], split="test"))
del dataset
