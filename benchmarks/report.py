"""From measured numbers to a Markdown page and a plot."""

import json
from pathlib import Path
from typing import Any

from benchmarks.data_report import data_lines
from benchmarks.exporting import export_lines
from benchmarks.layers import DENSE, FORMS, PARENT, RIVALS
from benchmarks.markdown import table
from benchmarks.networks import MOTION, MOVING, OURS, PUBLISHED, TWIN
from benchmarks.networks import PARENT as PARENT_NETWORK
from benchmarks.peers import peers_lines
from benchmarks.streaming import plot_streaming, streaming_lines
from benchmarks.timing import geometric_mean
from benchmarks.videos import video_lines

Numbers = dict[str, Any]


def write_report(folder: Path, name: str) -> Path:
    """Write ``<name>.md`` and ``<name>.png`` from the JSON files of the sections measured so far.

    Returns:
        The Markdown file.
    """
    found = {path.stem.removeprefix(f"{name}-"): json.loads(path.read_text()) for path in folder.glob(f"{name}-*.json")}
    pages = {
        "layers": _layers,
        "memory": _memory,
        "networks": _networks,
        "motion": _motion,
        "choices": _choices,
        "fits": _fits,
        "starts": _starts,
        "data": data_lines,
        "video": video_lines,
        "streaming": streaming_lines,
        "export": export_lines,
        "peers": peers_lines,
    }
    plotted = ("layers", "streaming")
    lines = [
        f"# Benchmark: {name.replace('_', ', ')}",
        "",
        f"Written by `python -m benchmarks.run`. {found['machine']['text']}",
        "All contenders of a row run in turns within one process; the numbers are medians.",
    ]
    for section, render in pages.items():
        if section in found:
            lines += ["", *(render(found[section], name) if section in plotted else render(found[section]))]
    page = folder / f"{name}.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if "layers" in found:
        plot_layers(found["layers"], folder / f"{name}.png")
    if "streaming" in found:
        plot_streaming(found["streaming"]["history"], folder / f"{name}-streaming.png")
    return page


def _layers(results: list[Numbers], name: str) -> list[str]:
    lines = [
        "## Layers: C to C, 3 x 3 x 3, one clip of 16 frames",
        "",
        f"Milliseconds. *limit*: the multiplications of the CP form at the rate that {DENSE} reaches on this shape.",
        "Ours and the 2-D layer get `channels_last` data, the others contiguous; *ours, contiguous* does too. Each",
        "contender runs twice in its turn and the second run counts.",
        "",
        f"![times faster than {DENSE}]({name}.png)",
    ]
    for expansion, training in sorted({(r["expansion"], r["training"]) for r in results}):
        rows = [r for r in results if (r["expansion"], r["training"]) == (expansion, training)]
        title = f"R = {'' if expansion == 1 else expansion}C, {'training step' if training else 'inference'}"
        lines += ["", f"### {title}", ""]
        head = ["layer", *RIVALS, "limit", *(f"ours {f}" for f in FORMS), "ours, contiguous"]
        body = [
            [f"{r['channels']}, {r['size']} x {r['size']}", *(f"{r['times'][n]:.1f}" for n in RIVALS),
             f"{r['limit']:.1f}", *(f"{r['times']['ours ' + f]:.1f}" for f in FORMS),
             f"{r['times']['ours auto, contiguous']:.1f}"]
            for r in rows
        ]  # fmt: skip
        lines += [*table(head, body), ""]
        ratio = [[f"{r['channels']}, {r['size']} x {r['size']}", *(f"{q:.2f}" for q in _ratios(r))] for r in rows]
        means = [geometric_mean([_ratios(r)[i] for r in rows]) for i in range(4)]
        ratio.append(["**geometric mean**", *(f"**{m:.2f}**" for m in means)])
        lines += table(
            [
                "how many times faster is ours auto",
                f"than {DENSE}",
                "than tltorch's better form",
                f"than {PARENT}",
                "time over the limit",
            ],
            ratio,
        )
    return lines


def _ratios(r: Numbers) -> tuple[float, float, float, float]:
    times, ours = r["times"], r["times"]["ours auto"]
    tltorch = min(times["tltorch factorized"], times["tltorch mobilenet"])
    return times[DENSE] / ours, tltorch / ours, times[PARENT] / ours, ours / r["limit"]


def _memory(rows: list[Numbers]) -> list[str]:
    names = list(rows[0]["bytes"])
    body = [
        [f"{r['channels']}, {r['size']} x {r['size']}, R = {r['rank']}",
         *(f"{r['bytes'][n] / 1e6:.1f} ({r['bytes'][n] / r['bytes'][DENSE]:.2f}x)" for n in names)]
        for r in rows
    ]  # fmt: skip
    return ["## Activations kept for the backward pass, MB", "", *table(["layer", *names], body)]


def _networks(results: list[Numbers]) -> list[str]:
    lines = [
        "## Networks: one clip of 16 x 112 x 112, without classifier",
        "",
        "Milliseconds. The dense 3-D twin is R3D at temporal stride 1: every k x k convolution made 3 x k x k; R3D-18",
        "as published (torchvision) halves time three times. The 2-D parent is the dense 2-D network on each frame, in",
        "`channels_last`.",
    ]
    head = [
        "network",
        "pass",
        "ours",
        "dense 3-D twin",
        "R3D-18 as published",
        "2-D parent",
        "twin / ours",
        "R3D-18 / ours",
        "parent / ours",
    ]
    body = []
    for r in results:
        t, ours = r["times"], r["times"][OURS]
        published = t.get(PUBLISHED)
        name = f"{r['network']}, R = {'' if r['rank'] == 'x1' else r['rank'][1:]}C"
        times = [f"{t[n]:.0f}" if n in t else "" for n in (OURS, TWIN, PUBLISHED, PARENT_NETWORK)]
        ratios = [t[TWIN] / ours, published / ours if published else None, t[PARENT_NETWORK] / ours]
        kind = "training step" if r["training"] else "inference"
        body.append([name, kind, *times, *("" if q is None else f"**{q:.2f}**" for q in ratios)])
    return [*lines, "", *table(head, body)]


def _motion(rows: list[Numbers]) -> list[str]:
    lines = [
        f"## Motion components of rank {MOTION.get('rank')}: ResNet-18 at R = C, one clip of 16 frames",
        "",
        "Milliseconds, the backbone of the video recipes.",
        "",
    ]
    body = [
        [f"{r['size']} x {r['size']}", "training step" if r["training"] else "inference", str(r["threads"]),
         *(f"{r['times'][n]:.1f}" for n in (OURS, MOVING)), f"**{r['times'][MOVING] / r['times'][OURS] - 1:+.1%}**"]
        for r in rows
    ]  # fmt: skip
    return [*lines, *table(["frames", "pass", "threads", "without", "with", "more time"], body)]


def _choices(rows: list[list[Any]]) -> list[str]:
    body = [
        [
            f"{layer}, R = {'' if m == 1 else m}C",
            dtype,
            best,
            picked,
            f"{fixed:.2f}",
            f"{auto:.2f}",
            f"{auto / fixed:.2f}",
        ]
        for layer, m, dtype, best, picked, fixed, auto in rows
    ]
    worst = max(auto / fixed for *_, fixed, auto in rows)
    within = sum(auto <= 1.1 * fixed for *_, fixed, auto in rows)
    return [
        "## What `implementation='auto'` picks", "",
        f"Inference, contiguous input. Within 10 % of the best fixed form in {within} of {len(rows)} cases; worst",
        f"ratio {worst:.2f}.", "",
        *table(["layer", "dtype", "best fixed form", "auto picks", "best, ms", "picked, ms", "ratio"], body),
    ]  # fmt: skip


def _fits(sections: Numbers) -> list[str]:
    networks = [[n, str(k), f"{s:.1f}", f"{d:.2f}"] for n, k, s, d in sections["networks"]]
    kernels = [
        [f"{n}, {kind}", str(rank), f"{s:.2f}", f"{e:.4f}", f"{ts:.2f}", f"{te:.4f}"]
        for n, kind, rank, s, e, ts, te in sections["kernels"]
    ]
    return [
        "## Decomposition at R = C_in", "",
        *table(["network (all k x k layers, random weights)", "layers", "seconds", "largest degeneracy"], networks), "",
        *table(["kernel", "rank", "ours, s", "error", "tensorly parafac (100 sweeps), s", "error"], kernels),
    ]  # fmt: skip


def _starts(rows: list[Numbers]) -> list[str]:
    numbers = [
        [
            f"{r['network']}, {r['layers']} kernels", f"{r['first']:.1f}", f"{r['second']:.2f}",
            f"**{r['first'] / r['second']:.0f}x**", f"{r['first_process']:.1f}", f"{r['second_process']:.1f}",
        ]
        for r in rows
    ]  # fmt: skip
    return [
        "## Start of a run at R = C_in", "",
        "Seconds of `TransductionHook.load` from a file of dense weights, and of the whole process (with imports).",
        "Each start is a process of its own; the second finds the decompositions that the first has kept.", "",
        *table(["network", "first", "second", "", "first process", "second process"], numbers),
    ]  # fmt: skip


def plot_layers(results: list[Numbers], path: Path) -> None:
    """Draw how many times faster than the dense 3-D convolution each contender is."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = sorted({(r["expansion"], r["training"]) for r in results})
    names = {
        "ours auto": "ours",
        "tltorch mobilenet": "tltorch mobilenet",
        "tltorch factorized": "tltorch factorized",
        PARENT: "2-D conv, each frame",
        "R(2+1)D": "R(2+1)D",
    }
    figure, axes = plt.subplots(1, len(groups), figsize=(4.2 * len(groups), 3.6), squeeze=False, layout="constrained")
    for axis, (expansion, training) in zip(axes[0], groups, strict=True):
        rows = [r for r in results if (r["expansion"], r["training"]) == (expansion, training)]
        width = 0.8 / len(names)
        for i, (name, label) in enumerate(names.items()):
            speed = [r["times"][DENSE] / r["times"][name] for r in rows]
            axis.bar([x + i * width for x in range(len(rows))], speed, width, label=label)
        for x, r in enumerate(rows):
            limit = r["times"][DENSE] / r["limit"]
            axis.plot(
                [x - width / 2, x + 0.8 - width / 2],
                [limit, limit],
                "k--",
                linewidth=1,
                label="compute limit" if x == 0 else None,
            )
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set_xticks(
            [x + 0.4 - width / 2 for x in range(len(rows))], [f"{r['channels']} ch\n{r['size']}²" for r in rows]
        )
        axis.set_title(f"R = {'' if expansion == 1 else expansion}C, {'training step' if training else 'inference'}")
    axes[0][0].set_ylabel("times faster than conv3d")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
