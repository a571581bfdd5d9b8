"""A door to ``hocp prepare affectnet``, for whoever works in the repository."""

from hocp_mm.commands.prepare.affectnet import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main)
