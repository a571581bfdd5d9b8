"""What a network costs, layer by layer: ``hocp complexity configs/hocp_sewa.py`` or ``--timm resnet18``.

Parameters, multiply-accumulates (MACs), bytes of activations and milliseconds, against the same network with dense
kernels and against the dense 2-D network on every frame. Weights are random; nothing is downloaded.
"""

import argparse
from pathlib import Path

from hocp_mm.system.cli import ProgressLine, number_or_word, positive
from hocp_mm.system.files import require_writable_file
from hocp_mm.system.refusals import config_errors


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", nargs="?", type=Path, help="config file; its model is counted")
    parser.add_argument("--timm", metavar="NAME", help="count a network of timm instead, as a video backbone")
    parser.add_argument(
        "--rank", type=number_or_word, help="with --timm: components, such as 64, x1, x3 or same; x1 by default"
    )
    parser.add_argument(
        "--temporal-kernel", type=positive, help="with --timm: taps in time, 3 by default; 1 for the image network"
    )
    parser.add_argument("--frames", type=positive, help="length of the clip; the config's, or 16 with --timm")
    parser.add_argument("--size", type=positive, help="height and width, pixels; the config's, or 112 with --timm")
    parser.add_argument("--no-latency", action="store_true", help="count only; measure no times")
    parser.add_argument("--repeats", type=positive, default=10, help="runs of each layer, of which the median counts")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers of all layers there")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.config is None) == (args.timm is None):
        parser.error("give a config file or --timm NAME, one of them")
    of_timm = {"rank": "x1", "temporal_kernel": 3, "frames": 16, "size": 112}
    if args.timm is None and (args.rank is not None or args.temporal_kernel is not None):
        parser.error("--rank and --temporal-kernel go with --timm; a config has its own")
    if args.timm is not None:
        vars(args).update({name: value for name, value in of_timm.items() if getattr(args, name) is None})
    return args


def main(argv: list[str] | None = None) -> None:
    """Build, count, measure, print."""
    args = parse_args(argv)
    if args.csv is not None:
        require_writable_file(args.csv, "--csv")
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm import compat

    compat.apply()
    import torch

    from hocp_mm.analysis.cost import config_network, network_cost, timm_network
    from hocp_mm.analysis.cost_table import markdown_tables, text_tables, write_csv

    if args.timm is not None:
        network, clip = timm_network(args.timm, args.rank, args.temporal_kernel, args.frames, args.size)
        title = f"timm '{args.timm}', rank {args.rank}, temporal kernel {args.temporal_kernel}"
    else:
        with config_errors():
            network, clip = config_network(args.config, args.frames, args.size)
        title = f"{args.config}, {type(network).__name__}"
    progress = ProgressLine("measured", "layers", leave=False)
    result = network_cost(
        network, clip, 0 if args.no_latency else args.repeats, lambda _, done, total: progress(done, total)
    )
    how = f"{title}; one clip {'x'.join(map(str, clip.shape[1:]))}, float32"
    if result.milliseconds is not None:
        how += f"; median of {args.repeats} on {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
    print(f"{how}\n\n{markdown_tables(result) if args.markdown else text_tables(result)}")
    if args.csv is not None:
        print(f"\nwritten to {write_csv(result, args.csv)}")
