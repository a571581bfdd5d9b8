"""A door to ``hocp stream``, for whoever works in the repository."""

from hocp_mm.commands.stream import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main, at_once=True)
