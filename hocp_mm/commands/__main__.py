"""``python -m hocp_mm.commands``: ``hocp`` where its script is not on the path, as under ``torchrun -m``."""

from hocp_mm.commands.entry import main

if __name__ == "__main__":
    main()
