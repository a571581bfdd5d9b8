"""``hocp``: one command for all that this package does.

``hocp COMMAND …`` calls ``hocp_mm.commands.<file>.main``, which is imported then and not before. A new command is a
file with ``make_parser()`` and ``main(argv)``, and a row of `COMMANDS`.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NamedTuple, NoReturn

from hocp_mm import __version__
from hocp_mm.system.cli import EXIT_CODES, run


class Command(NamedTuple):
    """A row of the table.

    Attributes:
        summary: What it does, in the words of ``hocp --help``.
        at_once: See `hocp_mm.system.cli.run`.
    """

    summary: str
    at_once: bool = False


COMMANDS = {
    "demo": Command("valence and arousal of videos and pictures: tables, timelines, annotated videos", at_once=True),
    "stream": Command("the same of a camera, a pipe or a file, live", at_once=True),
    "explain": Command("where a network looks in a video, how far in time, which frames moved it"),
    "fetch": Command("get the weights of a known affect network"),
    "train": Command("train a network from a config"),
    "test": Command("score a trained network"),
    "folds": Command("cross-validate: train and test every fold, pool all"),
    "label": Command("let a network label a folder of videos", at_once=True),
    "check": Command("read all data of a config once and name every fault"),
    "browse": Command("draw what the network is shown"),
    "prepare sewa": Command("SEWA: cut all faces once, into a store"),
    "prepare afew_va": Command("AFEW-VA: the same"),
    "prepare affectnet": Command("AffectNet: the same"),
    "prepare affwild2": Command("Aff-Wild2: the same"),
    "prepare split_sewa": Command("divide SEWA into train, val and test"),
    "prepare split_afew_va": Command("divide AFEW-VA into folds"),
    "prepare synthetic": Command("write a synthetic set in the layout of a real one"),
    "complexity": Command("what a network costs, layer by layer"),
    "verify": Command("check that a timm network becomes a video network without loss"),
    "distill": Command("put a timm network into CP form on your own pictures"),
    "export": Command("write a trained network for other programs: ONNX, torch.export, dense weights"),
    "completion": Command("print a script by which a shell completes these words"),
}
"""By its words; the module has the same name, with a dot for the space."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process.

    Args:
        argv: Words behind ``hocp``; those of the process by default.

    Raises:
        SystemExit: Always (see `EXIT_CODES`), unless the program is at fault.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = next((name for count in (1, 2) if (name := " ".join(words[:count])) in COMMANDS), None)
    if name is not None:
        rest = words[1 + name.count(" ") :]
        sys.argv = [f"hocp {name}", *rest]  # argparse takes the name of the program from here
        run(lambda: load(name).main(rest), at_once=COMMANDS[name].at_once)
    group = next((name.partition(" ")[0] for name in COMMANDS if words and name.startswith(f"{words[0]} ")), "")
    parser, words = _parser(group), words[bool(group) :]
    if not words:
        parser.print_help(sys.stderr)
        sys.exit(2)
    parser.parse_args(words[:1])  # --help and --version end here
    near = difflib.get_close_matches(words[0], _rows(group), 1)
    parser.error(f"no such command: {words[0]!r:.100}" + (f"; did you mean {near[0]}?" if near else ""))


def load(name: str) -> ModuleType:
    """Import a command.

    Args:
        name: Key of `COMMANDS`.

    Returns:
        Its module, with ``make_parser`` and ``main``.
    """
    return import_module(f"hocp_mm.commands.{name.replace(' ', '.')}")


def _rows(group: str) -> dict[str, str]:
    """Return what follows ``hocp``, or a word such as ``prepare``, with what it does."""
    if group:
        own = {name.partition(" ")[2]: row for name, row in COMMANDS.items() if name.startswith(f"{group} ")}
        return {name: row.summary for name, row in own.items()}
    rows: dict[str, str] = {}
    for name, row in COMMANDS.items():
        first, _, last = name.partition(" ")
        rows[first] = f"{rows[first]}, {last}" if first in rows else last or row.summary
    return rows


def _parser(group: str) -> argparse.ArgumentParser:
    """Return what prints help, the version, and what is wrong with words that name no command."""
    program = f"hocp {group}".strip()
    rows = "\n".join(f"  {name:<14} {summary}" for name, summary in _rows(group).items())
    codes = "\n".join(f"  {code:<14} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        program,
        usage=f"{program} COMMAND …",
        description="Video networks in CP form, and valence and arousal from faces. COMMAND --help tells more of each.",
        epilog=f"commands:\n{rows}\n\nexit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hocp_mm {__version__}")
    parser.add_argument("command", help=argparse.SUPPRESS)
    return parser
