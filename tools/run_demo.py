"""The whole recipe on synthetic faces, from nothing to a timeline: ``make demo``.

Writes the synthetic set, trains the image network on frames, transducts it into a video network and fine-tunes that,
tests both on people neither has seen, and runs the video network over one of their videos. Each step is a command
that a user would type; it is printed, and its full output is kept in ``<out>/logs``.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hocp_mm.cli import run
from hocp_mm.errors import HOCPError

ROOT = Path(__file__).resolve().parents[1]
STATIC_CONFIG, VIDEO_CONFIG = "configs/hocp_sewa_static_demo.py", "configs/hocp_sewa_demo.py"
# What the configs read; the synthetic set takes other numbers by tools/prepare/synthetic.py.
DATA = Path("data/synthetic_sewa")
SUBJECTS, CLIPS, FRAMES = (64, 8, 16), 1, 120

# Of an OpenMMLab log, which is long, what a spectator wants to see; the rest is in the log file.
_PREFIX = re.compile(r"^\d\d/\d\d (\d\d:\d\d:\d\d) - mmengine - (INFO|WARNING) - ")
_PLAIN = re.compile(
    r" *CCC|valence  |arousal  |mean  |synthetic set:|data/|written|[\w ]+: \d+/\d+ frames|error:|.*demo/"
)
_WORTH = re.compile(r"Epoch\((train|val)\)|Hook: |LoadReport|best checkpoint")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder for everything but the data")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="handed to both trainings and both tests"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the steps, then print where everything is."""
    args = parse_args(argv)
    start = time.monotonic()
    out: Path = args.out
    static, video, results = out / "static", out / "video", out / "results"
    for folder in (static, video, results, out / "logs"):
        shutil.rmtree(folder, ignore_errors=True)  # an earlier demo's
        folder.mkdir(parents=True)
    options = ["--cfg-options", *args.cfg_options] if args.cfg_options else []
    step = Steps(out / "logs", total=7)

    subjects = [str(count) for count in SUBJECTS]
    command = ["tools/prepare/synthetic.py", "sewa", DATA, "--subjects", *subjects]
    step("write the synthetic set", [*command, "--clips", CLIPS, "--frames", FRAMES])
    step(
        "static stage: the image network, on frames", ["tools/train.py", STATIC_CONFIG, "--work-dir", static, *options]
    )
    static_best = best_checkpoint(static)
    test = ["tools/test.py", STATIC_CONFIG, static_best, "--out-dir", results / "static"]
    step("test the image network", [*test, "--work-dir", static / "test", *options])
    train = ["tools/train.py", VIDEO_CONFIG, "--static-checkpoint", static_best, "--work-dir", video]
    step("transduction, then joint fine-tuning: the video network, on clips", [*train, *options])
    video_best = best_checkpoint(video)
    test = ["tools/test.py", VIDEO_CONFIG, video_best, "--out-dir", results / "video"]
    step("test the video network", [*test, "--work-dir", video / "test", *options])
    plots = step.call("draw the timelines of the test videos", lambda: draw_timelines(results / "video"))
    unseen = unseen_video()
    demo = ["tools/demo.py", unseen, "--checkpoint", video_best, "--labels", unseen.parent, "--out", results / "demo"]
    step("a video in, a timeline out", demo)

    table = compare(results / "static" / "metrics.json", results / "video" / "metrics.json")
    (results / "results.md").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\nIn {results}:")
    print("  results.md             this table")
    print("  video/*.csv            prediction and truth, frame by frame")
    print(f"  video/*_timeline.png   {plots} timelines")
    print("  demo/                  timeline, CSV and annotated video of the last step")
    print(f"\nDone in {time.monotonic() - start:.0f} s. For your own data, see README.md.")


class Steps:
    """Run commands one after the other, showing what matters and keeping everything.

    Args:
        logs: Folder of the full outputs.
        total: Number of steps, for the headings.
    """

    def __init__(self, logs: Path, total: int) -> None:
        self.logs, self.total, self.done = logs, total, 0

    def __call__(self, title: str, command: Sequence[object]) -> None:
        """Run one Python tool of this repository.

        Raises:
            HOCPError: If it fails; its last lines have been shown.
        """
        words = [str(word) for word in command]
        log = self._begin(title, shlex.join(["python", *words]))
        process = subprocess.Popen(
            [sys.executable, "-u", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        tail: list[str] = []
        with log.open("w", encoding="utf-8") as file:
            for line in process.stdout:
                file.write(line)
                tail = [*tail[-19:], line]
                if (shown := worth_showing(line)) is not None:
                    print(f"  {shown}", flush=True)
        if process.wait() != 0:
            sys.stdout.write("".join(tail))
            raise HOCPError(
                f"demo: step '{title}' must succeed, got exit code {process.returncode} (whole log: {log})."
            )

    def call(self, title: str, function: Callable[[], int]) -> int:
        """Run one step inside this process and hand on what it returns."""
        self._begin(title, "")
        return function()

    def _begin(self, title: str, command: str) -> Path:
        self.done += 1
        print(f"\n[{self.done}/{self.total}] {title}" + (f"\n$ {command}" if command else ""), flush=True)
        return self.logs / f"{self.done}_{title.split(':')[0].split(',')[0].replace(' ', '_')}.log"


def worth_showing(line: str) -> str | None:
    """Return what to show of a line of output, or None.

    Example:
        >>> worth_showing("11/22 16:01:44 - mmengine - INFO - Epoch(train) [1][5/9]  loss: 1.0")
        '16:01:44 Epoch(train) [1][5/9]  loss: 1.0'
    """
    line = line.rstrip()
    prefix = _PREFIX.match(line)
    if prefix is not None:
        return f"{prefix[1]} {line[prefix.end() :]}" if _WORTH.search(line) else None
    # Dumped configs and environments have no prefix, but come in long blocks of these shapes.
    table = re.match(
        r"(\w+ +CCC|valence|arousal|mean|synthetic set|written|\S+: \d+/\d+ frames|error:|demo_output)", line
    )
    return line if table else None


def best_checkpoint(folder: Path) -> Path:
    """Find the checkpoint that did best on the validation people.

    Returns:
        The file.

    Raises:
        HOCPError: If training left none.
    """
    found = sorted(folder.glob("best_*.pth"))
    if not found:
        raise HOCPError(f"demo: training must leave a best checkpoint, got none in {folder}.")
    return found[-1]


def unseen_video() -> Path:
    """Pick the first video of the test people."""
    from hocp_mm.datasets.splits import read_split_file

    key = read_split_file(DATA / "splits" / "test.txt")[0]
    return DATA / key / f"{key}.avi"


def draw_timelines(folder: Path) -> int:
    """Draw every video's CSV next to it; return how many there are."""
    from hocp_mm.structures import AffectTimeline
    from hocp_mm.visualization import plot_timeline

    files = [path for path in sorted(folder.glob("*.csv")) if path.name != "per_video.csv"]
    for path in files:
        plot_timeline(AffectTimeline.from_csv(path), path.with_name(f"{path.stem}_timeline.png"))
    return len(files)


def compare(static: Path, video: Path) -> str:
    """Make a Markdown table of both networks' scores on the test people."""
    names = ("ccc", "pcc", "rmse", "sagr")
    rows = ["| | " + " | ".join(name.upper() for name in names) + " |", "|---|" + "---|" * len(names)]
    for title, path in (("image network", static), ("video network", video)):
        scores = json.loads(path.read_text(encoding="utf-8"))
        for dimension in ("valence", "arousal", "mean"):
            cells = " | ".join(f"{scores[f'affect/{name}_{dimension}']:.3f}" for name in names)
            rows.append(f"| {title}, {dimension} | {cells} |")
    return "\n".join(rows)


if __name__ == "__main__":
    run(main)
