"""ResNet-18 of HO-CP convolutions with one valence-arousal pair per frame.

``temporal_kernel=1`` gives the image network (static stage), 3 the video network; all other names are equal, so
the weights of one fill the other except for ``factors.t``.
"""

model: dict = dict(
    type="hocp_mm.AffectRecognizer",
    # Clips lie in pinned memory (`pin_memory` of the loaders): their way to the GPU need not be waited for.
    data_preprocessor=dict(type="hocp_mm.AffectDataPreprocessor", non_blocking=True),
    backbone=dict(
        type="hocp_mm.TimmHOCPBackbone",
        model_name="resnet18",
        rank="x1",
        temporal_kernel=3,
        temporal_init="central",
        pretrained=False,
        checkpoint=None,
    ),
    head=dict(type="hocp_mm.AffectHead", dropout=0.2, loss=dict(type="hocp_mm.AffectLoss")),
    test_cfg=dict(flip=False),
)
