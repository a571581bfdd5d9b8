"""AVEC: ten labels a second, recordings as videos."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from tests.fault_injection.harm import cut, flip_bit, reencode, register_unreadable, replace, through_link
from tests.fault_injection.layouts import Layout
from tests.material.avec_files import label_text, write_avec
from tests.material.odd_videos import write_video
from tests.material.sewa_files import write_numbered_avi

NAMES = ("Train_DE_01", "Train_DE_02", "Train_HU_01", "Devel_DE_01")
COUNT, ROWS = 30, 13

AVEC = Layout(
    "AVEC",
    lambda root: write_avec(root, NAMES, frames=COUNT, rows=ROWS),
    {"type": "hocp_mm.AVECDataset", "split": "train"},
    {"split": "val"},
    victim=NAMES[0],
    longest=COUNT,
)


def labels(root: Path, name: str = NAMES[0]) -> Path:
    return root / "labels" / f"{name}.csv"


def video(root: Path, name: str = NAMES[0]) -> Path:
    return root / "videos" / f"{name}.avi"


register_unreadable(AVEC, "a label file", labels, except_for=("is missing",))
register_unreadable(AVEC, "a recording", video)


def _edit(name: str, change: Callable[[list[str]], list[str]]) -> None:
    """Register a change of the rows below the header."""

    def harm(root: Path) -> tuple[Path, Path]:
        header, *rows = labels(root).read_text().splitlines()
        labels(root).write_text("\n".join([header, *change(rows)]) + "\n")
        return labels(root), video(root)

    AVEC.refused(name)(harm)


def _cell(column: int, text: str) -> Callable[[list[str]], list[str]]:
    def change(rows: list[str]) -> list[str]:
        cells = rows[4].split(";")
        cells[column] = text
        return [*rows[:4], ";".join(cells), *rows[5:]]

    return change


_edit("a label is text", _cell(2, "high"))
_edit("a label is NaN", _cell(3, "nan"))
_edit("a label is infinite", _cell(3, "-inf"))
_edit("a label is empty", _cell(3, ""))
_edit("a label is outside of the range", _cell(3, "1.5"))
_edit("a label has a decimal comma", _cell(3, "0,15"))
_edit("a label is written with an underscore", _cell(3, "0.1_5"))
_edit("a row bears another name", _cell(0, "'Train_DE_02'"))
_edit("a row is missing", lambda rows: rows[:4] + rows[5:])
_edit("rows are in another order", lambda rows: rows[::-1])
_edit("times are frames", lambda rows: [row.replace(f"{n / 10:.6f};", f"{n};", 1) for n, row in enumerate(rows)])
_edit("there is no row", lambda rows: [])
_edit("labels are four seconds longer than the recording", lambda rows: label_text(NAMES[0], 60).splitlines()[1:])
_edit("a row has a million cells", lambda rows: [*rows[:4], rows[4] + ";0" * 1_000_000, *rows[5:]])


@AVEC.refused("labels of another recording are copied over")
def labels_of_another(root):
    labels(root).write_bytes(labels(root, NAMES[1]).read_bytes())
    return labels(root)


@AVEC.refused("the recording of another is copied over", records=NAMES[:2])
def video_of_another(root):
    video(root).write_bytes(video(root, NAMES[1]).read_bytes())
    return video(root)


@AVEC.harmless("columns are in another order, and the header says so")
def other_order(root):
    rows = [line.split(";") for line in labels(root).read_text().splitlines()]
    labels(root).write_text("\n".join(";".join([a, b, d, c, e]) for a, b, c, d, e in rows) + "\n")


@AVEC.unseen("valence and arousal are exchanged below their header")
def exchanged(root):
    header, *rows = [line.split(";") for line in labels(root).read_text().splitlines()]
    swapped = [";".join([a, b, d, c, e]) for a, b, c, d, e in rows]
    labels(root).write_text("\n".join([";".join(header), *swapped]) + "\n")
    return labels(root)


@AVEC.harmless("the label file has no header, as in 2017")
def no_header(root):
    labels(root).write_text(label_text(NAMES[0], ROWS, header=False))


@AVEC.harmless("the label file has a byte order mark and CRLF line ends")
def bom(root):
    reencode(labels(root), "utf-8-sig", "\r\n")


@AVEC.refused("the label file is UTF-16")
def utf16(root):
    return reencode(labels(root), "utf-16")


@AVEC.refused("the header lacks a column")
def short_header(root):
    return replace(labels(root), ";liking", "")


@AVEC.refused("the recording is cut in the middle")
def cut_video(root):
    return cut(video(root))


@AVEC.refused("the recording is two seconds longer than its labels")
def longer_video(root):
    return write_numbered_avi(video(root), range(COUNT + 50))


@AVEC.refused("the recording is there twice, as .avi and .mp4")
def two_videos(root):
    write_video(video(root).with_suffix(".mp4"), "libx264", COUNT)
    return video(root).with_suffix(".mp4")


@AVEC.refused("time stamps of the recording do not increase")
def repeated_stamps(root):
    path = video(root)
    other = path.with_suffix(".mkv")
    times = [40 * (n - n % 2) for n in range(COUNT)]
    write_video(path.with_suffix(".tmp.mkv"), "ffv1", COUNT)
    with av.open(str(path.with_suffix(".tmp.mkv"))) as old, av.open(str(other), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for index, packet in enumerate(old.demux(video=0)):
            if packet.dts is not None:
                packet.pts = packet.dts = times[index]
                packet.stream = stream
                new.mux(packet)
    path.with_suffix(".tmp.mkv").unlink()
    other.replace(path)
    return path


@AVEC.harmless("a bit flips in the sound of a recording")
def flipped_sound(root):
    path = video(root)
    noise = np.random.default_rng(0).integers(-999, 999, (1, 8000 * COUNT // 25), dtype=np.int16)
    sounding = path.with_suffix(".sound.avi")
    with av.open(str(path)) as old, av.open(str(sounding), "w", format="avi") as new:
        picture = new.add_stream_from_template(old.streams.video[0])
        picture.time_base = old.streams.video[0].time_base  # PyAV 17.0 takes a finer one
        sound = new.add_stream("pcm_s16le", rate=8000)
        sound.layout = "mono"  # pyright: ignore[reportAttributeAccessIssue]
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                new.mux(packet)
        frame = av.AudioFrame.from_ndarray(noise, layout="mono")
        frame.sample_rate = 8000
        new.mux(sound.encode(frame))  # pyright: ignore[reportAttributeAccessIssue]
    sounding.replace(path)
    flip_bit(path, path.read_bytes().index(noise.tobytes()[1000:1016]))


@AVEC.harmless("the recording is a link")
def linked_video(root):
    through_link(video(root))


@AVEC.harmless("a system leaves its files everywhere (.DS_Store, ._*, Thumbs.db)")
def leftovers(root):
    for folder in (root, root / "labels", root / "videos"):
        for name in (".DS_Store", "Thumbs.db", f"._{NAMES[0]}.csv", f"._{NAMES[0]}.avi"):
            (folder / name).write_bytes(b"\0\5\x16\7")
