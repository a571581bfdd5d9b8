"""A tiny recogniser and a Runner around it, to test hooks where they really run."""

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from hocp_mm.functional import fold_frames, unfold_frames
from hocp_mm.layers import FrameAxis, factorize_, transduct_


class TinyRecognizer(BaseModel):
    """One dense, one normalised HO-CP convolution and a linear head; regresses a constant."""

    def __init__(self, temporal: bool = True) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
        factorize_(self.backbone, 6, fit=False)
        self.frame_axis = FrameAxis()
        if temporal:
            transduct_(self.backbone, 3, frame_axis=self.frame_axis)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor, mode: str = "tensor"):
        self.frame_axis.length = inputs.shape[2]
        feats = unfold_frames(self.backbone(fold_frames(inputs)), inputs.shape[2])
        pred = self.head(feats.mean(dim=(3, 4)).transpose(1, 2))
        return {"loss": (pred - 1).square().mean()} if mode == "loss" else pred


def clips(count: int = 4) -> DataLoader:
    """The same ``count`` clips of 4 frames for everybody."""
    generator = torch.Generator().manual_seed(0)
    data = [{"inputs": torch.randn(3, 4, 8, 8, generator=generator)} for _ in range(count)]
    return DataLoader(data, batch_size=2)


def make_runner(model: nn.Module, work_dir, hooks, *, epochs: int = 4, name: str = "run", **options) -> Runner:
    """Build a CPU Runner that saves every epoch and logs into ``work_dir``; options replace what it sets."""
    settings = {
        "train_dataloader": clips(),
        "train_cfg": {"by_epoch": True, "max_epochs": epochs},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        "param_scheduler": {"type": "StepLR", "step_size": 1, "gamma": 0.5},
        "custom_hooks": hooks,
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "interval": 1},
            "logger": {"type": "LoggerHook", "interval": 1},
        },
        "default_scope": "mmengine",
        "log_level": "WARNING",
        "experiment_name": f"{name}-{id(model)}",
        "randomness": {"seed": 0},
    }
    return Runner(model=model, work_dir=str(work_dir), **(settings | options))
