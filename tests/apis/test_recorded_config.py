"""The config in a checkpoint is parsed, not executed."""

import pytest
from mmengine.config import Config

from hocp_mm.apis.recorded_config import read_recorded_config
from hocp_mm.errors import CheckpointError
from tests.apis.material import tiny_config


def test_what_mmengine_writes_comes_back():
    cfg = tiny_config()
    cfg.extra = {
        "numbers": [-1, 2.5, float("inf"), 1e-5],
        "nothing": None,
        "pair": (1, (2,)),
        "text": 'a\'b\n"c"',
        "flag": True,
    }
    cfg.keyed = {"0": 1, "with space": {"a.b": {"x", "y"}}}
    assert read_recorded_config(cfg.pretty_text, "a.pth").to_dict() == cfg.to_dict()


def test_the_same_config_as_mmengine_reads():
    text = tiny_config().pretty_text
    assert read_recorded_config(text, "a.pth").to_dict() == Config.fromstring(text, ".py").to_dict()


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "x = __import__('os').getcwd()",
        "x = open('/etc/hostname').read()",
        "x = dict(**{'a': 1})",
        "x = dict([(1, 2)])",
        "x = [i for i in range(3)]",
        "x = y",
        "x = f'{1}'",
        "x.y = 1",
        "x = 2 ** 99",
        "print(1)",
    ],
)
def test_code_is_refused_not_run(text: str):
    with pytest.raises(CheckpointError, match=r"a\.pth: the recorded config must hold values only, got code in line 1"):
        read_recorded_config(text, "a.pth")


def test_text_that_is_no_python_is_refused():
    with pytest.raises(CheckpointError, match=r"a\.pth: the recorded config is not Python \(line 1\)"):
        read_recorded_config("a = (", "a.pth")


@pytest.mark.parametrize("kind", ["os.system", "torch.hub.load", "subprocess.run", "builtins.exec"])
def test_a_model_cannot_name_any_callable(kind: str):
    text = f"model = dict(type='hocp_mm.AffectRecognizer', backbone=[dict(type='{kind}', command='true')])"
    with pytest.raises(CheckpointError, match=f"got '{kind}'"):
        read_recorded_config(text, "a.pth")


@pytest.mark.parametrize(
    "kind", ["AffectHead", "hocp_mm.models.heads.AffectHead", "mmaction.ResNet3d", "torch.nn.ReLU"]
)
def test_a_model_names_layers(kind: str):
    assert read_recorded_config(f"model = dict(type='{kind}')", "a.pth").model.type == kind
