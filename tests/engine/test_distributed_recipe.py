"""The staged recipe through ``tools/dist_train.sh``: gloo processes follow one process with all of the batch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from hocp_mm.checkpoints import read_checkpoint
from hocp_mm.synthetic import write_synthetic_sewa
from tests.material.processes import ROOT

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the processes talk over nccl")

CHANNELS = 96  # of test_resnet's last stage
FRAMES = 16
STEPS = 2  # 4 windows of each of 4 videos make 16 clips: two steps of 8
EPOCHS, SECOND_STAGE = 4, 2


def recipe(folder: Path, data: Path, batch_size: int, **options: Any) -> Path:
    """``configs/hocp_sewa.py`` made small, without what draws random numbers in a layer, a loss or a worker.

    The data set gives the windows of a test split, which are clips without a draw; their order is still shuffled.
    """
    cfg = Config.fromfile(ROOT / "configs" / "hocp_sewa.py")
    (stages,) = [hook for hook in cfg.custom_hooks if hook.type == "hocp_mm.StagedUnfreezeHook"]
    assert len(stages.stages) == 2
    stages.stages[1].begin = SECOND_STAGE
    cfg.custom_hooks = [{"type": "hocp_mm.SyncNormHook"}, stages]
    cfg.train_dataloader.update(batch_size=batch_size, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.update(
        data_root=str(data),
        test_mode=True,
        windows={"clip_len": 4, "stride": 4},
        pipeline=[
            {"type": "hocp_mm.SampleClip", "clip_len": 4, "mode": "window"},
            {"type": "hocp_mm.LoadFaceClip", "size": 32, "margin": 1.5},
            {"type": "hocp_mm.PackAffectInputs"},
        ],
    )
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.model.backbone.model_name = "test_resnet"
    cfg.model.neck = {"type": "hocp_mm.HOCPTemporalNeck", "in_channels": CHANNELS, "hidden_channels": 8, "rank": 8}
    cfg.model.head.update(in_channels=CHANNELS, dropout=0.0)
    cfg.model.head.loss.random_weights = False
    cfg.train_cfg.max_epochs = cfg.param_scheduler[1].T_max = cfg.param_scheduler[1].end = EPOCHS
    cfg.param_scheduler[0].end = 3
    cfg.default_hooks.logger.interval = cfg.log_processor.window_size = 1
    cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    cfg.merge_from_dict(options)
    path = folder / f"recipe_{batch_size}.py"
    cfg.dump(path)
    return path


def train(config: Path, work_dir: Path, processes: int, *options: str) -> list[dict[str, Any]]:
    """Train through the tools, and return what rank 0 wrote down at every step."""
    line = ["--work-dir", str(work_dir), "--no-validate", *options]
    if processes == 1:
        command = [sys.executable, str(ROOT / "tools" / "train.py"), str(config), *line]
    else:
        command = ["bash", str(ROOT / "tools" / "dist_train.sh"), str(config), str(processes), *line]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "PYTHON": sys.executable, "PORT": port}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-40000:]
    starts = sorted(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for scalars in starts for line in scalars.read_text().splitlines()]


def curve(steps: list[dict[str, Any]], key: str = "loss") -> list[float]:
    return [step[key] for step in steps]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sewa"
    write_synthetic_sewa(folder, subjects=(4, 2, 2), frames=FRAMES, workers=1)
    return folder


def assert_same_course(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert curve(got) == pytest.approx(curve(expected), abs=1e-4)
    assert curve(got, "lr") == pytest.approx(curve(expected, "lr"))
    # Where gradients are accumulated, not every step has a norm to tell.
    norms = [[step["grad_norm"] for step in steps if "grad_norm" in step] for steps in (got, expected)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.fixture(scope="module")
def two_processes(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    config = recipe(folder, data, 4)
    return config, folder / "work", train(config, folder / "work", 2)


def test_two_processes_follow_one_with_the_doubled_batch_through_both_stages(tmp_path, data, two_processes):
    one = train(recipe(tmp_path, data, 8), tmp_path / "one", 1)
    assert len(one) == EPOCHS * STEPS
    assert max(curve(one)) - min(curve(one)) > 0.05, "a flat curve would tell nothing"
    assert_same_course(two_processes[2], one)


@pytest.mark.slow
def test_four_processes_follow_two(tmp_path, data, two_processes):
    four = train(recipe(tmp_path, data, 2), tmp_path / "four", 4)
    assert_same_course(four, two_processes[2])


DEADLY = """
import os, signal
from pathlib import Path
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DeadlyHook(Hook):
    def __init__(self, step, mark):
        self.step, self.mark = step, Path(mark)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.step and os.environ["RANK"] == "1" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_process_that_dies_is_started_anew_with_all_others_and_they_go_on(tmp_path, data, two_processes, monkeypatch):
    (tmp_path / "deadly_hook.py").write_text(DEADLY, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    path = recipe(tmp_path, data, 4)
    cfg = Config.fromfile(path)
    cfg.custom_imports = {"imports": ["deadly_hook"]}
    last = STEPS + STEPS + 1  # the second step of the third epoch; two checkpoints are there
    cfg.custom_hooks.append({"type": "mmengine.DeadlyHook", "step": last, "mark": str(tmp_path / "died")})
    cfg.dump(path)
    steps = train(path, tmp_path / "work", 2, "--max-restarts", "1")
    assert (tmp_path / "died").exists()
    whole = two_processes[2]
    assert_same_course(steps, [*whole[:last], *whole[2 * STEPS :]])


@pytest.mark.parametrize("value", ["-1", "many", ""])
def test_a_number_of_restarts_that_is_none_is_refused(value):
    for words in ([f"--max-restarts={value}"], ["--max-restarts", value]):
        command = ["bash", str(ROOT / "tools" / "dist_train.sh"), "a.py", "2", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (2, f"dist_train.sh: --max-restarts must be a number, got '{value}'\n")


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3], ids=["in the first stage", "in the second stage"])
def test_two_processes_that_were_stopped_within_a_stage_go_on_as_if_they_were_not(stop, tmp_path, two_processes):
    config, work_dir, steps = two_processes
    resumed = train(config, tmp_path / "resumed", 2, "--resume", str(work_dir / f"epoch_{stop}.pth"))
    assert_same_course(resumed, steps[stop * STEPS :])


@pytest.mark.slow
def test_two_processes_that_are_told_to_end_write_one_checkpoint_and_go_on_from_it(tmp_path, two_processes):
    config, _, steps = two_processes
    work_dir = tmp_path / "ended"
    command = ["bash", str(ROOT / "tools" / "dist_train.sh"), str(config), "2", "--work-dir", str(work_dir)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    running = subprocess.Popen([*command, "--no-validate"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            if any(len(file.read_text().splitlines()) >= 1 for file in work_dir.glob("*/vis_data/scalars.json")):
                break
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        told = running.communicate(timeout=120)[0]
    finally:
        running.kill()
    assert "SIGTERM: the run ends here" in told, told[-3000:]
    name = (work_dir / "last_checkpoint").read_text()
    done = read_checkpoint(name)["meta"]["iter"]
    assert 0 < done < EPOCHS * STEPS
    before = {file: file.read_text() for file in work_dir.glob("*/vis_data/scalars.json")}
    subprocess.run([*command, "--no-validate", "--resume"], env=environment, check=True, timeout=600)
    (scalars,) = [file for file in work_dir.glob("*/vis_data/scalars.json") if file not in before]
    resumed = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert_same_course(resumed, steps[done:])


@pytest.mark.slow
def test_two_processes_follow_one_where_a_stage_begins_within_a_cycle_of_accumulation(tmp_path, data):
    """By iteration, in the middle of an epoch; the first stage trains what the second freezes; with drawn losses."""
    options = {
        "optim_wrapper.accumulative_counts": 2,
        "model.head.loss.random_weights": True,
        "custom_hooks.1.by_epoch": False,
        "custom_hooks.1.stages": [
            {"begin": 0, "train": "all"},
            {"begin": 3, "train": [r"factors\.t$", r"\.motion\.", "^neck", "^head"], "norm_eval": True, "lr_mult": 0.5},
        ],
    }
    one = train(recipe(tmp_path, data, 8, **options), tmp_path / "one", 1)
    two = train(recipe(tmp_path, data, 4, **options), tmp_path / "two", 2)
    assert_same_course(two, one)


@pytest.mark.slow
def test_norms_of_single_processes_would_leave_the_course(tmp_path, data, two_processes):
    """What the comparison is worth: it tells statistics of half a batch from those of all of it."""
    options = {"custom_hooks": [Config.fromfile(two_processes[0]).custom_hooks[1]]}
    alone = train(recipe(tmp_path, data, 4, **options), tmp_path / "alone", 2)
    assert max(abs(a - b) for a, b in zip(curve(alone), curve(two_processes[2]), strict=True)) > 1e-3
