"""A door to ``hocp prepare split_afew_va``, for whoever works in the repository."""

from hocp_mm.commands.prepare.split_afew_va import main
from hocp_mm.system.cli import run

if __name__ == "__main__":
    run(main)
