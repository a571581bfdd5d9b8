"""What the demos share: running a command of this repository with its progress shown, and looking at what it left."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hocp_mm.errors import HOCPError
from hocp_mm.system.files import is_draft, refuse_links, write_text, writing
from hocp_mm.system.parallel import launched

ROOT = Path(__file__).resolve().parents[2]

MARKER = "MADE_BY_DEMO.txt"
"""File in each folder that a demo has made."""
_TOLD = "tools/run_demo.py made this folder, and empties it when it runs again. Keep nothing of your own here.\n"

_MEASURES, _DIMENSIONS = ("ccc", "pcc", "rmse", "sagr"), ("valence", "arousal", "mean")
# Of an OpenMMLab log, which is long, what a spectator wants to see; the rest is in the log file.
_PREFIX = re.compile(r"^\d\d/\d\d (\d\d:\d\d:\d\d) - mmengine - (INFO|WARNING) - ")
_WORTH = re.compile(r"Epoch\((train|val)\)|Hook: |LoadReport|best checkpoint")
# Dumped configs and environments have no prefix, but come in long blocks of other shapes.
_PLAIN = re.compile(
    r"\s*CCC|(valence|arousal|mean) |expression: |fold |clips and actors|pooled: |written|error:|demo_output"
    r"|\[\d+/\d+\] |\$ hocp |synthetic set|\S+: \d+ (clips|faces)|[\w ]+: \d+/\d+ frames"
)
# What every recipe understands; enough to go through all stages.
_QUICK_TRAINING = ("train_cfg.max_epochs=2", "train_cfg.val_interval=1", "param_scheduler.1.T_max=2")
_QUICK_TRAINING += ("param_scheduler.1.end=2", "train_dataloader.dataset.clips_per_video=1")


class Steps:
    """Run commands one after the other, showing what matters and keeping everything.

    Args:
        logs: Folder of the full outputs.
        total: Number of steps, for the headings.
    """

    def __init__(self, logs: Path, total: int) -> None:
        self.logs, self.total, self.done = logs, total, 0

    def __call__(self, title: str, command: Sequence[object]) -> None:
        """Run one Python tool of this repository, at its root.

        Args:
            title: What the step does; up to the first colon or comma it names the log.
            command: The tool and its arguments. Paths below the repository are shown, and given, relative to it.

        Raises:
            HOCPError: If it fails; its last lines have been shown.
        """
        words = [_shown(word) for word in command]
        log = self._begin(title, shlex.join(["python", *words]))
        tail: list[str] = []
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with (
            log.open("w", encoding="utf-8") as file,
            subprocess.Popen([sys.executable, "-u", *words], cwd=ROOT, env=launched(), **pipe) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                tail = [*tail[-19:], line]
                if (shown := worth_showing(line)) is not None:
                    print(f"  {shown}", flush=True)
        if process.returncode != 0:
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


@dataclass(frozen=True)
class Demo:
    """One run of a demo.

    Attributes:
        out: Folder for everything but the data.
        data: Folder of the synthetic set.
        usual_data: The folder that the configs name.
        quick: Whether to go through all steps with as little as possible.
        options: ``KEY=VALUE`` for every training and test.
        step: Runs the steps.
    """

    out: Path
    data: Path
    usual_data: Path
    quick: bool
    options: tuple[str, ...]
    step: Steps

    @property
    def results(self) -> Path:
        """Folder of what a user wants to see."""
        return self.out / "results"

    def cfg_options(self, *own: str, data: Path | None = None, training: bool = False) -> list[str]:
        """Return ``--cfg-options`` for one command, or nothing where there are none.

        Args:
            own: Options of the step.
            data: Folder of its data set where that is another one; the demo's own is named only if it is unusual.
            training: Whether the command trains.

        Returns:
            Words of the command line; what the user gave comes last and wins.
        """
        moved = data or (self.data if self.data != self.usual_data else None)
        places = [] if moved is None else for_all_parts(f"data_root={_shown(moved)}")
        words = [*places, *own, *(_QUICK_TRAINING if training and self.quick else ()), *self.options]
        return ["--cfg-options", *words] if words else []

    def write_set(self, layout: str, numbers: Mapping[str, object], folder: Path | None = None) -> None:
        """Write a synthetic set; nothing happens if it is there already.

        Args:
            layout: Whose layout, as in ``tools/prepare/synthetic.py``.
            numbers: Its options by name.
            folder: Where to; the demo's own by default.
        """
        words = [word for name, value in numbers.items() for word in (f"--{name}", *str(value).split())]
        self.step(
            f"write a synthetic set in the layout of {layout}",
            ["tools/prepare/synthetic.py", layout, folder or self.data, *words],
        )


@dataclass(frozen=True)
class Outcome:
    """What a demo ends with.

    Attributes:
        table: Markdown.
        files: Names below the folder of results, each with what it is.
    """

    table: str
    files: Mapping[str, str]


def worth_showing(line: str) -> str | None:
    """Return what to show of a line of output, or None.

    Args:
        line: A line of a tool's output.

    Returns:
        The line without the clutter of the log.

    Example:
        >>> worth_showing("11/22 16:01:44 - mmengine - INFO - Epoch(train) [1][5/9]  loss: 1.0")
        '16:01:44 Epoch(train) [1][5/9]  loss: 1.0'
    """
    line = line.rstrip()
    prefix = _PREFIX.match(line)
    if prefix is not None:
        return f"{prefix[1]} {line[prefix.end() :]}" if _WORTH.search(line) else None
    return line if _PLAIN.match(line) else None


def for_all_parts(setting: str) -> list[str]:
    """Return options that give the data sets of training, validation and test the same setting.

    Example:
        >>> for_all_parts("faces=inner")[0]
        'train_dataloader.dataset.faces=inner'
    """
    return [f"{part}_dataloader.dataset.{setting}" for part in ("train", "val", "test")]


def fresh(folders: Sequence[Path]) -> None:
    """Make empty folders, in place of those of an earlier demo: each holds a file that says whose it is.

    Args:
        folders: The folders. All are looked at before the first is emptied.

    Raises:
        HOCPError: If one has content, and no demo has made it.
        OutputError: If one is a link, or cannot be written to.
    """
    refuse_links(*folders)
    for folder in folders:
        with writing(folder):
            if folder.exists() and not _is_ours(folder):
                raise HOCPError(
                    f"--out: {folder} must be new, empty, or marked as a demo's by {MARKER}, got other content; name "
                    "another --out, or move or delete it (an earlier version of the demo left no such file)."
                )
    for folder in folders:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # It stays while the rest goes: whatever ends the process, it is known whose the folder is.
            write_text(folder / MARKER, _TOLD, follow=False)
            for place in sorted(folder.iterdir()):
                if place.name == MARKER:
                    continue
                if place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place)
                else:
                    place.unlink()


def _is_ours(folder: Path) -> bool:
    """Tell whether a folder has no content, or is a demo's."""
    if not folder.is_dir():
        return False
    marker = folder / MARKER
    told = marker.is_file() and not marker.is_symlink() and marker.read_bytes() == _TOLD.encode()
    return told or all(is_draft(file) and file.is_file() for file in folder.iterdir())


def newest_checkpoint(folder: Path, kind: str = "best") -> Path:
    """Find a checkpoint that training has left.

    Args:
        folder: Work folder of the training.
        kind: ``"best"`` on the validation people, or ``"epoch"`` for the last epoch: where few people validate, which
            epoch is the best is drawn by lot.

    Returns:
        The file.

    Raises:
        HOCPError: If there is none.
    """
    found = sorted(folder.glob(f"{kind}_*.pth"), key=lambda file: file.stat().st_mtime_ns)
    if not found:
        raise HOCPError(f"demo: training must leave a checkpoint {kind}_*.pth, got none in {folder}.")
    return found[-1]


def draw_timelines(files: Sequence[Path], folder: Path) -> int:
    """Draw the predictions of some videos.

    Args:
        files: CSV files as ``tools/test.py`` writes them.
        folder: Where ``<name>_timeline.png`` goes.

    Returns:
        How many there are.
    """
    from hocp_mm.structures import AffectTimeline
    from hocp_mm.visualization import plot_timeline

    for path in files:
        plot_timeline(AffectTimeline.from_csv(path), folder / f"{path.stem}_timeline.png")
    return len(files)


def predictions(folder: Path) -> list[Path]:
    """Return the CSV files of the videos in a folder of results, sorted by name."""
    return [path for path in sorted(folder.glob("*.csv")) if path.name != "per_video.csv"]


def read_scores(file: Path) -> dict[str, float]:
    """Read ``metrics.json``; keys without their prefix."""
    return {key.rpartition("/")[2]: value for key, value in json.loads(file.read_text(encoding="utf-8")).items()}


def score_rows(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Make a Markdown table: three lines for each title.

    Args:
        rows: Scores by title, keys ``{ccc,pcc,rmse,sagr}_{valence,arousal,mean}``.

    Returns:
        The table.
    """
    lines = ["| | " + " | ".join(name.upper() for name in _MEASURES) + " |", "|---|" + "---|" * len(_MEASURES)]
    for title, scores in rows.items():
        for dimension in _DIMENSIONS:
            cells = " | ".join(f"{scores[f'{name}_{dimension}']:.3f}" for name in _MEASURES)
            lines.append(f"| {title}{dimension} | {cells} |")
    return "\n".join(lines)


def _shown(word: object) -> str:
    return str(word.relative_to(ROOT)) if isinstance(word, Path) and word.is_relative_to(ROOT) else str(word)
