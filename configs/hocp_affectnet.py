"""Stage 1, static: ``hocp_sewa_static`` with the images of AffectNet, valence and arousal with expressions.

The result is the source of stages 2 and 3: ``tools/train.py configs/hocp_sewa.py --static-checkpoint BEST.pth``. The
video network has no expressions; the load report lists their layer under ``classifier``.

Expressions are far from equally frequent in training and equally frequent in validation; the loss weighs a class by one
over the square root of its number. To show rare classes more often instead, wrap the data set:
``train_dataloader.dataset = dict(type="mmengine.ClassBalancedDataset", oversample_thr=0.125, dataset=…)``.
"""

from mmengine.config import read_base

with read_base():
    from .hocp_sewa_static import *
    from ._base_.datasets.affectnet import *

# For 74874, 134415, 25459, 14090, 6378, 3803, 24882 and 3750 images (the 287651 of the release), mean 1.
class_weights = (0.82, 0.61, 1.41, 1.89, 2.82, 3.65, 1.43, 3.67)
model.update(head=dict(num_expressions=8, expression_weight=0.5, class_weights=class_weights))
del class_weights
auto_scale_lr.update(base_batch_size=128)  # the rate of the schedule is meant for some 128 frames a step
default_hooks.update(logger=dict(interval=100))
