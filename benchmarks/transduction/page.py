"""The page and the figure, of the raw numbers alone."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.markdown import table
from benchmarks.transduction.contenders import ABLATION, AVERAGE, MAIN, OURS, STATIC
from benchmarks.transduction.rows import Row
from benchmarks.transduction.tasks import TASKS
from benchmarks.transduction.training import Schedule
from hocp_mm.errors import DataError
from hocp_mm.system.files import write_text

CONFIDENCE = 0.95
WILCOXON = 6  # with fewer pairs its p cannot fall below 0.05


class Mean(NamedTuple):
    """A mean over seeds and half the width of its t interval, NaN for one seed."""

    value: float
    half: float


class Difference(NamedTuple):
    """Scores of one contender minus those of another, seed by seed.

    Attributes:
        pairs: Seeds that both have.
        value: Mean; NaN without a pair.
        low: Lower end of the t interval; NaN for fewer than two pairs.
        high: Upper end.
        p: Of the paired t test, two-sided.
        wilcoxon: Of the signed-rank test; NaN for fewer than `WILCOXON` pairs.
    """

    pairs: int
    value: float
    low: float
    high: float
    p: float
    wilcoxon: float


class Claim(NamedTuple):
    """That one contender beats another.

    Attributes:
        ours: Who is said to win.
        other: Who is said to lose.
        tasks: Where.
        size: Share of the other's parameters that the winner may have.
        section: Of the table.
        column: Of the score.
    """

    ours: str
    other: str
    tasks: tuple[str, ...]
    size: float = math.inf
    section: str = "main"
    column: str = "test"


_FACTORS = "transduced: factors"
_NECK = "transduced: factors + neck"
_TWIN = "HO-CP with motion from scratch"
CLAIMS = (
    *(
        Claim(OURS, other, tuple(TASKS))
        for other in (STATIC, AVERAGE, "HO-CP from scratch, steps of video", "HO-CP from scratch", _TWIN)
    ),
    *(
        Claim(OURS, other, tuple(TASKS), size=1 / 3)
        for other in ("R3D from scratch", "R3D from scratch, quarter of the rate", "R(2+1)D from scratch")
    ),
    *(
        Claim(OURS, other, ("digits",), column="test_accuracy")
        for other in (STATIC, "HO-CP from scratch", _TWIN, "R3D from scratch")
    ),
    Claim(_FACTORS, STATIC, tuple(TASKS)),
    Claim(_FACTORS, "HO-CP from scratch", tuple(TASKS)),
    Claim(OURS, _FACTORS, tuple(TASKS)),
    Claim(OURS, _NECK, tuple(TASKS)),
    Claim("transduced: factors + motion + neck", OURS, tuple(TASKS)),
    Claim(OURS, "convolution head, trained jointly", tuple(TASKS)),
    Claim(OURS, "GRU head, trained jointly", tuple(TASKS)),
    Claim(OURS, "R3D inflated centrally", tuple(TASKS)),
    Claim(
        "three times the videos", "from scratch, with motion, three times the videos", ("motion",), section="ablation"
    ),
)


def mean(values: Sequence[float]) -> Mean:
    """Return the mean and its interval over seeds."""
    count = len(values)
    if count < 2:
        return Mean(values[0] if count else math.nan, math.nan)
    return Mean(float(np.mean(values)), _quantile(count) * float(np.std(values, ddof=1)) / count**0.5)


def difference(ours: dict[int, float], other: dict[int, float]) -> Difference:
    """Compare scores by seed."""
    seeds = sorted(ours.keys() & other.keys())
    pairs = np.array([ours[seed] - other[seed] for seed in seeds])
    value, half = mean(pairs.tolist())
    p = wilcoxon = math.nan
    if len(pairs) > 1:
        tested: Any = stats.ttest_1samp(pairs, 0)
        p = float(tested.pvalue) if np.ptp(pairs) else float(not pairs.any())
    if len(pairs) >= WILCOXON and pairs.any():
        tested = stats.wilcoxon(pairs)
        wilcoxon = float(tested.pvalue)
    return Difference(len(pairs), value, value - half, value + half, p, wilcoxon)


def _quantile(count: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))


def verdict(found: Difference, size: float, most: float) -> str:
    """Say whether a claim shows: yes or no where the interval lies on one side of zero, else unclear.

    Args:
        found: The difference that is said to be positive.
        size: Share of the other's parameters.
        most: Largest share that the claim allows; a larger one says no whatever the scores.

    Returns:
        One word, or that there is no seed which both have.
    """
    if not found.pairs:
        return "not run"
    if size > most or found.high < 0:
        return "no"
    return "yes" if found.low > 0 else "unclear"


class _Runs:
    """The rows of one section and task, by contender and seed."""

    def __init__(self, rows: Iterable[Row], section: str, task: str) -> None:
        self.by_name: dict[str, dict[int, Row]] = {}
        for row in rows:
            if (row.section, row.task) == (section, task):
                self.by_name.setdefault(row.contender, {})[row.seed] = row

    def column(self, name: str, column: str) -> dict[int, float]:
        """Return the numbers of a contender by seed; none if it was not run."""
        return {seed: float(getattr(row, column)) for seed, row in self.by_name.get(name, {}).items()}

    def mean(self, name: str, column: str) -> Mean:
        """Return their mean."""
        return mean(list(self.column(name, column).values()))


def write(rows: Sequence[Row], folder: Path) -> str:
    """Write ``transduction.md`` and ``transduction.png``.

    Args:
        rows: All runs.
        folder: Where to.

    Returns:
        The page.

    Raises:
        DataError: If there is no run, one is not of this study, or they have different settings.
    """
    if not rows:
        raise DataError(f"{folder / 'transduction.csv'}: must hold a run, so that there is a page to write.")
    sections = {"main": MAIN, "ablation": ABLATION}
    unknown = {row.contender for row in rows if row.contender not in sections.get(row.section, {})}
    unknown |= {row.task for row in rows if row.task not in TASKS}
    if unknown or len({row.settings for row in rows}) > 1:
        raise DataError(
            f"{folder / 'transduction.csv'}: all runs must be of this study, with the same settings, got "
            f"{sorted(unknown or {row.settings for row in rows})}."
        )
    runs = {name: found for name in TASKS if (found := _Runs(rows, "main", name)).by_name}
    lines = [*_head(rows), "", "## What shows", "", *_claims(rows)]
    for name, found in runs.items():
        lines += ["", f"## {TASKS[name].title}", "", *_table(name, found, found, MAIN)]
    ablation = _Runs(rows, "ablation", "motion")
    if ablation.by_name:
        lines += [
            "", f"## Ablation on {TASKS['motion'].title}", "",
            f"Each line changes one thing of *{OURS}* (central start, rank C, 3 taps, motion rank C/2, `abs`), which",
            "it is compared with; lines with *from scratch* change *HO-CP from scratch*, and those with motion",
            f"*{_TWIN}*. Taps that are drawn learn as fast as all. The lasso was too weak to end a component.",
            f"Seeds per line, at most: {max(map(len, ablation.by_name.values()))}.", "",
            *_table("motion", ablation, runs.get("motion", _Runs([], "main", "motion")), ABLATION),
        ]  # fmt: skip
    page = "\n".join(lines) + "\n"
    plot(runs, folder / "transduction.png")
    write_text(folder / "transduction.md", page)
    return page


def _head(rows: Sequence[Row]) -> list[str]:
    plan, seeds = Schedule(), sorted({row.seed for row in rows})
    return [
        "# Does transduction pay?",
        "",
        "Written by `python -m benchmarks.transduction.run --cache FOLDER`; do not edit. Raw numbers:",
        "[transduction.csv](transduction.csv).",
        "",
        f"Scores are CCC over all frames of people whom no network has seen, {len(seeds)} seeds. Each seed has its",
        "own fold: five in a row test five sets of people without overlap (digits: contiguous blocks of scikit-learn's",
        "bundled set, which is ordered by writer but does not say who wrote what; the first 140 digits of a block, as",
        "many as one writer wrote, are left out). ± and brackets are 95 % t intervals over seeds; training sets of",
        "different seeds share people, so that they are a little too narrow. p: paired t test, two-sided, not",
        f"corrected for their number; Wilcoxon's signed-rank test from {WILCOXON} seeds on. A constant has a CCC of 0.",
        "",
        f"All have one trunk, batch ({plan.clips} clips of {plan.length} frames), optimiser and augmentation. The",
        f"image network trains for {plan.image_steps} steps on as many single frames, and is one and the same for all",
        f"that start from it; video stages have {plan.video_steps} steps, of which {plan.first:.0%} train the new",
        f"parts alone; what starts from scratch has {plan.image_steps + plan.video_steps}, unless a line says",
        f"otherwise, and *static* the first {plan.image_steps} alone. Temporal factors that start as the image network",
        f"learn {plan.temporal:g} times as fast. Labelled stills are plenty where such networks are used, and labelled",
        f"videos few: single frames are of all training people, clips of {_filmed()} of them; digits lie in the",
        "order of their writers, so that those of (c) are by one or two. Chosen with scores of earlier runs in sight:",
        "the motion rank, on two folds of (c), and how few are filmed, after runs with all of them. Seconds are of one",
        "core, the image network's included; MACs are of one frame.",
        "",
        "![Score over cost](transduction.png)",
    ]


def _filmed() -> str:
    return ", ".join(f"{task.filmed} ({_letter(name)[1]})" for name, task in TASKS.items())


def _claims(rows: Sequence[Row]) -> list[str]:
    lines = []
    for claim in CLAIMS:
        for name in claim.tasks:
            runs = _Runs(rows, claim.section, name)
            ours, other = (runs.by_name.get(who, {}) for who in (claim.ours, claim.other))
            found = difference(*(runs.column(who, claim.column) for who in (claim.ours, claim.other)))
            if not found.pairs:
                continue
            size = next(iter(ours.values())).parameters / next(iter(other.values())).parameters
            small = "" if claim.size == math.inf else f" with at most 1/{1 / claim.size:.0f} of its parameters"
            has = "" if claim.size == math.inf else f", {size:.2f} of its parameters"
            what = " at classes" if claim.column == "test_accuracy" else ""
            lines.append(
                f"- **{verdict(found, size, claim.size)}**: on {_letter(name)} *{claim.ours}* beats *{claim.other}*"
                f"{what}{small} ({found.value:+.3f} {_interval(found)}{has})."
            )
    return lines


def _letter(name: str) -> str:
    return TASKS[name].title.partition(" ")[0]


def _interval(found: Difference) -> str:
    return "[one seed]" if math.isnan(found.low) else f"[{found.low:+.3f}, {found.high:+.3f}]"


def _number(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _spread(found: Mean) -> str:
    return _number(found.value) + ("" if math.isnan(found.half) else f" ± {found.half:.3f}")


def _table(name: str, found: _Runs, main: _Runs, order: Iterable[str]) -> list[str]:
    """Return the lines of one section, each against what it is to be compared with."""
    task, ablated = TASKS[name], found is not main
    head = ["", *task.outputs, "mean"] + ["accuracy"] * bool(task.classes)
    head += ["parameters", "MMACs", "seconds", "line minus reference" if ablated else "ours minus line", "p"]
    wilcoxon = any(len(seeds) >= WILCOXON for seeds in found.by_name.values())
    head += ["Wilcoxon p"] * wilcoxon
    lines = []
    for who in order:
        if who not in found.by_name:
            continue
        row = next(iter(found.by_name[who].values()))
        scores = [_spread(found.mean(who, f"test_{which}")) for which in ("first", "second")]
        cells = [f"**{who}**" if who == OURS else who, *scores, f"**{_spread(found.mean(who, 'test'))}**"]
        cells += [_spread(found.mean(who, "test_accuracy"))] * bool(task.classes)
        parameters = found.mean(who, "parameters").value
        seconds = found.mean(who, "seconds").value
        cells += [f"{parameters / 1000:.0f} k", _number(row.macs / 1e6, 2), _number(seconds, 0)]
        own = found.column(who, "test")
        if ablated:
            against = difference(own, main.column(_reference(who), "test"))
        else:
            against = difference(main.column(OURS, "test"), own)
        compared = against.pairs > 0 and (ablated or who != OURS)
        cells += [f"{against.value:+.3f} {_interval(against)}", _number(against.p)] if compared else ["", ""]
        cells += [_number(against.wilcoxon) if compared else ""] * wilcoxon
        lines.append(cells)
    return table(head, lines)


def _reference(who: str) -> str:
    """Return the contender of the main table that a line of the ablation differs from in one thing."""
    if not who.startswith("from scratch"):
        return OURS
    return _TWIN if "motion" in who else "HO-CP from scratch"


def plot(runs: dict[str, _Runs], path: Path) -> None:
    """Draw the score over the cost of a frame, one panel for each task; higher and more left is better.

    Args:
        runs: By task.
        path: Of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, max(1, len(runs)), figsize=(4.6 * max(1, len(runs)), 5.2), squeeze=False, layout="constrained"
    )
    handles = {}
    for axis, (name, found) in zip(axes[0], runs.items(), strict=False):
        for number, who in enumerate(MAIN):
            if who not in found.by_name:
                continue
            macs, score = found.mean(who, "macs").value / 1e6, found.mean(who, "test")
            marker = "o" if "transduced" in who or "factors" in who else "s" if "scratch" in who else "^"
            half = 0 if math.isnan(score.half) else score.half
            color = plt.get_cmap("tab20")(number % 20)
            handles[who] = axis.errorbar(
                macs, score.value, half, fmt=marker, color=color, capsize=3,
                markersize=9 if who == OURS else 6, markeredgecolor="black" if who == OURS else color,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_xlabel("MMACs per frame")
        axis.set_title(TASKS[name].title, fontsize=9)
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("CCC, mean of both targets; 95 % over seeds")
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
