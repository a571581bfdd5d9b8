"""A training of two clips that never ends, for tests of what ends it: ``python endless_run.py WORK_DIR [options]``."""

import sys
from pathlib import Path

import torch

from hocp_mm.compat import apply
from hocp_mm.system import cli
from tests.commands.test_train_test import CONFIG, TRAIN

apply()
torch.set_num_threads(1)

OPTIONS = ["train_cfg.max_epochs=1000000", "train_cfg.val_interval=1000000", "default_hooks.checkpoint.interval=-1"]


def main() -> None:
    """Train."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "endless.py"
    if not config.exists():
        config.write_text(CONFIG)
    options, _, values = " ".join(sys.argv[2:]).partition("--cfg-options")
    words = [str(config), "--work-dir", str(folder / "work"), *options.split()]
    TRAIN.main([*words, "--cfg-options", *OPTIONS, "log_level=INFO", *values.split()])


if __name__ == "__main__":
    cli.run(main)
