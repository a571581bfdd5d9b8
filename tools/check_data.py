"""A door to ``hocp check``, for whoever works in the repository."""

from hocp_mm.commands.check import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main)
