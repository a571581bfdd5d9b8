"""MMEngine's Runner over our reader: resuming, loading, refusing."""

import os

import mmengine.runner.checkpoint as mmengine_checkpoint
import pytest
import torch

from hocp_mm.checkpoints import unwrap_state_dict
from hocp_mm.compat import apply, checkpoint_loading
from hocp_mm.errors import CheckpointError
from tests.material.one_layer_run import make_runner
from tests.material.readings import count_readings


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


def test_copies_of_two_addresses_that_end_alike_are_two(tmp_path):
    def address(number: int, name: str = "a.pth") -> str:
        (tmp_path / str(number)).mkdir(exist_ok=True)
        torch.save({"number": number}, tmp_path / str(number) / name)
        return (tmp_path / str(number) / name).as_uri()  # what urllib fetches as any other

    def load(source: str):
        return checkpoint_loading.load_from_address(source, model_dir=str(tmp_path / "copies"), progress=False)

    assert [load(address(number))["number"] for number in (1, 2, 1)] == [1, 2, 1]
    with pytest.raises(CheckpointError, match=r"a-0123abcd\.pth: cannot be fetched \(invalid hash value"):
        load(address(3, "a-0123abcd.pth"))
    with pytest.raises(CheckpointError, match=r"nothing\.pth: cannot be fetched"):
        load((tmp_path / "nothing.pth").as_uri())
    assert len(list((tmp_path / "copies").iterdir())) == 2


def test_what_was_handed_over_is_given_out_once_and_only_if_the_file_is_still_the_same(tmp_path, monkeypatch):
    file = tmp_path / "a.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": {"config": "raise", "epoch": 1}}, file)
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "b.pth")
    read = count_readings(monkeypatch)
    given = {"w": torch.zeros(2)}
    checkpoint_loading.hand_over(str(file), given)
    checkpoint_loading.load_from_local(str(tmp_path / "b.pth"))  # something else in between
    handed = checkpoint_loading.load_from_local(str(file), "cpu")
    assert handed == {"meta": {"epoch": 1}, "state_dict": given}
    assert read == ["a.pth", "b.pth"]
    assert checkpoint_loading.load_from_local(str(file))["meta"] == {"epoch": 1}
    assert read == ["a.pth", "b.pth", "a.pth"]
    checkpoint_loading.hand_over(str(file), given)
    evil = type("Attack", (), {"__reduce__": lambda self: (os.system, ("true",))})()
    torch.save({"state_dict": {}, "x": evil}, file)
    with pytest.raises(CheckpointError, match=r"a\.pth: holds"):
        checkpoint_loading.load_from_local(str(file))
    file.unlink()
    with pytest.raises(CheckpointError, match=r"a\.pth: no such checkpoint"):
        checkpoint_loading.load_from_local(str(file))


ODD_TENSORS = {
    "complex": torch.full((1, 2), 1 + 5j),
    "float8": torch.ones(1, 2).to(torch.float8_e4m3fn),
}


@pytest.mark.usefixtures("safe_loader")
@pytest.mark.parametrize("kind", ODD_TENSORS)
@pytest.mark.parametrize("wrap", ["", "state_dict", "ema_state_dict"])
def test_what_would_lose_a_part_on_its_way_into_a_model_is_refused(tmp_path, kind, wrap):
    state = {**torch.nn.Linear(2, 1).state_dict(), "weight": ODD_TENSORS[kind]}
    torch.save({wrap: state} if wrap else state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: weights must be plain tensors, got one .* for weight\."):
        mmengine_checkpoint.load_checkpoint(torch.nn.Linear(2, 1), str(tmp_path / "a.pth"))


@pytest.mark.usefixtures("safe_loader")
@pytest.mark.parametrize("odd", ["text", None, [1.0], {"weight": torch.ones(1, 2)}], ids=type)
@pytest.mark.parametrize("wrap", ["state_dict", "ema_state_dict"])
def test_what_is_no_tensor_among_weights_is_refused_and_beside_them_let_be(tmp_path, odd, wrap):
    state = torch.nn.Linear(2, 1).state_dict()
    torch.save({wrap: {**state, "weight": odd}}, path := tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: weights must be tensors, got .* for weight\."):
        mmengine_checkpoint.load_checkpoint(torch.nn.Linear(2, 1), str(path))
    for harmless in ({**state, "epoch": odd}, {wrap: {**state, "a._extra_state": odd}}):
        torch.save(harmless, path)
        mmengine_checkpoint.load_checkpoint(torch.nn.Linear(2, 1), str(path))


@pytest.mark.usefixtures("safe_loader")
@pytest.mark.parametrize("wrap", ["", "state_dict"])
def test_two_tensors_do_not_become_one_without_a_prefix(tmp_path, wrap):
    state = torch.nn.Linear(2, 1).state_dict() | {"module.weight": torch.zeros(1, 2)}
    torch.save({wrap: state} if wrap else state, path := tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: tensors must have names of their own, got two for weight\."):
        mmengine_checkpoint.load_checkpoint(torch.nn.Linear(2, 1), str(path), strict=True)


@pytest.mark.usefixtures("safe_loader")
@pytest.mark.parametrize("state", [None, 5, [torch.ones(1)], torch.ones(1)], ids=type)
def test_a_state_dict_that_is_none_is_named(tmp_path, state):
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: state_dict must be a dict"):
        mmengine_checkpoint.load_checkpoint(torch.nn.Linear(2, 1), str(tmp_path / "a.pth"))


ODD_VERSIONS = {
    "a number": 5,
    "text": "abc",
    "a list": [1],
    "a number for a layer": {"": 5},
    "text for a layer": {"": "abc"},
    "text as version": {"": {"version": "abc"}},
    "a truth value as version": {"": {"version": True}},
    "a number as name": {3: {"version": 1}},
    "more than versions": {"": {"version": 1, "assign_to_params_buffers": True}},
}


@pytest.mark.usefixtures("safe_loader")
@pytest.mark.parametrize("versions", ODD_VERSIONS.values(), ids=ODD_VERSIONS)
@pytest.mark.parametrize("wrap", ["", "state_dict"])
def test_what_a_file_says_about_versions_changes_no_way_of_loading(tmp_path, versions, wrap):
    own, path = torch.nn.BatchNorm1d(2), tmp_path / "a.pth"
    state = torch.nn.BatchNorm1d(2).double().state_dict()
    state["weight"] += 1
    state._metadata = versions
    torch.save({wrap: state} if wrap else state, path)
    parameter = own.weight
    mmengine_checkpoint.load_checkpoint(own, str(path), strict=True)
    assert own.weight is parameter
    assert own.weight.tolist() == [2, 2]
    assert own.weight.dtype == torch.float32
    unwrap_state_dict(checkpoint_loading.load_from_local(str(path)))


@pytest.mark.usefixtures("safe_loader")
def test_versions_of_layers_are_kept(tmp_path):
    old = torch.nn.BatchNorm1d(2).state_dict()
    torch.save({"state_dict": old}, tmp_path / "a.pth")
    read = checkpoint_loading.load_from_local(str(tmp_path / "a.pth"))["state_dict"]
    assert read._metadata == old._metadata == {"": {"version": 2}}
