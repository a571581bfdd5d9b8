"""Doors through which a file comes in, each as the command of a user that opens it, in this process.

A door lays a file where it belongs (``place``) and goes through (``go``). With the good file that `prepare` wrote, it
must work, so that a refusal of another file says something.
"""

import copy
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

from hocp_mm import compat

compat.apply()

from hocp_mm.apis import AffectInferencer, track_faces  # noqa: E402 - after the work-arounds
from hocp_mm.checkpoints import DecompositionCache  # noqa: E402
from hocp_mm.data_check import check_data  # noqa: E402
from hocp_mm.datasets import make_detector  # noqa: E402
from hocp_mm.datasets.affectnet.release_2021 import read_affectnet_folder  # noqa: E402
from hocp_mm.engine import TransductionHook  # noqa: E402
from hocp_mm.errors import HOCPError  # noqa: E402
from hocp_mm.functional.native import build  # noqa: E402
from hocp_mm.models import TimmHOCPBackbone  # noqa: E402
from hocp_mm.registry import DATASETS, MODELS  # noqa: E402
from tests.commands.test_folds import CLIPS, CONFIG, FakeTools  # noqa: E402
from tests.commands.test_train_test import CONFIG as RECIPE  # noqa: E402
from tests.commands.test_train_test import TEST, TRAIN  # noqa: E402
from tests.fault_injection import sewa, store  # noqa: E402
from tests.fault_injection.delivery import config_of  # noqa: E402
from tests.material.affectnet_files import write_2021  # noqa: E402
from tests.material.hostile_detectors import CASCADE  # noqa: E402
from tests.material.one_layer_run import make_runner  # noqa: E402
from tests.material.sewa_files import square_landmarks, write_landmarks_zip  # noqa: E402
from tests.material.tiny_configs import noise, tiny_config, tiny_network, write_checkpoint, write_video  # noqa: E402
from tests.material.tiny_yunet import write_tiny_yunet  # noqa: E402
from tests.reliability import hostile_families as families  # noqa: E402
from tests.reliability.hostile_families import Hostile  # noqa: E402

DEMO, VERIFY, RUN_FOLDS = (
    import_module("hocp_mm.commands.demo"),
    import_module("hocp_mm.commands.verify"),
    import_module("hocp_mm.commands.folds"),
)
STOCK = {"type": "ResNet3d", "depth": 18, "pretrained": None}


@dataclass(frozen=True)
class Door:
    """A way in.

    Attributes:
        name: What a user calls it.
        families: Files that are tried, by the names of `files_of`.
        good: Path of the file below the folder of the campaign that goes through.
        place: Where a file of a name belongs in a scratch folder, which it prepares.
        go: What a user does then.
        refuses: Whether files that must be refused may not be passed over either.
    """

    name: str
    families: tuple[str, ...]
    good: str
    place: Callable[[Path, Path, str], Path]
    go: Callable[[Path, Path, Path], object]
    refuses: bool = True


# ----- material


def prepare(base: Path, names: Collection[str]) -> None:
    """Write the good files of some doors below ``base``; called in a process of its own."""
    precious = base / "precious"
    (precious / "deep").mkdir(parents=True)
    for name in ("a.txt", "best_epoch_1.pth", "deep/b.txt", "epoch_1.pth"):
        (precious / name).write_text("precious")
    write_video(base / "video.mp4", noise(10))
    cfg = tiny_config()
    write_checkpoint(base / "tiny.pth", cfg, tiny_network(cfg))
    for name, network in (("image", "test_resnet"), ("resnet18", "resnet18")):
        if name == "resnet18" and "stock backbone" not in names:
            continue
        torch.manual_seed(0)
        torch.save(timm.create_model(network).state_dict(), base / f"{name}.pth")
    model = Config(cfg.to_dict()).model.to_dict()
    model["backbone"]["pretrained"] = False
    recipe = RECIPE.replace('save_best="', 'max_keep_ckpts=1, save_best="') + f"model = {model!r}\n"
    recipe += "param_scheduler = dict(type='StepLR', step_size=1)\n"
    recipe = recipe.replace(', backbone=dict(type="hocp_mm.TinyBackbone")', "")
    (base / "recipe.py").write_text(recipe)
    (base / "hook.py").write_text(recipe + "custom_hooks = [dict(type='hocp_mm.TransductionHook', source='timm')]\n")
    TRAIN.main(
        [str(base / "recipe.py"), "--work-dir", str(base / "trained"), "--cfg-options", "train_cfg.max_epochs=1"]
    )
    content = torch.load(base / "trained" / "epoch_1.pth", weights_only=False)
    content["meta"]["cfg"] = cfg.pretty_text
    torch.save(content, base / "recogniser.pth")
    runner = make_runner(base / "stock", epochs=1)
    runner.train()
    sewa.write(base / "sewa")
    store.write(base / "store")
    DecompositionCache(base / "cache").decompose(_kernel(), 5)
    write_2021(base / "affectnet", {"0": ("1", "0.7", "-0.1"), "1": ("3", "-0.2", "0.5")})
    read_affectnet_folder(base / "affectnet" / "train_set")
    (index,) = (base / "home" / ".cache" / "hocp_mm" / "affectnet").iterdir()
    shutil.copy(index, base / "index.npz")
    if "kernel cache" in names:
        (base / "kernel.so").write_bytes(build._build("g++"))
    boxes = {key: [8, 8, 40, 40] for key in sewa.KEYS}
    (base / "boxes.json").write_text(json.dumps(boxes))
    write_landmarks_zip(base / "landmarks.zip", 10, {frame: square_landmarks((20, 10, 40, 30)) for frame in range(10)})
    (base / "pointer").write_text("epoch_1.pth")
    write_tiny_yunet(base / "yunet.onnx")
    (base / "cascade.xml").write_text(CASCADE)
    _run_folds(base, base / "folds")


def _kernel() -> torch.Tensor:
    return torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(1))


def _run_folds(base: Path, folder: Path) -> None:
    """Run all folds with tools that only write files; a checkpoint that is named is read."""
    from hocp_mm.datasets.splits import make_folds, write_fold_files

    root = folder / "data"
    if not root.is_dir():
        write_fold_files(root, make_folds(CLIPS, CLIPS, 2), seed=0, grouped_by="actor")
    fake = FakeTools(root)

    def call(fold: int, tool: str, words: list[str]) -> None:
        if tool == "test":
            try:
                Path(words[1]).read_bytes()
            except (OSError, ValueError) as error:
                raise HOCPError(f"fold {fold}: {tool} must succeed, got exit code 2.") from error
        fake(fold, tool, words)

    RUN_FOLDS.call = call  # type: ignore[attr-defined]
    # Paths are part of the stamp, and those of a copy are others.
    RUN_FOLDS.hashlib = _same_digest()  # type: ignore[attr-defined]
    (base / "folds.py").write_text(CONFIG.format(root="data"))
    RUN_FOLDS.main([str(base / "folds.py"), "--work-dir", str(folder / "work"), "--cfg-options", *_roots(root)])


def _roots(root: Path) -> list[str]:
    return [f"{part}_dataloader.dataset.data_root={root}" for part in ("train", "val", "test")]


# ----- places


def _beside(base: Path, scratch: Path, name: str) -> Path:
    return scratch / name


def _at(*parts: str) -> Callable[[Path, Path, str], Path]:
    def place(base: Path, scratch: Path, name: str) -> Path:
        scratch.joinpath(*parts[:-1]).mkdir(parents=True, exist_ok=True)
        return scratch.joinpath(*parts)

    return place


def _in_copy(folder: str, *parts: str) -> Callable[[Path, Path, str], Path]:
    """In a copy of a prepared folder; ``*`` in the last part stands for the only file that fits."""

    def place(base: Path, scratch: Path, name: str) -> Path:
        shutil.copytree(base / folder, scratch / folder)
        where = scratch.joinpath(folder, *parts[:-1])
        found = sorted(where.glob(parts[-1]))
        path = found[0] if found else where / parts[-1]
        path.unlink(missing_ok=True)
        return path

    return place


def _kept_kernel(base: Path, scratch: Path, name: str) -> Path:
    compiler = shutil.which("g++") or "g++"
    folder = scratch / "home" / ".cache" / "hocp_mm"
    folder.mkdir(parents=True, mode=0o700)
    return folder / f"cp_conv-{build._fingerprint(compiler)}.so"


def _kept_index(base: Path, scratch: Path, name: str) -> Path:
    import os
    from unittest.mock import patch

    from hocp_mm.datasets.affectnet.index import index_file

    with patch.dict(os.environ, HOCP_MM_CACHE=str(scratch / "home" / ".cache" / "hocp_mm")):
        path = index_file(base / "affectnet" / "train_set" / "annotations")
    assert path is not None
    path.parent.mkdir(parents=True, mode=0o700)
    return path


# ----- ways


def _demo(*options: str) -> Callable[[Path, Path, Path], object]:
    """Run the demo; ``FILE`` among the options stands for the file."""

    def go(base: Path, scratch: Path, file: Path) -> None:
        words = [str(file) if word == "FILE" else word for word in options]
        checkpoint = [] if "--checkpoint" in words else ["--checkpoint", str(base / "tiny.pth")]
        video = [] if words[0] == str(file) else [str(base / "video.mp4")]
        device = ["--device", "cpu", "--no-video"]
        DEMO.main([*video, *words, *checkpoint, "--out", str(scratch / "out"), *device])

    return go


def _train(config: str, *options: str) -> Callable[[Path, Path, Path], object]:
    def go(base: Path, scratch: Path, file: Path) -> None:
        words = [word.replace("FILE", str(file)) for word in options]
        TRAIN.main([str(base / f"{config}.py"), "--work-dir", str(scratch / "work"), *words])

    return go


def _load_from(base: Path, scratch: Path, file: Path) -> None:
    config = Config.fromfile(base / "recipe.py")
    config.load_from = str(file)  # not through --cfg-options, which reads commas and brackets
    config.dump(scratch / "recipe.py")
    TRAIN.main([str(scratch / "recipe.py"), "--work-dir", str(scratch / "work")])


def _test(base: Path, scratch: Path, file: Path) -> None:
    TEST.main([str(base / "recipe.py"), "--work-dir", str(scratch / "work"), "--", str(file)])


def _verify(base: Path, scratch: Path, file: Path) -> None:
    small = ["--rank", "4", "--frames", "2", "--size", "32"]
    VERIFY.main(["--timm", "test_resnet", "--checkpoint", str(file), *small])


def _infer(base: Path, scratch: Path, file: Path) -> None:
    AffectInferencer(file, device="cpu").predict(base / "video.mp4", track_faces(base / "video.mp4", "frame"))


def _cascade(base: Path, scratch: Path, file: Path) -> None:
    make_detector("haar", file)(noise(1, (320, 240))[0])


def _backbone(base: Path, scratch: Path, file: Path) -> None:
    TimmHOCPBackbone("test_resnet", checkpoint=str(file), rank=4)


def _hook(base: Path, scratch: Path, file: Path) -> None:
    model = Config.fromfile(base / "recipe.py").model
    TransductionHook(str(file)).load(MODELS.build(model))


def _stock(base: Path, scratch: Path, file: Path) -> None:
    with DefaultScope.overwrite_default_scope("mmaction"):
        model = torch.nn.Module()
        model.backbone = MODELS.build(copy.deepcopy(STOCK))
        TransductionHook(str(file)).load(model)


def _mmengine_resume(base: Path, scratch: Path, file: Path) -> None:
    try:
        make_runner(scratch / "work", epochs=2, resume=True, load_from=str(file)).train()
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        # A stock run has MMEngine's own errors about states that do not fit; that nothing is run or deleted is ours.
        raise HOCPError(f"stock run: {type(error).__name__}.") from error


def _mmengine_load(base: Path, scratch: Path, file: Path) -> None:
    load_checkpoint(torch.nn.Linear(2, 1), str(file), map_location="cpu")


def _data(layout: Any, check: bool = False, **changes: str) -> Callable[[Path, Path, Path], object]:
    """Take every sample of a set, or check it; ``FILE`` among the changes stands for the file."""

    def go(base: Path, scratch: Path, file: Path) -> None:
        root = scratch / layout.name.lower()
        given = {key: str(file) if value == "FILE" else value for key, value in changes.items()}
        given = {**given, "data_root": str(root if root.is_dir() else base / layout.name.lower())}
        configs = {part: {**config_of(layout, root, {}, part), **given} for part in ("train", "val")}
        if check:
            check_data(Config({f"{p}_dataloader": {"dataset": c} for p, c in configs.items()}), workers=0)
            return
        for config in configs.values():
            dataset = DATASETS.build(config)
            for index in range(len(dataset)):
                dataset[index]

    return go


def _cached_fit(base: Path, scratch: Path, file: Path) -> None:
    fit = DecompositionCache(scratch / "cache").decompose(_kernel(), 5)
    assert fit.relative_error == DecompositionCache(base / "cache").decompose(_kernel(), 5).relative_error


def _cached_kernel(base: Path, scratch: Path, file: Path) -> None:
    build._build = lambda compiler, folder=None: (base / "kernel.so").read_bytes()
    assert build.load_library()


def _cached_index(base: Path, scratch: Path, file: Path) -> None:
    rows = read_affectnet_folder(base / "affectnet" / "train_set")
    assert rows.files == ["0.jpg", "1.jpg"], rows.files


def _folds(base: Path, scratch: Path, file: Path) -> None:
    folder = scratch / "folds"
    if file.name == "trained.json":
        shutil.rmtree(file.parent / "results")
    _run_folds(scratch, folder)


def _same_digest() -> ModuleType:
    fixed = ModuleType("hashlib")
    fixed.sha256 = lambda data: type("Digest", (), {"hexdigest": lambda self: "0"})()  # type: ignore[attr-defined]
    return fixed


# ----- the list

CHECKPOINTS = ("programs", "pickles", "safetensors", "states", "damaged", "names", "junk", "specials")
CONTENTS = ("programs", "pickles", "states", "damaged", "junk", "specials")


def doors() -> list[Door]:
    """Return all doors."""
    last = _at("work", "epoch_1.pth")

    def named(base: Path, scratch: Path, name: str) -> Path:
        path = last(base, scratch, name)
        (path.parent / "last_checkpoint").write_text(str(path))
        return path

    def pointed(base: Path, scratch: Path, name: str) -> Path:
        path = _at("work", "last_checkpoint")(base, scratch, name)
        shutil.copy(base / "recogniser.pth", path.parent / "epoch_1.pth")
        return path

    found = [
        Door(
            "demo", ("recorded", *CHECKPOINTS), "tiny.pth", _beside, _demo("--checkpoint", "FILE", "--faces", "frame")
        ),
        Door("inferencer", ("recorded", *CHECKPOINTS), "tiny.pth", _beside, _infer),
        Door("test", CHECKPOINTS, "recogniser.pth", _beside, _test),
        Door("resume", CONTENTS, "recogniser.pth", named, _train("recipe", "--resume")),
        Door("resume newest", CONTENTS, "recogniser.pth", last, _train("recipe", "--resume")),
        Door("resume FILE", CHECKPOINTS, "recogniser.pth", _beside, _train("recipe", "--resume=FILE")),
        Door(
            "last_checkpoint", ("pointers", "junk", "specials"), "pointer", pointed, _train("recipe", "--resume"), False
        ),
        Door("load_from", CHECKPOINTS, "recogniser.pth", _beside, _load_from),
        Door("static checkpoint", CHECKPOINTS, "recogniser.pth", _beside, _train("hook", "--static-checkpoint=FILE")),
        Door("hook", CHECKPOINTS, "image.pth", _beside, _hook),
        Door("stock backbone", CONTENTS, "resnet18.pth", _beside, _stock),
        Door("backbone", CHECKPOINTS, "image.pth", _beside, _backbone),
        Door("verify", CHECKPOINTS, "image.pth", _beside, _verify),
        Door("mmengine resume", CHECKPOINTS, "stock/epoch_1.pth", _beside, _mmengine_resume),
        Door("mmengine load", CHECKPOINTS, "stock/epoch_1.pth", _beside, _mmengine_load),
        Door(
            "decomposition cache",
            ("safetensors", "junk", "specials"),
            "cache/*.safetensors",
            _in_copy("cache", "*.safetensors"),
            _cached_fit,
            False,
        ),
        Door("affectnet cache", ("arrays", "junk", "specials"), "index.npz", _kept_index, _cached_index, False),
        Door(
            "store header",
            ("jsons", "junk", "specials"),
            "store/store.json",
            _in_copy("store", "store.json"),
            _data(store.STORE),
            False,
        ),
        Door(
            "store index",
            ("arrays", "junk", "specials"),
            "store/index.npz",
            _in_copy("store", "index.npz"),
            _data(store.STORE),
        ),
        Door(
            "store pack",
            ("junk", "specials"),
            "store/packs/SAH*.avi",
            _in_copy("store", "packs", "SAH*.avi"),
            _data(store.STORE),
        ),
        Door(
            "store split",
            ("splits", "junk", "specials"),
            "store/splits/train.txt",
            _in_copy("store", "splits", "train.txt"),
            _data(store.STORE),
        ),
        Door(
            "check of a store",
            ("arrays", "specials"),
            "store/index.npz",
            _in_copy("store", "index.npz"),
            _data(store.STORE, check=True),
            False,
        ),
        Door(
            "split",
            ("splits", "junk", "specials"),
            "sewa/splits/train.txt",
            _in_copy("sewa", "splits", "train.txt"),
            _data(sewa.SEWA),
        ),
        Door(
            "metadata",
            ("inis", "junk", "specials"),
            f"sewa/{sewa.KEY}/metadata.ini",
            _in_copy("sewa", sewa.KEY, "metadata.ini"),
            _data(sewa.SEWA),
            False,
        ),
        Door(
            "labels",
            ("tables", "junk", "specials"),
            f"sewa/{sewa.KEY}/*_Valence_V_Aligned.csv",
            _in_copy("sewa", sewa.KEY, "*_Valence_V_Aligned.csv"),
            _data(sewa.SEWA),
            False,
        ),
        Door(
            "landmarks",
            ("zips", "junk", "specials"),
            f"sewa/{sewa.KEY}/*_Landmarks.zip",
            _in_copy("sewa", sewa.KEY, "*_Landmarks.zip"),
            _data(sewa.SEWA),
            False,
        ),
        Door(
            "check of SEWA",
            ("zips", "specials"),
            f"sewa/{sewa.KEY}/*_Landmarks.zip",
            _in_copy("sewa", sewa.KEY, "*_Landmarks.zip"),
            _data(sewa.SEWA, check=True),
            False,
        ),
        Door(
            "boxes",
            ("boxes", "jsons", "junk", "specials"),
            "boxes.json",
            _at("boxes.json"),
            _data(sewa.SEWA, boxes_file="FILE", faces="given"),
            False,
        ),
        Door(
            "demo landmarks",
            ("zips", "junk", "specials"),
            "landmarks.zip",
            _at("landmarks.zip"),
            _demo("--landmarks", "FILE"),
            False,
        ),
        Door("demo video", ("junk", "specials"), "video.mp4", _at("video.mp4"), _demo("FILE", "--faces", "frame")),
        Door(
            "yunet",
            ("networks", "junk", "specials"),
            "yunet.onnx",
            _at("a.onnx"),
            _demo("--faces", "yunet", "--detector-model", "FILE"),
        ),
        Door("cascade", ("cascades", "junk", "specials"), "cascade.xml", _at("a.xml"), _cascade),
        Door(
            "fold",
            ("splits", "specials"),
            "folds/data/folds/fold_0/test.txt",
            _in_copy("folds", "data", "folds", "fold_0", "test.txt"),
            _folds,
        ),
        Door(
            "run.json",
            ("jsons", "junk", "specials"),
            "folds/work/fold_0/run.json",
            _in_copy("folds", "work", "fold_0", "run.json"),
            _folds,
            False,
        ),
        Door(
            "trained.json",
            ("jsons", "junk", "specials"),
            "folds/work/fold_0/trained.json",
            _in_copy("folds", "work", "fold_0", "trained.json"),
            _folds,
            False,
        ),
        Door(
            "metrics.json",
            ("jsons", "junk", "specials"),
            "folds/work/fold_0/results/metrics.json",
            _in_copy("folds", "work", "fold_0", "results", "metrics.json"),
            _folds,
            False,
        ),
        Door(
            "predictions",
            ("tables", "junk", "specials"),
            "folds/work/fold_0/results/0*.csv",
            _in_copy("folds", "work", "fold_0", "results", "0*.csv"),
            _folds,
        ),
    ]
    if shutil.which("g++"):
        kernel = Door("kernel cache", ("junk", "specials"), "kernel.so", _kept_kernel, _cached_kernel, False)
        found.append(kernel)
    return found


def files_of(base: Path) -> dict[str, Callable[[], list[Hostile]]]:
    """Return what lists the files of each family."""
    recogniser, index = base / "recogniser.pth", base / "store" / "index.npz"
    network = (base / "yunet.onnx").read_bytes()
    return {
        "specials": families.specials,
        "junk": families.junk,
        "programs": lambda: families.programs(base),
        "pickles": families.pickles,
        "safetensors": families.safetensors,
        "states": lambda: families.states(base, recogniser),
        "recorded": lambda: families.recorded(base, recogniser),
        "damaged": lambda: families.damaged(recogniser),
        "names": lambda: families.names(recogniser),
        "pointers": lambda: families.pointers(base),
        "jsons": lambda: families.jsons(base),
        "boxes": lambda: families.boxes(sewa.KEY),
        "zips": families.zips,
        "tables": families.tables,
        "splits": lambda: families.splits(base),
        "inis": families.inis,
        "arrays": lambda: families.arrays(base, index),
        "networks": lambda: families.networks(network),
        "cascades": families.cascades,
    }
