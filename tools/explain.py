"""A door to ``hocp explain``, for whoever works in the repository."""

from hocp_mm.commands.explain import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main)
