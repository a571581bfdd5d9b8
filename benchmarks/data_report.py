"""From the numbers of `benchmarks.data_throughput` to Markdown."""

from typing import Any

from benchmarks.data_memory import WARM_UP
from benchmarks.data_sets import CLIP_LEN, RAW, SIZE, STOCK, STORE
from benchmarks.markdown import table

_WAYS = ("1 process", "2 workers")


def data_lines(numbers: dict[str, Any]) -> list[str]:
    """Render speed, correctness and memory of the data pipelines.

    Args:
        numbers: What `benchmarks.data_throughput.measure` returned.

    Returns:
        Lines of Markdown.
    """
    size = {name: f"{count / 1e6:.0f} MB" for name, count in numbers["bytes"].items()}
    return [
        f"## Clips of {CLIP_LEN} frames from {numbers['videos']} Xvid videos of {numbers['frames']} frames, 320 x 240",
        "",
        f"Random clips per second as uint8 3 x {CLIP_LEN} x {SIZE} x {SIZE}, no augmentation. *MMAction2*: its own",
        "`DecordInit`, `SampleFrames`, `DecordDecode`, `Resize`, `FormatShape`, `PackActionInputs` on whole frames.",
        "Ours: `SampleClip`, `LoadFaceClip`, `PackAffectInputs`, from the raw folders (whose videos were examined by",
        f"then, see `read_frames`) and from the store (JPEG). Videos {size['videos']}, packs {size['packs']}.",
        "*Workers*: of a data loader with batches of 4.",
        "",
        *_speed(numbers["clips_per_second"]),
        "",
        *_frames(numbers),
        "",
        *_memory(numbers["memory"]),
    ]


def _speed(speeds: dict[str, dict[str, float]]) -> list[str]:
    body = []
    for way in _WAYS:
        stock, raw, store = (speeds[kind][way] for kind in (STOCK, RAW, STORE))
        ratios = (store / stock, raw / stock, store / raw)
        body.append([way, f"{stock:.1f}", f"{raw:.1f}", f"{store:.1f}", *(f"**{ratio:.1f}**" for ratio in ratios)])
    names = [STOCK, RAW, STORE, f"{STORE} / {STOCK}", f"{RAW} / {STOCK}", f"{STORE} / {RAW}"]
    return table(["clips per second", *names], body)


def _frames(numbers: dict[str, Any]) -> list[str]:
    checked, wrong = numbers["checked"], numbers["wrong"]
    rows = [[kind, str(checked), str(wrong[kind]), f"{100 * wrong[kind] / checked:.1f} %"] for kind in (STOCK, RAW)]
    return [
        "Frames of random clips that differ from what the same decoder gives when it reads the video in order. The",
        "videos have B-frames, on which decord's random access lands elsewhere without a word.",
        "",
        *table(["", "frames checked", "wrong", "share"], rows),
    ]


def _memory(memory: dict[str, Any]) -> list[str]:
    points = list(next(iter(memory.values()))["curve"])
    rows = [
        [kind, *(f"{numbers['curve'][point]:.0f}" for point in points), f"**{100 * numbers['growth']:+.1f} %**"]
        for kind, numbers in memory.items()
    ]
    return [
        f"Resident memory of one process after that many random clips, MB; growth since clip {WARM_UP}.",
        "",
        *table(["clips", *points, "growth"], rows),
    ]
