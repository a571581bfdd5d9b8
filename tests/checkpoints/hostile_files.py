"""Checkpoint files in every format, small and as training writes them, and damages of any of their bytes."""

import io
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save

from hocp_mm.checkpoints.reading import read_checkpoint, unwrap_state_dict
from hocp_mm.checkpoints.training_state import check_training_state
from hocp_mm.errors import CheckpointError


def training_checkpoint() -> dict:
    """What MMEngine's Runner saves of a linear layer after two steps of momentum."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        layer(torch.arange(6.0).reshape(2, 3)).square().mean().backward()
        optimizer.step()
    scheduler = {"param_name": "lr", "begin": 0, "end": 9, "by_epoch": True, "base_values": [0.1], "last_step": 2}
    return {
        "meta": {"epoch": 1, "iter": 2, "seed": 0, "cfg": "a = 1\n", "experiment_name": "tiny", "time": "20240101"},
        "state_dict": layer.state_dict(),
        "message_hub": {
            "log_scalars": {"train/loss": HistoryBuffer([0.5, 0.25], [1, 1])},
            "runtime_info": {"epoch": 0, "best_score": 0.3, "best_ckpt": "run/best_ccc_epoch_1.pth"},
            "resumed_keys": {"train/loss": True, "best_score": True},
        },
        "optimizer": optimizer.state_dict(),
        "param_schedulers": [scheduler],
        "extra": {"array": np.arange(3), "scalar": np.float32(1.5), "name": "é", "bytes": b"\x00\xff"},
    }


def whole_files() -> dict[str, bytes]:
    """A file of each format by its name."""
    torch.manual_seed(0)
    content = training_checkpoint()
    files = {"weights.safetensors": save(content["state_dict"])}
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for name, saved, options in (
        ("zip.pth", content, {}),
        ("zip_5.pth", content, {"pickle_protocol": 5}),
        ("old.pth", content, {"_use_new_zipfile_serialization": False}),
        ("module.pth", module, {}),
        ("old_module.pth", module, {"_use_new_zipfile_serialization": False}),
    ):
        stream = io.BytesIO()
        torch.save(saved, stream, **options)
        files[name] = stream.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(files["zip.pth"])) as source, zipfile.ZipFile(packed, "w", 8) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    return files | {"packed.pth": packed.getvalue()}


def same(one: object, other: object) -> bool:
    """Compare what two files hold, bit by bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, HistoryBuffer):
        return one.max_length == other.max_length and same(one.data, other.data)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def outcome(path: Path) -> object:
    """Read a file as far as anything here would: None if it is refused, in one line that a terminal can show."""
    try:
        content = read_checkpoint(path)
        unwrap_state_dict(content, path)
        if "meta" in content:
            check_training_state(content, path)
    except CheckpointError as error:
        text = str(error)
        assert text.isprintable()
        assert len(text) < len(str(path)) + 700
        assert path.name in text
        return None
    return content


def mutants(whole: bytes, rng: random.Random) -> Iterator[tuple[bytes, bool]]:
    """Damage a file at random, for ever: bits, bytes, numbers, blocks, cuts; and tell whether that must be seen.

    It must in a zip archive whose checksums were not mended.
    """
    while True:
        data = bytearray(whole)
        mend = rng.random() < 0.6
        if mend and data.startswith(b"PK"):
            yield _mended(whole, rng), False
            continue
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            _damage(data, rng)
        yield bytes(data), whole.startswith(b"PK")


def _damage(data: bytearray, rng: random.Random) -> None:
    if not data:
        return
    place = rng.randrange(len(data))
    kind = rng.randrange(8)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place] = rng.randrange(256)
    elif kind == 2:
        number = rng.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, len(data), rng.randrange(1 << 32)))
        data[place : place + 4] = struct.pack("<I", number)[: len(data) - place]
    elif kind == 3:
        number = rng.choice((0, 1 << 20, 1 << 40, 1 << 62, (1 << 63) - 1, (1 << 64) - 1))
        data[place : place + 8] = struct.pack("<Q", number)[: len(data) - place]
    elif kind == 4:
        del data[place : place + rng.choice((1, 2, 8, 64))]
    elif kind == 5:
        data[place:place] = data[place : place + rng.choice((1, 2, 8, 64))] * rng.choice((1, 2, 50))
    elif kind == 6:
        other = rng.randrange(len(data))
        size = rng.choice((1, 4, 16))
        data[place : place + size] = data[other : other + size]
    else:
        opcodes = b"(.012KMJGVX}]l)tsuabcRQqhjr\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8e\x8f\x90\x91\x94\x95\x96"
        data[place] = rng.choice(opcodes)


def _mended(whole: bytes, rng: random.Random) -> bytes:
    """Damage one record of a zip, mostly the pickle, and write the archive anew, so that every checksum is right."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(target, "w") as copy:
        names = source.namelist()
        chosen = names[0] if rng.random() < 0.9 else rng.choice(names)
        for name in names:
            data = bytearray(source.read(name))
            if name == chosen:
                for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
                    _damage(data, rng)
            copy.writestr(name, bytes(data))
    return target.getvalue()
