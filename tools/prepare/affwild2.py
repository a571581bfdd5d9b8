"""A door to ``hocp prepare affwild2``, for whoever works in the repository."""

from hocp_mm.commands.prepare.affwild2 import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main)
