"""Score a trained network: ``hocp test configs/hocp_sewa.py CHECKPOINT --out-dir results``.

Prints one table (CCC, PCC, RMSE, SAGR of valence, arousal and their mean, over all test frames), then each score with
its 95 % interval over people, beside a constant and a moving average of the predictions, and CCC by culture, and writes
``metrics.json``; with ``--out-dir`` also one CSV per video, ``per_video.csv`` and ``groups/subject.csv``. The
checkpoint must fit the config exactly.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocp_mm.errors import HOCPError
from hocp_mm.system.cli import add_config_options
from hocp_mm.system.files import require_writable, require_writable_file, write_text
from hocp_mm.system.parallel import end_with_launcher, is_first_process
from hocp_mm.system.reading import refuse_to_replace
from hocp_mm.system.refusals import config_errors

if TYPE_CHECKING:
    from mmengine.config import Config

METRICS = "metrics.json"
RESAMPLES = 2000


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="weights to test (.pth or .safetensors)")
    parser.add_argument("--work-dir", help="folder of the log; work_dirs/<name of the config> by default")
    parser.add_argument(
        "--out-dir", help="folder of metrics.json and the CSV files; without it metrics.json goes to the work dir"
    )
    parser.add_argument("--dump", metavar="FILE.pkl", help="pickle of all predictions, for other programs")
    add_config_options(parser, "test_dataloader.batch_size=2")
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
    """Check everything, test, print the table."""
    args = parse_args(argv)
    end_with_launcher(args.launcher)
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm import compat

    compat.apply()
    from mmengine import dist

    from hocp_mm import launch
    from hocp_mm.launch import check_config

    with config_errors():
        cfg = launch.load_config(args.config, args.cfg_options)
        merge_args(cfg, args)
    check_config(cfg, "test")
    launch.require_file(args.checkpoint, "CHECKPOINT")
    if is_first_process():
        check_outputs(cfg, args)
    with config_errors(cfg):
        datasets = launch.build_datasets(cfg)
        runner = launch.make_runner(cfg, datasets)
        launch.load_weights(runner.model, args.checkpoint)
        metrics = runner.test()
    if dist.is_main_process():
        worth = [text for metric in runner.test_evaluator.metrics if (text := getattr(metric, "report", None))]
        report(metrics, Path(args.out_dir or cfg.work_dir), [found.text() for found in worth])


def merge_args(cfg: "Config", args: argparse.Namespace) -> None:
    """Write the options into the config, in place, and remove all that belongs to training.

    Args:
        cfg: The config.
        args: Result of ``parse_args``.

    Raises:
        HOCPError: If an option does not fit the config.
    """
    from hocp_mm.launch import is_type

    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"):
        cfg[key] = None
    for key in ("val_dataloader", "val_cfg", "val_evaluator"):
        cfg[key] = None
    # Its hooks may need files of the training machine, and the weights are loaded here, strictly.
    cfg.custom_hooks, cfg.resume, cfg.load_from = [], False, None
    if cfg.get("test_dataloader") is None or cfg.get("test_evaluator") is None:
        raise HOCPError(f"test: {args.config} must have test_dataloader and test_evaluator.")
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list | tuple) else [cfg.test_evaluator]
    evaluators = list(evaluators)
    affect = [evaluator for evaluator in evaluators if is_type(evaluator["type"], "AffectMetric")]
    for evaluator in affect:
        evaluator.setdefault("resamples", RESAMPLES)
    if args.out_dir is not None:
        if not affect:
            raise HOCPError(f"--out-dir: {args.config} must have a hocp_mm.AffectMetric in test_evaluator, got none.")
        affect[0]["out_dir"] = args.out_dir
    if args.dump is not None:
        if not args.dump.endswith((".pkl", ".pickle")):
            raise HOCPError(f"--dump: the file must end in .pkl or .pickle, got {args.dump}.")
        evaluators.append({"type": "hocp_mm.DumpPredictions", "out_file_path": args.dump})
    cfg.test_evaluator = evaluators


def check_outputs(cfg: "Config", args: argparse.Namespace) -> None:
    """Make sure that what comes out can be written.

    Args:
        cfg: The config, with its ``work_dir``.
        args: Result of ``parse_args``.
    """
    require_writable(cfg.work_dir, "--work-dir")
    if args.out_dir is not None:
        require_writable(args.out_dir, "--out-dir")
    folder, option = (cfg.work_dir, "--work-dir") if args.out_dir is None else (args.out_dir, "--out-dir")
    refuse_to_replace(Path(folder) / METRICS, are_metrics, option)
    if args.dump is not None:
        require_writable_file(args.dump, "--dump")


def are_metrics(values: Any) -> bool:
    """Tell whether JSON can be what `report` wrote: scores, with the names of their metrics in front."""
    return isinstance(values, dict) and any("/" in key and isinstance(score, float) for key, score in values.items())


def report(metrics: dict[str, Any], folder: Path, more: Sequence[str] = ()) -> None:
    """Write ``metrics.json`` into a folder and print the tables, then ``more``."""
    from hocp_mm.evaluation import score_table

    path = folder / METRICS
    write_text(path, json.dumps(metrics, indent=2) + "\n", follow=False)
    prefixes = [key.removesuffix("/ccc_mean") for key in metrics if key.endswith("/ccc_mean")]
    tables = [score_table(metrics, prefix) for prefix in prefixes]
    print("\n" + "\n\n".join([*(tables or [f"{key}: {value}" for key, value in metrics.items()]), *more]))
    print(f"\nwritten to {path}", flush=True)
