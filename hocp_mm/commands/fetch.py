"""Fetch the weights of a known affect network: ``hocp fetch enet_b0_8_va_mtl``.

Prints whose they are, under which licence, and the file's SHA-256. The file is kept only if its tensors are those of
the network. Offline, one line says where the file is and where it belongs. ``docs/affect_networks.md`` lists all.
"""

import argparse
from pathlib import Path

from hocp_mm.system.files import require_writable

MOST_BYTES = 256 << 20


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", metavar="NAME", help="such as enet_b0_8_va_mtl; a wrong one lists all")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), metavar="FOLDER", help="default: %(default)s")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return make_parser().parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Look the name up, fetch, check and print."""
    args = parse_args(argv)
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm.checkpoints import KnownWeights, affect_network, known_weights, read_checkpoint, unwrap_state_dict
    from hocp_mm.errors import CheckpointError
    from hocp_mm.system import fetching

    network = affect_network(args.name)
    print(f"{network.name}: {network.licence}\ncite: {network.citation}")

    def check(draft: Path) -> None:
        known = known_weights(unwrap_state_dict(read_checkpoint(draft), draft), network.address, network.name)
        if not isinstance(known, KnownWeights) or network not in known.networks:
            names = known if isinstance(known, str) else " or ".join(other.name for other in known.networks)
            raise CheckpointError(f"{network.address}: must hold the weights of {network.name}, got {names:.300}.")

    require_writable(args.out, "--out")
    file = args.out / network.file
    found = fetching.fetch_file(
        network.address, file, most_bytes=MOST_BYTES, sha256=network.sha256, check=check, opener=fetching.https_opener
    )
    known = "as published" if network.sha256 else "not confirmed, none is known"
    print(f"SHA-256 {found} ({known})\n{file}")
