"""``python -m hocp_mm.compat``: check the installation; ``make setup`` ends with it."""

import platform
import sys

import torch

from hocp_mm.compat.workarounds import apply
from hocp_mm.errors import HOCPError


def main() -> int:
    """Print versions and work-arounds, or the reason why the installation cannot work.

    Returns:
        Exit status: 0, or 2 where something must be installed differently.
    """
    try:
        lines = apply()
    except HOCPError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {device}")  # noqa: T201
    for line in lines:
        print(f"work-around: {line}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
