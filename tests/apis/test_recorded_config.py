"""The config in a checkpoint is parsed, not executed."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from hocp_mm.apis import recorded_config
from hocp_mm.apis.recorded_config import allowed_modules, bounded_building, count_numbers, read_recorded_config
from hocp_mm.errors import CheckpointError
from hocp_mm.launch import build_model
from hocp_mm.registry import MODELS
from tests.material.processes import ROOT
from tests.material.tiny_configs import tiny_config


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


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_recipe_leaves_in_a_checkpoint_comes_back(recipe):
    """With the names of its parts, and without them, as recipes that had none did."""
    cfg = Config.fromfile(recipe)
    assert read_recorded_config(cfg.pretty_text, "a.pth").to_dict() == cfg.to_dict()
    for name in ("train_pipeline", "test_pipeline", "stages", "warm_up", "cosine"):
        cfg.pop(name, None)
    assert "test_pipeline" not in cfg.pretty_text
    old = read_recorded_config(cfg.pretty_text, "a.pth")
    assert old.to_dict() == cfg.to_dict()
    assert type(build_model(old)).__name__ == "AffectRecognizer"


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


EXECUTED = [
    "mmengine.utils.package_utils.call_command",
    "mmengine.fileio.load",
    "mmengine.fileio.rmtree",
    "mmengine.config.Config.fromstring",
    "mmengine.BaseTTAModel",
    "mmengine.ExponentialMovingAverage",
    "hocp_mm.functional.native.build._run",
    "hocp_mm.apis.AffectInferencer",
    "hocp_mm.models.heads.affect_head.MODELS.build",
    "mmaction.Recognizer2D",
    "mmaction.CLIPSimilarity",
    "mmaction.VindLUVQA",
    "mmaction.UniFormerV2",
    "mmaction.utils.dependency.register_module_factory",
    "mmcv.image.imwrite",
    "torch.nn.init.normal_",
    "torch.nn.modules.module._global_forward_hooks",
    "torch.nn.Module.__subclasshook__",
    "torch.hub.load",
    "timm.resnet18",
    "torchvision.resnet18",
    "os.system",
    "subprocess.run",
    "builtins.exec",
    "antigravity",
    "this",
    "hocp_mm..AffectHead",
    ".AffectHead",
    "hocp_mm.AffectHead.",
    "",
]
PLACES = [
    "dict(type={kind!r})",
    "dict(type='hocp_mm.AffectRecognizer', backbone=dict(type={kind!r}, cmd=['true']))",
    "dict(type='hocp_mm.AffectRecognizer', backbone=[dict(type='ReLU', inner=(dict(type={kind!r}),))])",
    "dict(type='mmaction.ResNet3d', depth=18, conv_cfg=dict(type={kind!r}))",
    "dict(type='hocp_mm.AffectRecognizer', backbone=dict(type='hocp_mm.TimmHOCPBackbone', model_name='resnet18',"
    " conv_options=dict(gate_cfg=dict(type={kind!r}))))",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", EXECUTED)
def test_a_model_cannot_name_any_callable(kind: str, place: str):
    with pytest.raises(CheckpointError, match=r"a\.pth: the recorded config may name registered layers and backbones"):
        read_recorded_config("model = " + place.format(kind=kind), "a.pth")


@pytest.mark.parametrize("scope", ["mmengine", "mmaction", "hocp_mm"])
def test_no_scope_makes_another_name_good(scope: str):
    with pytest.raises(CheckpointError, match="may name registered"):
        read_recorded_config(f"default_scope = '{scope}'\nmodel = dict(type='VindLUVQA')", "a.pth")


@pytest.mark.parametrize(
    "text",
    [
        "default_scope = 'foreign'",  # a registry imports foreign.registry
        "default_scope = ['hocp_mm']",
        "model = dict(type='ReLU', _scope_='foreign')",
        "model = dict(backbone=dict(type='ReLU', _scope_='foreign'))",
        "model = dict(type=('ReLU',))",
        "model = dict(type=dict(type='ReLU'))",
        "model = dict(type=None)",
        "model = 'hocp_mm.AffectHead'",
        "model = dict(type='hocp_mm.AffectHead', in_channels=10**9)".replace("10**9", str(10**9)),
        "model = dict(type='hocp_mm.AffectHead', in_channels=[" + "1," * 20_000 + "])",
        "model = dict({1: 2})",
        "filename = 'a'",  # kept by mmengine for itself
        "x = {[]: 1}",
        "x = {{}}",
        "x = -'a'",
        "x = b'a'",
        "x = ...",
        "x = 1j",
        "x = '" + "a" * 2**18 + "'",
        "x = " + "-" * 20_000 + "1",
        "x = " + "[" * 150 + "]" * 150 + "\ny = " + "[" * 5000 + "]" * 5000,
        "x = " + "9" * 10_000,
        "x = '\0'".replace("\\0", "\0"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_plain_description_is_refused_in_one_line(text: str):
    with pytest.raises(CheckpointError) as caught:
        read_recorded_config(text, "a.pth")
    assert len(str(caught.value)) < 400, str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("AffectHead", "AffectHead"),
        ("hocp_mm.AffectHead", "hocp_mm.AffectHead"),
        ("hocp_mm.models.heads.AffectHead", "hocp_mm.AffectHead"),
        ("mmaction.ResNet3d", "mmaction.ResNet3d"),
        ("mmaction.models.backbones.resnet3d.ResNet3d", "mmaction.ResNet3d"),
        ("mmaction.models.ResNet3d", "mmaction.ResNet3d"),
        ("torch.nn.ReLU", "ReLU"),
        ("BN3d", "BN3d"),
    ],
)
def test_a_model_names_layers(kind: str, name: str):
    assert read_recorded_config(f"model = dict(type='{kind}')", "a.pth").model.type == name


def test_what_is_allowed_is_what_the_page_on_security_lists():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    listed = re.search(r"<!-- allowed: begin -->\n(.*?)<!-- allowed: end -->", page, re.DOTALL)
    assert listed is not None
    names = set(re.findall(r"`([^`]+)`", listed[1]))
    known = ("hocp_mm.", "mmaction.", "mmcv.", "mmengine.", "torch.")  # other tests register modules of their own
    allowed = {name for name, module in allowed_modules().items() if module.__module__.startswith(known)}
    assert names == allowed, "python -m hocp_mm.apis.recorded_config prints the list"


ATTACK = """
import inspect, json, sys, torch
from hocp_mm.apis.recorded_config import allowed_modules, bounded_building

mark = sys.argv[1]
sys.path.insert(0, mark)
modules, events, tried = allowed_modules(), [], 0
sys.addaudithook(lambda event, args: events.append((event, repr(args)[:300])))
names = ("in_channels", "out_channels", "num_features", "channels", "num_channels")
plain = {**dict.fromkeys(names, 4), "kernel_size": 1, "depth": 18}
for name, module in sorted(modules.items()):
    words = [p.name for p in inspect.signature(module.__init__).parameters.values()][1:]
    words = [w for w in words if w not in ("args", "kwargs", "init_cfg", "pretrained", "pretrained2d", "checkpoint")]
    for word in words:
        for value in (mark + "/mark", "hostile.run"):
            tried += 1
            try:
                with torch.device("meta"), bounded_building(10**6, "a.pth"):
                    module(**{**{w: v for w, v in plain.items() if w in words}, word: value})
            except Exception:
                pass
dangerous = ("subprocess.Popen", "os.system", "os.exec", "os.remove", "shutil.rmtree", "socket.connect")
print(json.dumps([tried, [e for e in events if mark + "/mark" in e[1] or "'hostile" in e[1] or e[0] in dangerous]]))
"""


def test_no_argument_makes_an_allowed_module_touch_the_world(tmp_path: Path):
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ATTACK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tried, events = json.loads(done.stdout.splitlines()[-1])
    assert tried > 400
    assert events == []
    assert [file.name for file in tmp_path.iterdir()] == ["hostile.py"]


def test_a_network_larger_than_its_weights_is_not_built():
    allowed_modules()  # registers
    large = {"type": "HOCPConv3d", "in_channels": 2**14, "out_channels": 2**14, "kernel_size": 3, "rank": 2**14}
    with pytest.raises(CheckpointError, match="a larger network than the weights"), bounded_building(100, "a.pth"):
        MODELS.build(large)
    with pytest.raises(CheckpointError, match="a larger network than the weights"), bounded_building(100, "a.pth"):
        nn.ModuleList(nn.Identity() for _ in range(9_000))
    with pytest.raises(CheckpointError, match=r"no network that can be built \(TypeError"), bounded_building(9, "a"):
        MODELS.build({"type": "HOCPConv3d", "wrong": 1})
    with bounded_building(100, "a.pth"):
        MODELS.build({**large, "in_channels": 8, "out_channels": 8, "rank": 8})
    nn.ModuleList(nn.Identity() for _ in range(9_000))  # the bounds are gone


def test_a_stock_backbone_is_built_within_the_bounds():
    text = "model = dict(type='mmaction.ResNet3d', depth=18, norm_cfg=dict(type='BN3d'), conv_cfg=dict(type='Conv3d'))"
    model = read_recorded_config(text, "a.pth").model
    with bounded_building(10**8, "a.pth"):
        assert isinstance(MODELS.build(model), nn.Module)
    with pytest.raises(CheckpointError, match=r"parts only, got 'wave\.registry'"), bounded_building(9, "a.pth"):
        MODELS.build({"type": "wave.Wave_read"})
    with pytest.raises(CheckpointError, match=r"Failed to get mmengine\.fileio\.load"), bounded_building(9, "a"):
        MODELS.build({"type": "mmengine.fileio.load", "file": "a"})


SLOW_PATTERNS = [
    "^(([a-z0-9_.])+)+!$",
    "(a|a)*!",
    "(?:[a-z.]*){20}!",
    "(?:(?:(?:){60000}){60000}){60000}",
    ".*.*.*.*!",
    ".?" * 30 + "!",
    "(.|.)" * 30 + "!",
    "a" * 10_000,
    # A repeat that does not stand behind the end of its group: flags, comments, and what is new in Python 3.11.
    *(f"(?{flags}){text}" for flags in ("x", "ix", "sx") for text in ("(.*) +!", "(.*)\n+!", "(.*)#\n+!", "(.*) {9}!")),
    *(f"(?{flags}:(.*) +!)" for flags in ("x", "x-i", "-i")),
    *(f"(.*)(?#{text})+!" for text in ("", "a", "(")),
    "(?>(.*) +)!",
    "(.*)++!",
    "(?=(.*)+)!",
    "(?!.*.*.*.*x)!",
    "(?<=a)(?<!b)",
    "(?P<all>.*)(?P=all){9}!",
    "(a)?(?(1).*|.*)!",
    # Nothing at all, again and again.
    r"()\1{4000000000}",
    r"()(|\1+)!",
    "(?:|){60000}",
    "(?=){60000}",
]


@pytest.mark.parametrize("pattern", SLOW_PATTERNS, ids=lambda pattern: pattern[:20])
@pytest.mark.parametrize("word", ["freeze=[{!r}]", "factorize={!r}", "temporal_layers=({!r},)", "rank={{{!r}: 4}}"])
def test_patterns_that_take_for_ever_are_refused(word: str, pattern: str):
    text = f"model = dict(type='hocp_mm.TimmHOCPBackbone', model_name='resnet18', {word.format(pattern)})"
    with pytest.raises(CheckpointError, match=r"^a\.pth: the recorded model's patterns must be simple"):
        read_recorded_config(text, "a.pth")


def test_many_patterns_are_as_bad_as_a_slow_one():
    text = f"model = dict(type='hocp_mm.TimmHOCPBackbone', freeze={[f'.*x.*y.*z{i}' for i in range(9)]})"
    with pytest.raises(CheckpointError, match="patterns must be simple"):
        read_recorded_config(text, "a.pth")


def test_patterns_that_people_write_are_taken():
    patterns = [
        "^conv1",
        r"^(?:layer[12]|stem)\..*conv[12]$",
        r"blocks\.\d+\.norm",
        "(bn|norm).*(weight|bias)$",
        r"^(?!stem)\w+(?=\.bn)",
        r"(\d)\.\1",
    ]
    text = f"model = dict(type='hocp_mm.TimmHOCPBackbone', freeze={patterns}, rank={dict.fromkeys(patterns, 'x1')})"
    assert read_recorded_config(text, "a.pth").model["freeze"] == patterns


@pytest.mark.parametrize(
    "text",
    [
        "model = dict(type='mmaction.SwinTransformer3D', arch='tiny', window_size=(8, 40, 40))",
        "model = dict(type='hocp_mm.TimmHOCPBackbone', model_name='swin_tiny_patch4_window7_224', "
        "timm_options=dict(window_size=96, img_size=384))",
    ],
)
def test_tables_that_are_larger_than_the_weights_are_not_made(text: str):
    model = read_recorded_config(text, "a.pth").model
    with pytest.raises(CheckpointError, match="a larger network than the weights"), bounded_building(10**6, "a.pth"):
        MODELS.build(model)


ODD_NUMBERS = [2**16 + 1, -(2**20), 10**400, 65537.0, 3e8, -1e30, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("number", ODD_NUMBERS, ids=lambda number: f"{number}"[:12])
@pytest.mark.parametrize("place", ["{}", "[1, {}]", "(({},),)", "[0.5, [[{}]]]", "dict(b={})"])
def test_a_number_that_no_network_has_is_refused(place: str, number: float):
    """Whole or not: X3D multiplies its blocks by a float."""
    text = f"model = dict(type='ReLU', a={place.format(repr(number))})"
    with pytest.raises(
        CheckpointError, match=r"^a\.pth: (the sum of )?the recorded model's [ab] must be at most 65536"
    ):
        read_recorded_config(text, "a.pth")


@pytest.mark.parametrize("items", [[1] * 65_537, [8192] * 9, [[2**15], [2**15], [1]], [2**15, 2**15, True]], ids=len)
def test_a_list_of_numbers_has_a_sum_of_some_network(items: list):
    with pytest.raises(CheckpointError, match="the sum of the recorded model's a must be at most 65536"):
        read_recorded_config(f"model = dict(type='ReLU', a={items})".replace(" ", ""), "a.pth")


def _words() -> Iterator[tuple[str, str]]:
    """Yield, for every class that is allowed, its arguments that say how many of something follow one another."""
    for name, kind in sorted(allowed_modules().items()):
        for word in inspect.signature(kind.__init__).parameters:
            if re.search("depth|layer|block|stage", word):
                yield name, word


def test_depths_of_all_classes_are_bounded():
    words = [*_words(), ("hocp_mm.TimmHOCPBackbone", "depths"), ("X", "num_blocks"), ("X", "num_repeats")]
    assert len(words) > 15
    for name, word in words:
        for value in (513, 1e6, [128, 128, 256, 1], (2**20,) * 4, [[300], [300]], -(2**20)):
            model = {"type": name if name != "X" else "ReLU", "arch": {"inner": [{word: value}]}}
            text = Config({"model": model}).pretty_text
            with pytest.raises(CheckpointError, match=rf"the recorded model's {word} must be at most 512"):
                read_recorded_config(text, "a.pth")


def test_a_seed_may_be_large():
    model = read_recorded_config(f"model = dict(type='ReLU', seed={2**63 + 1})", "a.pth").model
    assert model["seed"] == 2**63 + 1
    with pytest.raises(CheckpointError, match="model's seed must be at most"):
        read_recorded_config(f"model = dict(type='ReLU', seed={2**65})", "a.pth")


@pytest.mark.parametrize("item", ["''", "None", "{}", "[]", "0"])
def test_a_model_has_no_more_items_than_a_layer_may_copy_for_each_block(item: str):
    parts = ",".join([item] * 5001)
    text = f"model = dict(type='ReLU', a=[{parts}], b=dict(c=[{parts}]))"
    with pytest.raises(
        CheckpointError, match=r"^a\.pth: the recorded model must have at most 10000 items, got more\.$"
    ):
        read_recorded_config(text, "a.pth")


HUGE = 2**40  # numbers for which there is no memory: who refuses them has looked before
LARGE_TENSORS = {
    "zeros": lambda x: torch.zeros(HUGE),
    "a table": lambda x: torch.empty(2**10, 2**10, 2**10, 2**10),
    "full": lambda x: torch.full((2**20, 2**20), 1.0),
    "arange": lambda x: torch.arange(HUGE),
    "arange in small steps": lambda x: torch.arange(0, 1, 1e-12),
    "linspace": lambda x: torch.linspace(0, 1, HUGE),
    "logspace": lambda x: torch.logspace(0, 1, HUGE),
    "eye": lambda x: torch.eye(2**20),
    "indices": lambda x: torch.tril_indices(2**20, 2**20),
    "permutation": lambda x: torch.randperm(HUGE),
    "outer product": lambda x: torch.outer(x, x),
    "differences": lambda x: x[:, None] - x[None, :],
    "comparison": lambda x: x[:, None] == x[None, :],
    "grid": lambda x: torch.stack(torch.meshgrid(x, x, indexing="ij")),
    "repeat": lambda x: x.repeat(2**20),
    "repeat in turn": lambda x: x.repeat_interleave(2**20),
    "copy of a view": lambda x: x.expand(2**20, 2**20).contiguous(),
    "margins": lambda x: nn.functional.pad(x, (HUGE, 0)),
    "classes": lambda x: nn.functional.one_hot(x.long(), 2**20),
    "larger picture": lambda x: nn.functional.interpolate(x[None, None], size=HUGE),
    "times larger picture": lambda x: nn.functional.interpolate(x[None, None], scale_factor=2.0**20),
    "pairs": lambda x: torch.combinations(x),
    "distances": lambda x: torch.cdist(x[:, None], x[:, None]),
    "Kronecker product": lambda x: torch.kron(x, x),
    "einsum": lambda x: torch.einsum("i,j->ij", x, x),
}


@pytest.mark.parametrize("make", LARGE_TENSORS.values(), ids=LARGE_TENSORS)
def test_a_tensor_is_counted_before_it_takes_memory(make: Any):
    x = torch.zeros(2**20)
    with pytest.raises(CheckpointError, match="a larger network than the weights"), bounded_building(0, "a.pth"):
        make(x)


def test_bytes_are_counted_not_numbers_alone():
    """Integers of 64 bits take twice as much, and what is held at one time adds up."""
    with bounded_building(0, "a.pth"):
        torch.zeros(2**26, device="meta")
    with pytest.raises(CheckpointError, match="a larger network than the weights"), bounded_building(0, "a.pth"):
        torch.zeros(2**26, dtype=torch.complex128, device="meta")
    with pytest.raises(CheckpointError, match="a larger network than the weights"), bounded_building(0, "a.pth"):
        [torch.zeros(2**25, dtype=torch.long, device="meta") for _ in range(3)]
    with bounded_building(0, "a.pth"):
        for _ in range(3):  # and what is let go does not
            torch.zeros(2**25, dtype=torch.long, device="meta")


def test_rates_of_blocks_are_no_more_than_blocks():
    with pytest.raises(CheckpointError, match="a larger network than the weights"), bounded_building(10**9, "a.pth"):
        torch.linspace(0, 0.1, 10_000)
    with bounded_building(0, "a.pth"):
        assert len(torch.linspace(0, 0.1, 512).tolist()) == 512


@pytest.mark.parametrize(
    "part", [lambda: nn.Sequential(nn.Identity()), lambda: torch.zeros(1)], ids=["module", "tensor"]
)
def test_a_network_that_takes_too_long_is_given_up(part: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recorded_config, "_SECONDS", -1)
    with pytest.raises(CheckpointError, match=r"^a\.pth: .* takes too long to build\.$"), bounded_building(0, "a.pth"):
        part()
    with bounded_building(10**9, "a.pth"):  # larger ones may take longer
        part()


def test_only_weights_let_a_network_be_larger():
    state = {"a": torch.zeros(3, dtype=torch.half), "b": torch.zeros(50, dtype=torch.uint8), "c": None}
    assert count_numbers(state) == 3


def _published() -> dict[str, dict[str, Any]]:
    """Return the backbones and necks of MMAction2's own configs that are allowed, one of each kind and settings."""
    import mmaction

    found: dict[str, dict[str, Any]] = {}
    folder = Path(mmaction.__file__).parent / ".mim" / "configs"
    files = [*folder.glob("_base_/models/*.py"), *folder.glob("recognition/timesformer/*.py")]
    for file in sorted([*files, *folder.glob("recognition/mvit/mvit-small*.py")]):
        model = Config.fromfile(file).get("model") or {}
        for part in (model.get("backbone"), model.get("neck")):
            if part is not None and f"mmaction.{part['type']}" in allowed_modules():
                found.setdefault(str(part), part.to_dict())
    return found


def test_backbones_as_mmaction2_publishes_them_are_taken():
    """Each kind is built within the bounds of as many numbers as it has."""
    published, built = _published(), set()
    assert len(published) > 15
    for part in published.values():
        text = Config({"default_scope": "mmaction", "model": part}).pretty_text
        cfg = read_recorded_config(text, "a.pth")
        if (kind := (part["type"], "init_cfg" in part)) not in built:
            built.add(kind)
            with bounded_building(3 * 10**7, "a.pth"):
                assert isinstance(build_model(cfg), nn.Module)
    assert len(built) >= 10, built


def test_a_layer_that_fails_by_its_own_fault_is_told_in_one_line():
    """The attention of mmcv has no value for a variable where ``spatial_range`` is positive."""
    attention = {"type": "mmengine.GeneralizedAttention", "in_channels": 8, "num_heads": 1, "spatial_range": 2}
    allowed_modules()
    with pytest.raises(CheckpointError, match=r"can be built \(UnboundLocalError"), bounded_building(0, "a.pth"):
        build_model(Config({"model": attention}))
