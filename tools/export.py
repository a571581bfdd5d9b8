"""A door to ``hocp export``, for whoever works in the repository."""

from hocp_mm.commands.export import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main)
