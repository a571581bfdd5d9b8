"""Which checkpoint a run goes on from."""

import logging
import re
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from hocp_mm.checkpoints import check_training_state
from hocp_mm.compat.checkpoint_loading import load_from_local
from hocp_mm.errors import CheckpointError

LAST = "last_checkpoint"
INTERRUPTED = "interrupted.pth"
_STEP = re.compile(r"(?:epoch|iter)_(\d+)\.pth")
_MOST_TEXT = 4096  # bytes of a path


def find_checkpoint(work_dir: str | Path) -> Path | None:
    """Return the newest checkpoint in a folder that can be read, whatever ended the run that wrote it.

    Args:
        work_dir: Folder of the run. What `last_checkpoint` in it says counts by its last part only: the folder may be
            a copy.

    Returns:
        A file in ``work_dir``, or None if nothing was ever saved there.

    Raises:
        CheckpointError: If something was saved and nothing can be read: to start anew would overwrite it.
    """
    folder = Path(work_dir)
    named = _named_by(folder / LAST)
    numbered = sorted((file for file in folder.glob("*_*.pth") if _STEP.fullmatch(file.name)), key=_step, reverse=True)
    candidates = [folder / INTERRUPTED, *numbered]
    if named is not None:
        candidates.insert(0, folder / named)
    candidates = [file for file in dict.fromkeys(candidates) if file.is_file()]
    refusals: list[str] = []
    for file in candidates:
        try:
            _check_inside(file)
            read_training(file)
        except CheckpointError as error:
            refusals.append(str(error))
            continue
        for refusal in refusals:
            print_log(f"resume: {refusal} Going on from {file.name}.", logger="current", level=logging.WARNING)
        return file
    if refusals:
        raise CheckpointError(f"resume: no checkpoint in {folder} can be read; the newest: {refusals[0]}")
    # What bears the name of a checkpoint and is no file may stand for one: a folder, a link to nowhere.
    odd = [file for file in (folder / INTERRUPTED, *numbered) if file.is_symlink() or file.exists()]
    leftover = sorted(file.name for file in (*odd, *folder.glob("best_*.pth")))
    if (folder / LAST).exists() or leftover:
        lost = f"the {named} that {LAST} names" if named else "the checkpoint to go on from"
        raise CheckpointError(
            f"resume: {folder} must hold {lost}, got {', '.join(leftover[:3]) or 'no checkpoint'} (name another "
            "--work-dir for a new run, or a file: --resume=FILE)."
        )
    return None


def read_training(file: Path) -> dict[str, Any]:
    """Read a checkpoint that a run could go on from.

    Args:
        file: The file.

    Returns:
        The checkpoint, as MMEngine will see it.

    Raises:
        CheckpointError: If it cannot be read, or a run cannot go on from what it holds.
    """
    checkpoint = load_from_local(str(file), "cpu")
    check_training_state(checkpoint, file)
    return checkpoint


def _check_inside(file: Path) -> None:
    """Refuse a link that leads out of the folder: in a copied folder it would be a file of somebody else's."""
    if file.resolve().parent != file.parent.resolve():
        raise CheckpointError(
            f"{file}: is a link out of its folder, to {file.resolve()} (copy the file, or name it: --resume=FILE)."
        )


def _named_by(pointer: Path) -> str | None:
    """Return the name of the file that `last_checkpoint` points to; None if it says nothing that can be one."""
    if not pointer.is_file() or not pointer.stat().st_size:  # or a file of the kernel, which may let us wait for ever
        return None
    try:
        with pointer.open("rb") as stream:
            text = stream.read(_MOST_TEXT + 1)
        name = re.split(r"[/\\]", text.decode("utf-8").strip())[-1]
    except (OSError, UnicodeDecodeError):
        return None
    usable = name.endswith(".pth") and name.isprintable() and len(text) <= _MOST_TEXT
    return name if usable else None


def _step(file: Path) -> int:
    found = _STEP.fullmatch(file.name)
    return int(found[1]) if found else -1
