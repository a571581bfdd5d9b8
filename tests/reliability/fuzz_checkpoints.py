"""Damaged checkpoints by the thousand: each is read, or refused in one line, soon and in little memory.

    python -m tests.reliability.fuzz_checkpoints --inputs 50000 --seed 0

Prints one line: inputs, refused, read, other exceptions, slowest, peak memory above the start.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from tests.checkpoints.hostile_files import mutants, outcome, same, whole_files
from tests.checkpoints.hostile_pickles import HARMLESS, HOSTILE, archive
from tests.reliability.page import record


@dataclass
class Account:
    """What came of all inputs."""

    inputs: int = 0
    refused: int = 0
    read: int = 0
    slowest: float = 0.0
    peak: int = 0
    others: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the line."""
        return (
            f"inputs {self.inputs}, refused {self.refused}, read {self.read}, other exceptions {len(self.others)}, "
            f"slowest {self.slowest:.2f} s, peak +{self.peak} MB"
        )


def peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def fuzz(inputs: int, seed: int, folder: Path) -> Account:
    """Read ``inputs`` mutants of files of all formats, in turn."""
    rng, account = random.Random(seed), Account()
    files = whole_files()
    for name, body in HARMLESS.items():
        files[f"{name.replace(' ', '_')}.pth"] = archive(body, folder / "seed.pth").read_bytes()
    for name, body in HOSTILE.items():
        if len(body) < 2000:  # mutants of hostile ones are more hostile than mutants of good ones
            files[f"{name.replace(' ', '_')}.pth"] = archive(body, folder / "seed.pth").read_bytes()
    own = list(whole_files())
    expected = {name: _read(folder / name, whole) for name, whole in files.items()}
    streams = {name: mutants(whole, rng) for name, whole in files.items()}
    start = peak_megabytes()
    for number in range(inputs):
        name = own[number % len(own)] if rng.random() < 0.7 else rng.choice(list(files))
        path = folder / f"mutant{Path(name).suffix}"
        data, must_be_seen = next(streams[name])
        path.write_bytes(data)
        began = time.perf_counter()
        try:
            content = outcome(path)
            if must_be_seen and content is not None and not same(content, expected[name]):
                raise AssertionError("silently other content")
            account.read += content is not None
            account.refused += content is None
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            account.others.append(f"{name} {number}: {''.join(traceback.format_exception(error))[-2000:]}")
        account.inputs += 1
        account.slowest = max(account.slowest, time.perf_counter() - began)
    account.peak = peak_megabytes() - start
    return account


def _read(path: Path, whole: bytes) -> object:
    path.write_bytes(whole)
    return outcome(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="write the row into docs/reliability.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        account = fuzz(options.inputs, options.seed, Path(folder))
    sys.stderr.writelines(account.others[:5])
    sys.stdout.write(f"{account}\n")
    if options.record:
        command = (
            f"python -m tests.reliability.fuzz_checkpoints --record --inputs {options.inputs} --seed {options.seed}"
        )
        record("fuzz", "fuzzed checkpoints (zip, legacy, safetensors)", command, options.inputs, len(account.others))
    return bool(account.others)


if __name__ == "__main__":
    sys.exit(main())
