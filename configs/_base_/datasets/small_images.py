"""Pipelines of the demo on images: small faces, strongly changed, as those of ``small_clips``."""

train_pipeline: list = [
    dict(type="hocp_mm.SampleClip", clip_len=1, mode="random"),
    dict(type="hocp_mm.LoadFaceClip", size=54, margin=1.5),
    dict(type="hocp_mm.RandomResizedClipCrop", size=48, scale=(0.55, 1.0)),
    dict(type="hocp_mm.ClipFlip", p=0.5),
    dict(type="hocp_mm.ClipColorJitter", brightness=0.5, contrast=0.5, saturation=0.8),
    dict(type="hocp_mm.PackAffectInputs"),
]
test_pipeline: list = [
    dict(type="hocp_mm.SampleClip", clip_len=1, mode="window"),
    dict(type="hocp_mm.LoadFaceClip", size=48, margin=1.5),
    dict(type="hocp_mm.PackAffectInputs"),
]
