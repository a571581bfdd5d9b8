"""Stages 2 and 3 on one fold of AFEW-VA: model, stages and schedule of ``hocp_sewa``, other data.

All five folds, trained, tested and pooled: ``tools/run_folds.py configs/hocp_afew_va.py``. One of them:
``tools/train.py configs/hocp_afew_va.py --cfg-options fold=2``. A ``--static-checkpoint`` must not have seen the fold's
test people, and must have seen faces cut out alike, by the inner landmarks: those of ``hocp_affectnet`` and
``hocp_sewa_static`` have.
"""

from mmengine.config import read_base

with read_base():
    from .hocp_sewa import *
    from ._base_.datasets.afew_va import *
