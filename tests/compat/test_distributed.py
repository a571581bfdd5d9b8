"""Several processes without a GPU."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from hocp_mm.compat import init_distributed
from hocp_mm.errors import HOCPError
from hocp_mm.system.refusals import refusal
from tests.material.processes import ROOT


def test_one_process_needs_no_preparation():
    cfg = Config({})
    init_distributed("none", cfg)
    assert dict(cfg) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU mmengine starts nccl itself")
@pytest.mark.parametrize(("launcher", "rule"), [("slurm", "only launcher 'pytorch'"), ("pytorch", "RANK.*torchrun")])
def test_launchers_that_cannot_work_on_cpus_are_refused(launcher, rule, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(HOCPError, match=rule):
        init_distributed(launcher, Config({}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU mmengine starts nccl itself")
def test_a_used_port_is_named(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        port = listener.getsockname()[1]
        variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        with pytest.raises(RuntimeError) as error:
            init_distributed("pytorch", Config({}))
    named = f" {port}" if f"port: {port}" in str(error.value) else ""  # torch 2.4 does not tell the number
    assert (refusal(error.value) or "").startswith(f"launcher: the port{named} is in use")


DISTRIBUTED = """
import torch, torch.distributed as dist
from mmengine.config import Config
from hocp_mm.compat import init_distributed
from tests.material.one_layer_run import make_runner
from pathlib import Path
cfg = Config(dict(model_wrapper_cfg=dict(find_unused_parameters=True)))
init_distributed("pytorch", cfg)
runner = make_runner(Path({work_dir!r}), epochs=2, launcher="pytorch", cfg=cfg, env_cfg=cfg.env_cfg)
runner.train()
weight = next(runner.model.module.parameters()).detach()
both = [torch.zeros_like(weight) for _ in range(2)]
dist.all_gather(both, weight)
assert dist.get_backend() == "gloo" and runner.world_size == 2 and runner.model.find_unused_parameters
assert torch.equal(*both)
if dist.get_rank() == 0:
    print("TRAINED")
dist.destroy_process_group()
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU mmengine starts nccl itself")
def test_two_processes_train_on_cpus(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED.format(work_dir=str(tmp_path / "run")), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "TRAINED" in done.stdout
