"""`ShardHook`: two sharded processes are one process, in training, in checkpoints and in resuming."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.fsdp
from mmengine.hooks import EMAHook
from torch.utils.data import DataLoader

from hocp_mm.checkpoints import read_checkpoint
from hocp_mm.compat import sharding as module_under_test
from hocp_mm.compat.sharding import ShardHook
from hocp_mm.engine import RankSelectionHook, StagedUnfreezeHook, SyncNormHook
from hocp_mm.errors import HOCPError
from tests.material.processes import ROOT
from tests.material.tiny_runs import TinyRecognizer, make_runner

pytestmark = pytest.mark.skipif(
    not hasattr(torch.distributed.fsdp, "fully_shard"), reason="torch < 2.6 has no public FSDP2"
)
EPOCHS, RESUMED = 4, 2
STAGES = [{"begin": 0, "train": ["backbone.2", "head"], "norm_eval": True}, {"begin": 1, "train": "all"}]


def clips_of(rank: int, processes: int) -> DataLoader[Any]:
    """Return the part of one process: every batch of 4 is the batches of two processes, one after the other."""
    generator = torch.Generator().manual_seed(3)
    data = [{"inputs": torch.randn(3, 4, 8, 8, generator=generator)} for _ in range(8)]
    return DataLoader(data[rank::processes], batch_size=4 // processes)  # type: ignore[arg-type]


def make(folder: Path, rank: int, processes: int, *hooks: Any, **options: Any) -> Any:
    """Build the same training in one process or in several: stages, statistics over all processes, Adam, clipping."""
    # A large eps: of a bias before a norm, whose gradient is rounding alone, Adam would make whole steps.
    torch.manual_seed(2)
    hooks = (SyncNormHook(), StagedUnfreezeHook(STAGES), *hooks)
    settings = {
        "optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 0.02, "eps": 1e-3}, "clip_grad": {"max_norm": 0.5}},
        "train_dataloader": clips_of(rank, processes),
    }
    return make_runner(TinyRecognizer(), folder, list(hooks), epochs=EPOCHS, name=folder.name, **(settings | options))


WORKER = """
import json
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook

from hocp_mm.compat import init_distributed
from hocp_mm.compat.sharding import ShardHook
from hocp_mm.launch import leave_distributed
from tests.compat.test_sharding import make

torch.set_num_threads(1)
CFG = Config(dict(find_unused_parameters=True))
init_distributed("pytorch", CFG)
FOLDER = Path({folder!r})
COMMON = dict(launcher="pytorch", cfg=CFG, env_cfg=CFG.env_cfg)


class Watch(Hook):
    def __init__(self):
        self.losses, self.parts = [], 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs["loss"].detach().clone()
        dist.all_reduce(loss)
        self.losses.append(float(loss) / dist.get_world_size())
        self.parts = sum(p.to_local().numel() for p in runner.model.parameters())


def train(name, *units, **options):
    watch = Watch()
    runner = make(FOLDER / name, dist.get_rank(), dist.get_world_size(), ShardHook(units), watch, **COMMON, **options)
    whole = sum(p.numel() for p in runner.model.parameters())
    runner.train()
    assert watch.parts < 0.7 * whole, "every process has everything"
    if dist.get_rank() == 0:
        (FOLDER / f"{{name}}.json").write_text(json.dumps(watch.losses))


train("sharded", "^backbone$")
train("from_one", load_from=str(FOLDER / "one" / "epoch_{resumed}.pth"), resume=True)
leave_distributed()
"""


class Losses(module_under_test.Hook):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs["loss"].detach()))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Train in one process, sharded in two, and sharded in two from the middle of the first."""
    if torch.cuda.is_available():
        pytest.skip("with a GPU mmengine starts nccl itself")
    folder = tmp_path_factory.mktemp("shards")
    watch = Losses()
    make(folder / "one", 0, 1, ShardHook(), watch).train()
    script = folder / "train.py"
    script.write_text(WORKER.format(folder=str(folder), resumed=RESUMED), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=folder, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, watch.losses


def test_two_sharded_processes_have_the_losses_of_one(runs):
    folder, losses = runs
    assert max(losses) - min(losses) > 0.05
    assert json.loads((folder / "sharded.json").read_text()) == pytest.approx(losses, abs=1e-5)


def test_sharded_processes_go_on_from_a_checkpoint_of_one(runs):
    folder, losses = runs
    resumed = json.loads((folder / "from_one.json").read_text())
    assert resumed == pytest.approx(losses[len(losses) * RESUMED // EPOCHS :], abs=1e-5)


def test_one_process_goes_on_from_a_sharded_checkpoint(runs, tmp_path):
    folder, losses = runs
    watch = Losses()
    checkpoint = folder / "sharded" / f"epoch_{RESUMED}.pth"
    make(tmp_path / "again", 0, 1, watch, load_from=str(checkpoint), resume=True).train()
    assert watch.losses == pytest.approx(losses[len(losses) * RESUMED // EPOCHS :], abs=1e-5)


def test_a_sharded_checkpoint_is_that_of_one_process(runs):
    folder, _ = runs
    one, sharded = (read_checkpoint(folder / name / "epoch_4.pth") for name in ("one", "sharded"))
    assert list(one) == list(sharded)
    assert list(one["state_dict"]) == list(sharded["state_dict"])
    for name, tensor in one["state_dict"].items():
        assert type(sharded["state_dict"][name]) is torch.Tensor
        torch.testing.assert_close(sharded["state_dict"][name], tensor, atol=1e-5, rtol=1e-5, msg=name)
    first, second = one["optimizer"], sharded["optimizer"]
    assert first["param_groups"] == second["param_groups"]
    assert list(first["state"]) == list(second["state"])
    for index, state in first["state"].items():
        assert {key: value.shape for key, value in state.items()} == {
            key: value.shape for key, value in second["state"][index].items()
        }


REFUSED = {
    "an average": ([EMAHook()], {}, "no other hook may keep or change whole parameters, got EMAHook"),
    "pruning": ([RankSelectionHook(1.0, milestone=1)], {}, "whole parameters, got RankSelectionHook"),
    "a pattern of nothing": ([], {"units": "layer9"}, "each pattern in units must match a module, got 'layer9'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_sharded_is_refused(case, tmp_path, monkeypatch):
    hooks, arguments, message = REFUSED[case]
    monkeypatch.setattr(module_under_test.dist, "get_world_size", lambda: 2)
    runner = make_runner(TinyRecognizer(), tmp_path, [*hooks, ShardHook(**arguments)])
    with pytest.raises(HOCPError, match=f"ShardHook: .*{message}"):
        ShardHook(**arguments)._check(runner, runner.model)
    assert len(list(runner.model.parameters())) == 13
