"""Kill runs, let them go on, and compare with the run that nobody killed: ``python -m tests.reliability.crashes``.

Every run is a process of its own, forked from this one after the imports, and ends by SIGKILL: at a named moment (a
method of a hook, a file brought to the disk, a sample read) or at a random time. The recipe is ``configs/hocp_sewa.py``
made small: two stages, a lasso with pruning, loss weights that are drawn, augmentation, the best checkpoint kept.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from hocp_mm import compat
from hocp_mm.checkpoints import read_checkpoint
from hocp_mm.datasets.transforms import LoadFaceClip
from hocp_mm.registry import HOOKS
from hocp_mm.synthetic import SyntheticAfewVaSpec, write_synthetic_afew_va, write_synthetic_sewa
from hocp_mm.system import files
from tests.material.processes import ROOT
from tests.reliability.page import record

Moment = tuple[str, int]
EPOCHS = 4
FOLDS = 2


@HOOKS.register_module(name="DieHook", force=True)
class DieHook(Hook):
    """Count the calls of a hook's methods and end the process at one of them."""

    priority = "LOWEST"

    def __getattribute__(self, name: str) -> Any:
        if name.startswith(("before_", "after_")):
            return lambda *args, **kwargs: count(name)
        return super().__getattribute__(name)

    def get_triggered_stages(self) -> list[str]:
        return list(Hook.stages)


moment: Moment | None = None
calls: dict[str, int] = {}


def count(name: str) -> None:
    """End this process, as nothing else can, if this is the moment."""
    calls[name] = calls.get(name, 0) + 1
    if moment == (name, calls[name]):
        os.kill(os.getpid(), signal.SIGKILL)


def watch() -> None:
    """Count what happens outside of hooks: files before and after they reach the disk, samples that are read."""
    bring, load = files.bring_to_disk, LoadFaceClip.__call__

    def bring_to_disk(path: Path) -> None:
        count("file written")
        bring(path)
        count("file on disk")

    def load_clip(self: LoadFaceClip, results: dict[str, Any]) -> Any:
        count("sample read")
        return load(self, results)

    files.bring_to_disk, LoadFaceClip.__call__ = bring_to_disk, load_clip  # type: ignore[method-assign]


def child(function: Callable[[], Any], log: Path, until: float | None = None) -> int:
    """Run a function in a forked process of its own group.

    Returns:
        Its exit code; minus the signal where one ended it.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        with log.open("ab") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        code = 1
        try:
            watch()
            function()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if until is not None:
        end = time.monotonic() + until
        while time.monotonic() < end and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.01)
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return 0
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # waited for above
        return 0


def recipe(folder: Path, data: Path, workers: int, name: str = "hocp_sewa", **options: Any) -> Path:
    """Write the small recipe."""
    cfg = Config.fromfile(ROOT / "configs" / f"{name}.py")
    (stages,) = [hook for hook in cfg.custom_hooks if hook.type == "hocp_mm.StagedUnfreezeHook"]
    stages.stages[1].begin = 2
    lasso = {"type": "hocp_mm.RankSelectionHook", "gamma": 3.0, "begin": 2, "milestone": 3, "threshold": 0.2}
    cfg.custom_hooks = [stages, lasso, {"type": "hocp_mm.DieHook"}]
    for part, batch in (("train", 4), ("val", 8), ("test", 8)):
        loader = cfg[f"{part}_dataloader"]
        loader.update(batch_size=batch, num_workers=workers, persistent_workers=workers > 0)
        loader.dataset.data_root = str(data)
        for step in loader.dataset.pipeline:
            step.update({key: 32 if step.type.endswith("LoadFaceClip") else 24 for key in ("size",) if key in step})
            step.update({key: 4 for key in ("clip_len",) if key in step})
    cfg.train_dataloader.dataset.clips_per_video = 3
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.windows = {"clip_len": 4, "stride": 4}
        loader.dataset.pipeline[1].size = 24
    cfg.model.backbone.model_name = "test_resnet"
    cfg.model.neck = {"type": "hocp_mm.HOCPTemporalNeck", "in_channels": 96, "hidden_channels": 8, "rank": 8}
    cfg.model.head.update(in_channels=96)
    cfg.train_cfg.max_epochs = cfg.param_scheduler[1].T_max = cfg.param_scheduler[1].end = EPOCHS
    cfg.param_scheduler[0].end = 3
    cfg.merge_from_dict(options)
    path = folder / f"{name}_{workers}.py"
    cfg.dump(path)
    return path


def train(config: Path, folder: Path) -> None:
    """Train through the tool, going on from whatever is there."""
    sys.argv[0] = "train.py"
    from tests.commands.test_train_test import TRAIN

    TRAIN.main([str(config), "--work-dir", str(folder), "--resume"])


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested containers."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from flat(item, f"{name}.{number}")
    else:
        yield name, value


def differences(one: Path, other: Path) -> list[str]:
    """Compare two finished runs: names of checkpoints, weights, optimizer, schedulers, random numbers, best score."""
    names = [sorted(file.name for file in folder.glob("*.pth")) for folder in (one, other)]
    if names[0] != names[1]:
        return [f"files {names[0]} against {names[1]}"]
    if drafts := [file.name for file in other.iterdir() if ".part" in file.name]:
        return [f"drafts {drafts}"]
    found = []
    for name in names[0]:
        mine, theirs = read_checkpoint(one / name), read_checkpoint(other / name)
        for part in ("state_dict", "optimizer", "param_schedulers", "run_state"):
            a, b = dict(flat(mine.get(part))), dict(flat(theirs.get(part)))
            if a.keys() != b.keys():
                found.append(f"{name}: {part} has other entries")
            for key in a.keys() & b.keys():
                same = torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
                if not same:
                    found.append(f"{name}: {part}{key}")
        scores = [c["message_hub"]["runtime_info"].get("best_score") for c in (mine, theirs)]
        if scores[0] != scores[1]:
            found.append(f"{name}: best score {scores}")
    return found


@dataclass
class Campaign:
    """What was tried, and what came of it."""

    folder: Path
    tried: int = 0
    died: int = 0
    wrong: list[str] | None = None

    def kill_and_go_on(self, config: Path, whole: Path, at: list[Moment | float]) -> None:
        """Kill a run at each of some moments in turn, let it finish, and compare."""
        global moment
        run, self.wrong = self.folder / f"run{self.tried}", self.wrong or []
        log = self.folder / f"log{self.tried}"
        for kill in at:
            moment = kill if isinstance(kill, tuple) else None
            self.tried += 1
            code = child(lambda: train(config, run), log, None if isinstance(kill, tuple) else kill)
            self.died += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                self.wrong.append(f"{at}: exit code {code} ({log.read_text()[-300:]})")
        moment = None
        code = child(lambda: train(config, run), log)
        if code:
            self.wrong.append(f"{at}: going on ended with {code} ({log.read_text()[-300:]})")
        elif found := differences(whole, run):
            self.wrong.append(f"{at}: {len(found)} differences, such as {found[:2]}")
        shutil.rmtree(run, ignore_errors=True)


def training_moments() -> list[list[Moment | float]]:
    """Named moments: every kind of thing that a run does, early, at the stage switch, at pruning and at the end."""
    per_epoch = {"before_train_iter": (1, 2, 4, 7, 9, 12), "after_train_iter": (3, 8), "before_train": (1,)}
    per_epoch |= {"before_train_epoch": (1, 3, 4), "after_train_epoch": (1, 2, 3, 4), "after_load_checkpoint": (1,)}
    per_epoch |= {"before_val_iter": (1, 3), "after_val_iter": (1, 2, 4), "after_val_epoch": (1, 2, 3, 4)}
    per_epoch |= {"before_save_checkpoint": (1, 2, 3, 5, 8), "after_train": (1,), "before_run": (1,)}
    per_epoch |= {
        "file written": (1, 2, 3, 4, 7, 10),
        "file on disk": (1, 2, 3, 5, 6, 9, 11),
        "sample read": (1, 5, 13),
    }
    single: list[list[Moment | float]] = [[(name, n)] for name, numbers in per_epoch.items() for n in numbers]
    again: list[list[Moment | float]] = [
        [("after_val_iter", 1), ("file written", 1), ("before_save_checkpoint", 1)],
        [("file on disk", 2), ("file on disk", 2), ("file on disk", 2)],
        [("before_train_iter", 2)] * 3,
    ]
    return single + again


def digest(folder: Path) -> dict[str, str]:
    """Hash every file of a folder."""
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def prepare(data: Path, store: Path) -> None:
    """Cut a store of faces through the tool."""
    import runpy

    sys.argv = ["sewa.py", str(data), str(store), "--workers", "1"]
    runpy.run_path(str(ROOT / "tools" / "prepare" / "sewa.py"), run_name="__main__")


def kill_preparations(folder: Path, data: Path, kills: int, rng: random.Random) -> Campaign:
    """Kill the preparation of a store at random times; the same command must end in the same bytes."""
    campaign = Campaign(folder, wrong=[])
    begin = time.monotonic()
    assert child(lambda: prepare(data, folder / "whole"), folder / "log") == 0, (folder / "log").read_text()
    took = time.monotonic() - begin
    expected = digest(folder / "whole")
    for number in range(kills):
        store = folder / f"store{number}"
        campaign.tried += 1
        code = child(lambda: prepare(data, store), folder / "log", rng.uniform(0.02, 1.0) * took)  # noqa: B023
        campaign.died += code == -signal.SIGKILL
        code = child(lambda: prepare(data, store), folder / "log")  # noqa: B023
        got = digest(store)
        if code or got != expected:
            other = [name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)]
            campaign.wrong.append(f"store {number}: exit code {code}, other files {other[:3]}")  # type: ignore[union-attr]
    return campaign


def run_folds(config: Path, folder: Path) -> None:
    """Cross-validate through the tool, whose trainings and tests are forked instead of started."""
    from tests.commands.test_train_test import TEST, TRAIN

    tool = import_module("hocp_mm.commands.folds")

    def call(fold: int, name: str, words: list[str]) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                (TRAIN if name == "train" else TEST).main(words)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, (fold, name)

    tool.call = call
    tool.main([str(config), "--work-dir", str(folder), "--folds", "0", "1"])


def kill_folds(folder: Path, kills: int, rng: random.Random) -> Campaign:
    """Kill cross-validations at random times; the same command must end in the same scores and predictions."""
    campaign = Campaign(folder, wrong=[])
    write_synthetic_afew_va(folder / "data", SyntheticAfewVaSpec(10, 1, 8, 48), workers=1)
    config = recipe(folder, folder / "data", 0, "hocp_afew_va")

    def results(run: Path) -> dict[str, str]:
        found = digest(run)
        return {name: value for name, value in found.items() if name.endswith((".csv", "folds.json", "metrics.json"))}

    begin = time.monotonic()
    code = child(lambda: run_folds(config, folder / "whole"), folder / "log")
    assert code == 0, (folder / "log").read_text()[-3000:]
    took, expected = time.monotonic() - begin, results(folder / "whole")
    assert len(expected) > 4, expected
    for number in range(kills):
        run = folder / f"run{number}"
        for _ in range(2):
            campaign.tried += 1
            until = rng.uniform(0.05, 0.8) * took
            campaign.died += child(lambda: run_folds(config, run), folder / "log", until) != 0  # noqa: B023
        code = child(lambda: run_folds(config, run), folder / "log")  # noqa: B023
        if code or results(run) != expected:
            campaign.wrong.append(f"folds {number}: exit code {code}, or other results")  # type: ignore[union-attr]
    return campaign


def main(argv: list[str] | None = None) -> int:
    """Run the campaign and write its rows."""
    parser = argparse.ArgumentParser(description="Kill runs and compare.")
    parser.add_argument("--moments", type=int, help="named moments to try, all by default")
    parser.add_argument("--kills", type=int, default=20, help="kills at random times, for each number of workers")
    parser.add_argument("--preparations", type=int, default=12, help="kills of a preparation")
    parser.add_argument("--folds", type=int, default=5, help="cross-validations that are killed twice each")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="loader workers of the runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write the rows into docs/reliability.md")
    args = parser.parse_args(argv)
    compat.apply()
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    wrong: list[str] = []

    def tell(row: str, what: str, campaign: Campaign) -> None:
        failures = campaign.wrong or []
        wrong.extend(failures)
        print(
            f"{what}: {campaign.tried} kills, {campaign.died} died, {len(failures)} wrong",
            *failures,
            sep="\n  ",
            flush=True,
        )
        if args.record:
            record(row, what, "python -m tests.reliability.crashes --record", campaign.died, len(failures))

    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        data = base / "sewa"
        write_synthetic_sewa(data, subjects=(4, 2, 2), frames=16, workers=1)
        for workers in args.workers:
            folder = base / f"workers{workers}"
            folder.mkdir()
            config, whole = recipe(folder, data, workers), folder / "whole"
            begin = time.monotonic()
            assert child(lambda: train(config, whole), folder / "log") == 0, (folder / "log").read_text()[-3000:]  # noqa: B023
            took = time.monotonic() - begin
            ranks = {
                k: v.shape for k, v in read_checkpoint(whole / "epoch_4.pth")["state_dict"].items() if "weights" in k
            }
            print(
                f"whole run with {workers} workers: {took:.1f} s, ranks {sorted(s[0] for s in ranks.values())}",
                flush=True,
            )
            if workers == 0:
                campaign = Campaign(folder)
                for kills in training_moments()[: args.moments]:
                    campaign.kill_and_go_on(config, whole, kills)
                tell("crash-named", "training, two stages and pruning, killed at named moments", campaign)
            campaign = Campaign(folder)
            if not args.kills:
                continue
            while campaign.died < args.kills and campaign.tried < 3 * args.kills:  # some come after the end
                campaign.kill_and_go_on(config, whole, [rng.uniform(0.05, 1.0) * took])
            tell(f"crash-random-{workers}", f"the same with {workers} workers, killed at random times", campaign)
        if args.folds:
            (base / "folds").mkdir()
            tell("crash-folds", "cross-validation, two folds", kill_folds(base / "folds", args.folds, rng))
        if args.preparations:
            (base / "stores").mkdir()
            tell(
                "crash-store",
                "preparation of a store",
                kill_preparations(base / "stores", data, args.preparations, rng),
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
