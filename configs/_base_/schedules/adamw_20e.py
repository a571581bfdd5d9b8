"""AdamW for 20 epochs: linear warm-up over the first 100 iterations, then a cosine to 1 % of the rate."""

train_cfg: dict = dict(type="EpochBasedTrainLoop", max_epochs=20, val_interval=1)
val_cfg: dict = dict(type="ValLoop")
test_cfg: dict = dict(type="TestLoop")

optim_wrapper: dict = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
    # Gradients of the small factors and of lambda are some 15 times larger, relative to their values, than those of
    # the channel factors: decay would only fight them.
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            "factors.h": dict(decay_mult=0.0),
            "factors.w": dict(decay_mult=0.0),
            "factors.t": dict(decay_mult=0.0),
            ".weights": dict(decay_mult=0.0),
        },
    ),
)

warm_up: dict = dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=100)
cosine: dict = dict(type="CosineAnnealingLR", T_max=20, eta_min_ratio=0.01, by_epoch=True, begin=0, end=20)
param_scheduler: list = [warm_up, cosine]

# `--auto-scale-lr` scales the rate linearly with the batch over all processes.
auto_scale_lr: dict = dict(enable=False, base_batch_size=16)
