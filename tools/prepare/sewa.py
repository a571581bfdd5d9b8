"""A door to ``hocp prepare sewa``, for whoever works in the repository."""

from hocp_mm.commands.prepare.sewa import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main)
