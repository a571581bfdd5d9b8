"""Draw what the network is shown: ``hocp browse configs/hocp_sewa.py --out sheet.png``.

Rows are clips as the pipeline delivers them, after crop and augmentation; under each frame stand its number, valence
and arousal, whether the label counts and a face was found, and the expression where there is one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hocp_mm.system.cli import add_config_options
from hocp_mm.system.files import require_writable_file
from hocp_mm.system.refusals import config_errors


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file")
    parser.add_argument("--split", choices=["train", "val", "test"], default="train", help="default: train")
    parser.add_argument("--clips", type=int, default=6, help="clips to draw, default: 6")
    parser.add_argument("--frames", type=int, default=8, help="frames to show of each clip, default: 8")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw and of the augmentation, default: 0")
    parser.add_argument("--out", default="sheet.png", metavar="FILE", help="picture to write, default: sheet.png")
    add_config_options(parser, "train_dataloader.dataset.data_root=data/SEWA")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    for name in ("clips", "frames"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name}: must be at least 1, got {getattr(args, name)}")
    if Path(args.out).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        parser.error(f"argument --out: must end in .png, .jpg or .webp, got {args.out}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the sheet and name its file."""
    args = parse_args(argv)
    require_writable_file(args.out, "--out")
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    from hocp_mm import compat

    compat.apply()
    from hocp_mm import launch
    from hocp_mm.data_check.browsing import browse_clips, build_browsed
    from hocp_mm.visualization import draw_contact_sheet

    with config_errors():
        cfg = launch.load_config(args.config, args.cfg_options)
    with config_errors(cfg):
        built = build_browsed(cfg, args.split)
        assert built.dataset is not None
        dataset = built.dataset
        clips = browse_clips(dataset, args.clips, args.frames, args.seed)
    height, width = clips[0].frames.shape[1:3]
    low, high = dataset.label_range
    sheet = draw_contact_sheet(
        clips,
        f"{type(dataset).__name__}  ·  {args.split}",
        f"label_range ({low:g}, {high:g}), shown in [-1, 1]  ·  {width} x {height} pixels  ·  "
        f"{len(clips)} of {len(dataset)} clips, seed {args.seed}",
        columns=args.frames,
    )
    path = sheet.save(args.out)
    if built.faults:
        count = "1 fault is" if len(built.faults) == 1 else f"{len(built.faults)} faults are"
        print(f"{count} left out; tools/check_data.py {args.config} names them")
    print(f"{len(clips)} clips written to {path}")
