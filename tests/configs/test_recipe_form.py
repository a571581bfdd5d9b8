"""A recipe shows at a glance what it is: short, nothing by position, nothing said twice, names that tell the truth."""

import ast
import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from hocp_mm.launch import load_config
from tests.material.data_configs import joined
from tests.material.processes import ROOT

CONFIGS = ROOT / "configs"
LEAVES = sorted(CONFIGS.glob("*.py"))
BASES = sorted((CONFIGS / "_base_").rglob("*.py"))
HEIRS = [path for path in (*LEAVES, *BASES) if "read_base" in path.read_text()]


def below_configs(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=below_configs)
def test_nothing_is_changed_by_its_position(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript):
            assert isinstance(node.slice, ast.Constant), ast.unparse(node)
            assert isinstance(node.slice.value, str), ast.unparse(node)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func).split(".")[-1] in ("dict", "read_base", "update"), ast.unparse(node)


@pytest.mark.parametrize("path", LEAVES, ids=below_configs)
def test_a_leaf_is_below_30_lines_and_takes_its_bases_whole(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 30
    bases = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]
    assert bases
    assert all([alias.name for alias in node.names] == ["*"] for node in bases)


@pytest.mark.parametrize("path", HEIRS, ids=below_configs)
def test_whoever_inherits_says_only_what_differs(path: Path, tmp_path: Path) -> None:
    """Without any one statement, and without any one word outside of lists, which are replaced whole, it is another."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    changed = tmp_path / "configs" / path.relative_to(CONFIGS)
    whole = Config.fromfile(path).to_dict()
    for name, text in shortened(path.read_text()):
        changed.write_text(text)
        try:
            assert Config.fromfile(changed).to_dict() != whole, f"{name} changes nothing"
        except NameError:
            continue  # a name that is used


def shortened(text: str) -> Iterator[tuple[str, str]]:
    """Yield what was left out of a config, and the rest."""
    tree = ast.parse(text)
    for number, statement in enumerate(tree.body):
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Delete | ast.Expr) and number:  # 0: the docstring
            less = copy.deepcopy(tree)
            del less.body[number]
            yield ast.unparse(statement), ast.unparse(less)
            for place in range(len(words(statement))):
                less = copy.deepcopy(tree)
                call, word = words(less.body[number])[place]
                call.keywords.remove(word)
                yield ast.unparse(word), ast.unparse(less)


def words(node: ast.AST) -> list[tuple[ast.Call, ast.keyword]]:
    """Return the keyword arguments in a statement, each with its call."""
    if isinstance(node, ast.List):
        return []
    own = [(node, word) for word in node.keywords] if isinstance(node, ast.Call) else []
    return own + [found for inner in ast.iter_child_nodes(node) for found in words(inner)]


@pytest.mark.parametrize("path", sorted((CONFIGS / "_base_/datasets").glob("*.py")), ids=below_configs)
def test_a_pipeline_is_written_once(path: Path) -> None:
    """Which a set shares with another it inherits."""
    others = [other for other in CONFIGS.rglob("*.py") if other != path]
    mine, theirs = pipelines(path), [steps for other in others for steps in pipelines(other)]
    assert not [steps for steps in mine if steps in theirs]


def pipelines(path: Path) -> list[str]:
    lists = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.List)]
    return [text for text in map(ast.unparse, lists) if "PackAffectInputs" in text]


@pytest.fixture(params=LEAVES, ids=lambda path: path.stem)
def leaf(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_names_hold_what_is_in_use(leaf: Path) -> None:
    cfg = load_config(leaf)
    for split, pipeline in (("train", cfg.train_pipeline), ("val", cfg.test_pipeline), ("test", cfg.test_pipeline)):
        assert all(dataset.pipeline == pipeline for dataset in joined(cfg[f"{split}_dataloader"].dataset))
    assert cfg.param_scheduler == [cfg.warm_up, cfg.cosine]
    assert "stages" not in cfg or [h.stages for h in cfg.custom_hooks if "stages" in h] == [cfg.stages]


def test_the_test_loader_is_that_of_validation_with_another_part(leaf: Path) -> None:
    val, test = (Config.fromfile(leaf)[f"{split}_dataloader"].to_dict() for split in ("val", "test"))
    for ours, theirs in zip(joined(val["dataset"]), joined(test["dataset"]), strict=True):
        assert (ours.pop("split"), theirs.pop("split")) in (("val", "test"), ("val", "val"))
    assert val == test


OPTIONS: dict[str, Any] = {
    "model.backbone.rank": 4,
    "train_cfg.max_epochs": 2,
    "param_scheduler.1.T_max": 3,
    "custom_hooks": None,
}


def test_options_reach_their_place_and_no_other_and_are_dumped(leaf: Path, tmp_path: Path) -> None:
    before = Config.fromfile(leaf)
    first = "dataset.datasets.0" if "datasets" in before.train_dataloader.dataset else "dataset"
    sizes = {f"train_dataloader.{first}.pipeline.1.size": 99, f"test_dataloader.{first}.pipeline.0.clip_len": 5}
    cfg = load_config(leaf, OPTIONS | sizes)
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == cfg.to_dict()
    assert joined(cfg.train_dataloader.dataset)[0].pipeline[1].pop("size") == 99
    assert joined(cfg.test_dataloader.dataset)[0].pipeline[0].pop("clip_len") == 5
    assert (cfg.model.backbone.pop("rank"), cfg.train_cfg.pop("max_epochs")) == (4, 2)
    assert (cfg.param_scheduler[1].pop("T_max"), cfg.pop("custom_hooks")) == (3, None)
    for gone in (
        joined(before.train_dataloader.dataset)[0].pipeline[1].pop("size"),
        joined(before.test_dataloader.dataset)[0].pipeline[0].pop("clip_len"),
        before.model.backbone.pop("rank"),
        before.train_cfg.pop("max_epochs"),
        before.param_scheduler[1].pop("T_max"),
        before.pop("custom_hooks"),
    ):
        assert gone is not None
    assert cfg.to_dict() == before.to_dict()
