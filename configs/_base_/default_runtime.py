"""Logging, checkpoints and environment of every recipe."""

default_scope = "hocp_mm"

default_hooks: dict = dict(
    runtime_info=dict(type="RuntimeInfoHook"),
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=10, ignore_last=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2, save_best="affect/ccc_mean", rule="greater"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    guard=dict(type="hocp_mm.NonFiniteHook"),
)

# Without a GPU the tools switch the backend to gloo.
env_cfg: dict = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="nccl")
)
log_processor: dict = dict(type="LogProcessor", window_size=20, by_epoch=True)
visualizer: dict = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
log_level = "INFO"
load_from = None
resume = False
randomness: dict = dict(seed=0)
