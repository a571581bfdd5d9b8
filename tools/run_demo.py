"""A whole recipe on synthetic faces, from nothing to a table and pictures: ``make demo``.

``--set sewa`` (``make demo``) trains an image network on frames, transducts it into a video network, fine-tunes that,
tests both on people neither has seen, and runs the video network over one of their videos. ``--set afew_va``
(``make demo-afew-va``) starts from an image network of other people and runs five folds by actor. ``--set affectnet``
(``make demo-affectnet``) trains the image network on pictures, with expressions. Each step is a command that a user
would type; it is printed, and its full output is kept in ``<out>/logs``.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from demos import afew_va, affectnet, sewa
from demos.steps import ROOT, Demo, Steps, fresh

from hocp_mm.system.cli import run
from hocp_mm.system.files import require_writable, write_text

SETS = {"sewa": sewa, "afew_va": afew_va, "affectnet": affectnet}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--set", choices=SETS, default="sewa", help="whose layout the data have (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, help="folder for everything but the data; demo_output, or demo_output/<set> of the others"
    )
    parser.add_argument("--data", type=Path, help="folder for the synthetic set (default: data/synthetic_<set>)")
    parser.add_argument(
        "--quick", action="store_true", help="a few faces, two epochs: does everything run? Its scores mean nothing"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="handed to all trainings and tests"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the steps, then print where everything is."""
    args = parse_args(argv)
    start = time.monotonic()
    chosen = SETS[args.set]
    demo = make_demo(args)
    for folder, option in ((demo.out, "--out"), (demo.data, "--data")):
        require_writable(folder, option)
    fresh([*(demo.out / name for name in chosen.FOLDERS), demo.results, demo.out / "logs"])
    outcome = chosen.run(demo)
    write_text(demo.results / "results.md", outcome.table + "\n")
    print(f"\n{outcome.table}\n\nIn {demo.results}:")
    width = max(map(len, outcome.files)) + 2
    for name, what in {"results.md": "this table", **outcome.files}.items():
        print(f"  {name:<{width}} {what}")
    print(f"\nDone in {time.monotonic() - start:.0f} s. For your own data, see README.md.")


def make_demo(args: argparse.Namespace) -> Demo:
    """Return the run that the options ask for; its folders are absolute, as its commands run at the repository root."""
    usual_out = ROOT / "demo_output" / ("" if args.set == "sewa" else args.set)
    out = usual_out if args.out is None else args.out.resolve()
    usual_data = ROOT / f"data/synthetic_{args.set}"
    # Other numbers need another folder: a set is never replaced.
    data = usual_data.with_name(f"{usual_data.name}_quick") if args.quick else usual_data
    return Demo(
        out=out,
        data=data if args.data is None else args.data.resolve(),
        usual_data=usual_data,
        quick=args.quick,
        options=tuple(args.cfg_options),
        step=Steps(out / "logs", SETS[args.set].STEPS),
    )


if __name__ == "__main__":
    run(main)
