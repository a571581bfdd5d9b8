"""README's way from nothing to a timeline of one's own video: the very commands that stand there."""

import csv
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.videos import write_video
from hocp_mm.commands import demo
from hocp_mm.launch import load_config
from tests.material.processes import ROOT


def commands() -> list[str]:
    """Return the lines of README's block, without remarks."""
    section = (ROOT / "README.md").read_text().partition("## Your own video, in three commands\n")[2]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line.partition("  #")[0].rstrip() for line in block[1].splitlines()]


def test_there_are_three_and_each_names_what_there_is():
    clone, make, watch = commands()
    assert clone == "git clone ADDRESS hocp_mm && cd hocp_mm"
    assert re.search(rf"^{make.removeprefix('make ')}: setup", (ROOT / "Makefile").read_text(), re.MULTILINE)
    program, command, *words = shlex.split(watch)
    assert (program, command) == (".venv/bin/hocp", "demo")
    asked = demo.parse_args(words)
    last = load_config(ROOT / "configs/hocp_sewa_demo.py").train_cfg.max_epochs
    assert asked.checkpoint == Path(f"demo_output/video/epoch_{last}.pth")


@pytest.mark.slow
def test_they_lead_from_nothing_to_a_timeline(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("this copy of the package is no repository that could be cloned")
    clone, make, watch = commands()
    write_video(tmp_path / "me.mp4", 50)
    watch = watch.replace("me.mp4", "../me.mp4")
    script = "\n".join(["set -e", clone.replace("ADDRESS", shlex.quote(str(ROOT))), make, watch])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with (tmp_path / "hocp_mm/results/me.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == [str(number) for number in range(50)]
    assert all(-1 <= float(row["valence"]) <= 1 and row["face_found"] == "1" for row in rows)
    assert (tmp_path / "hocp_mm/results/me_timeline.png").stat().st_size > 1000
    shutil.rmtree(tmp_path / "hocp_mm")  # its environment takes 6 GB
