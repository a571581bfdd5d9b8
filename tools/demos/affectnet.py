"""AffectNet's layout (2017): the image network, valence and arousal with expressions."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demos.steps import Demo, Outcome, newest_checkpoint, read_scores, score_rows

CONFIG = "configs/hocp_affectnet_demo.py"
STEPS = 4
FOLDERS = ("static",)
NUMBERS = {"release": 2017, "people": "400 60", "images": 5}
QUICK_NUMBERS = {"release": 2017, "people": "6 2", "images": 4}


def run(demo: Demo) -> Outcome:
    """Go through the steps."""
    step, static, results = demo.step, demo.out / "static", demo.results
    demo.write_set("affectnet", QUICK_NUMBERS if demo.quick else NUMBERS)
    training = demo.cfg_options(training=True)
    step(
        "static stage: the image network, affect and expressions",
        ["tools/train.py", CONFIG, "--work-dir", static, *training],
    )
    test = ["tools/test.py", CONFIG, newest_checkpoint(static), "--out-dir", results]
    step("test the image network", [*test, "--work-dir", static / "test", *demo.cfg_options()])
    pictures = read_pictures(results / "images.csv")
    step.call("draw the valence-arousal plane", lambda: _draw(pictures, results / "plane.png"))
    scores = read_scores(results / "metrics.json")
    expressions = (
        f"Expressions: accuracy {scores['expression_accuracy']:.3f}, mean F1 {scores['expression_f1']:.3f} "
        f"(always naming the most frequent one: accuracy {most_frequent_share(pictures):.3f}). As with the real set, "
        "these people also chose the epoch: there is no third part."
    )
    return Outcome(
        f"{score_rows({'': scores})}\n\n{expressions}",
        {
            "images.csv": "prediction and truth, picture by picture",
            "expressions.csv": "scores of each expression, and what it was taken for",
            "plane.png": "from truth to prediction in the valence-arousal plane",
        },
    )


def read_pictures(file: Path) -> list[dict[str, str]]:
    """Read ``images.csv``: one row per picture whose valence and arousal count."""
    with file.open(encoding="utf-8", newline="") as text:
        return [row for row in csv.DictReader(text) if row["valid"] == "1"]


def most_frequent_share(pictures: Sequence[Mapping[str, str]]) -> float:
    """Return the accuracy of always naming the most frequent expression."""
    counts = Counter(row["expression_true"] for row in pictures)
    return max(counts.values()) / sum(counts.values())


def _draw(pictures: Sequence[Mapping[str, str]], path: Path) -> int:
    """Draw the plane; return the number of pictures in it."""
    from hocp_mm.visualization import plot_affect_plane

    def columns(end: str) -> NDArray[np.float64]:
        return np.array([[float(row[f"{name}{end}"]) for name in ("valence", "arousal")] for row in pictures])

    plot_affect_plane(columns(""), columns("_true"), path, "Pictures of people never seen in training")
    return len(pictures)
