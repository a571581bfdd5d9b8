"""The mathematics and the layers need torch and nothing else.

``import-linter`` reads import statements; it cannot see an import that a dependency of ours makes optional, a name
looked up at run time, or code that runs only because a package happens to be there. So here a second interpreter gets
a path of its own: links to torch and to what torch itself declares, and to this package. It is what
``pip install torch`` into a fresh environment would leave, without a network. OpenMMLab, timm and NumPy stay outside,
and the layers outlive them.
"""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hocp_mm

ABSENT = ("mmengine", "mmcv", "mmaction", "timm", "numpy", "torchvision", "cv2", "av", "scipy", "tensorly", "tltorch")


def requirements_of(name: str) -> dict[str, importlib.metadata.Distribution]:
    """Collect ``name`` and what it requires here, all the way down; extras are what a plain install leaves out."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        key = canonicalize_name(waiting.pop())
        if key in found:
            continue
        try:
            distribution = importlib.metadata.distribution(key)
        except importlib.metadata.PackageNotFoundError:
            continue  # declared for another accelerator, and torch was installed without it
        found[key] = distribution
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def clean_path(tmp_path_factory) -> Path:
    """Make a folder with links to torch, its requirements and ``hocp_mm``, and with nothing else."""
    folder = tmp_path_factory.mktemp("clean") / "site-packages"
    folder.mkdir()
    for distribution in requirements_of("torch").values():
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (folder / top).exists():  # NVIDIA's packages share one folder
                (folder / top).symlink_to(source)
    if not (folder / "torch").exists():
        pytest.skip("torch was not installed as a distribution that lists its files")
    (folder / "hocp_mm").symlink_to(Path(hocp_mm.__file__).parent)
    return folder


def run_clean(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with the standard library and ``folder`` as all there is to import from."""
    # -I: no PYTHON* variables, no current folder. -S: no site-packages of this environment.
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(folder)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=folder)


def test_the_environment_is_clean(clean_path):
    """Without this the tests below could pass because of what they are meant to do without."""
    code = f"import importlib.util; print([n for n in {ABSENT!r} if importlib.util.find_spec(n)])"
    done = run_clean(clean_path, code)
    assert done.stdout.strip() == "[]", done.stderr
    links = {link.name for link in clean_path.iterdir()}
    assert {"torch", "hocp_mm"} <= links
    assert not links & set(ABSENT)


WORK = """
import torch
torch.set_num_threads(1)
torch.manual_seed(0)  # not every kernel of rank 2 is found within the sweeps
import hocp_mm.functional, hocp_mm.layers
from hocp_mm.functional import cp_conv, decompose, dense_kernel
from hocp_mm.layers import FrameAxis, HOCPConv2d, HOCPConv3d, factorize_, transduct_

layer = HOCPConv3d(4, 6, 3, padding=1, rank=5)
layer(torch.randn(2, 4, 3, 5, 5)).square().mean().backward()
assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())

dense = dense_kernel(HOCPConv2d(4, 6, 3, rank=2).kernel()).detach()
assert decompose(dense, 2).relative_error < 1e-4

conv = torch.nn.Conv2d(4, 4, 3)
twin = HOCPConv2d.from_dense(conv, "same")
twin.load_state_dict(twin.state_dict())
net = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1))
axis = FrameAxis()
assert factorize_(net, "x1") == transduct_(net, 3, frame_axis=axis) == ["0"]
axis.length = 2
assert net(torch.randn(4, 8, 5, 5)).shape == (4, 8, 5, 5)

import sys
print("brought in:", sorted(set(sys.modules) & set(ABSENT)))
"""


def test_functional_and_layers_work_with_torch_alone(clean_path):
    done = run_clean(clean_path, f"ABSENT = {ABSENT!r}\n{WORK}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "brought in: []"
