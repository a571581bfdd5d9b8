"""Writes docs/faults.md: ``python -m tests.fault_injection.report``."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fault_injection import sewa_videos  # noqa: F401 - registers its damages
from tests.fault_injection.afew_va import AFEW_VA
from tests.fault_injection.affectnet_2017 import AFFECTNET_2017
from tests.fault_injection.affectnet_2021 import AFFECTNET_2021
from tests.fault_injection.affwild2 import AFFWILD2
from tests.fault_injection.avec import AVEC
from tests.fault_injection.engine import Verdict, examine, undamaged
from tests.fault_injection.layouts import Layout
from tests.fault_injection.sewa import SEWA
from tests.fault_injection.store import STORE
from tests.material.processes import ROOT

LAYOUTS = (SEWA, AFEW_VA, AFFECTNET_2017, AFFECTNET_2021, AFFWILD2, AVEC, STORE)
TABLE = ROOT / "docs/faults.md"
_HEADER = ("layout", "damage", "training", "skip", "check", "message")
_INTRODUCTION = """\
# What happens to damaged data

Written by `python -m tests.fault_injection.report`; the tests do each damage again and compare it with its row.

Each damage is done to a copy of a small set whose pictures show their number. Then three things are looked at, in a
process with a time limit and a memory limit:

- **training**: build the training part and take every sample through the pipeline. *refused at the start*: one error
  that names the file, before the first sample. *refused at the clip*: the same when the damaged clip is read. *same
  pairs*: every picture and label is that of the undamaged set. *frames left out, told*: some frames do not count, all
  others are those of the undamaged set, and the log says so. *not seen*: see below.
- **skip**: the same with `on_fault="skip"`. All records that were not damaged must be delivered unchanged, and the
  damage must be named.
- **check**: what `tools/check_data.py` says (kind of the fault), which reads every file once.

No damage of this table makes a run hang, crash, or end with an error that names no file.

## What cannot be seen

{unseen} of the {all} damages leave files that are in order by themselves; only somebody who looks at the pictures can
tell. What protects from them:

- **Exchanged, shifted, rescaled labels without a header; renumbered or re-timed pictures**: nothing in the files says
  what belongs together. Files that are *equal* to those of another recording are found (kind `twins`), as are other
  lengths, other numbering, labels outside of `label_range`, and for AFEW-VA labels that are no whole numbers. Look at
  some clips: `tools/browse_dataset.py`.
- **A changed bit in the pixels of a JPEG or a video**: the bytes are still a picture, only another one. Of single bits
  in the pictures of Xvid videos FFmpeg noticed 80 and 92 of 150 (two videos; `err_detect` 88 and 94, so it is not
  worth its risk of refusing sound files), and each frame that leans on a damaged one is refused with it; the frame
  count tells one or two more. Of single bits in the pixels of a JPEG, libjpeg's warnings tell 2 in 10, FFmpeg's decoder
  1 or 2 in 10 at a quarter of the time of decoding; of blocks of 512 zero bytes 9 and 6 in 10. Neither is used: Pillow
  hides the former, the latter is too little. PNG files carry checksums, and so do
  the pictures of a **store of face crops**: there every changed bit is found when it is read.

"""


def committed_rows() -> Iterator[tuple[str, ...]]:
    """Yield layout, damage, training, skip and check of each row of the committed table."""
    if not TABLE.is_file():
        return
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = line.strip("|").split(" | ")
        if line.startswith("| ") and len(cells) == len(_HEADER) and cells[0].strip() != _HEADER[0]:
            yield tuple(cell.strip() for cell in cells[:-1])


def verdicts(layout: Layout) -> Iterator[Verdict]:
    """Do all damages of a layout."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "undamaged"
        clean = undamaged(layout, root)
        for number, damage in enumerate(layout.damages):
            scratch = Path(folder) / str(number)
            scratch.mkdir()
            yield examine(layout, damage, root, clean, scratch)


def table_text(rows: list[Verdict]) -> str:
    """Return the whole file."""
    unseen = sum(row.training == "not seen" for row in rows)
    counts = [Counter(getattr(row, name) for row in rows) for name in ("training", "skip")]
    lines = [_INTRODUCTION.format(unseen=unseen, all=len(rows)), "## All damages\n"]
    for name, count in zip(("training", "skip"), counts, strict=True):
        lines.append(f"- {name}: " + ", ".join(f"{number} {what}" for what, number in count.most_common()))
    lines += ["", f"| {' | '.join(_HEADER)} |", f"|{'---|' * len(_HEADER)}"]
    lines += [f"| {' | '.join((*row.cells, _cell(row.message)))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a text that stays in its cell."""
    text = text if len(text) <= 300 else text[:299] + "…"
    return text.replace("|", "\\|").replace("\n", " ") or "-"


def main() -> None:
    """Write the table."""
    rows: list[Verdict] = []
    for layout in LAYOUTS:
        rows += verdicts(layout)
        print(f"{layout.name}: {len(layout.damages)} damages", flush=True)  # noqa: T201
    TABLE.write_text(table_text(rows), encoding="utf-8")
    print(f"written to {TABLE}")  # noqa: T201


if __name__ == "__main__":
    main()
