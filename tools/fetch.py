"""A door to ``hocp fetch``, for whoever works in the repository."""

from hocp_mm.commands.fetch import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main)
