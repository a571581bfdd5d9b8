"""AFEW-VA: clips of 16 frames for training, sliding windows over whole clips for validation and test.

One of five subject-independent folds, written by ``tools/prepare/split_afew_va.py``. ``--cfg-options fold=K`` of
``tools/train.py`` and ``tools/test.py`` chooses it for all three loaders; ``tools/run_folds.py`` runs them all.

Leaves change numbers by position: a training pipeline is [sample, load, crop, flip, colour, pack], a test pipeline
[sample, load, pack].
"""

fold = 0

train_dataloader: dict = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="hocp_mm.AFEWVADataset",
        data_root="data/AFEW-VA",
        split="train",
        fold=fold,
        label_range=(-10, 10),
        pixel_aspect=4 / 3,
        fps=25.0,
        faces="inner",
        on_fault="error",
        clips_per_video=8,
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=16, frame_interval=1, mode="random"),
            dict(type="hocp_mm.LoadFaceClip", size=176, margin=1.5),
            dict(type="hocp_mm.RandomResizedClipCrop", size=160, scale=(0.7, 1.0)),
            dict(type="hocp_mm.ClipFlip", p=0.5),
            dict(type="hocp_mm.ClipColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

val_dataloader: dict = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="hocp_mm.AFEWVADataset",
        data_root="data/AFEW-VA",
        split="val",
        fold=fold,
        label_range=(-10, 10),
        pixel_aspect=4 / 3,
        fps=25.0,
        faces="inner",
        on_fault="error",
        test_mode=True,
        windows=dict(clip_len=16, stride=8),
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=16, frame_interval=1, mode="window"),
            dict(type="hocp_mm.LoadFaceClip", size=160, margin=1.5, cache_mb=256),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

test_dataloader: dict = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="hocp_mm.AFEWVADataset",
        data_root="data/AFEW-VA",
        split="test",
        fold=fold,
        label_range=(-10, 10),
        pixel_aspect=4 / 3,
        fps=25.0,
        faces="inner",
        on_fault="error",
        test_mode=True,
        windows=dict(clip_len=16, stride=8),
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=16, frame_interval=1, mode="window"),
            dict(type="hocp_mm.LoadFaceClip", size=160, margin=1.5, cache_mb=256),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

val_evaluator: dict = dict(type="hocp_mm.AffectMetric")
test_evaluator: dict = dict(type="hocp_mm.AffectMetric")
