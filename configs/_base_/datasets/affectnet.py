"""AffectNet: single images as clips of one frame, with valence, arousal and one of eight expressions.

The official split; a test part was never published, so scores are those on the validation part, which also chooses the
best checkpoint. ``release="2021"`` reads the other release; it has crops of 224x224, whose landmarks allow no wider
margin than what the crop shows.

Faces are cropped by the landmarks without the jaw line, with the margin of SEWA's 49 points: the network of the static
stage then sees faces of the size that it will see in video.

Leaves change numbers by position: a training pipeline is [sample, load, crop, flip, colour, pack], a test pipeline
[sample, load, pack].
"""

train_dataloader: dict = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="hocp_mm.AffectNetDataset",
        data_root="data/AffectNet",
        split="train",
        release="2017",
        classes=8,
        faces="inner",
        on_fault="error",
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=1, frame_interval=1, mode="random"),
            dict(type="hocp_mm.LoadFaceClip", size=176, margin=1.5),
            dict(type="hocp_mm.RandomResizedClipCrop", size=160, scale=(0.7, 1.0)),
            dict(type="hocp_mm.ClipFlip", p=0.5),
            dict(type="hocp_mm.ClipColorJitter", brightness=0.2, contrast=0.2, saturation=0.2),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

val_dataloader: dict = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="hocp_mm.AffectNetDataset",
        data_root="data/AffectNet",
        split="val",
        release="2017",
        classes=8,
        faces="inner",
        on_fault="error",
        test_mode=True,
        windows=dict(clip_len=1, stride=1),
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=1, frame_interval=1, mode="window"),
            dict(type="hocp_mm.LoadFaceClip", size=160, margin=1.5),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

test_dataloader: dict = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="hocp_mm.AffectNetDataset",
        data_root="data/AffectNet",
        split="val",
        release="2017",
        classes=8,
        faces="inner",
        on_fault="error",
        test_mode=True,
        windows=dict(clip_len=1, stride=1),
        pipeline=[
            dict(type="hocp_mm.SampleClip", clip_len=1, frame_interval=1, mode="window"),
            dict(type="hocp_mm.LoadFaceClip", size=160, margin=1.5),
            dict(type="hocp_mm.PackAffectInputs"),
        ],
    ),
)

val_evaluator: dict = dict(type="hocp_mm.AffectMetric")
test_evaluator: dict = dict(type="hocp_mm.AffectMetric")
