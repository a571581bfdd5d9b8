"""Stages 2 and 3 on one fold of AFEW-VA: model, stages and schedule of ``hocp_sewa``, other data.

All five folds, trained, tested and pooled: ``tools/run_folds.py configs/hocp_afew_va.py``. One of them:
``tools/train.py configs/hocp_afew_va.py --cfg-options fold=2``. A ``--static-checkpoint`` must not have seen the fold's
test people, and must have seen faces cut out alike, by the inner landmarks: those of ``hocp_affectnet`` and
``hocp_sewa_static`` have.
"""

from mmengine.config import read_base

with read_base():
    from ._base_.datasets.afew_va import (
        fold,
        test_dataloader,
        test_evaluator,
        train_dataloader,
        val_dataloader,
        val_evaluator,
    )
    from .hocp_sewa import (
        auto_scale_lr,
        custom_hooks,
        default_hooks,
        default_scope,
        env_cfg,
        find_unused_parameters,
        load_from,
        log_level,
        log_processor,
        model,
        optim_wrapper,
        param_scheduler,
        randomness,
        resume,
        test_cfg,
        train_cfg,
        val_cfg,
        visualizer,
    )
