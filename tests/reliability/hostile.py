"""Hand hostile files in at every door, and see that nothing happens: ``python -m tests.reliability.hostile``.

Each pair of a door and a file runs in a process of its own, forked from this one after the imports, with limits of
time and memory. It may end well, or in one line as the tools print it (``error: …``, exit code 2). Everything else is
wrong: a payload that ran, a foreign file that was opened or changed, a process or connection that the good file does
not start, a traceback, more than 5 s or 1 GB, and a file that is read although it must be refused.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"

import cv2
import torch

from hocp_mm.functional.native import native_available
from hocp_mm.system import cli
from hocp_mm.system.refusals import LONGEST_LINE
from tests.reliability.hostile_doors import Door, doors, files_of, prepare
from tests.reliability.hostile_families import Hostile
from tests.reliability.page import record

SECONDS, MEGABYTES = 5.0, 1000
HARD_SECONDS, WAIT_SECONDS, HARD_BYTES = 30, 60.0, 3 << 30
SMALL = 8 << 20  # a larger file is made for each door, a smaller one copied
WORLD = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.bind",
    "ctypes.dlopen",
    "webbrowser.open",
    "os.kill",
    "os.chmod",
    "os.chown",
    "urllib.Request",
)
CHANGES = ("os.remove", "os.rmdir", "os.rename", "os.truncate", "os.link", "os.symlink", "os.mkdir", "shutil.rmtree")


@dataclass
class Outcome:
    """How one process ended."""

    code: int
    seconds: float
    wall: float
    megabytes: int
    text: str
    events: set[str]

    @property
    def refusal(self) -> str | None:
        """The one line, if that is how it ended."""
        lines = self.text.rstrip("\n").splitlines()
        last = lines[-1] if lines else ""
        right = self.code == cli.USER_ERROR and last.startswith("error: ") and len(last) <= LONGEST_LINE + 7
        return last if right and last.isprintable() and "Traceback" not in self.text else None


@dataclass
class Account:
    """What came of the files at one door."""

    files: int = 0
    refused: int = 0
    read: int = 0
    slowest: float = 0.0
    wall: float = 0.0
    largest: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the rest of its line."""
        return (
            f"{self.files} files, {self.refused} refused, {self.read} read harmlessly, {len(self.wrong)} wrong, "
            f"slowest {self.slowest:.1f} s CPU ({self.wall:.1f} s), largest +{self.largest} MB"
        )


def watched(base: Path, scratch: Path, function: Callable[[], object]) -> Outcome:
    """Call a function as a tool in a forked process, at home in ``scratch``, and watch what it does outside."""
    log, told, size = scratch / "log", scratch / "events", scratch / "size"
    for folder in ("home", "tmp"):
        (scratch / folder).mkdir(exist_ok=True)
    sys.stdout.flush()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            _settle(base, scratch, log)
            size.write_text(str(_resident()))
            events = _watch(base, scratch)
            try:
                cli.run(function)
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 71
            except BaseException:
                import traceback

                traceback.print_exc()
            told.write_text(json.dumps(sorted(events)))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    while (ended := os.wait4(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() - start > WAIT_SECONDS:
            os.killpg(pid, signal.SIGKILL)
            ended = os.wait4(pid, 0)
            break
        time.sleep(0.002)
    _, status, usage = ended
    wall = time.monotonic() - start
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # workers that it left
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    events = set(json.loads(told.read_text())) if told.exists() else {"ended early"}
    before = int(size.read_text()) if size.exists() else 0
    seconds, megabytes = usage.ru_utime + usage.ru_stime, max(0, usage.ru_maxrss // 1024 - before)
    return Outcome(os.waitstatus_to_exitcode(status), seconds, wall, megabytes, text, events)


def _settle(base: Path, scratch: Path, log: Path) -> None:
    """Give this process its own group, home, output and limits."""
    os.setsid()
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    faulthandler.enable()
    os.chdir(scratch)
    for name in ("HOCP_MM_CACHE", "XDG_CACHE_HOME", "HOCP_TRACEBACK"):
        os.environ.pop(name, None)
    os.environ.update(HOME=str(scratch / "home"), TMPDIR=str(scratch / "tmp"), TORCH_HOME=str(scratch / "home"))
    tempfile.tempdir = None
    sys.argv[:] = ["tool"]
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, value in ((resource.RLIMIT_AS, size + HARD_BYTES), (resource.RLIMIT_CPU, HARD_SECONDS)):
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))


def _watch(base: Path, scratch: Path) -> set[str]:
    """Note processes, connections, foreign files that are opened, and what changes outside of the scratch folder."""
    events: set[str] = set()
    own, foreign = str(scratch), (str(base / "precious"), str(base / "foreign"), str(base / "mark"))

    def outside(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a Path would do the same more slowly
        return not place.startswith((own, "/dev/", "/proc/self/")) or ".." in place

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            writes = (isinstance(mode, str) and set(mode) & set("wxa+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            if isinstance(path, str | bytes) and (os.fsdecode(path).startswith(foreign) or (writes and outside(path))):
                events.add(f"open {os.fsdecode(path)[:200]}")
        elif event in CHANGES:
            if any(map(outside, args[:2])):
                events.add(f"{event} {args!r}"[:300])
        elif event in WORLD and not (event == "socket.connect" and isinstance(args[1], str | bytes)):  # within us
            if event == "ctypes.dlopen" and "site-packages" in str(args[0]):
                return  # installed with us
            events.add(re.sub(re.escape(own) + r"|\d+|0x[0-9a-f]+", "…", f"{event} {args!r}"[:200]))

    sys.addaudithook(hear)
    return events


def _resident() -> int:
    """Return the megabytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def digest(folder: Path) -> str:
    """Hash names and content of all files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return total.hexdigest()


class Campaign:
    """All doors and files.

    Args:
        base: Folder for everything; empty.
        names: Doors that will be tried.
        only: Families that will be tried; all of a door if not given.
    """

    def __init__(self, base: Path, names: Collection[str], only: Collection[str] | None = None) -> None:
        self.base, self.only = base, only
        made = watched(base, base, lambda: prepare(base, names))
        if made.code:
            raise RuntimeError(f"the good files cannot be made: {made.text[-3000:]}")
        self.families = files_of(base)
        self.files: dict[str, list[Hostile]] = {}
        self.precious = digest(base / "precious")

    def at(self, door: Door, most: int | None = None) -> Account:
        """Hand in the good file, then the others."""
        account, number = Account(), 0
        (good,) = sorted(self.base.glob(door.good))[:1]
        normal = self._hand_in(door, Hostile("good", lambda p: shutil.copy(good, p), good.name), 0)
        if normal.code:
            account.wrong.append(f"{door.name}: the good file is refused: {normal.text[-1500:]}")
            tell(f"WRONG {account.wrong[-1]}")
            return account
        tried = [family for family in door.families if self.only is None or family in self.only]
        for family in tried:
            if family not in self.files:
                self.files[family] = self.families[family]()
        chosen = [file for family in tried for file in self.files[family]]
        if most is not None and len(chosen) > most:
            chosen = random.Random(door.name).sample(chosen, most)
        for number, file in enumerate(chosen, start=1):
            outcome = self._hand_in(door, file, number)
            account.files += 1
            account.slowest = max(account.slowest, outcome.seconds)
            account.wall = max(account.wall, outcome.wall)
            account.largest = max(account.largest, outcome.megabytes)
            account.refused += outcome.refusal is not None
            faults = self._faults(door, file, outcome, normal)
            if faults:
                account.wrong.append(f"{door.name}, {file.name}: {'; '.join(faults)}")
                tell(f"WRONG {account.wrong[-1]}")
            elif outcome.refusal is None:
                account.read += 1
        return account

    def _hand_in(self, door: Door, file: Hostile, number: int) -> Outcome:
        scratch = self.base / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        path = door.place(self.base, scratch, file.file)
        self._lay(file, path)
        return watched(self.base, scratch, lambda: door.go(self.base, scratch, path))

    def _lay(self, file: Hostile, path: Path) -> None:
        """Make a file, once if it is small."""
        kept = self.base / "kept" / hashlib.sha256(file.name.encode("utf-8", "surrogateescape")).hexdigest()
        if file.name != "good" and kept.is_file():
            shutil.copy(kept, path)
            return
        file.make(path)
        if file.name != "good" and path.is_file() and not path.is_symlink() and path.stat().st_size < SMALL:
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(path, kept)

    def _faults(self, door: Door, file: Hostile, outcome: Outcome, normal: Outcome) -> list[str]:
        """Return what is wrong with an outcome."""
        found = []
        mark = self.base / "mark"
        if mark.exists() or (self.base / "scratch" / "mark").exists():
            mark.unlink(missing_ok=True)
            found.append("EXECUTED")
        if digest(self.base / "precious") != self.precious:
            found.append("CHANGED what is precious")
        if new := outcome.events - normal.events:
            found.append(f"does {sorted(new)[:3]}")
        told = door.name == "verify" and outcome.code == 1 and "Traceback" not in outcome.text  # its verdict: not equal
        if outcome.code != 0 and outcome.refusal is None and not told:
            found.append(f"exit code {outcome.code}: {outcome.text[-500:]}")
        if outcome.code == 0 and file.refused and door.refuses:
            found.append("read")
        if outcome.seconds > SECONDS:
            found.append(f"{outcome.seconds:.1f} s")
        if outcome.wall > WAIT_SECONDS:
            found.append("hangs")
        if outcome.megabytes > MEGABYTES:
            found.append(f"{outcome.megabytes} MB")
        return found


def main(argv: list[str] | None = None) -> int:
    """Run the campaign, print a line for each door, write the rows."""
    parser = argparse.ArgumentParser(description="Hand hostile files in at every door.")
    parser.add_argument("--doors", help="names with commas between; all by default")
    parser.add_argument("--most", type=int, help="files at each door, drawn from all")
    parser.add_argument("--families", help="names with commas between; all that a door takes by default")
    parser.add_argument("--record", action="store_true", help="write the rows into docs/reliability.md")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sys.dont_write_bytecode = True
    native_available()  # once, before the forks: each of them, at home elsewhere, would compile it for itself
    wanted = args.doors.split(",") if args.doors else [door.name for door in doors()]
    total = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        only = args.families.split(",") if args.families else None
        campaign = Campaign(Path(name).resolve(), wanted, only)
        for door in doors():
            if door.name not in wanted:
                continue
            account = campaign.at(door, args.most)
            tell(f"{door.name}: {account}")
            total.update(files=account.files, wrong=len(account.wrong))
            if args.record:
                note = f"{account.read} read harmlessly; at most {account.slowest:.1f} s, {account.largest} MB"
                row = f"hostile-{door.name.replace(' ', '-')}"
                what = f"hostile files: {door.name}"
                most = f" --most {args.most}" if args.most else ""
                command = f'python -m tests.reliability.hostile --record{most} --doors "{door.name}"'
                record(row, what, command, account.files, len(account.wrong), note)
    tell(f"{total['files']} pairs, {total['wrong']} wrong")
    return 1 if total["wrong"] or not total["files"] else 0


if __name__ == "__main__":
    sys.exit(main())
