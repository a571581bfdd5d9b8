"""Print a script by which a shell completes commands, options and files: ``eval "$(hocp completion bash)"``.

To have it in every shell, put that line into ``~/.bashrc``, or write the script where the shell looks for them:
``hocp completion bash > ~/.local/share/bash-completion/completions/hocp``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hocp_mm.commands.entry import COMMANDS, load
from hocp_mm.errors import MissingDataError

SHELLS = ("bash", "zsh", "tcsh")
_FILES = ("config", "checkpoint")


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shell", choices=SHELLS, help="whose language the script is in")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the script."""
    print(script(make_parser().parse_args(argv).shell))


def script(shell: str) -> str:
    """Return a script that completes the words of ``hocp``.

    Args:
        shell: One of `SHELLS`.

    Returns:
        The script.

    Raises:
        MissingDataError: If shtab, which writes it, is not installed.
    """
    try:
        import shtab  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDataError("completion: needs shtab, which writes the script: pip install shtab.") from error
    root = argparse.ArgumentParser("hocp")
    root.add_argument("--version", action="store_true")
    groups = {"": root.add_subparsers()}
    for name, command in COMMANDS.items():
        own = load(name).make_parser()
        for action in own._actions:
            if (action.type is Path or action.dest in _FILES) and action.choices is None:
                action.complete = shtab.FILE
        group, _, last = name.rpartition(" ")
        if group not in groups:
            groups[group] = groups[""].add_parser(group, help="several commands").add_subparsers()
        groups[group].add_parser(last, parents=[own], add_help=False, help=command.summary)
    return shtab.complete(root, shell=shell)
