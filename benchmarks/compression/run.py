"""Compress networks that were really trained and judge them on photographs that no fit has seen.

``python -m benchmarks.compression.run --cache FOLDER`` fetches packages into the folder, measures, and writes
``compression.json``, ``compression.md`` and ``compression.png`` into ``benchmarks/results``. Methods and budgets can be
picked; rows that are there already stay, so that the table can be made in parts.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.compression import contenders, face_recognizer, faces, picture_classifier, text_detector
from benchmarks.compression.packages import fetch
from benchmarks.markdown import table
from benchmarks.timing import inference, interleaved
from hocp_mm.layers import allocate_ranks, distill_, factorize_, input_moments, output_moments, reconstruct_
from hocp_mm.layers.selection import is_factorizable
from hocp_mm.layers.surgery import replace_
from hocp_mm.system.files import write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
BUDGETS, FEWER = (0.1, 0.2, 0.4), (0.1, 0.2)
"""Shares of the parameters; fewer for networks that are no recognisers, whose fits take minutes."""
_BATCH, _FRAMES, _DISTILLED_BATCH, _TIMED_BATCH = 26, 600, 24, 8
_DISTILLING, _PROBED = 600.0, 5  # seconds, and steps that tell how many those are


@dataclass(frozen=True)
class Subject:
    """A trained network and pictures for it, ``[count, 3, size, size]`` each.

    Attributes:
        network: Dense, in evaluation mode.
        stages: Names of the modules whose outputs are compared.
        calibration: What fits may see.
        judged: What they may not.
        videos: Makes pictures from videos, for distillation.
        threshold: Distance of outputs below which two pictures show the same; None where outputs are no descriptors.
    """

    network: nn.Module
    stages: tuple[str, ...]
    calibration: Tensor
    judged: Tensor
    videos: Callable[[], Tensor]
    threshold: float | None

    @property
    def batches(self) -> list[Tensor]:
        """Calibration pictures in batches."""
        return list(self.calibration.split(_BATCH))


@dataclass(frozen=True)
class Row:
    """One compressed network; errors are ``|y - y_dense| / |y_dense|`` over all judged pictures.

    ``parameters`` and ``time`` (of a forward pass, measured in turns) are shares of those of the dense network.
    """

    network: str
    method: str
    budget: float
    parameters: float
    output: float
    stages: list[float]
    correlation: float | None
    agreement: float | None
    time: float | None
    seconds: float


def subjects(cache: Path) -> dict[str, Callable[[], Subject]]:
    """Return the networks by name, each fetched when it is called for."""

    def face() -> Subject:
        size = face_recognizer.SIZE
        network = face_recognizer.FaceRecognizer(fetch("face-api", cache))
        stages = tuple(f"blocks.{name}" for name in face_recognizer.STAGES)
        known, (others, _) = faces.variants(faces.calibration_faces(cache, size), 11), faces.judged_faces(cache, size)
        return Subject(
            network, stages, known, others, lambda: faces.video_faces(cache, size, _FRAMES), face_recognizer.THRESHOLD
        )

    def text() -> Subject:
        size = 128
        network = text_detector.TextTrunk(fetch("craft", cache))
        known, (others, _) = faces.calibration_faces(cache, size), faces.judged_faces(cache, size)
        return Subject(
            network, text_detector.STAGES, faces.variants(known, 2), others,
            lambda: faces.video_faces(cache, size, _FRAMES), None,
        )  # fmt: skip

    def pictures() -> Subject:
        size = 128
        network = picture_classifier.PictureTrunk(fetch("nsfwjs", cache))
        stages = tuple(f"net.{name}" for name in picture_classifier.STAGES)
        known, (others, _) = faces.calibration_faces(cache, size), faces.judged_faces(cache, size)
        return Subject(
            network, stages, faces.variants(known, 2), others,
            lambda: faces.video_faces(cache, size, _FRAMES), None,
        )  # fmt: skip

    return {"face recogniser": face, "VGG-16 (text)": text, "Inception v3 (pictures)": pictures}


def uniform(subject: Subject, budget: float) -> nn.Module:
    """One share of the parameters for all layers, kernels fitted without data."""
    model = copy.deepcopy(subject.network)
    ranks = {n: max(1, int(budget * c.weight.numel() / (sum(c.weight.shape) + 1))) for n, c in _layers(model).items()}
    factorize_(model, ranks)
    return model


def allocated(subject: Subject, budget: float) -> nn.Module:
    """Ranks by the errors of the kernels, fitted without data."""
    model = copy.deepcopy(subject.network)
    factorize_(model, allocate_ranks(model, budget))
    return model


def moments(subject: Subject, budget: float) -> nn.Module:
    """Ranks by the errors of the kernels, kernels fitted to inputs."""
    model = copy.deepcopy(subject.network)
    factorize_(model, allocate_ranks(model, budget), input_moments=input_moments(model, subject.batches))
    return model


def felt(subject: Subject, budget: float) -> nn.Module:
    """Ranks and kernels by what their errors do to the network's output."""
    model = copy.deepcopy(subject.network)
    both = {
        "input_moments": input_moments(model, subject.batches),
        "output_moments": output_moments(model, subject.batches),
    }
    factorize_(model, allocate_ranks(model, budget, **both), **both)
    return model


def sequential(subject: Subject, budget: float) -> nn.Module:
    """The same, then fitted layer by layer to the dense outputs."""
    model = felt(subject, budget)
    costs = output_moments(subject.network, subject.batches)
    reconstruct_(model, subject.network, subject.batches, output_moments=costs)
    return model


def distilled(subject: Subject, budget: float) -> nn.Module:
    """The same, with frames of videos beside the pictures, then ten minutes of distillation on them."""
    frames = subject.videos()
    seen = torch.cat([subject.calibration, faces.variants(frames[:: max(1, len(frames) // 60)], 3)])
    wider = Subject(subject.network, subject.stages, seen, subject.judged, subject.videos, subject.threshold)
    model = sequential(wider, budget)
    generator = torch.Generator().manual_seed(0)
    pool = torch.cat([subject.calibration, frames])
    batches = pool[torch.randperm(len(pool), generator=generator)].split(_DISTILLED_BATCH)
    start = time.perf_counter()
    distill_(copy.deepcopy(model), subject.network, batches, steps=_PROBED)
    each = (time.perf_counter() - start) / _PROBED
    distill_(model, subject.network, batches, steps=int(_DISTILLING / each))
    return model


def of_layers(make: Callable[[nn.Conv2d, float], nn.Module]) -> Callable[[Subject, float], nn.Module]:
    """Make a method that replaces each layer alone, at the same share of its parameters."""

    def method(subject: Subject, budget: float) -> nn.Module:
        model = copy.deepcopy(subject.network)
        for name, conv in _layers(model).items():
            replace_(model, name, make(conv, budget * conv.weight.numel()))
        return model

    return method


METHODS: Mapping[str, Callable[[Subject, float], nn.Module]] = {
    "spatial SVD": of_layers(contenders.spatial_svd),
    "channel SVD": of_layers(contenders.channel_svd),
    "Tucker-2": of_layers(contenders.tucker2),
    "tltorch CP": of_layers(contenders.tltorch_cp),
    "uniform": uniform,
    "allocated": allocated,
    "allocated, moments": moments,
    "by output": felt,
    "sequential": sequential,
    "distilled": distilled,
}
OURS = ("uniform", "allocated", "allocated, moments", "by output", "sequential", "distilled")
SLOW = {"tltorch CP": (0.1,), "distilled": (0.2,)}
"""Methods that take many minutes, and the budgets they are run at by default, where outputs are descriptors."""


def _layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and is_factorizable(m)}


@torch.no_grad()
def judge(model: nn.Module, subject: Subject) -> tuple[float, list[float], float | None, float | None]:
    """Compare a compressed network with the dense one.

    Returns:
        Errors of the output and of the stages; and where outputs are descriptors, the correlation of the distances
        between all pairs of pictures, and in which share of pairs they lie on the same side of the threshold.
    """
    (own, own_stages), (true, true_stages) = (
        _outputs(network, subject.stages, subject.judged) for network in (model, subject.network)
    )
    errors = [_error(a, b) for a, b in zip(own_stages, true_stages, strict=True)]
    if subject.threshold is None:
        return _error(own, true), errors, None, None
    one, two = torch.triu_indices(len(own), len(own), 1)
    pairs = torch.stack([torch.cdist(out, out)[one, two] for out in (own, true)])
    near = pairs < subject.threshold
    return _error(own, true), errors, float(torch.corrcoef(pairs)[0, 1]), float((near[0] == near[1]).float().mean())


def _outputs(network: nn.Module, stages: tuple[str, ...], pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
    met: dict[str, list[Tensor]] = {name: [] for name in stages}

    def hook_for(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _, __, out: met[name].append(out.clone())

    handles = [network.get_submodule(name).register_forward_hook(hook_for(name)) for name in stages]
    outputs = [network(batch).flatten(1) for batch in pictures.split(_BATCH)]
    for handle in handles:
        handle.remove()
    return torch.cat(outputs), [torch.cat(parts) for parts in met.values()]


def _error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def measure(name: str, subject: Subject, method: str, budget: float, timed: bool) -> Row:
    """Compress, judge and time one network."""
    start = time.process_time()
    model = METHODS[method](subject, budget)
    seconds = time.process_time() - start
    output, stages, correlation, agreement = judge(model, subject)
    sizes = {n: sum(p.numel() for p in model.get_submodule(n).parameters()) for n in _layers(subject.network)}
    dense = sum(sum(p.numel() for p in layer.parameters()) for layer in _layers(subject.network).values())
    share = None
    if timed:
        shown = subject.judged[:_TIMED_BATCH]
        both = {"own": inference(model, shown), "dense": inference(subject.network, shown)}
        times = interleaved(both, seconds=10)
        share = times["own"] / times["dense"]
    return Row(
        name,
        method,
        budget,
        sum(sizes.values()) / dense,
        output,
        stages,
        correlation,
        agreement,
        share,
        seconds,
    )


def write(rows: list[Row], folder: Path) -> str:
    """Write the numbers and the page.

    Returns:
        The page.
    """
    write_text(folder / "compression.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    lines = [
        "# Trained networks, compressed",
        "",
        "Written by `python -m benchmarks.compression.run`; do not edit. Errors are relative, on pictures that no fit",
        "has seen; parameters are those of the replaced layers, and time that of a forward pass of 8 pictures, both as",
        "shares of the dense network; seconds are of the processor.",
        "",
        "![Errors over parameters and over time](compression.png)",
    ]

    def number(value: float | None, digits: int = 3) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    for name in dict.fromkeys(row.network for row in rows):
        lines += ["", f"## {name}", ""]
        own = sorted(
            (row for row in rows if row.network == name), key=lambda r: (r.budget, list(METHODS).index(r.method))
        )
        lines += table(
            ["method", "parameters", "output", "stages", "distances correlate", "agree", "time", "fit, s"],
            [
                [
                    row.method, number(row.parameters), number(row.output), " ".join(map(number, row.stages)),
                    number(row.correlation), number(row.agreement, 2), number(row.time, 2),
                    number(row.seconds, 0),
                ]
                for row in own
            ],
        )  # fmt: skip
    plot(rows, folder / "compression.png")
    page = "\n".join(lines) + "\n"
    write_text(folder / "compression.md", page)
    return page


def plot(rows: list[Row], path: Path) -> None:
    """Draw the error of the output over parameters, and over time where it was measured; lower and more left is better.

    Args:
        rows: Of all networks.
        path: Of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    networks = list(dict.fromkeys(row.network for row in rows))
    figure, axes = plt.subplots(
        len(networks), 2, figsize=(9, 3.4 * len(networks)), squeeze=False, sharey="row", layout="constrained"
    )
    for name, line in zip(networks, axes, strict=True):
        for axis, share in zip(line, ("parameters", "time"), strict=True):
            for number, method in enumerate(METHODS):
                points = sorted(
                    (at, row.output)
                    for row in rows
                    if (row.network, row.method) == (name, method) and (at := getattr(row, share)) is not None
                )
                if points:
                    style = "o-" if method in OURS else "x--"
                    axis.plot(*zip(*points, strict=True), style, color=f"C{number}", label=method, markersize=5)
            axis.set_xlabel(f"{share}, share of the dense network")
            axis.set_title(name)
            axis.grid(alpha=0.3)
        line[0].set_ylabel("relative error of the output")
        line[0].set_ylim(bottom=0)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression.run", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for downloads, outside the repository")
    parser.add_argument("--networks", nargs="*", help="all by default")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), metavar="METHOD", help="all by default")
    parser.add_argument("--budgets", nargs="*", type=float, help=f"by default {BUDGETS}, or {FEWER}")
    parser.add_argument("--no-times", action="store_true", help="leave out times, on a busy machine")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    kept = args.output / "compression.json"
    rows = [Row(**row) for row in json.loads(kept.read_text())] if kept.exists() else []
    for name, load in subjects(args.cache).items():
        if args.networks is not None and name not in args.networks:
            continue
        subject = load()
        for budget in args.budgets or (FEWER if subject.threshold is None else BUDGETS):
            for method in args.methods or METHODS:
                if (
                    args.methods is None
                    and method in SLOW
                    and (subject.threshold is None or budget not in SLOW[method])
                ):
                    continue
                row = measure(name, subject, method, budget, not args.no_times)
                rows = [old for old in rows if (old.network, old.method, old.budget) != (name, method, budget)]
                rows.append(row)
                print(row, flush=True)
                write(rows, args.output)
    print(write(rows, args.output))


if __name__ == "__main__":
    main()
