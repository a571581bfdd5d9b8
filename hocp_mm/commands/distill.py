"""Put a timm network into CP form on your own pictures: ``hocp distill --timm NAME --images FOLDER --out FILE``.

Needs no labels. Ranks go where errors cost most, each layer makes up for the errors of those before it, and with
``--steps`` all of them then learn to follow the dense network. What is left of its features stands at the end, by
pictures that were kept apart. Any config starts from the file: ``TransductionHook(source=FILE)``.
"""

import argparse
from pathlib import Path

from hocp_mm.system.cli import number_or_word, positive
from hocp_mm.system.files import replacing, require_writable_file


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--timm", metavar="NAME", required=True, help="network of timm")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="its weights; timm's own by default")
    parser.add_argument("--images", type=Path, metavar="FOLDER", required=True, help="pictures as it will see them")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="where the weights go, .safetensors")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--budget",
        type=_share,
        default=0.25,
        metavar="PART",
        help="parameters of the new layers, as a part of the dense ones, from 0 to 1 (default: %(default)g)",
    )
    size.add_argument("--rank", type=number_or_word, help="or the same rule for all layers, such as 64, x1, auto")
    parser.add_argument("--steps", type=_count, default=0, help="of distillation, a second or so each; 0 by default")
    parser.add_argument("--most", type=positive, default=256, help="pictures that are read (default: %(default)d)")
    parser.add_argument("--size", type=positive, help="height and width, pixels; the network's own by default")
    parser.add_argument("--seed", type=int, default=0, help="of the fits")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.out.suffix != ".safetensors":
        parser.error(f"argument --out: must end in .safetensors, got {args.out}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Compress, print the account, write."""
    args = parse_args(argv)
    require_writable_file(args.out, "--out")
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from safetensors.torch import save_file

    from hocp_mm import compat

    compat.apply()
    from hocp_mm.apis.compressing import compress_timm

    source = "timm" if args.checkpoint is None else str(args.checkpoint)
    budget = None if args.rank is not None else args.budget
    found = compress_timm(
        args.timm,
        source,
        args.images,
        rank=args.rank or "x1",
        budget=budget,
        steps=args.steps,
        most=args.most,
        size=args.size,
        seed=args.seed,
        progress=lambda line: print(line, flush=True),
    )
    with replacing(args.out) as draft:
        save_file({name: tensor.contiguous() for name, tensor in found.state.items()}, draft)
    print(found.report)
    if found.report.warning:
        print(f"warning: {found.report.warning}")
    print(f"written to {args.out}")


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return share


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return count
