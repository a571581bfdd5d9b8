"""Convert a network of every timm family and write what comes out: ``python -m benchmarks.timm_sweep``.

Of each module of timm the smallest network with a convolution that can see time is taken, and some more for layers
that no smallest network has. Every network gets random weights as of a network that has lived, which reach the video
network through a file, at a small rank and at the rank at which CP kernels are exact.
"""

import argparse
import math
import multiprocessing
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.timm_examination import TOLERANCE, Row, Task, examine_alone
from hocp_mm.layers.selection import is_factorizable, sees_time
from hocp_mm.system.isolation import IsolatedPool

_NETWORKS_PER_PROCESS = 6
PAGE = Path(__file__).parents[1] / "docs" / "timm_support.md"
SPECIAL = (
    "resnet18", "resnext50_32x4d", "regnety_002", "densenet121", "vgg16_bn", "efficientnet_b0", "tf_efficientnet_b0",
    "tf_efficientnet_cc_b0_4e", "mixnet_s", "tf_mixnet_s", "mobilenetv3_large_100", "tf_mobilenetv3_small_minimal_100",
    "mobilenetv4_conv_small_035", "mobilenetv4_hybrid_medium", "convnext_atto", "convnextv2_atto", "nf_resnet26",
    "eca_nfnet_l0", "dm_nfnet_f0", "resnetv2_50x1_bit", "vit_small_r26_s32_224", "vit_tiny_r_s16_p8_224",
    "mobileone_s0", "repvgg_a0", "fastvit_t8", "repvit_m1", "coatnet_nano_rw_224", "maxvit_pico_rw_256", "levit_128s",
    "levit_conv_128s", "mvitv2_tiny", "lambda_resnet26t", "halonet26t", "botnet26t_256", "hrnet_w18_small",
    "res2net50_26w_4s", "resnest14d", "skresnet18", "gernet_s", "xception41", "legacy_xception", "pnasnet5large",
    "cs3darknet_focus_s", "swinv2_cr_tiny_ns_224", "vit_base_mci_224", "resnet18d", "seresnext26d_32x4d",
)  # fmt: skip
"""More networks, for grouped, depthwise, standardised, conditional, re-parameterisable and attention layers."""
FUSED = ("mobileone_s0", "repvgg_a0", "fastvit_t8", "repvit_m1", "test_byobnet")
"""Of these also the network with ``reparameterize=True``."""


_LEGEND = """
Of each module the smallest network that can be converted, and more for layers that no smallest network has. Weights are
random (no layer at its neutral start, statistics of real batches), saved as timm's own network has them and loaded
through `checkpoint=`; errors are those in float64, gradients are looked for in float64 and in float32.

- *input*: pixels, the smallest size that timm's own network takes; *(img_size)* with that option of timm.
- *HO-CP*: layers with a CP kernel; *time*: with a temporal factor (CP, depthwise or grouped) and motion components
  (their outputs zero at the start, random where leaks are looked for); *kept*: other convolutions (1 x 1, stems), which
  see one frame.
- *frame-wise*: largest relative error of a frame's features, over all stages, against the 2-D network on that frame.
- *dense*: the same against timm's own network, with CP kernels at the rank at which they are exact.
- *leak*: largest change of what must not change with random causal temporal factors: earlier frames when the last one
  changes, other clips, the first frames when the clip is longer.
- *no gradient*: temporal factors without a finite gradient other than zero, and parameters without any.
- *ok*: all errors below {tolerance:.0e}, no parameter without gradient, and a second backbone filled with the
  state dict gives the same features.
- *refused*: no network of that module has a convolution between its first layer and its feature maps (transformers and
  MLPs: their patch embedding is their first layer). Those of `samvit` lie behind the maps and are converted with
  `head_features=True`.
"""

Counted = Mapping[str, Sequence[tuple[int, str, bool]]]
"""By module of timm: parameters and name of each network, and whether a convolution of it can see time."""


def choose(counted: Counted, pattern: str = "", everything: bool = False) -> list[Task]:
    """Choose networks: of each module the smallest that can be converted, or the smallest one; then the special ones.

    Args:
        counted: All networks.
        pattern: Regular expression for ``module/model``.
        everything: Take all networks instead.

    Returns:
        What to examine, in alphabetical order.
    """
    home = {name: module for module, networks in counted.items() for _, name, _ in networks}
    chosen = {(home[name], name, fused) for names, fused in ((SPECIAL, False), (FUSED, True)) for name in names
              if name in home}  # fmt: skip
    for module, networks in counted.items():
        able = [network for network in networks if network[2]] or networks
        chosen |= {(module, name, False) for _, name, _ in (networks if everything else [min(able)])}
    return [task for task in sorted(chosen) if re.search(pattern, f"{task[0]}/{task[1]}")]


def count_networks(pattern: str = "") -> Counted:
    """Build the networks of timm without memory and count their parameters.

    Args:
        pattern: Regular expression for ``module/model``; modules without such a network are left out.

    Returns:
        All networks of the modules.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # what is done to torch there stays there
        return pool.apply(_count, (pattern,))


def _count(pattern: str) -> Counted:
    # Values on the meta device do not matter, and drawing them takes most of the time.
    def keep(tensor: Any, *args: object, **kwargs: object) -> Any:
        return tensor

    for name in ("normal_", "uniform_", "erfinv_", "clamp_", "fill_", "zero_", "mul_", "add_", "copy_"):
        setattr(torch.Tensor, name, keep)
    for name in [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]:
        setattr(nn.init, name, keep)
    found: dict[str, list[tuple[int, str, bool]]] = {}
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if not any(re.search(pattern, f"{module}/{name}") for name in names):
            continue
        found[module] = []
        for name in names:
            with torch.device("meta"):
                net = timm.create_model(name)
            able = any(is_factorizable(layer) or sees_time(layer) for layer in net.modules())
            found[module].append((sum(p.numel() for p in net.parameters()), name, able))
    return found


def page(rows: Sequence[Row], command: str) -> str:
    """Render the table.

    Args:
        rows: What came out.
        command: How it was made.

    Returns:
        A Markdown page.
    """
    count = {word: sum(row.result.startswith(word) for row in rows) for word in ("ok", "refused", "FAILED")}
    head = ["module", "model", "input", "HO-CP", "time", "kept", "frame-wise", "dense", "leak", "no gradient", "result"]
    lines = [
        "# Networks of timm as video networks", "",
        f"Written by `{command}` with timm {version('timm')} and torch {version('torch')}.",
        f"**{len(rows)} networks: {count['ok']} ok, {count['refused']} refused, {count['FAILED']} failed.**", "",
        *_LEGEND.format(tolerance=TOLERANCE).strip().splitlines(), "",
        f"| {' | '.join(head)} |", "|---|---|" + "---:|" * 8 + "---|",
    ]  # fmt: skip
    return "\n".join([*lines, *map(_line, rows)]) + "\n"


def _line(row: Row) -> str:
    counts = [row.size, row.factorized, row.transducted, row.kept] if row.factorized + row.transducted else [""] * 4
    errors = ["" if math.isnan(error) else f"{error:.0e}" for error in (row.framewise, row.dense, row.leak)]
    untouched = "" if math.isnan(row.leak) else len(row.temporal) + len(row.parameters)
    model = f"{row.model} ({row.options})" if row.options else row.model
    result = row.result.replace("|", "\\|").replace("\n", " ")
    return f"| {' | '.join(map(str, [row.module, model, *counts, *errors, untouched, result]))} |"


def sweep(tasks: Sequence[Task], processes: int) -> Iterator[Row]:
    """Examine networks in fresh processes, a few networks each; a process that a network ends is its failure."""
    few = _NETWORKS_PER_PROCESS * processes
    for first in range(0, len(tasks), few):
        some = tasks[first : first + few]
        with IsolatedPool(processes) as pool:
            for number, outcome in pool.run((examine_alone, (task,), None) for task in some):
                module, name, fused = some[number]
                lost = Row(module, name, "reparameterize" if fused else "", result=f"FAILED: it {outcome.failure}")
                yield outcome.value or lost


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, convert, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timm_sweep", description=__doc__)
    parser.add_argument("--only", default="", metavar="PATTERN", help="regular expression for module/model")
    parser.add_argument("--all", action="store_true", help="every network of timm instead of the smallest ones; hours")
    parser.add_argument("--processes", type=int, default=2, help="2 by default")
    parser.add_argument("--out", type=Path, default=PAGE, help="Markdown file to write")
    args = parser.parse_args(argv)
    command = " ".join(["python -m benchmarks.timm_sweep", *(["--only", repr(args.only)] if args.only else []),
                        *(["--all"] if args.all else [])])  # fmt: skip
    tasks = choose(count_networks(args.only), args.only, args.all)
    if not tasks:
        parser.error(f"--only must match a network, got {args.only!r}")
    rows: list[Row] = []
    for row in sweep(tasks, args.processes):
        rows = sorted([*rows, row], key=lambda done: (done.module, done.model, done.options))
        title = " ".join(filter(None, (f"{row.module}/{row.model}", row.options)))
        print(f"{len(rows)}/{len(tasks)} {title}, {row.seconds:.0f} s: {row.result}", flush=True)
        args.out.write_text(page(rows, command), encoding="utf-8")


if __name__ == "__main__":
    main()
