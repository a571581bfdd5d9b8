"""From a config to a run: the config itself, its runner, its weights, and how its network wants to be fed."""

from hocp_mm.launch.clip_rule import LOADERS, ClipRule, config_dicts
from hocp_mm.launch.config import drop_hooks, is_type, load_config, require_file
from hocp_mm.launch.config_check import check_config
from hocp_mm.launch.model import build_model
from hocp_mm.launch.runner import build_datasets, leave_distributed, make_runner, resume_path
from hocp_mm.launch.weights import fit_runner_, load_weights, read_fitting

__all__ = [
    "LOADERS",
    "ClipRule",
    "build_datasets",
    "build_model",
    "check_config",
    "config_dicts",
    "drop_hooks",
    "fit_runner_",
    "is_type",
    "leave_distributed",
    "load_config",
    "load_weights",
    "make_runner",
    "read_fitting",
    "require_file",
    "resume_path",
]
