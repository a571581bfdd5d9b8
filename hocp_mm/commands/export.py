"""Write a trained network for other programs: ``hocp export best.pth --to onnx``.

Every file is compared with the network before it is kept. ``--to all`` writes what this network has: ONNX of clips and
of streams, a program of torch.export, timm's dense network, safetensors. With ``--clips VIDEO …`` an 8-bit ONNX file is
one more form (``onnx-int8``), and it is told how far it agrees. docs/export.md says what goes in and what comes out.
"""

import argparse
from pathlib import Path
from typing import Any

from hocp_mm.commands import options
from hocp_mm.errors import HOCPError, SomeFailedError
from hocp_mm.system.cli import importing, positive
from hocp_mm.system.files import require_writable
from hocp_mm.system.refusals import visible

FORMS = ("onnx", "onnx-int8", "onnx-stream", "torch-export", "dense", "safetensors")


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="weights saved by hocp train, or of a known network")
    parser.add_argument(
        "--to", nargs="+", choices=[*FORMS, "all"], required=True, metavar="FORM", help=", ".join(FORMS)
    )
    parser.add_argument("--out", type=Path, default=Path("exported"), metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace files that lie in --out")
    parser.add_argument(
        "--config", type=Path, help="config of the network; the one recorded in the checkpoint by default"
    )
    parser.add_argument(
        "--no-preprocess",
        action="store_true",
        help="leave normalisation out: ONNX and torch.export then take normalised floats, not pictures",
    )
    parser.add_argument("--opset", type=positive, default=20, help="of ONNX (default: %(default)s)")
    parser.add_argument(
        "--clips", nargs="+", type=Path, default=[], metavar="VIDEO", help="videos by which 8-bit ranges are chosen"
    )
    options.add_detector(parser)
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if "onnx-int8" in args.to and not args.clips:
        parser.error("argument --to: onnx-int8 needs --clips VIDEO …, by which ranges are chosen")
    args.all = "all" in args.to
    if args.all:
        args.to = [form for form in FORMS if form != "onnx-int8" or args.clips]
    args.to = list(dict.fromkeys(args.to))
    return args


def main(argv: list[str] | None = None) -> None:
    """Write one form after the other, then a table."""
    args = parse_args(argv)
    require_writable(args.out, "--out")
    # Heavy imports after the parser, so that --help and a wrong option answer at once.
    with importing():
        from hocp_mm import compat

        compat.apply(training=False)
        from hocp_mm.apis import AffectInferencer
        from hocp_mm.apis.exporting import ENDS, Calibration, Exporter, require_packages

        if any(form.startswith("onnx") for form in args.to):
            require_packages()
        places = {form: args.out / f"{_stem(args.checkpoint)}{ENDS[form]}" for form in args.to}
        _check(places, args)
        inferencer = AffectInferencer(args.checkpoint, args.config, "cpu")
    exporter = Exporter(inferencer, preprocess=not args.no_preprocess, opset=args.opset)
    calibration = Calibration(inferencer, args.clips, options.look_for(args)) if "onnx-int8" in args.to else None
    written, failed = [], []
    for form, place in places.items():
        try:
            written.append(exporter.write(form, place, calibration))
        except HOCPError as error:
            if len(places) == 1:
                raise
            failed.append(error)
            print(f"not {'written' if args.all else 'possible'}: {visible(str(error))}", flush=True)
        else:
            print(visible(str(place)), flush=True)
    print(f"\n{_table(written)}")
    if failed and not args.all:
        raise SomeFailedError(f"--to: {len(failed)} of {len(places)} failed (see above), the first one: {failed[0]}")
    if not written:
        raise failed[0]


def _stem(checkpoint: Path) -> str:
    """Return the name of a file without what says that it holds weights: ``best.v2`` for ``best.v2.pth``."""
    name = checkpoint.name.removesuffix(".tar")
    return name.rpartition(".")[0] or name.strip(".") or "network"


def _check(places: dict[str, Path], args: argparse.Namespace) -> None:
    """Refuse places of files that are there, or are read.

    Raises:
        HOCPError: If one is.
    """
    for place in places.values():
        if place.exists() and args.checkpoint.exists() and place.samefile(args.checkpoint):
            raise HOCPError(f"{place}: is read and would be written, too; name another --out.")
        if place.is_symlink():
            raise HOCPError(f"{place}: is a link, and what it leads to would be lost; name another --out.")
        if place.exists() and not args.overwrite:
            raise HOCPError(f"{place}: is there already; name another --out, or give --overwrite.")


def _table(written: list[Any]) -> str:
    rows = [
        ("form", "MB", "largest difference", ""),
        *((w.form, f"{w.size / 1e6:.1f}", f"{w.error:.1e}", w.note) for w in written),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
