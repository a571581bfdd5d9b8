"""Files made to harm, by family: what they hold, how they are made, and whether they must be refused.

Payloads create ``mark`` in the folder of the campaign, or touch what lies in ``precious`` and ``foreign`` there.
"""

import io
import json
import os
import pickle
import random
import socket
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.apis.test_recorded_config import EXECUTED, PLACES
from tests.checkpoints.hostile_files import mutants
from tests.checkpoints.hostile_modules import HARMLESS as HARMLESS_MODULES
from tests.checkpoints.hostile_modules import module_file
from tests.checkpoints.hostile_modules import odd as odd_modules
from tests.checkpoints.hostile_pickles import (
    HOSTILE,
    archive,
    bomb,
    call,
    items,
    name,
    raw_archive,
    tensor,
    text,
    whole,
)
from tests.checkpoints.test_hostile_files import ODD_OLD_FILES, ODD_SAFETENSORS, old_file, safe_file
from tests.material.hostile_detectors import CASCADES, NETWORKS
from tests.material.tiny_configs import tiny_config

Make = Callable[[Path], object]


@dataclass(frozen=True)
class Hostile:
    """One file.

    Attributes:
        name: What it is.
        make: Makes it at a path that is free.
        file: Its name, where that matters; a door has its own for the others.
        refused: Whether reading it is wrong.
    """

    name: str
    make: Make
    file: str = "odd.pth"
    refused: bool = True


def _bytes(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def _archive(value: bytes) -> Make:
    return lambda path: archive(value, path)


def _text(content: str) -> Make:
    return _bytes(content.encode("utf-8", "surrogateescape"))


# ----- what is no file


def specials() -> list[Hostile]:
    """Everything that a name can lead to and that is no file with content."""

    def listen(path: Path) -> None:
        before = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(path.name)
        finally:
            os.chdir(before)

    def folder(path: Path) -> None:
        path.mkdir()
        (path / "data.pkl").write_bytes(b"\x80\x02}.")
        (path / ".metadata").write_bytes(b"\x80\x02}.")

    def sparse(path: Path) -> None:
        path.touch()
        os.truncate(path, 1 << 40)

    links = ("/dev/zero", "/dev/urandom", "/dev/null", "/dev/full", "/proc/self/mem", "/proc/kmsg", "nowhere", "/")
    made: dict[str, Make] = {f"link to {target}": (lambda p, t=target: p.symlink_to(t)) for target in links}
    made |= {"named pipe": os.mkfifo, "socket": listen, "folder": folder, "link to itself": lambda p: p.symlink_to(p)}
    made |= {"a tebibyte of nothing": sparse, "empty": _bytes(b"")}
    return [Hostile(kind, make) for kind, make in made.items()]


def junk() -> list[Hostile]:
    """Contents that are no format of ours."""
    noise = random.Random(0).randbytes(5000)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(bytes(1 << 26)) + packer.flush()
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w", zipfile.ZIP_DEFLATED) as outer:
        outer.writestr("inner.zip", bytes(1 << 26))
    escape = io.BytesIO()
    with tarfile.open(fileobj=escape, mode="w") as tar:
        member = tarfile.TarInfo("../../mark")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    contents = {
        "one byte": b"\x80",
        "noise": noise,
        "a page": b"<!DOCTYPE html><html>",
        "a pointer": b"version https://git-lfs.",
        "noise like a zip": b"PK\x03\x04" + noise,
        "noise like a pickle": b"\x80\x02" + noise,
        "no UTF-8": b"\xff\xfe" * 99,
        "packed zeros": packed,
        "zip in a zip": nested.getvalue(),
        "a tar that leads out": escape.getvalue(),
        "a program": b"\x7fELF" + noise,
        "a script": b"#!/bin/sh\ntouch mark\n",
        "zeros": bytes(1 << 20),
        "deep brackets": b"[" * 1_000_000,
        "a long line": b"9" * 4_000_000,
        "a million lines": b"1\n" * 1_000_000,
    }
    return [Hostile(kind, _bytes(content)) for kind, content in contents.items()]


# ----- checkpoints


def programs(base: Path) -> list[Hostile]:
    """Pickles that call something, wherever torch unpickles."""
    mark, precious = base / "mark", base / "precious"
    shell, program = f"touch {mark}", f"open({str(mark)!r}, 'w')"
    evil = pickle.PROTO + b"\x02" + call("os", "system", items(text(shell))) + pickle.STOP
    (base / "foreign").mkdir(exist_ok=True)
    (base / "foreign" / "evil.py").write_text(program)
    (base / "foreign" / "hubconf.py").write_text(program)
    (base / "foreign" / "evil.pth").write_bytes(evil)
    nested = pickle.SHORT_BINBYTES + bytes([len(evil)]) + evil if len(evil) < 256 else text(evil.decode("latin1"))
    script, foreign = text(str(base / "foreign" / "evil.py")), text(str(base / "foreign" / "evil.pth"))
    words = pickle.EMPTY_LIST + pickle.MARK + text("touch") + text(str(mark)) + pickle.APPENDS
    calls = {
        ("os", "system"): text(shell),
        ("posix", "system"): text(shell),
        ("nt", "system"): text(shell),
        ("os", "popen"): text(shell),
        ("subprocess", "Popen"): words,
        ("subprocess", "run"): words,
        ("subprocess", "check_output"): words,
        ("pty", "spawn"): words,
        ("os", "remove"): text(str(precious / "a.txt")),
        ("shutil", "rmtree"): text(str(precious)),
        ("builtins", "exec"): text(program),
        ("builtins", "eval"): text(program),
        ("__builtin__", "exec"): text(program),
        ("builtins", "open"): text(str(mark)) + text("w"),
        ("builtins", "__import__"): text("antigravity"),
        ("importlib", "import_module"): text("antigravity"),
        ("runpy", "run_path"): script,
        ("pickle", "loads"): nested,
        ("_pickle", "loads"): nested,
        ("cloudpickle", "loads"): nested,
        ("dill", "loads"): nested,
        ("torch", "load"): foreign,
        ("torch.serialization", "load"): foreign,
        ("torch.jit", "load"): foreign,
        ("torch.hub", "load"): script,
        ("torch.storage", "_load_from_bytes"): nested,
        ("numpy", "load"): foreign,
        ("joblib", "load"): foreign,
        ("timeit", "timeit"): text(program),
        ("cProfile", "run"): text(program),
        ("pdb", "run"): text(program),
        ("code", "InteractiveInterpreter"): b"",
        ("ctypes", "CDLL"): foreign,
        ("webbrowser", "open"): text("file:///"),
        ("functools", "partial"): name("os", "system") + text(shell),
        ("operator", "methodcaller"): text("system"),
        ("torch._tensor", "_rebuild_from_type_v2"): name("os", "system")
        + name("builtins", "dict")
        + items(text(shell))
        + pickle.NONE,
        ("torch._utils", "_rebuild_wrapper_subclass"): pickle.NONE * 4,
        ("copyreg", "__newobj__"): name("os", "system"),
        ("copyreg", "_reconstructor"): name("builtins", "object") * 2 + pickle.NONE,
        ("copyreg", "add_extension"): text("os") + text("system") + whole(1),
        ("mmengine.utils.package_utils", "call_command"): words,
        ("mmengine.fileio", "load"): foreign,
        ("mmengine.config", "Config.fromstring"): text(program) + text(".py"),
        ("mmengine.utils", "install_package"): text("x"),
        ("mmengine.config.config", "Config._file2dict"): script,
        ("hocp_mm.system.cli", "run"): name("builtins", "exit"),
        ("hocp_mm.functional.native.build", "_run"): words,
        ("torch.utils.cpp_extension", "load"): text("a") + script,
        ("logging.config", "fileConfig"): script,
        ("multiprocessing.util", "Finalize"): pickle.NONE,
    }
    found = [
        Hostile(f"calls {module}.{what}", _archive(call(module, what, items(argument))))
        for (module, what), argument in calls.items()
    ]
    attack = call("os", "system", items(text(shell)))
    build = name("argparse", "Namespace") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    places = {
        "as the whole": attack,
        "as the state dict": b"}" + text("state_dict") + attack + b"s",
        "as a weight": b"}" + text("state_dict") + b"}" + text("w") + attack + b"ss",
        "as extra state": b"}"
        + text("state_dict")
        + b"}"
        + text("w")
        + tensor()
        + b"s"
        + text("a._extra_state")
        + attack
        + b"ss",
        "as meta": b"}" + text("meta") + attack + b"s",
        "as a storage": attack + pickle.BINPERSID,
        "in a storage's id": items(text("storage"), attack, text("0"), text("cpu"), whole(4)) + pickle.BINPERSID,
        "as hooks": tensor(hooks=attack),
        "by INST": pickle.MARK + text(shell) + b"ios\nsystem\n",
        "by OBJ": pickle.MARK + name("os", "system") + text(shell) + pickle.OBJ,
        "by STACK_GLOBAL": text("os") + text("system") + b"\x93" + items(text(shell)) + b"R",
        "by a dotted name": text("torch") + text("os.system") + b"\x93" + items(text(shell)) + b"R",
        "by an escaped name": text("builtins") + text("dict.__class__") + b"\x93" + items(text(shell)) + b"R",
        "by BUILD": build + b"}" + text("__setstate__") + name("os", "system") + b"s" + b"b" + text(shell) + b"b",
        "by BUILD of a class": name("argparse", "Namespace") + b"}" + text("__init__") + name("os", "system") + b"sb",
        "by a class of ours": name("mmengine.logging.history_buffer", "HistoryBuffer")
        + b"}"
        + text("data")
        + attack
        + b"sb",
        "behind the end": b"}." + attack,
    }
    found += [
        Hostile(f"calls {p}", lambda f, b=body: raw_archive(b"\x80\x04" + b + b".", f)) for p, body in places.items()
    ]
    found += [
        Hostile("calls in the older format", lambda p: old_file(p, attack)),
        Hostile("calls in the keys of the older format", lambda p: old_file(p, b"}", attack)),
        Hostile("a bare pickle", _bytes(evil)),
        Hostile("a bare pickle called bin", _bytes(evil), "pytorch_model.bin"),
        Hostile("a bare pickle called safetensors", _bytes(evil), "odd.safetensors"),
        Hostile(
            "a TorchScript program", lambda p: raw_archive(b"\x80\x02}.", p, {"constants.pkl": evil, "code/a.py": b""})
        ),
        Hostile("a pickle in a storage", lambda p: archive(b"N", p, {"data/1": evil}), refused=False),
        Hostile("two pickles", lambda p: archive(b"N", p, {"b/data.pkl": evil}), refused=False),
    ]
    return found


def pickles() -> list[Hostile]:
    """Pickles that ask for too much, and archives and older files that contradict themselves."""
    found = [Hostile(case, lambda p, b=body: archive(b, p)) for case, body in HOSTILE.items()]
    found += [Hostile(case, lambda p, w=what: old_file(p, *w)) for case, what in ODD_OLD_FILES.items()]
    found += [
        Hostile(f"{case}, old", lambda p, b=body: old_file(p, b"}" + text("x") + b + b"s"))
        for case, body in HOSTILE.items()
    ]
    found += [
        Hostile(f"module: {case}", lambda p, b=body: module_file(p, b), refused=case not in HARMLESS_MODULES)
        for case, body in odd_modules().items()
    ]
    found += [Hostile(f"bomb of {1 << n} bytes", lambda p, n=n: bomb(p, 1 << n)) for n in (27, 29)]
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        found.append(Hostile(f"packed by method {method}", lambda p, m=method: archive(b"N", p, method=m)))
    for odd in ("../../mark", "/mark", "C:\\mark", "a\x1b[2J", "é" * 300):
        found.append(Hostile(f"record {odd[:9]!r}", lambda p, o=odd: archive(b"N", p, {o: b"evil"}), refused=False))
    return found


def safetensors() -> list[Hostile]:
    """Headers that contradict the data, and deep or large ones."""
    odd = "odd.safetensors"
    found = [Hostile(case, lambda p, w=what: safe_file(p, *w), odd) for case, what in ODD_SAFETENSORS.items()]
    deep = '{"__metadata__":' + '{"a":' * 100_000 + "1" + "}" * 100_001
    many = "{" + ",".join(f'"{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(60_000)) + "}"
    found += [Hostile("deep", lambda p: safe_file(p, deep), odd), Hostile("many", lambda p: safe_file(p, many), odd)]
    return found


def damaged(recogniser: Path) -> list[Hostile]:
    """A real checkpoint with bits, blocks and numbers changed; each sees it or is told."""
    stream = mutants(recogniser.read_bytes(), random.Random(1))
    return [Hostile(f"damage {n}", _bytes(next(stream)[0]), refused=False) for n in range(30)]


def names(recogniser: Path) -> list[Hostile]:
    """Good content under names that a program may stumble over."""
    content = recogniser.read_bytes()
    odd = (
        "a" * 250 + ".pth",
        "a b.pth",
        "%s{0}{fold}.pth",
        "a\nb\x1b[2J.pth",
        os.fsdecode(b"\xff\xfe.pth"),
        "..pth",
        "é😀.pth",
        "'\"$(touch mark).pth",
        "s3:a.pth",
        "https:a.pth",
        "~.pth",
        "epoch_999999999999999999999.pth",
        "timm.pth",
        "odd.PTH",
        "odd",
        "odd.pth.tar",
    )
    return [Hostile(f"name {file[:20]!r}", _bytes(content), file, refused=False) for file in odd]


def states(base: Path, recogniser: Path) -> list[Hostile]:
    """Training states that name foreign files, hold programs, or fit nothing. Each is refused or does no harm."""
    precious, foreign = base / "precious", base / "foreign"
    program = f"open({str(base / 'mark')!r}, 'w')"

    def hub(**info: Any) -> Callable[[dict[str, Any]], object]:
        return lambda content: content["message_hub"]["runtime_info"].update(info)

    def weights(change: Callable[[torch.Tensor], Any], one: bool = False) -> Callable[[dict[str, Any]], object]:
        def changed(content: dict[str, Any]) -> None:
            for key, value in list(content["state_dict"].items())[: 1 if one else None]:
                content["state_dict"][key] = change(value)

        return changed

    def entry(*path: Any, value: Any) -> Callable[[dict[str, Any]], object]:
        def changed(content: Any) -> None:
            for key in path[:-1]:
                content = content[key]
            content[path[-1]] = value

        return changed

    best = precious / "best_epoch_1.pth"
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "a program in meta": entry("meta", "config", value=program),
        "best file elsewhere": hub(best_ckpt=str(best), best_score=-9.0),
        "best folder elsewhere": hub(best_ckpt=str(precious), best_score=-9.0),
        "best file by name": hub(**{"best_ckpt_affect/ccc_mean": f"../precious/{best.name}"}, best_score=-9.0),
        "best file of all": hub(best_ckpt="/", best_score=-9.0),
        "best file is a list": hub(best_ckpt=[str(best)], best_score=-9.0),
        "last file elsewhere": hub(last_ckpt=str(best)),
        "kept files elsewhere": hub(keep_ckpt_ids=["../precious/best_epoch_1", "/"]),
        "kept files huge": hub(keep_ckpt_ids=[1 << 60] * 9999),
        "epoch is text": hub(epoch=str(foreign)),
        "iter is huge": entry("meta", "iter", value=1 << 80),
        "epoch is negative": entry("meta", "epoch", value=-5),
        "epoch is NaN": entry("meta", "epoch", value=float("nan")),
        "epoch is far": entry("meta", "epoch", value=1 << 50),
        "seed is huge": entry("meta", "seed", value=1 << 90),
        "name leads out": entry("meta", "experiment_name", value="../../precious/x"),
        "no meta": lambda content: content.pop("meta"),
        "meta is a list": entry("meta", value=[1]),
        "no hub": lambda content: content.pop("message_hub"),
        "hub is text": entry("message_hub", value="x"),
        "no optimizer": lambda content: content.pop("optimizer"),
        "optimizer is a list": entry("optimizer", value=[]),
        "state of no parameter": entry("optimizer", "state", value={999: {"exp_avg": torch.ones(1)}}),
        "state of another shape": lambda c: [s.update(exp_avg=torch.ones(7)) for s in c["optimizer"]["state"].values()],
        "rate is infinite": lambda c: [g.update(lr=float("inf")) for g in c["optimizer"]["param_groups"]],
        "group of many": lambda c: c["optimizer"]["param_groups"][0].update(params=list(range(100_000))),
        "schedulers of methods": entry("param_schedulers", value=[{"step": 1, "optimizer": 2, "__class__": 3}]),
        "schedulers of many": entry("param_schedulers", value=[{}] * 100_000),
        "run state foreign": entry("run_state", value={"x": str(foreign)}),
        "run state list": entry("run_state", value=[]),
        "weights are NaN": weights(lambda w: w * float("nan") if w.is_floating_point() else w),
        "weights are infinite": weights(lambda w: w + float("inf") if w.is_floating_point() else w),
        "weights of meta": weights(lambda w: w.to("meta")),
        "weights of whole numbers": weights(lambda w: w.long()),
        "weights of complex": weights(lambda w: w.to(torch.complex64)),
        "weights of bool": weights(lambda w: w.bool()),
        "weights of float8": weights(lambda w: w.float().to(torch.float8_e4m3fn)),
        "weights of half": weights(lambda w: w.half()),
        "weights sparse": weights(lambda w: w.float().to_sparse()),
        "weights flat": weights(torch.flatten),
        "weights of nothing": weights(lambda w: w.new_empty(0)),
        "weights with more sides": weights(lambda w: w[None, None]),
        "a weight of text": weights(lambda w: "x", True),
        "a weight of lists": weights(lambda w: w.tolist(), True),
        "expanded": weights(lambda w: torch.ones(()).expand(1 << 40), True),
        "other names": lambda c: c.update(state_dict={f"../{n}": t for n, t in c["state_dict"].items()}),
        "long names": lambda c: c.update(state_dict={"x" * 100_000 + n: t for n, t in c["state_dict"].items()}),
        "names of numbers": lambda c: c.update(state_dict=dict(enumerate(c["state_dict"].values()))),
        "names with escapes": lambda c: c.update(state_dict={"\x1b[2J\n" + n: t for n, t in c["state_dict"].items()}),
        "many names": lambda c: c["state_dict"].update({f"a.{n}": torch.ones(1) for n in range(20_000)}),
        "ranks of none": weights(lambda w: w[:, :0] if w.ndim == 2 else w),
        "no weights": entry("state_dict", value={}),
        "metadata odd": lambda c: setattr(c["state_dict"], "_metadata", {"": {"version": "x"}, 3: None}),
        "state dicts in each other": lambda c: c.update(state_dict={"state_dict": {"state_dict": c["state_dict"]}}),
        "another architecture": entry("state_dict", value=OrderedDict(torch.nn.Linear(9, 9).state_dict())),
        "scores that overflow": hub(best_score=1e308 * 10),
        "scores of text": hub(best_score="x"),
        "ema of another": entry("ema_state_dict", value={"steps": torch.tensor(1 << 60)}),
    }
    endless = np.empty((0,), np.int8)
    endless.__setstate__((1, (2_000_000_000,), np.dtype("S0"), False, b""))

    def lambdas(content: dict[str, Any]) -> None:
        state = content["state_dict"]
        for layer in [key.removesuffix("weights") for key in state if key.endswith(".weights")]:
            for key in [key for key in state if key.startswith(layer)]:
                del state[key]
            state[f"{layer}weights"] = torch.zeros(300_000, dtype=torch.uint8)

    def named(name: Any, value: Any) -> Callable[[dict[str, Any]], object]:
        return lambda content: content["state_dict"].update({name: value})

    def counters(content: dict[str, Any]) -> None:
        for key in [key for key in content["state_dict"] if key.endswith("num_batches_tracked")]:
            content["state_dict"][key] = torch.zeros(2, dtype=torch.long)

    changes |= {
        "ranks of lambda alone": lambdas,
        "counters of two": counters,
        "a name without end": named("features" + ".1" * 4_000_000 + ".weight", torch.ones(1)),
        "a name of tuples": named(("\U000e0001" * 1_000_000,) * 60, torch.ones(1)),
        "a name of a surrogate": named("head.\ud800", torch.ones(1)),
        "a name that forges a line": named("head.\x1b]0;evil\x07\nERROR: forged", torch.ones(1)),
        "two of one name": named("backbone.net.conv1.0._orig_mod.weight", torch.ones(1)),
        "extra state of a number": named("backbone.net.conv1.3._extra_state", 5),
        "extra state of a tuple": named((1, "_extra_state"), 5),
        "an endless array": hub(x=endless),
        "a config of escapes": entry("meta", "cfg", value="\x1b]0;evil\x07\x1b[2J" + "y" * 500_000),
    }
    changes["weights quantised"] = weights(lambda w: torch.quantize_per_tensor(w.float(), 1.0, 0, torch.qint8))

    def make(change: Callable[[dict[str, Any]], object]) -> Make:
        def made(path: Path) -> None:
            content = torch.load(recogniser, weights_only=False)
            change(content)
            torch.save(content, path)

        return made

    return [Hostile(case, make(change), refused=False) for case, change in changes.items()]


def recorded(base: Path, recogniser: Path) -> list[Hostile]:
    """Recorded configs that name functions and files, or ask for endless networks and clips."""
    foreign = str(base / "foreign" / "evil.pth")
    good = tiny_config().pretty_text

    def config(path: str, value: object) -> str:
        cfg = part = tiny_config().to_dict()
        *above, last = path.split(".")
        for key in above:
            part = part[int(key) if key.isdigit() else key]
        part[last] = value
        return (
            "".join(f"{key} = {entry!r}\n" for key, entry in cfg.items())
            .replace("nan", "'nan'")
            .replace("inf,", "1e999,")
        )

    data = "test_dataloader.dataset"
    texts = {
        f"names {kind} in {n}": f"model = {PLACES[n].format(kind=kind)}"
        for n, kind in ((i % len(PLACES), kind) for i, kind in enumerate(EXECUTED))
    }
    texts |= {
        "is a program": f"open({str(base / 'mark')!r}, 'w')",
        "imports": "import antigravity",
        "is empty": "",
        "has a base": "_base_ = ['" + foreign + "']\n" + good,
        "is deep": "x = " + "(" * 90 + ")" * 90,
        "imports by key": good + "custom_imports = dict(imports=['antigravity'])\n",
        "is long": "x = [" + "1," * 2_000_000 + "]",
        "is of minus": "x = " + "-" * 100_000 + "1",
        "is of strings": "x = " + "'a' " * 100_000,
        "is of nulls": "\0" * 999,
        "is of surrogates": "x = '\ud800'",
        "is of tabs": "if 1:\n" + "\n".join(" " * n + "if 1:" for n in range(200)),
    }
    parts: list[tuple[str, object]] = [
        ("model.backbone.checkpoint", foreign),
        ("model.backbone.pretrained", foreign),
        ("model.init_cfg", {"type": "Pretrained", "checkpoint": foreign}),
        ("model.backbone.init_cfg", {"type": "Pretrained", "checkpoint": foreign}),
        ("model.backbone.timm_options", {"checkpoint_path": foreign}),
        ("model.backbone.timm_options", {"pretrained_cfg": {"file": foreign}, "pretrained": True}),
        ("model.backbone.timm_options", {"pretrained_cfg_overlay": {"file": foreign}}),
        ("model.backbone.timm_options", {"block_args": {"x": "y"}}),
        ("model.backbone.timm_options", {"in_chans": 1 << 40}),
        ("model.backbone.model_name", "local-dir:" + str(base / "foreign")),
        ("model.backbone.model_name", "../evil"),
        ("model.backbone.model_name", "hf-hub:evil/evil"),
        ("model.backbone.model_name", "vit_gigantic_patch14_clip_224"),
        ("model.backbone.model_name", "x" * 100_000),
        ("model.backbone.model_name", 3),
        ("model.backbone.rank", 1 << 40),
        ("model.backbone.rank", {"(a+)+$": 4}),
        ("model.backbone.rank", "error1e-9"),
        ("model.backbone.rank", -1),
        ("model.backbone.temporal_kernel", (1 << 31) + 1),
        ("model.backbone.out_indices", [1 << 40]),
        ("model.backbone.out_indices", list(range(9999))),
        ("model.backbone.factorize", ["(a+)+$" * 9]),
        ("model.backbone.freeze", ["(.*)*" * 12 + "b"]),
        ("model.backbone.in_chans", 1 << 30),
        ("model.backbone.conv_options", {"implementation": foreign}),
        ("model.backbone.seed", 1 << 80),
        ("model.head.in_channels", 1 << 40),
        ("model.head.in_channels", -1),
        ("model.head.dropout", float("nan")),
        ("model.neck", {"type": "hocp_mm.HOCPTemporalNeck", "in_channels": 96, "hidden_channels": 1 << 30, "rank": 8}),
        ("model.neck", {"type": "hocp_mm.HOCPTemporalNeck", "in_channels": 96, "num_layers": 1 << 40}),
        ("model.backbone.motion", {"rank": 1 << 30}),
        ("model.backbone.motion", {"rank": "x1000000"}),
        (
            "model.data_preprocessor",
            {"type": "hocp_mm.AffectDataPreprocessor", "mean": [0.0] * 9999, "std": [0.0] * 9999},
        ),
        ("model.data_preprocessor", {"type": "mmengine.fileio.rmtree", "path": str(base / "precious")}),
        ("model.test_cfg", {"fcn_test": True}),
        ("model.train_cfg", foreign),
        ("model._scope_", "antigravity"),
        ("default_scope", "antigravity"),
        ("default_scope", "__main__"),
        (f"{data}.windows.clip_len", 1 << 40),
        (f"{data}.windows.clip_len", 1 << 22),
        (f"{data}.windows.clip_len", 0),
        (f"{data}.windows.clip_len", "8"),
        (f"{data}.windows.stride", 0),
        (f"{data}.windows.stride", 1 << 40),
        (f"{data}.windows.frame_interval", 1 << 40),
        (f"{data}.windows.frame_interval", 1 << 20),
        (f"{data}.windows", None),
        (f"{data}.windows", [1]),
        (f"{data}.pipeline.1.size", 1 << 20),
        (f"{data}.pipeline.1.size", 8192),
        (f"{data}.pipeline.1.size", 0),
        (f"{data}.pipeline.1.size", "32"),
        (f"{data}.pipeline.1.margin", float("inf")),
        (f"{data}.pipeline.1.margin", 1e300),
        (f"{data}.pipeline.1.margin", -1),
        (f"{data}.pipeline.1.smooth", 1 << 40),
        (f"{data}.pipeline.1.type", "os.system"),
        (f"{data}.pipeline.0.type", "mmengine.fileio.load"),
        (f"{data}.pipeline", "x"),
        (f"{data}.pipeline", []),
        (f"{data}.pipeline", [{"type": "hocp_mm.LoadFaceClip"}] * 9999),
        (f"{data}.type", "antigravity"),
        (f"{data}.label_range", [float("nan"), 1]),
        (f"{data}.label_range", "x"),
        (f"{data}.labels", "../../x"),
        (data, foreign),
        ("test_dataloader", []),
        ("test_dataloader", foreign),
    ]
    texts |= {f"{n} {path} is {str(value)[:30]}": config(path, value) for n, (path, value) in enumerate(parts)}

    def make(words: object) -> Make:
        def made(path: Path) -> None:
            content = torch.load(recogniser, weights_only=False)
            content["meta"]["cfg"] = words
            torch.save(content, path)

        return made

    return [Hostile(f"config {case}", make(words), refused=False) for case, words in texts.items()]


def pointers(base: Path) -> list[Hostile]:
    """Contents of ``last_checkpoint``."""
    best = base / "precious" / "best_epoch_1.pth"
    words = (
        str(best),
        f"../../precious/{best.name}",
        "/dev/zero",
        "..",
        "/",
        "\0",
        "x" * 5000,
        "epoch_1.pth\nepoch_9.pth",
        "https://localhost/x.pth",
        "s3://x/y.pth",
        "~/x.pth",
        "$(touch mark).pth",
        "a\\..\\b.pth",
    )
    return [Hostile(f"points to {w[:30]!r}", _text(w), "last_checkpoint", refused=False) for w in words]


# ----- data


def jsons(base: Path) -> list[Hostile]:
    """JSON files of other shapes, deep, huge and repeated."""
    laughs = json.dumps({"a": [["ha"] * 1000] * 200})
    texts = {
        "a list": "[]",
        "a number": "1",
        "null": "null",
        "text": '"x"',
        "empty": "{}",
        "deep": "[" * 100_000,
        "deep objects": '{"a":' * 50_000,
        "digits": '{"a":' + "9" * 4_000_000 + "}",
        "NaN": '{"a": NaN}',
        "laughs": laughs,
        "infinite": '{"a": [1e999, -1e999, 1, 1]}',
        "keys": '{"a": 1, "a": 2}',
        "prototype": '{"__class__": "os.system"}',
        "path": json.dumps({"checkpoint": str(base / "precious" / "best_epoch_1.pth"), "version": str(base)}),
        "leads out": json.dumps({"checkpoint": "../../../precious/best_epoch_1.pth", "packs": "../.."}),
        "lists": json.dumps({"checkpoint": [1], "config": {}, "version": [], "format": {}}),
        "surrogate": '{"a": "\\ud800"}',
        "number": '{"checkpoint": 1, "version": 1e99}',
        "null byte": '{"checkpoint": "\\u0000"}',
        "long": '{"checkpoint": "' + "x" * 9999 + '"}',
    }
    return [Hostile(f"json: {case}", _text(content), refused=False) for case, content in texts.items()]


def boxes(key: str) -> list[Hostile]:
    """Boxes of a video that are none."""
    values = (
        [1 << 62, 0, 1 << 63, 9],
        [[0, 0, 9, 9]] * 1_000_000,
        [None] * 24,
        [1e308, -1e308, 1e308, 1e308],
        {"x": 1},
        "0,0,9,9",
        [[[[]]]],
        [0, 0, 9],
        [True, True, 9, 9],
        [-1e9, -1e9, 1e9, 1e9],
        [9, 9, 0, 0],
        [[0, 0, 9, 9]] * 24,
    )
    return [Hostile(f"box {n}", _text(json.dumps({key: value})), refused=False) for n, value in enumerate(values)]


def zips() -> list[Hostile]:
    """Zip files of landmarks that lead out, overlap, or unpack to too much."""

    def packed(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as file:
            for member, content in members:
                file.writestr(member, content)
        return stream.getvalue()

    points = " ".join(["9"] * 98).encode()
    contents = {
        "leads out": packed(("../../mark_0.txt", points)),
        "absolute": packed(("/mark_0.txt", points)),
        "bomb": packed(("a_0.txt", bytes(1 << 28))),
        "many bombs": packed(*((f"a_{n}.txt", bytes(1 << 20)) for n in range(24))),
        "many": packed(*((f"a_{n}.txt", b"") for n in range(30_000))),
        "digits": packed(("9" * 5000 + ".txt", points)),
        "twice": packed(("a_0.txt", points), ("b_0.txt", points)),
        "numbers": packed(("a_0.txt", b"9" * 1_000_000)),
        "infinite": packed(("a_0.txt", b" ".join([b"inf"] * 98))),
        "huge": packed(("a_0.txt", b" ".join([b"1e38"] * 98))),
        "bzip2": packed(("a_0.txt", bytes(1 << 25)), method=12),
        "lzma": packed(("a_0.txt", bytes(1 << 25)), method=14),
        "cut": packed(("a_0.txt", points))[:-9],
        "comment": packed(("a_0.txt", points)) + b"x" * 70_000,
        "no member": packed(),
        "escapes": packed(("\x1b[2J_x.txt", points)),
        "slow": packed(("0" * 60_000 + "x.txt", points)),
    }
    entry = bytearray(packed(("a_0.txt", points)))
    entry[entry.rindex(b"PK\x01\x02") + 24 :][:4] = struct.pack("<I", 0xFFFFFFF0)
    contents["huge claim"] = bytes(entry)
    encrypted = bytearray(packed(("a_0.txt", points)))
    for magic, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        encrypted[encrypted.rindex(magic) + place] |= 1
    contents["encrypted"] = bytes(encrypted)
    return [Hostile(f"zip: {case}", _bytes(content), refused=False) for case, content in contents.items()]


def tables() -> list[Hostile]:
    """Rows of numbers that are none, too many, too long."""
    rows = "".join(f"{n},0.1\n" for n in range(24))
    texts = {
        "formula": "a,b\n=cmd|' /C calc'!A0,1\n",
        "quotes": 'a,b\n"' + "x" * 3_000_000,
        "columns": "a," * 500_000 + "\n",
        "nulls": "a,b\n\0\0\n",
        "NaN": rows.replace("0.1", "nan"),
        "infinite": rows.replace("0.1", "1e999"),
        "range": rows.replace("0.1", "1e30"),
        "many": "frame,v\n" + "".join(f"{n},0.1\n" for n in range(300_000)),
        "digits": rows.replace("0.1", "9" * 100_000),
        "scripts": rows.replace("0.1", "\u0966.\u0967"),
        "underscores": rows.replace("0.1", "1_0"),
        "returns": rows.replace("\n", "\r"),
        "frames": rows.replace("3,", f"{1 << 70},"),
        "negative": rows.replace("3,", "-3,"),
    }
    return [Hostile(f"table: {case}", _text(content), refused=False) for case, content in texts.items()]


def splits(base: Path) -> list[Hostile]:
    """Keys that lead out, repeat, and are too many."""
    texts = (
        "../../../precious",
        str(base / "precious"),
        "..",
        "a\0b",
        "x" * 5000,
        "k\n" * 3,
        "%s\n{0}\n",
        "\x1b[2J",
        "".join(f"key{n}\n" for n in range(300_000)),
        "# sha256=" + "0" * 64 + "\nx\n",
        "#\n" * 100_000,
        "CON\nNUL\n",
        "*\n?\n[a-z]\n",
        "a/b\n",
        "a\\b\n",
        "~\n$HOME\n",
    )
    return [Hostile(f"split {text[:12]!r}", _text(text), refused=False) for text in texts]


def inis() -> list[Hostile]:
    """Metadata of a segment."""
    laughs = "[a]\n" + "x0=ha\n" + "".join(f"x{n}=" + f"%(x{n - 1})s" * 10 + "\n" for n in range(1, 10))
    texts = {
        "laughs": laughs,
        "no section": "a=1\n",
        "twice": "[a]\n[a]\n",
        "long": "[Info]\nSubject=" + "9" * 1_000_000,
        "leads out": "[Info]\nSubject=../../x\n",
        "many": "[Info]\n" + "".join(f"a{n}=1\n" for n in range(200_000)),
    }
    return [Hostile(f"ini: {case}", _text(content), refused=False) for case, content in texts.items()]


def arrays(base: Path, good: Path) -> list[Hostile]:
    """Files of NumPy with pickles, huge shapes and bombs, and ``good`` damaged."""
    evil = type("Evil", (), {"__reduce__": lambda self: (os.system, (f"touch {base / 'mark'}",))})()

    def npz(**columns: Any) -> bytes:
        stream = io.BytesIO()
        np.savez(stream, **columns)
        return stream.getvalue()

    def header(shape: str, kind: str = "<f8") -> bytes:
        words = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words) + 1) + words + b"\n"

    def members(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as file:
            for member, content in files.items():
                file.writestr(member, content)
        return stream.getvalue()

    with zipfile.ZipFile(good) as file:
        whole_file = {member: file.read(member) for member in file.namelist()}
    first = next(iter(whole_file))
    each = {
        "pickle": npz(a=np.array([evil], dtype=object)).partition(b"nothing")[0],
        "no column": npz(),
        "other": npz(a=np.ones(3)),
        "claims": members({m: header("(1099511627776,)") + b"x" for m in whole_file}),
        "claims less": members({m: header("(-1,)") for m in whole_file}),
        "deep": members({m: header("(" * 3000) for m in whole_file}),
        "references": members({m: header("(1,)", "|O") + pickle.dumps(evil) for m in whole_file}),
        "bombs": members({m: header(f"({1 << 20},)") + bytes(1 << 23) for m in whole_file}),
        "text": members({m: header("(1,)", "<U999999999") for m in whole_file}),
        "less": members(dict(list(whole_file.items())[1:])),
        "leads out": members({**whole_file, "../../mark.npy": b"x"}),
        "more": members({**whole_file, "x.npy": header("(0,)")}),
        "a bomb": members({**whole_file, first: header(f"({1 << 27},)", "|u1") + bytes(1 << 27)}),
        "cut": good.read_bytes()[: good.stat().st_size // 2],
    }
    stream = mutants(good.read_bytes(), random.Random(2))
    each |= {f"damage {n}": next(stream)[0] for n in range(12)}
    return [Hostile(f"npz: {case}", _bytes(content), refused=False) for case, content in each.items()]


def networks(network: bytes) -> list[Hostile]:
    """Networks of a face detector, made from a good one."""
    return [Hostile(case, _bytes(change(network)), "odd.onnx") for case, change in NETWORKS.items()]


def cascades() -> list[Hostile]:
    """Cascades of a face detector."""
    return [Hostile(case, _bytes(content), "odd.xml") for case, content in CASCADES.items()]
