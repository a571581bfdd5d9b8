"""Reading weight files: what training writes is read, what could run code is refused, what is damaged is named."""

import argparse
import collections
import contextlib
import copyreg
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from hocp_mm.checkpoints.reading import read_checkpoint, reading_once, unwrap_state_dict
from hocp_mm.compat.checkpoint_loading import load_from_local
from hocp_mm.errors import CheckpointError
from tests.material.readings import count_readings


class Calls:
    """Pickles as a call of ``function(*arguments)``, which plain unpickling would run."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class SetsState:
    """Pickles as an object that is on the list, given a state that it would not have itself."""

    def __init__(self, target, state):
        self.target, self.state = target, state

    def __reduce_ex__(self, protocol):
        function, arguments = self.target.__reduce_ex__(protocol)[:2]
        return function, arguments, self.state


WEIGHTS = {"conv.weight": torch.arange(4.0).reshape(2, 2), "norm.num_batches_tracked": torch.tensor(7)}


def assert_same_weights(read, expected=WEIGHTS):
    assert list(read) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(read[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".pth.tar"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older than torch 1.6"])
def test_state_dict_is_read_in_both_formats(tmp_path, suffix, zipped):
    path = tmp_path / f"weights{suffix}"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    assert_same_weights(read_checkpoint(path))


def test_safetensors_is_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    assert_same_weights(dict(sorted(read_checkpoint(tmp_path / "weights.safetensors").items())))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_a_training_checkpoint_holds_is_read(tmp_path, protocol):
    history = HistoryBuffer([0.5, 0.25], [1, 1])
    saved = {
        "state_dict": torch.nn.Linear(2, 3).state_dict(),  # an OrderedDict with `_metadata`
        "history": history,
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "names": np.array(["S001", "S002"]),
        "objects": np.array(["a", None, 3], dtype=object),
        "scalar": np.float64(0.37),
        "config": ConfigDict(a=ConfigDict(b=1)),
        "arguments": argparse.Namespace(lr=0.1),
        "bytes": b"\x00\xff",
        "kinds": [{1, 2}, frozenset({3}), 1 + 2j, range(3), slice(1, 2), collections.Counter("aab")],
        "torch": [torch.float16, torch.device("cpu"), torch.Size([1, 2]), torch.nn.Parameter(torch.ones(1))],
        "shared": [torch.zeros(4)] * 2,
    }
    torch.save(saved, tmp_path / "epoch_1.pth", pickle_protocol=protocol)
    read = read_checkpoint(tmp_path / "epoch_1.pth")
    assert read["state_dict"]._metadata == saved["state_dict"]._metadata
    assert isinstance(read["history"], HistoryBuffer)
    assert read["history"].mean() == history.mean() == 0.375
    assert read["history"].statistics("current") == 0.25
    for key in ("array", "fortran", "names", "objects"):
        assert read[key].dtype == saved[key].dtype
        np.testing.assert_array_equal(read[key], saved[key])
    assert (read["scalar"], type(read["scalar"])) == (0.37, np.float64)
    assert read["config"] == {"a": {"b": 1}}
    assert type(read["config"]["a"]) is dict
    assert read["arguments"].lr == 0.1
    assert read["bytes"] == b"\x00\xff"
    assert read["kinds"] == saved["kinds"]
    assert read["torch"] == saved["torch"]
    assert isinstance(read["torch"][3], torch.nn.Parameter)
    assert read["shared"][0].data_ptr() == read["shared"][1].data_ptr()


def attacks(victim: Path) -> dict[str, object]:
    """Objects that write ``victim`` when a plain unpickler meets them."""
    return {
        "os.system": Calls(os.system, f"touch {victim}"),
        "eval": Calls(eval, f"open({str(victim)!r}, 'w')"),
        "open": Calls(open, str(victim), "w"),
        "Path.touch": Calls(Path.touch, victim),
        "getattr of a module": Calls(getattr, Calls(__import__, "os"), "system"),
        "torch.load inside": Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, f"touch {victim}"))),
        "another method through getattr": Calls(getattr, HistoryBuffer, "register_statistics"),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older than torch 1.6"])
@pytest.mark.parametrize("attack", list(attacks(Path("x"))))
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, attack, zipped):
    victim, path = tmp_path / "victim", tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "x": attacks(victim)[attack]}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"evil\.pth: holds .*nothing was executed"):
        read_checkpoint(path)
    assert not victim.exists()


def test_the_attack_is_real(tmp_path):
    """Without the guard the same file does run, so the test above can fail."""
    torch.save(attacks(tmp_path / "victim")["os.system"], tmp_path / "evil.pth")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "victim").exists()


def test_code_in_a_bare_pickle_does_not_run(tmp_path):
    """The header of an old file is read before its content, by another call."""
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(attacks(tmp_path / "victim")["os.system"], protocol=2))
    with pytest.raises(CheckpointError, match=r"evil\.pth: holds (posix|nt)\.system"):
        read_checkpoint(path)
    assert not (tmp_path / "victim").exists()


UNSAFE_STATES = {
    "references from raw bytes": (np.zeros(1), (1, (1,), np.dtype(object), False, b"\x01" * 8)),
    "dtype with fields": (np.dtype("f8"), (3, "<", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)),
    "state of a parameter": (torch.nn.Parameter(torch.ones(1)), {"grad_fn": 1}),
}


@pytest.mark.parametrize("case", list(UNSAFE_STATES))
def test_state_that_could_break_memory_is_refused(tmp_path, case):
    torch.save({"x": SetsState(*UNSAFE_STATES[case])}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth: holds "):
        read_checkpoint(tmp_path / "odd.pth")


def test_numbered_names_of_copyreg_are_refused(tmp_path):
    copyreg.add_extension("posixpath", "join", 240)
    try:
        torch.save({"x": Calls(os.path.join, "a", "b")}, tmp_path / "odd.pth")
        with pytest.raises(CheckpointError, match="copyreg extension 240"):
            read_checkpoint(tmp_path / "odd.pth")
    finally:
        copyreg.remove_extension("posixpath", "join", 240)


def test_torchscript_is_refused_before_torch_jit_sees_it(tmp_path):
    path = tmp_path / "program.pt"
    with zipfile.ZipFile(path, "w") as archive:  # what marks one; saving a real one is deprecated in torch
        archive.writestr("program/constants.pkl", pickle.dumps(()))
        archive.writestr("program/data.pkl", pickle.dumps({}))
    with pytest.raises(CheckpointError, match=r"program\.pt: a TorchScript program"):
        read_checkpoint(path)


def whole_file(path: Path) -> bytes:
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, path)
    return path.read_bytes()


DAMAGE = {
    "empty": (lambda whole: b"", "is empty"),
    "cut to half": (lambda whole: whole[: len(whole) // 2], "cut off"),
    "web page": (lambda whole: b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
    "git lfs pointer": (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "tar": (lambda whole: TAR, "tar format"),
    "text": (lambda whole: b"valence,arousal\n0.1,0.2\n", "damaged or no torch checkpoint"),
    "zeros": (lambda whole: bytes(1000), "damaged or no torch checkpoint"),
    "zip of something else": (lambda whole: ZIP_OF_TEXT, "damaged or no torch checkpoint"),
    "old format cut": (
        lambda whole: pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2),
        "damaged or no torch checkpoint",
    ),
}
TAR = tarfile.TarInfo("storages").tobuf() + bytes(1024)
ZIP_OF_TEXT = b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize("case", list(DAMAGE))
def test_a_damaged_file_is_named(tmp_path, case):
    damage, rule = DAMAGE[case]
    path = tmp_path / "weights.pth"
    path.write_bytes(damage(whole_file(path)))
    with pytest.raises(CheckpointError, match=rf"weights\.pth: .*{rule}"):
        read_checkpoint(path)


def test_flipped_bytes_inside_the_pickle_are_named(tmp_path):
    path = tmp_path / "weights.pth"
    whole = whole_file(path)
    place = whole.index(b"state_dict") - 8
    path.write_bytes(whole[:place] + b"\xee" * 6 + whole[place + 6 :])
    with pytest.raises(CheckpointError, match=r"weights\.pth: "):
        read_checkpoint(path)


def test_a_cut_safetensors_file_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: not a whole safetensors file"):
        read_checkpoint(path)


def test_a_pickle_called_safetensors_is_named(tmp_path):
    torch.save(WEIGHTS, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: content is a torch pickle.*rename"):
        read_checkpoint(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("absent.pth", "no such checkpoint file"),
        ("folder.pth", "got a folder"),
        ("video.avi", "suffix must be one of"),
        ("net.h5", "of Keras or TensorFlow: export it with python -m tf2onnx"),
    ],
)
def test_what_is_no_weight_file_is_refused(tmp_path, name, rule):
    (tmp_path / "folder.pth").mkdir()
    for other in ("video.avi", "net.h5"):
        (tmp_path / other).write_bytes(b"RIFF")
    with pytest.raises(CheckpointError, match=f"{name}.*{rule}"):
        read_checkpoint(tmp_path / name)


def test_a_list_at_the_top_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth: a checkpoint must hold a dict, got list"):
        read_checkpoint(tmp_path / "list.pth")


WRAPPED = {
    "bare": WEIGHTS,
    "mmengine": {"meta": {}, "state_dict": WEIGHTS},
    "timm": {"epoch": 1, "model": WEIGHTS},
    "hand-written": {"model_state_dict": WEIGHTS, "optimizer_state_dict": {}},
    "nested": {"model": {"state_dict": WEIGHTS}},
    "parallel": {"state_dict": {f"module.{name}": value for name, value in WEIGHTS.items()}},
    "parallel twice": {f"module.module.{name}": value for name, value in WEIGHTS.items()},
}


@pytest.mark.parametrize("case", list(WRAPPED))
def test_weights_are_found_in_every_wrapping(case):
    assert_same_weights(unwrap_state_dict(WRAPPED[case]))


def test_a_submodule_called_module_keeps_its_name():
    state = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert list(unwrap_state_dict(state)) == list(state)


def test_a_checkpoint_without_weights_is_named():
    with pytest.raises(CheckpointError, match=r"run/opt\.pth: no weights .*got keys epoch, optimizer"):
        unwrap_state_dict({"optimizer": {}, "epoch": 3}, source="run/opt.pth")


ODD_WEIGHTS = {
    "text": ("text", "must be tensors, got text"),
    "none": (None, "must be tensors, got None"),
    "array": (np.ones(2), "must be tensors, got a ndarray"),
    "dict": ({"a": 1}, "must be tensors, got a dict"),
    "meta": (torch.ones(2, device="meta"), "must be plain tensors, got one without values"),
    "sparse": (torch.eye(2).to_sparse(), "must be plain tensors, got one sparse"),
    "complex": (torch.ones(2, dtype=torch.complex64), "must be plain tensors, got one of torch.complex64"),
    "nested": (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "must be plain tensors, got one nested"),
    "float8": (torch.ones(2).to(torch.float8_e5m2), "must be plain tensors, got one of torch.float8_e5m2"),
    "quantised": (
        torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
        "must be plain tensors, got one quantised",
    ),
}


@pytest.mark.parametrize("case", list(ODD_WEIGHTS))
def test_what_is_no_plain_tensor_among_the_weights_is_named(case):
    value, rule = ODD_WEIGHTS[case]
    with pytest.raises(CheckpointError, match=rf"x\.pth: weights {rule} for fc\.weight\."):
        unwrap_state_dict({"state_dict": WEIGHTS | {"fc.weight": value}}, "x.pth")


def test_what_is_no_tensor_is_left_out_of_bare_weights_and_extra_state_of_wrapped_ones():
    state = WEIGHTS | {"layer._extra_state": b"x", "other._extra_state": None}
    assert list(unwrap_state_dict(state | {"epoch": 3})) == list(unwrap_state_dict({"model": state})) == [*WEIGHTS]


def test_weights_come_without_gradients():
    weights = unwrap_state_dict({"w": torch.nn.Parameter(torch.ones(1))})
    assert type(weights["w"]) is torch.Tensor
    assert not weights["w"].requires_grad


def test_a_name_that_is_no_text_is_named():
    with pytest.raises(
        CheckpointError, match="names of weights must be printable text of at most 1000 characters, got 3"
    ):
        unwrap_state_dict({"w": torch.ones(1), 3: torch.ones(1)})


def test_wrappers_without_end_are_refused():
    endless = {}
    endless["model"] = endless
    with pytest.raises(CheckpointError, match="no weights under"):
        unwrap_state_dict(endless)


def test_prefixes_without_end_are_kept():
    """Stripping them one by one would take for ever."""
    name = "module." * 140 + "w"
    assert len(next(iter(unwrap_state_dict({name: torch.ones(1)})))) > len(name) - 100


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("wrap", [dict, lambda state: {"model": state}], ids=["bare", "wrapped"])
def test_a_name_without_end_is_refused(tmp_path, suffix, wrap):
    """Each part of one would become an object of its own."""
    file, name = tmp_path / f"x{suffix}", "features" + ".1" * 1000 + ".weight"
    if suffix == ".pth":
        torch.save(wrap({name: torch.ones(1)}), file)
    else:
        save_file({name: torch.ones(1)}, file)
    rule = rf"x{suffix}: names of weights must be .* at most 1000 characters, got features\.1.{{80,200}}…\.$"
    with pytest.raises(CheckpointError, match=rule):
        unwrap_state_dict(read_checkpoint(file), file)


class Endless:
    """A key that is too long to be written out."""

    def __repr__(self):
        raise AssertionError("written out")


@pytest.mark.parametrize("key", [(Endless(),), Endless(), 3, b"x", None, 1.5])
@pytest.mark.parametrize("wrap", [dict, lambda state: {"model": state}], ids=["bare", "wrapped"])
@pytest.mark.parametrize("value", [torch.ones(1), 3, {}], ids=["tensor", "number", "dict"])
def test_a_key_that_is_no_text_is_not_written_out(key, wrap, value):
    """A tuple of one long text sixty times is a few bytes in a file."""
    for state in ({key: value}, {key: value, "w": torch.ones(1)}):
        with contextlib.suppress(CheckpointError):
            assert list(unwrap_state_dict(wrap(state))) == ["w"]
        with contextlib.suppress(CheckpointError):
            unwrap_state_dict({"state_dict_ema": state, "state_dict": {"w": torch.ones(1)}})


def test_names_in_errors_are_short_and_printable():
    with pytest.raises(CheckpointError) as caught:
        unwrap_state_dict({"\x1b[31m\n" + "x" * 10_000_000: 1})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_within_a_block_a_file_is_read_once_as_long_as_it_stays_the_same(tmp_path, monkeypatch):
    file, link, other = tmp_path / "a.pth", tmp_path / "b.pth", tmp_path / "c.safetensors"
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 1}, file)
    save_file({"w": torch.ones(3)}, other)
    link.symlink_to(file)
    read = count_readings(monkeypatch)
    with reading_once():
        first = read_checkpoint(file)
        first.pop("epoch")  # who takes something out takes it from nobody
        with reading_once():
            assert read_checkpoint(link)["epoch"] == 1
        assert read_checkpoint(str(file))["epoch"] == 1
        assert read_checkpoint(other).keys() == read_checkpoint(other).keys() == {"w"}
        assert read == ["a.pth", "c.safetensors"]
        assert read_checkpoint(file, None).keys() == {"state_dict", "epoch"}  # devices as they were are another reading
        torch.save({"state_dict": {"w": torch.zeros(2)}, "epoch": 2}, file)
        assert read_checkpoint(file)["epoch"] == 2
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(CheckpointError, match=r"a\.pth: damaged"):
            read_checkpoint(file)
        file.unlink()
        with pytest.raises(CheckpointError, match=r"a\.pth: no such checkpoint"):
            read_checkpoint(file)
    read.clear()
    for _ in range(2):
        read_checkpoint(other)
    assert read == ["c.safetensors"] * 2


def test_data_behind_the_end_of_the_pickle_is_refused(tmp_path):
    """Nothing reads it, and nothing of ours writes it."""
    torch.save(WEIGHTS, tmp_path / "good.pth")
    assert_same_weights(read_checkpoint(tmp_path / "good.pth"))
    with zipfile.ZipFile(tmp_path / "good.pth") as good, zipfile.ZipFile(tmp_path / "more.pth", "w") as more:
        for entry in good.infolist():
            more.writestr(
                entry.filename, good.read(entry) + (b"cos\nsystem\n." if "data.pkl" in entry.filename else b"")
            )
    with pytest.raises(CheckpointError, match=r"more\.pth: .*data behind the end of the pickle"):
        read_checkpoint(tmp_path / "more.pth")


@pytest.mark.parametrize(
    "name", ["a\x1b[2J", "a\nERROR: forged", "\ud800", "a\r", "\u202e", "\x00", "x" * 1001, 3, (1,)]
)
def test_names_that_nobody_gives_are_refused_for_all_who_load(tmp_path, name):
    """MMEngine prints those that a model does not have, as they are."""
    file = tmp_path / "x.pth"
    for content in ({name: torch.ones(1)}, {"state_dict": {name: torch.ones(1)}}):
        torch.save(content, file)
        for load in (load_from_local, lambda path: unwrap_state_dict(read_checkpoint(path), path)):
            with pytest.raises(CheckpointError, match=r"x\.pth: names of weights must be printable") as caught:
                load(str(file))
            assert str(caught.value).isprintable()


def test_names_in_other_scripts_are_read(tmp_path):
    torch.save({"größe.重み weight": torch.ones(1)}, tmp_path / "x.pth")
    assert list(load_from_local(str(tmp_path / "x.pth"))) == ["größe.重み weight"]
