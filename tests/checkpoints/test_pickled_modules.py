"""Whole modules in a pickle: their tensors are read without their classes; whatever else is in them does nothing."""

import contextlib
import itertools
import json
import pickle
import sys
import types
from functools import partial

import pytest
import torch
from torch import nn

from hocp_mm.checkpoints import Weights, read_checkpoint, reading_once, unwrap_state_dict
from hocp_mm.errors import CheckpointError
from tests.checkpoints import hostile_modules
from tests.checkpoints.hostile_modules import PLACES, module, module_file, odd, placed, running, write_script
from tests.checkpoints.hostile_pickles import tensor
from tests.checkpoints.test_hostile_files import MOST_MEGABYTES, old_file
from tests.material.pickled_modules.make import HERE, pictures, tiny_efficientnet
from tests.reliability.fuzz_checkpoints import peak_megabytes


class Gate(nn.Module):
    """With everything that a module may hold."""

    def __init__(self, shared):
        super().__init__()
        self.scale = nn.Parameter(torch.arange(3.0))
        self.shape = (1, 2, "a")
        self.norm_layer = partial(nn.BatchNorm2d, eps=1e-3)
        self.method = self.forward
        self.kind = nn.ReLU
        self.register_parameter("bias", None)
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool))
        self.register_buffer("cache", torch.zeros(7), persistent=False)
        self.add_module("nothing", None)
        self.shared = shared
        self.parent = []

    def forward(self, x):
        return x


def network():
    torch.manual_seed(0)
    shared = nn.Conv2d(3, 4, 1)
    net = nn.Sequential(shared, nn.BatchNorm2d(4), Gate(shared), nn.ModuleList([nn.Linear(2, 2), nn.Identity()]))
    net[2].parent.append(net)
    net[3][0].weight = net[3][0].weight.requires_grad_(False)
    net.eval()
    return net


WRAPPINGS = {
    "bare": lambda net: net,
    "parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "under model": lambda net: {"epoch": 3, "model": net},
    "under another word": lambda net: {"epoch": 3, "net": net},
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older than torch 1.6"])
@pytest.mark.parametrize("wrapping", list(WRAPPINGS))
def test_a_module_is_read_as_its_state_dict_without_its_class(tmp_path, monkeypatch, wrapping, zipped, protocol):
    foreign = types.ModuleType("a_module_of_somebody")
    monkeypatch.setitem(sys.modules, foreign.__name__, foreign)
    monkeypatch.setattr(Gate, "__module__", foreign.__name__)
    foreign.Gate = Gate
    net, path = network(), tmp_path / "net.pt"
    saved = WRAPPINGS[wrapping](net)
    torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, foreign.__name__)
    weights, expected = unwrap_state_dict(read_checkpoint(path), path), net.state_dict()
    assert list(weights) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0)
    assert not any(value.requires_grad or type(value) is nn.Parameter for value in weights.values())
    assert "a whole module of class torch." in weights.notes[0]


def test_a_module_describes_itself(tmp_path):
    torch.save({"a": 1, "model": network()}, tmp_path / "net.pt")
    with reading_once():
        for _ in range(2):
            about = read_checkpoint(tmp_path / "net.pt")["model"].description
            assert list(about.classes) == ["", "0", "1", "2", "2.shared", "3", "3.0", "3.1"]
            assert about.classes["1"] == "torch.nn.modules.batchnorm.BatchNorm2d"
            assert about.classes["2.shared"] == about.classes["0"]
            assert about.attributes["0"]["kernel_size"] == (1, 1)
            assert about.attributes["1"]["num_features"] == 4
            assert about.attributes["2"] == {"shape": (1, 2, "a")}
            assert about.not_called == ("functools.partial",)
        torch.save(network(), tmp_path / "bare.pt")
        for _ in range(2):
            assert (
                read_checkpoint(tmp_path / "bare.pt").description.classes[""] == "torch.nn.modules.container.Sequential"
            )


def test_nothing_is_imported_for_a_module(tmp_path, monkeypatch):
    (tmp_path / "a_package_of_somebody.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    body = module(kind=hostile_modules.name("a_package_of_somebody", "Net"))
    assert list(read_checkpoint(module_file(tmp_path / "net.pt", body))) == ["w"]
    assert "a_package_of_somebody" not in sys.modules


def test_two_modules_in_a_dict_are_not_chosen_from(tmp_path):
    torch.save({"generator": nn.Linear(1, 1), "critic": nn.Linear(1, 1)}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"net\.pt: no weights under .*got keys critic, generator"):
        unwrap_state_dict(read_checkpoint(tmp_path / "net.pt"), tmp_path / "net.pt")


# ----- timm of old


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.pt")))
def test_a_module_of_an_old_timm_says_the_same_on_todays(file):
    """HSEmotion's format; each file was pickled by the release in its name, with the outputs beside it."""
    version = file.removesuffix(".pt").split("_")[1]
    said = json.loads((HERE / "outputs.json").read_text())[version]
    weights = unwrap_state_dict(read_checkpoint(HERE / file), file)
    assert "a whole module of class " in weights.notes[0]
    net = tiny_efficientnet().eval()
    net.load_state_dict(weights)
    with torch.no_grad():
        logits, features = net(pictures()), net.forward_features(pictures()).mean((2, 3))
    torch.testing.assert_close(logits, torch.tensor(said["logits"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features, torch.tensor(said["features"]), rtol=1e-5, atol=1e-5)


def test_there_are_files_of_four_releases_of_timm():
    assert {path.name.split("_")[1].removesuffix(".pt")[:3] for path in HERE.glob("*.pt")} >= {
        "0.4",
        "0.5",
        "0.6",
        "0.9",
    }


# ----- moving averages, prefixes


def test_the_moving_average_is_taken_and_said():
    raw, average = {"w": torch.zeros(1)}, {"module.w": torch.ones(1)}
    for key in ("state_dict_ema", "model_ema"):
        for other in ("state_dict", "model"):
            weights = unwrap_state_dict({other: raw, key: average})
            assert weights["w"] == 1
            assert weights.notes == [f"the moving average under '{key}' was taken, not the last weights beside it"]
            assert unwrap_state_dict({other: raw, key: None})["w"] == 0
            assert unwrap_state_dict({other: raw, key: {}}).notes == []
    assert unwrap_state_dict({"state_dict": raw, "ema_state_dict": average})["w"] == 0  # MMEngine's raw weights


@pytest.mark.parametrize("inside", [None, "model"])
def test_of_two_sets_of_weights_beside_each_other_the_one_that_was_taken_is_said(inside):
    sets = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "ema_state_dict")
    for names in itertools.permutations(sets, 2):
        content = {name: {"w": torch.full((1,), float(number))} for number, name in enumerate(names)}
        weights = unwrap_state_dict({inside: content} if inside else content)
        taken = names[int(weights["w"])]
        assert len(weights.notes) == 1
        assert f"under '{taken}' w" in weights.notes[0]
        assert unwrap_state_dict({taken: content[taken], names[names[0] == taken]: {}, "epoch": 3}).notes == []


def test_an_average_of_some_weights_or_in_another_form_is_not_taken():
    """Trainers keep averages of parameters alone, without the statistics of norms, or in objects of their own."""
    raw = {"a.weight": torch.zeros(1), "n.running_mean": torch.zeros(1), "n.num_batches_tracked": torch.tensor(3)}
    part = {"module.a.weight": torch.ones(1)}
    for average in (part, {"decay": 0.9, "shadow": part}, {"decay": 0.9, "shadow_params": [torch.ones(1)]}):
        weights = unwrap_state_dict({"state_dict": raw, "model_ema": average})
        assert weights["a.weight"] == 0
        assert weights.keys() == raw.keys()
        assert weights.notes == ["'model_ema' is not an average of all weights, so the last ones were taken"]
    whole = {"module.a.weight": torch.ones(1), "module.n.running_mean": torch.ones(1), "n_averaged": torch.tensor(2)}
    for last in (raw, {"module.a.weight": torch.zeros(1)}, {"state_dict": raw}):
        assert unwrap_state_dict({"model": last, "model_ema": whole})["a.weight"] == 1


def test_a_module_beside_weights_does_not_stand_for_them(tmp_path):
    """Losses with class weights are modules that hold a tensor, too."""
    net, loss, path = nn.Linear(2, 2), nn.CrossEntropyLoss(weight=torch.ones(3)), tmp_path / "net.pt"
    torch.save({**net.state_dict(), "criterion": loss}, path)
    assert list(unwrap_state_dict(read_checkpoint(path))) == ["weight", "bias"]
    torch.save({"generator": net.state_dict(), "criterion": loss}, path)
    with pytest.raises(CheckpointError, match=r"got keys criterion, generator"):
        unwrap_state_dict(read_checkpoint(path), path)
    torch.save({"net": net, "criterion": nn.CrossEntropyLoss()}, path)
    assert list(unwrap_state_dict(read_checkpoint(path))) == ["weight", "bias"]


def test_marks_of_torch_compile_and_the_counter_of_an_average_are_taken_off():
    state = {"n_averaged": torch.tensor(3), "module._orig_mod.w": torch.ones(1)}
    assert list(unwrap_state_dict(state)) == ["w"]
    assert list(unwrap_state_dict({"_orig_mod.w": torch.ones(1), "v": torch.ones(1)})) == ["_orig_mod.w", "v"]
    assert isinstance(unwrap_state_dict(state), Weights)


# ----- hostile ones


def read_or_refused(path):
    """Return what a file gives, or the one line that refuses it."""
    try:
        return unwrap_state_dict(read_checkpoint(path), path)
    except CheckpointError as error:
        told = str(error)
    assert told.isprintable()
    assert len(told) < len(str(path)) + 700
    assert path.name in told
    return told


@pytest.mark.parametrize("attack", list(running(HERE / "mark")))
def test_what_would_run_does_nothing_wherever_it_stands(tmp_path, attack):
    mark, read = tmp_path / "mark", set()
    write_script(mark)
    payload = running(mark)[attack]
    for place in PLACES:
        if read_or_refused(module_file(tmp_path / "evil.pt", placed(payload, place))).__class__ is Weights:
            read.add(place)
    assert not mark.exists()
    assert read <= {"attribute", "key", "class"}  # where the object itself is not needed


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("attack", list(running(HERE / "mark")))
def test_the_attacks_are_real(tmp_path, attack):
    """Plain unpickling runs them, so the test above can fail; as two protocols do, since names differ."""
    mark = tmp_path / "mark"
    write_script(mark)
    for protocol in (b"\x02", b"\x04"):
        with contextlib.suppress(Exception):  # some fail after they have run
            pickle.loads(pickle.PROTO + protocol + running(mark)[attack] + pickle.STOP)
    assert mark.exists()


def test_there_are_forty_attacks_and_more():
    assert len(running(HERE / "mark")) + len(odd()) >= 70


@pytest.mark.parametrize("case", list(odd()))
def test_an_odd_module_is_refused_or_harmless(tmp_path, case):
    before = peak_megabytes()
    told = read_or_refused(module_file(tmp_path / "odd.pt", odd()[case]))
    if case in hostile_modules.HARMLESS:
        assert isinstance(told, Weights)
        assert next(iter(told.values())).tolist() == [1, 2, 3, 4]
        assert all(note.isprintable() for note in told.notes)
    else:
        assert isinstance(told, str)
        assert "holds" in told or "damaged" in told
    assert peak_megabytes() - before < MOST_MEGABYTES


@pytest.mark.parametrize("write", [module_file, old_file], ids=["zip", "older than torch 1.6"])
def test_modules_are_counted_for_the_whole_file(tmp_path, write):
    with pytest.raises(CheckpointError, match=r"odd\.pt: holds more than 65536 modules and tensors, "):
        read_checkpoint(write(tmp_path / "odd.pt", hostile_modules.shared()))


def test_a_class_with_source_of_the_older_format_is_not_compared(tmp_path, recwarn):
    """Torch looks the source of a class up, and warns."""
    torch.save(nn.Linear(1, 1), tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    read_checkpoint(tmp_path / "net.pt")
    assert not recwarn.list


def test_a_foreign_object_beside_the_weights_is_refused_by_name(tmp_path):
    torch.save({"model": nn.Linear(1, 1), "optimizer": torch.optim.SGD([torch.zeros(1)])}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"net\.pt: holds torch\.optim\.sgd\.SGD, "):
        read_checkpoint(tmp_path / "net.pt")


def test_a_module_by_hand_is_read(tmp_path):
    """What the tests of hostile ones start from."""
    assert read_checkpoint(module_file(tmp_path / "net.pt", module()))["w"].tolist() == [1, 2, 3, 4]
    assert len(tensor()) > 0
