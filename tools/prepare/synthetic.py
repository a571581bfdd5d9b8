"""A door to ``hocp prepare synthetic``, for whoever works in the repository."""

from hocp_mm.commands.prepare.synthetic import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main)
