"""AFEW-VA's layout: an image network from AffectNet's layout, then five folds by actor, trained, tested and pooled."""

import json
from pathlib import Path

from demos.steps import Demo, Outcome, draw_timelines, newest_checkpoint, predictions, score_rows

STATIC_CONFIG, VIDEO_CONFIG = "configs/hocp_affectnet_demo.py", "configs/hocp_afew_va_demo.py"
STEPS = 6
FOLDERS = ("static", "folds")
NUMBERS = {"actors": 36, "clips": 2, "frames": 40}
QUICK_NUMBERS = {"actors": 10, "clips": 1, "frames": 20, "height": 96}
# Another seed than that of the clips: equal ones would show the same people, and the folds test on all actors.
IMAGES = {"people": "240 40", "images": 5, "seed": 1}
QUICK_IMAGES = {"people": "6 2", "images": 4, "seed": 1}
TIMELINES_PER_FOLD = 2


def run(demo: Demo) -> Outcome:
    """Go through the steps."""
    step, static, folds = demo.step, demo.out / "static", demo.out / "folds"
    images = demo.data.with_name(f"{demo.data.name}_images")
    demo.write_set("affectnet", QUICK_IMAGES if demo.quick else IMAGES, images)
    training = demo.cfg_options(data=images, training=True)
    step("static stage: the image network", ["tools/train.py", STATIC_CONFIG, "--work-dir", static, *training])
    demo.write_set("afew_va", QUICK_NUMBERS if demo.quick else NUMBERS)
    split = ["tools/prepare/split_afew_va.py", demo.data]
    step("divide the actors into five folds", split)
    runs = ["tools/run_folds.py", VIDEO_CONFIG, "--work-dir", folds, "--static-checkpoint", newest_checkpoint(static)]
    stages = demo.cfg_options(*(["custom_hooks.1.stages.1.begin=1"] if demo.quick else []), training=True)
    step("all folds: transduction, then joint fine-tuning and test", [*runs, *stages])
    files = timelines_to_draw(folds)
    plots = step.call("draw timelines of test clips", lambda: draw_timelines(files, demo.results / "timelines"))
    table = fold_table(folds / "folds.json")
    return Outcome(
        table,
        {
            "timelines/*.png": f"{plots} timelines, the first {TIMELINES_PER_FOLD} test clips of each fold",
            "../folds/fold_*/results/*.csv": "prediction and truth of every clip, frame by frame",
        },
    )


def timelines_to_draw(folds: Path) -> list[Path]:
    """Return the predictions of the first test clips of each fold."""
    results = sorted(folds.glob("fold_*/results"))
    return [file for folder in results for file in predictions(folder)[:TIMELINES_PER_FOLD]]


def fold_table(file: Path) -> str:
    """Make a Markdown table of ``folds.json``: the CCC of each fold, then both summaries.

    Args:
        file: What ``tools/run_folds.py`` wrote.

    Returns:
        Two tables, the first with one line per fold.
    """
    scores = json.loads(file.read_text(encoding="utf-8"))
    dimensions = ("valence", "arousal", "mean")
    lines = ["| CCC | " + " | ".join(dimensions) + " |", "|---|" + "---|" * len(dimensions)]
    for fold, values in scores["folds"].items():
        lines.append(f"| fold {fold} | " + " | ".join(f"{values[f'ccc_{name}']:.3f}" for name in dimensions) + " |")
    summaries = score_rows({f"mean over {len(scores['folds'])} folds, ": scores["mean"], "pooled, ": scores["pooled"]})
    return "\n".join([*lines, "", summaries])
