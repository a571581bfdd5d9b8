"""Registries of scope ``hocp_mm``, children of MMEngine's roots.

Write ``type='hocp_mm.X'`` in a config: it resolves from MMEngine's root, from scope ``mmaction`` and through
``mmcv.cnn.ConvModule``, with nothing of this package imported before, because each registry knows the packages
(``locations``) to import when a name is asked for. An unprefixed ``X`` resolves only inside scope ``hocp_mm``.

Importing this module imports mmengine and nothing heavier.
"""

from mmengine import registry as roots
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

__all__ = ["DATASETS", "DATA_SAMPLERS", "HOOKS", "LOOPS", "METRICS", "MODELS", "OPTIM_WRAPPERS", "SCOPE", "TRANSFORMS"]

SCOPE = "hocp_mm"

MODELS = Registry("model", parent=MMENGINE_MODELS, scope=SCOPE, locations=["hocp_mm.models"])
DATASETS = Registry("dataset", parent=MMENGINE_DATASETS, scope=SCOPE, locations=["hocp_mm.datasets"])
TRANSFORMS = Registry("transform", parent=MMENGINE_TRANSFORMS, scope=SCOPE, locations=["hocp_mm.datasets.transforms"])
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope=SCOPE, locations=["hocp_mm.evaluation"])
DATA_SAMPLERS = Registry(
    "data sampler",
    parent=roots.DATA_SAMPLERS,
    scope=SCOPE,
    locations=["hocp_mm.engine.sampling", "hocp_mm.engine.share_sampler"],
)
LOOPS = Registry("loop", parent=roots.LOOPS, scope=SCOPE, locations=["hocp_mm.engine.loops"])
HOOKS = Registry(
    "hook", parent=MMENGINE_HOOKS, scope=SCOPE, locations=["hocp_mm.engine.hooks", "hocp_mm.compat.sharding"]
)
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=MMENGINE_OPTIM_WRAPPERS, scope=SCOPE, locations=["hocp_mm.compat.mixed_precision"]
)

# Empty: a recipe with `default_scope="hocp_mm"` takes these from MMEngine, which warns about each scope without one.
for _root in (
    roots.LOG_PROCESSORS,
    roots.OPTIMIZERS,
    roots.OPTIM_WRAPPER_CONSTRUCTORS,
    roots.PARAM_SCHEDULERS,
    roots.VISBACKENDS,
    roots.VISUALIZERS,
):
    Registry(_root.name, parent=_root, scope=SCOPE)
