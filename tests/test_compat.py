"""Each work-around: the fault is there, or planted; the cure works; without the fault nothing is touched.

What changes `sys.modules` for good runs in a process of its own.
"""

import contextlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import mmengine.runner.checkpoint as mmengine_checkpoint
import mmengine.utils.package_utils
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from hocp_mm.compat import CPUAmpOptimWrapper, apply, checkpoint_loading, environment, init_distributed, mmaction_wheel
from hocp_mm.errors import CheckpointError, HOCPError
from hocp_mm.registry import OPTIM_WRAPPERS

ROOT = Path(__file__).resolve().parents[1]


def run_python(code: str, **environ: str) -> str:
    """Run code in a fresh process at the repository root; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- all together ---------------------------------------------------------------------------------------------------


def test_after_apply_stock_mmaction_models_build():
    code = """
        import sys
        from hocp_mm.compat import apply
        lines = apply()
        assert apply() == lines, "the second call changes nothing"
        heavy = [name for name in ("mmaction.models", "torchvision", "timm", "transformers") if name in sys.modules]
        assert not heavy, heavy
        import mmaction.models
        from mmaction.registry import MODELS
        net = MODELS.build(dict(type="ResNet3d", depth=18, pretrained=None, pretrained2d=False))
        print(type(net).__name__, len(MODELS.module_dict) > 70)
        try:
            mmaction.models.DRN()
        except (NotImplementedError, TypeError) as error:
            print(type(error).__name__)
    """
    assert run_python(code).splitlines()[0] == "ResNet3d True"


def test_module_prints_the_report_for_make_setup():
    done = subprocess.run(
        [sys.executable, "-m", "hocp_mm.compat"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert f"torch {torch.__version__}" in done.stdout
    assert "work-around: mmengine CheckpointLoader" in done.stdout


# --- mmaction2 ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """Return a function that writes a package, which then shadows an installed one of that name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, files: dict[str, str]) -> Path:
        for loaded in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        for file, text in {"__init__.py": "", **files}.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_a_complete_mmaction_keeps_its_own_drn(fake_package):
    fake_package("mmaction", {"models/localizers/drn/drn.py": "class DRN: ..."})
    assert mmaction_wheel.supply_missing_drn() is None
    assert "mmaction.models.localizers.drn" not in sys.modules


def test_missing_drn_gets_a_placeholder_that_refuses_to_be_built(fake_package, monkeypatch):
    fake_package("mmaction", {"models/__init__.py": "", "models/localizers/__init__.py": "from .drn.drn import DRN"})
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    assert "placeholder" in str(mmaction_wheel.supply_missing_drn())
    assert mmaction_wheel.supply_missing_drn() is None
    with pytest.raises(NotImplementedError, match="install MMAction2 from source"):
        sys.modules["mmaction.models.localizers.drn.drn"].DRN(1)


VINDLU = "import transformers\nfrom transformers.modeling_utils import PreTrainedModel, prune_linear_layer\n"
DEPENDENCY = "WITH_MULTIMODAL = True"


@pytest.mark.parametrize(
    ("helpers", "fits"), [("class PreTrainedModel: ...", False), ("PreTrainedModel = prune_linear_layer = 1", True)]
)
def test_multimodal_models_are_switched_off_only_if_a_name_is_missing(fake_package, helpers, fits):
    fake_package(
        "mmaction",
        {
            "models/multimodal/vindlu/modeling_bert.py": VINDLU,
            "utils/__init__.py": "",
            "utils/dependency.py": DEPENDENCY,
        },
    )
    fake_package("transformers", {"__init__.py": "raise AssertionError('imported')", "modeling_utils.py": helpers})
    line = mmaction_wheel.skip_broken_multimodal()
    from mmaction.utils import dependency

    assert dependency.WITH_MULTIMODAL is fits
    assert (line is None) is fits
    assert fits or "transformers.modeling_utils.prune_linear_layer" in str(line)
    assert mmaction_wheel.skip_broken_multimodal() is None  # the second call finds nothing to do


def test_without_mmaction_nothing_happens(monkeypatch):
    monkeypatch.setattr(mmaction_wheel.importlib.util, "find_spec", lambda name: None)
    assert mmaction_wheel.supply_missing_drn() is None
    assert mmaction_wheel.skip_broken_multimodal() is None


def test_undeclared_dependency_of_mmaction_is_declared_by_us():
    assert "importlib_metadata" in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "importlib_metadata==" in (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")


# --- environment ----------------------------------------------------------------------------------------------------


def test_opencv_without_libgl_names_both_cures(fake_package):
    fake_package("cv2", {"__init__.py": "raise ImportError('libGL.so.1: cannot open shared object file')"})
    with pytest.raises(HOCPError, match=r"libGL\.so\.1.*apt install libgl1.*opencv-contrib-python-headless"):
        environment.check_opencv()


def test_absent_opencv_names_the_package(monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HOCPError, match="pip install opencv-python-headless"):
        environment.check_opencv()


def test_torchvision_of_another_torch_is_refused(fake_package):
    folder = fake_package("torchvision", {"__init__.py": "raise AssertionError('imported')"})
    (folder / "_C.so").write_bytes(b"\x7fELF built against another torch")
    with pytest.raises(HOCPError, match=r"torchvision does not load beside torch .*pip install torch torchvision"):
        environment.check_torchvision()


def test_torchvision_without_compiled_operators_passes(fake_package):
    fake_package("torchvision", {"__init__.py": "raise AssertionError('imported')"})
    environment.check_torchvision()


def test_the_installed_environment_passes():
    environment.check_opencv()
    environment.check_torchvision()
    environment.check_setuptools()


def test_missing_distutils_names_setuptools(monkeypatch):
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset())
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HOCPError, match=r"distutils.*setuptools<82"):
        environment.check_setuptools()


def test_missing_pkg_resources_warns_only_if_mmengine_uses_it(monkeypatch, recwarn):
    find_spec = environment.importlib.util.find_spec
    hide = lambda name: None if name == "pkg_resources" else find_spec(name)  # noqa: E731
    monkeypatch.setattr(environment.importlib.util, "find_spec", hide)
    monkeypatch.setattr(mmengine.utils.package_utils, "is_installed", lambda package: True)
    environment.check_setuptools()
    assert not recwarn.list

    def is_installed(package):  # as in mmengine 0.10.7
        import pkg_resources

        return pkg_resources.get_distribution(package)

    monkeypatch.setattr(mmengine.utils.package_utils, "is_installed", is_installed)
    with pytest.warns(RuntimeWarning, match="setuptools<82"):
        environment.check_setuptools()


# --- checkpoints ----------------------------------------------------------------------------------------------------


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


@pytest.fixture
def safe_loader():
    apply()
    assert mmengine_checkpoint.CheckpointLoader._schemes[""] is checkpoint_loading.load_from_local


@pytest.mark.usefixtures("safe_loader")
def test_a_run_resumes_through_the_safe_reader_as_if_uninterrupted(tmp_path):
    make_runner(tmp_path / "a", epochs=1).train()
    resumed = make_runner(tmp_path / "a", epochs=3, resume=True)
    resumed.train()
    straight = make_runner(tmp_path / "b", epochs=3)
    straight.train()
    assert resumed.epoch == straight.epoch == 3
    torch.testing.assert_close(resumed.model.state_dict(), straight.model.state_dict(), rtol=0, atol=0)
    assert resumed.optim_wrapper.get_lr() == straight.optim_wrapper.get_lr()
    losses = [runner.message_hub.get_scalar("train/loss").data[0] for runner in (resumed, straight)]
    assert losses[0].tolist() == losses[1].tolist()
    assert len(losses[0]) == 3


@pytest.mark.usefixtures("safe_loader")
def test_load_from_refuses_a_file_that_would_run_code(tmp_path):
    victim = tmp_path / "victim"
    attack = type("Attack", (), {"__reduce__": lambda self: (os.system, (f"touch {victim}",))})()
    torch.save({"state_dict": {}, "x": attack}, tmp_path / "evil.pth")
    runner = make_runner(tmp_path / "run", epochs=1, load_from=str(tmp_path / "evil.pth"))
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        runner.train()
    assert not victim.exists()


@pytest.mark.usefixtures("safe_loader")
def test_addresses_keep_mmengines_loaders():
    loader = mmengine_checkpoint.CheckpointLoader._get_checkpoint_loader("https://example.org/a.pth")
    assert loader is mmengine_checkpoint.load_from_http
    assert checkpoint_loading.load_checkpoints_safely() is None


# --- several processes, mixed precision -----------------------------------------------------------------------------


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


DISTRIBUTED = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from mmengine.config import Config
from hocp_mm.compat import init_distributed
from test_compat import make_runner
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
    script.write_text(DISTRIBUTED.format(tests=str(ROOT / "tests"), work_dir=str(tmp_path / "run")), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "TRAINED" in done.stdout


def test_cpu_mixed_precision_runs_the_forward_pass_in_bfloat16():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build({"type": "hocp_mm.CPUAmpOptimWrapper", "optimizer": optimizer})
    assert isinstance(wrapper, CPUAmpOptimWrapper)
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        output = model(torch.ones(1, 2))
    assert output.dtype == torch.bfloat16
    wrapper.update_params(output.float().mean())
    torch.testing.assert_close(model.weight, before - 0.1)
    assert model.weight.dtype == torch.float32


def test_cpu_mixed_precision_still_accumulates_without_synchronising():
    """`optim_context` of the base class must stay inside ours: it is what calls `no_sync`."""
    entered = []

    class Parallel(torch.nn.Linear):
        @contextlib.contextmanager
        def no_sync(self):
            """Stand for DistributedDataParallel.no_sync."""
            entered.append(True)
            yield

    model = Parallel(2, 1)
    for kind in (OptimWrapper, CPUAmpOptimWrapper):
        wrapper = kind(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=4)
        wrapper.initialize_count_status(model, 0, 8)
        with wrapper.optim_context(model):
            model(torch.ones(1, 2))
    assert entered == [True, True]
