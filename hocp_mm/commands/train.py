"""Train a network: ``hocp train configs/hocp_sewa.py``.

All options of MMAction2's script, and ``--static-checkpoint`` for the second stage of the recipe. Data sets,
checkpoints and options are checked before the first iteration; what the user can mend ends in one line and exit
code 2.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hocp_mm.errors import HOCPError
from hocp_mm.system.cli import add_config_options
from hocp_mm.system.files import require_writable
from hocp_mm.system.parallel import end_with_launcher, is_first_process
from hocp_mm.system.refusals import config_errors

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder of logs and checkpoints; work_dirs/<name of the config> by default")
    parser.add_argument(
        "--static-checkpoint", metavar="FILE", help="weights of the static stage, the source of the TransductionHook"
    )
    parser.add_argument(
        "--resume", nargs="?", const="auto", metavar="FILE", help="go on from a checkpoint; the latest one by default"
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (bfloat16 on a CPU)")
    parser.add_argument("--no-validate", action="store_true", help="do not validate during training")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument("--seed", type=int, help="random seed, instead of the config's")
    parser.add_argument("--diff-rank-seed", action="store_true", help="give every process a seed of its own")
    parser.add_argument("--deterministic", action="store_true", help="use deterministic cuDNN kernels")
    add_config_options(parser, "train_cfg.max_epochs=3")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="set by some launchers")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def main(argv: list[str] | None = None) -> None:
    """Check everything, then train."""
    args = parse_args(argv)
    end_with_launcher(args.launcher)
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm import compat

    compat.apply()
    from hocp_mm import launch
    from hocp_mm.checkpoints import reading_once
    from hocp_mm.launch import check_config

    with config_errors():
        cfg = launch.load_config(args.config, args.cfg_options)
    check_config(cfg, "train")
    merge_args(cfg, args)
    if is_first_process():
        require_writable(cfg.work_dir, "--work-dir")
    try:
        with reading_once():  # by all that comes before training
            runner = prepare(cfg)
        with config_errors(cfg):
            runner.train()
    except BaseException:
        launch.leave_distributed(together=False)
        raise
    del runner
    launch.leave_distributed()


def prepare(cfg: "Config") -> "Runner":
    """Make a runner that can train, from the weights that it starts or goes on from.

    Args:
        cfg: The config, changed in place.

    Returns:
        The runner.
    """
    from hocp_mm import launch

    checkpoint = launch.resume_path(cfg)
    if checkpoint is not None:
        cfg.load_from = str(checkpoint)
        # It would do nothing, but ask for its source, which a resumed run does not need.
        launch.drop_hooks(cfg, "TransductionHook")
    else:
        # Nothing to resume from is a fresh start, and must look like one to the TransductionHook.
        cfg.resume = False
        if cfg.get("load_from"):
            launch.require_file(cfg.load_from, "load_from")
    with config_errors(cfg):
        runner = launch.make_runner(cfg, launch.build_datasets(cfg))
        if cfg.get("load_from"):
            launch.fit_runner_(runner, cfg.load_from)
    return runner


def merge_args(cfg: "Config", args: argparse.Namespace) -> None:
    """Write the options into the config, in place.

    Args:
        cfg: The config.
        args: Result of ``parse_args``.

    Raises:
        HOCPError: If the config cannot take an option.
    """
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        # A best checkpoint needs scores.
        cfg.get("default_hooks", {}).get("checkpoint", {}).pop("save_best", None)
    if args.resume is not None:
        cfg.resume, cfg.load_from = True, None if args.resume == "auto" else args.resume
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise HOCPError(f"--auto-scale-lr: {args.config} must have auto_scale_lr=dict(base_batch_size=…).")
        cfg.auto_scale_lr.enable = True
    given = {
        "seed": args.seed,
        "diff_rank_seed": args.diff_rank_seed or None,
        "deterministic": args.deterministic or None,
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    cfg.randomness = {"seed": None, **cfg.get("randomness", {}), **chosen}
    if args.amp:
        use_amp(cfg)
    if args.static_checkpoint is not None:
        set_source(cfg, args.static_checkpoint)


def use_amp(cfg: "Config") -> None:
    """Switch the optimizer wrapper to mixed precision: float16 with loss scaling on a GPU, bfloat16 on a CPU.

    Args:
        cfg: The config, changed in place.

    Raises:
        HOCPError: If the config has a wrapper of its own kind.
    """
    import torch

    from hocp_mm.launch import is_type

    wrapper = cfg.optim_wrapper
    kind = wrapper.get("type", "OptimWrapper")
    if not any(is_type(kind, name) for name in ("OptimWrapper", "AmpOptimWrapper", "CPUAmpOptimWrapper")):
        raise HOCPError(f"--amp: optim_wrapper must be of type OptimWrapper, got {kind}; set mixed precision there.")
    if torch.cuda.is_available():
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    else:
        wrapper.type = "hocp_mm.CPUAmpOptimWrapper"
        for name in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(name, None)


def set_source(cfg: "Config", checkpoint: str) -> None:
    """Make a checkpoint the source of the config's TransductionHook.

    Args:
        cfg: The config, changed in place.
        checkpoint: File with the weights of the static stage.

    Raises:
        HOCPError: If the config has no such hook.
    """
    from hocp_mm.launch import is_type, require_file

    require_file(checkpoint, "--static-checkpoint")
    hooks = [hook for hook in cfg.get("custom_hooks") or [] if is_type(hook["type"], "TransductionHook")]
    if not hooks:
        raise HOCPError(
            "--static-checkpoint: the config must have a hocp_mm.TransductionHook in custom_hooks, got none."
        )
    for hook in hooks:
        hook["source"] = checkpoint
