"""SEWA's layout: image network, transduction into a video network, joint fine-tuning, a video in and a timeline out."""

from pathlib import Path

from demos.steps import Demo, Outcome, draw_timelines, newest_checkpoint, predictions, read_scores, score_rows

STATIC_CONFIG, VIDEO_CONFIG = "configs/hocp_sewa_static_demo.py", "configs/hocp_sewa_demo.py"
STEPS = 7
# Work folders below the demo's, emptied at the start.
FOLDERS = ("static", "video")
NUMBERS = {"subjects": "64 8 16", "clips": 1, "frames": 120}
QUICK_NUMBERS = {"subjects": "6 2 2", "clips": 1, "frames": 52}


def run(demo: Demo) -> Outcome:
    """Go through the steps."""
    step, static, video, results = demo.step, demo.out / "static", demo.out / "video", demo.results
    training = demo.cfg_options(training=True)
    demo.write_set("sewa", QUICK_NUMBERS if demo.quick else NUMBERS)
    step(
        "static stage: the image network, on frames", ["tools/train.py", STATIC_CONFIG, "--work-dir", static, *training]
    )
    static_best = newest_checkpoint(static)
    test = ["tools/test.py", STATIC_CONFIG, static_best, "--out-dir", results / "static"]
    step("test the image network", [*test, "--work-dir", static / "test", *demo.cfg_options()])
    train = ["tools/train.py", VIDEO_CONFIG, "--static-checkpoint", static_best, "--work-dir", video]
    stages = demo.cfg_options(*(["custom_hooks.1.stages.1.begin=1"] if demo.quick else []), training=True)
    step("transduction, then joint fine-tuning: the video network, on clips", [*train, *stages])
    trained = newest_checkpoint(video, "epoch")  # eight people validate: too few to choose an epoch by
    test = ["tools/test.py", VIDEO_CONFIG, trained, "--out-dir", results / "video"]
    step("test the video network", [*test, "--work-dir", video / "test", *demo.cfg_options()])
    files = predictions(results / "video")
    plots = step.call("draw the timelines of the test videos", lambda: draw_timelines(files, results / "video"))
    unseen = _unseen_video(demo)
    words = ["tools/demo.py", unseen, "--checkpoint", trained, "--labels", unseen.parent, "--out", results / "demo"]
    step("a video in, a timeline out", words)
    table = score_rows(
        {
            "image network, ": read_scores(results / "static" / "metrics.json"),
            "video network, ": read_scores(results / "video" / "metrics.json"),
        }
    )
    return Outcome(
        table,
        {
            "video/*.csv": "prediction and truth, frame by frame",
            "video/*_timeline.png": f"{plots} timelines",
            "demo/": "timeline, CSV and annotated video of the last step",
        },
    )


def _unseen_video(demo: Demo) -> Path:
    """Pick the first video of the test people."""
    from hocp_mm.datasets.splits import read_split_file

    key = read_split_file(demo.data / "splits" / "test.txt")[0]
    return demo.data / key / f"{key}.avi"
