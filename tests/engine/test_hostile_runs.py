"""A stranger's work dir or checkpoint: going on from it reaches nothing else, and ends in one line at worst."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hocp_mm.checkpoints import read_checkpoint
from hocp_mm.engine.resuming import find_checkpoint
from hocp_mm.errors import CheckpointError, HOCPError
from tests.engine.test_going_on import BY_ITERATION, RUN, _clean, kill_at, train, weights  # noqa: F401 - a fixture

PRECIOUS = "precious"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with epoch_1.pth, its best checkpoint and last_checkpoint, that ended in its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    kill_at(folder, ("before_train_iter", 4))
    return folder


def copied(run: Path, to: Path) -> Path:
    to.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (to / file.name).write_bytes(file.read_bytes())
    return to


def changed(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    checkpoint = read_checkpoint(run / "epoch_1.pth")
    change(checkpoint)
    torch.save(checkpoint, run / "epoch_1.pth")


@pytest.mark.parametrize("name", ["notes.txt", ".bashrc", "epoch_0.pth", "best_notes.txt", "weights.pth"])
def test_only_a_best_checkpoint_is_taken_for_the_best_and_removed(name: str, interrupted: Path, tmp_path: Path):
    run = copied(interrupted, tmp_path / "run")
    (run / name).write_text(PRECIOUS)
    changed(run, lambda c: c["message_hub"]["runtime_info"].update(best_ckpt=f"/x/{name}", best_score=-1e9))
    train(run, resume=True)
    assert (run / name).read_text() == PRECIOUS


@pytest.mark.parametrize("name", ["epoch_2.pth", "epoch_4.pth", "best_affect_ccc_mean_epoch_2.pth", "last_checkpoint"])
def test_links_in_a_work_dir_are_not_written_through(name: str, interrupted: Path, tmp_path: Path):
    run = copied(interrupted, tmp_path / "run")
    outside = tmp_path / "outside"
    outside.write_text(PRECIOUS)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    train(run, resume=True)
    assert outside.read_text() == PRECIOUS
    assert not (run / name).is_symlink()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_has_the_name_of_the_config_is_told_and_not_waited_for(make: Callable[[Path], None], tmp_path: Path):
    number = int(repr(RUN)[6:-1])  # of the next config
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / f"{tmp_path.name}_{number}.py".replace("-", "_"))
    with pytest.raises(HOCPError, match="work_dir: must be a file that can be written"):
        train(tmp_path / "run", "train_cfg.max_epochs=1")


def test_the_copy_of_the_config_is_not_written_through_a_link(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.write_text(PRECIOUS)
    number = int(repr(RUN)[6:-1])  # of the next config
    (tmp_path / "run").mkdir()
    name = f"{tmp_path.name}_{number}.py".replace("-", "_")
    (tmp_path / "run" / name).symlink_to(outside)
    train(tmp_path / "run", "train_cfg.max_epochs=1")
    assert outside.read_text() == PRECIOUS
    assert (tmp_path / "run" / name).is_file()


@pytest.mark.parametrize("place", ["{time}", "{time}/vis_data", "{time}/{time}.log"])
def test_the_log_is_not_written_through_a_link(place: str, tmp_path: Path):
    """Of a stranger who laid one for every second to come."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "log").write_text(PRECIOUS)
    for second in range(int(time.time()), int(time.time()) + 60):
        link = tmp_path / "run" / place.format(time=time.strftime("%Y%m%d_%H%M%S", time.localtime(second)))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(outside / "log" if link.suffix else outside)
    train(tmp_path / "run", "train_cfg.max_epochs=1")
    assert [file.name for file in outside.iterdir()] == ["log"]
    assert (outside / "log").read_text() == PRECIOUS


def test_a_folder_of_links_leaves_the_original_alone(interrupted: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    before = {file: file.read_bytes() for file in interrupted.iterdir() if file.is_file()}
    for file in before:
        (run / file.name).symlink_to(file)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*run can be read; .*is a link out of its folder"):
        train(run, resume=True)
    assert {file: file.read_bytes() for file in before} == before


def test_a_link_out_of_the_work_dir_is_passed_over_and_one_within_it_is_not(interrupted: Path, tmp_path: Path):
    run = copied(interrupted, tmp_path / "run")
    outside = read_checkpoint(run / "epoch_1.pth")
    outside["meta"]["epoch"] = 4  # who took it would be at the end
    torch.save(outside, tmp_path / "outside.pth")
    (run / "epoch_3.pth").symlink_to(tmp_path / "outside.pth")
    (run / "last_checkpoint").write_text("epoch_3.pth")
    (run / "epoch_1.pth").rename(run / "kept.pth")
    (run / "epoch_1.pth").symlink_to("kept.pth")
    train(run, resume=True)
    assert weights(run)  # epoch_4.pth


ODD: dict[str, Callable[[Path], None]] = {
    "folder": lambda path: path.mkdir(),
    "link to a folder": lambda path: path.symlink_to("/"),
    "link to nowhere": lambda path: path.symlink_to("gone.pth"),
    "named pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("name", ["epoch_4.pth", "iter_7.pth", "interrupted.pth"])
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_bears_the_name_of_a_checkpoint_is_not_begun_over(make: Callable[[Path], None], name: str, tmp_path: Path):
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"must hold the checkpoint to go on from, got {name}"):
        find_checkpoint(tmp_path)


def put(*path: Any) -> Callable[[Any, Any], None]:
    def change(state: Any, value: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


RANDOM = ("processes", 0, "random")
ODD_STATES = [
    *(((*RANDOM, "numpy", 2), value) for value in (625, 2**30, -1, -(2**20), "x")),  # NumPy crashed
    ((*RANDOM, "numpy", 1), torch.zeros(3, dtype=torch.int64)),
    ((*RANDOM, "python", 2), "x"),
    ((*RANDOM, "python", 1), [0]),
    ((*RANDOM, "torch"), torch.zeros(5056, dtype=torch.uint8)),
    *((("batches",), value) for value in (-1, 2**70, "1", 1.5, None, torch.ones(3))),
    *((("validated",), value) for value in (-1, "x", float("nan"), None)),
    *((("sampler", "inner"), value) for value in (-1, 2**64, 10**100, "x")),
    (("sampler",), {}),
    (("processes",), []),
    (("processes",), 5),
]


@pytest.mark.parametrize(("place", "value"), ODD_STATES, ids=str)
def test_odd_states_end_in_one_line(place: tuple[Any, ...], value: Any, interrupted: Path, tmp_path: Path):
    run = copied(interrupted, tmp_path / "run")

    def change(checkpoint: dict[str, Any]) -> None:
        state = checkpoint["run_state"]
        process = state["processes"][0]["random"]  # tuples become lists
        process.update(numpy=list(process["numpy"]), python=list(process["python"]))
        put(*place)(state, value)

    changed(run, change)
    if (place, value) == (("processes",), []):  # of another number of processes: they start anew
        train(run, resume=True)
        return
    with pytest.raises(CheckpointError, match=r"^resume: .*epoch_1\.pth: "):
        train(run, resume=True)


def test_iterations_beyond_the_end_are_not_gone_through(tmp_path: Path):
    kill_at(tmp_path / "run", ("before_train_iter", 4), config=BY_ITERATION)
    file = next((tmp_path / "run").glob("iter_*.pth"))
    checkpoint = read_checkpoint(file)
    checkpoint["meta"]["iter"] = 2**30
    torch.save(checkpoint, file)
    train(tmp_path / "run", resume=True, config=BY_ITERATION)  # it would take days


def entries(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: [entry.update(values) for entry in checkpoint["optimizer"]["state"].values()] and None


def options(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: [group.update(values) for group in checkpoint["optimizer"]["param_groups"]] and None


def complex_averages(checkpoint: dict[str, Any]) -> None:
    for entry in checkpoint["optimizer"]["state"].values():
        entry["exp_avg"] = entry["exp_avg"].to(torch.complex64)


REFUSED = {
    "no step": entries(step=torch.zeros(0)),
    "steps": entries(step=torch.zeros(3)),
    "a step before the first": entries(step=torch.tensor(-5.0)),
    "text for a step": entries(step="x"),
    "complex averages": complex_averages,
    "amsgrad without its entry": options(amsgrad=True),
    "capturable on a CPU": options(capturable=True),
    "a rate that float32 has not": options(lr=1e299),
    "one beta": options(betas=(0.9,)),
    "betas of text": options(betas=("a", "b")),
    "betas that grow": options(betas=(5, 5)),
    "an iteration beyond 32 bits": lambda checkpoint: checkpoint["meta"].update(iter=2**52),
    "too many kept": lambda checkpoint: checkpoint["message_hub"]["runtime_info"].update(keep_ckpt_ids=[0] * 10**5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_state_that_fails_in_a_step_is_refused_before(name: str, interrupted: Path, tmp_path: Path):
    run = copied(interrupted, tmp_path / "run")
    changed(run, REFUSED[name])
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth: cannot be resumed") as refusal:
        train(run, resume=True)
    assert "\n" not in str(refusal.value)


def test_averaged_weights_of_another_shape_end_in_one_line(interrupted: Path, tmp_path: Path):
    run = copied(interrupted, tmp_path / "run")
    changed(run, lambda checkpoint: checkpoint["ema_state_dict"].update(steps=torch.zeros(5, 1)))
    with pytest.raises(HOCPError, match="size mismatch for steps") as refusal:
        train(run, resume=True)
    assert "\n" not in str(refusal.value)
