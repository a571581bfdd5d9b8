"""A Runner over one linear layer and two samples."""

from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner


class Regression(BaseModel):
    """The smallest thing that a Runner trains."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(self.layer.weight)
        torch.nn.init.ones_(self.layer.bias)

    def forward(self, x, mode="tensor"):
        """Return the loss in every mode."""
        return {"loss": self.layer(x).square().mean()}


def make_runner(work_dir: Path, epochs: int, **options) -> Runner:
    """Build a Runner that saves every epoch; the same numbers each time."""
    return Runner(
        Regression(),
        str(work_dir),
        train_dataloader={
            "batch_size": 2,
            "dataset": [{"x": torch.ones(2)}, {"x": torch.zeros(2)}],
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "default_collate"},
        },
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.1}},
        param_scheduler={
            "type": "ExponentialLR",
            "gamma": 0.5,
            "end": 9,
        },  # mmengine saves `end`, by default the run's length
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        custom_hooks=[{"type": "EMAHook"}],
        randomness={"seed": 1},
        experiment_name=work_dir.name + str(epochs),
        log_level="ERROR",
        **options,
    )
