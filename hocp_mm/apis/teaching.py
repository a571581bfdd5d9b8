"""Labels without people: a network labels videos, for another one to learn from.

    video -> each frame as it is and mirrored -> their mean, smoothed over time -> label
                                              -> how far they disagree          -> confidence

What a network says of single frames is right on average and noisy: it depends on blur, noise and the crop. The mean of
two views and of neighbours in time is nearer to the truth than any of them, and where they differ less is known.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hocp_mm.apis.inferencer import AffectInferencer
from hocp_mm.apis.smoothing import smooth_over_time
from hocp_mm.datasets import TaughtLabels, make_detector, write_taught_csv
from hocp_mm.datasets.faces.detection import DETECTORS, Progress, detector_file
from hocp_mm.errors import DataError, HOCPError, NoFaceError
from hocp_mm.system.files import LOCK, locked, refuse_links, write_text, writing
from hocp_mm.system.inputs import VIDEO_SUFFIXES, find_media
from hocp_mm.system.reading import NOTE_BYTES, check_file, read_json

NOTE = "teacher.json"
_SIGNED, _LABELLED = {"checkpoint_sha256"}, {"video", "video_sha256"}  # what all versions wrote into the notes
_TEACHER = "teacher_sha256"
_ROUNDS = 5
_BLOCK = 1 << 20


class Teacher:
    """A network that labels videos.

    Args:
        checkpoint: Weights, as for `AffectInferencer`.
        config: Config file; by default the one recorded in the checkpoint.
        device: Where it runs; by default CUDA where there is one.
        seconds: Standard deviation of the smoothing over time (see `smooth_over_time`).
        tolerance: Disagreement, in units of the labels, at which a frame is believed by half.
        batch_size: Windows per forward pass.

    Raises:
        HOCPError: As `AffectInferencer` does, or if a number is out of its range.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        config: str | Path | None = None,
        device: str | None = None,
        seconds: float = 0.2,
        tolerance: float = 0.1,
        batch_size: int = 8,
    ) -> None:
        if not (np.isfinite(seconds) and seconds >= 0 and np.isfinite(tolerance) and tolerance > 0):
            raise HOCPError(
                f"Teacher: seconds must be 0 or more and tolerance above 0, got {seconds!r} and {tolerance!r}."
            )
        self.seconds, self.tolerance, self.batch_size = seconds, tolerance, batch_size
        self.inferencer = AffectInferencer(checkpoint, config, device)
        network: Any = self.inferencer.model
        network.flip = False  # the mean of both views would be taken for one of them
        self.facts: dict[str, Any] = {
            "checkpoint": Path(checkpoint).name,
            "checkpoint_sha256": file_digest(checkpoint),
            "config_sha256": None if config is None else file_digest(config),
            "seconds": seconds,
            "tolerance": tolerance,
        }

    def label(self, video: str | Path, faces: Any = "auto", progress: Progress | None = None) -> TaughtLabels:
        """Label the largest face of each frame of a video.

        Args:
            video: Video file.
            faces: As in `AffectInferencer.watch`.
            progress: As in `AffectInferencer.watch`.

        Returns:
            A row for every frame.

        Raises:
            NoFaceError: If nobody is seen in any frame.
            HOCPError: As `AffectInferencer.watch` does.
        """
        times, views, found, boxes, scenes = [], [], [], [], []
        nobody, nowhere = np.full(4, np.nan), np.full(4, np.nan)
        watching = self.inferencer.watch(video, faces, None, self.batch_size, progress=progress, both_views=True)
        scene, before = 0, None
        with contextlib.closing(watching):
            for watched in watching:
                person, value = next(iter(watched.affect.items()), (None, nobody))
                face = next((face for face in watched.faces if face.person == person), None)
                scene += watched.cut or person != before
                before = person
                times.append(watched.frame.time)
                views.append(value)
                found.append(face is not None and face.seen)
                boxes.append(nowhere if face is None or face.box is None else face.box)
                scenes.append(scene)
        if not np.isfinite(views).any():
            raise NoFaceError(f"{video}: no face found in {len(times)} frames.")
        affect, confidence = self._judge(np.array(views), np.array(times), np.array(scenes))
        where = np.array(boxes, dtype=np.float32)
        return TaughtLabels(
            np.array(times),
            affect,
            np.array(found),
            confidence,
            where if np.isfinite(where).any() else None,
        )

    def _judge(
        self, views: NDArray[np.floating], times: NDArray[np.float64], scenes: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return labels ``[F, 2]`` and confidence ``[F]`` of both views, ``[F, 4]``.

        A frame has a say of ``1 / (1 + d^2 / tolerance^2)``, where d^2 is how far its views lie from the label,
        squared, on average over views, valence and arousal: what neighbours and mirror image contradict is not
        believed (the weights of Cauchy's robust mean, in a few rounds). The confidence of a label is the mean of the
        says of its neighbours.
        """
        seen, mirrored = views[:, :2], views[:, 2:]
        mean = labels = (seen + mirrored) / 2
        say = np.ones(len(views))
        for _ in range(_ROUNDS):
            labels = smooth_over_time(mean, times, self.seconds, scenes, say)
            away = ((seen - labels) ** 2 + (mirrored - labels) ** 2).mean(axis=1) / 2
            say = 1 / (1 + away / self.tolerance**2)
        confidence = np.clip(smooth_over_time(say[:, None], times, self.seconds, scenes)[:, 0], 0, 1)
        return np.clip(labels, -1, 1).astype(np.float32), np.nan_to_num(confidence, nan=0.0).astype(np.float32)


def label_folder(
    teacher: Teacher,
    folder: str | Path,
    out: str | Path,
    faces: Any = "auto",
    progress: Progress | None = None,
) -> Iterator[tuple[Path, str | HOCPError]]:
    """Label all videos of a folder and of the folders in it, one after the other.

    ``out`` gets ``<name>.csv`` (see `hocp_mm.datasets.taught.files`) and ``<name>.json``, which says what was labelled,
    and by whom for each video, and ``teacher.json``, which says more of that. A video that has its labels already is
    passed over.

    Args:
        teacher: The network.
        folder: Folder of videos.
        out: Folder of labels.
        faces: As in `AffectInferencer.watch`.
        progress: As in `AffectInferencer.watch`.

    Yields:
        Each video with what became of it: a line of text, or an error. What is wrong with one ends no other, and no
        file of somebody else is replaced.

    Raises:
        MissingDataError: If there is no video.
        DataError: If the labels in ``out`` are of another teacher, or another process labels into it.
        OutputError: If ``out`` cannot be written to.
    """
    folder, out = Path(folder), Path(out)
    videos, _ = find_videos(folder)
    finder = make_detector(faces) if isinstance(faces, str) and faces in DETECTORS else faces
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    facts = {**teacher.facts, **_finder_facts(finder)}
    _own_note(out / NOTE, _SIGNED)  # a folder of somebody else gets no lock
    with locked(out):
        _sign(out / NOTE, facts)
        for video in videos:
            outcome: str | HOCPError
            try:
                with writing(out):
                    outcome = _label_into(out, teacher, _signature(facts), folder, video, finder, progress)
            except HOCPError as error:
                outcome = error
            yield video, outcome


def _label_into(
    out: Path, teacher: Teacher, signature: str, folder: Path, video: Path, faces: Any, progress: Progress | None
) -> str:
    """Label a video, unless it has its labels already.

    Returns:
        What became of it.

    Raises:
        DataError: If files of somebody else would be lost, or labels of another teacher.
        HOCPError: As `Teacher.label` does, or if something cannot be written.
    """
    name = video.relative_to(folder)
    table, note = out / f"{name}.csv", out / f"{name}.json"
    refuse_links(*(place for place in table.parents if out in place.parents))
    facts = {"video": name.as_posix(), "video_sha256": file_digest(video), _TEACHER: signature}
    known = _own_note(note, _LABELLED)
    if table.exists():
        if known is None:
            raise DataError(f"{table}: is there already, and no {note.name} says of what; name another --out.")
        if known.get(_TEACHER, signature) != signature:
            raise DataError(f"{table}: is of another teacher than {out / NOTE} says; name another --out, or delete it.")
        if all(known[name] == facts[name] for name in _LABELLED):
            return "labelled already"
    labels = teacher.label(video, faces, progress)
    table.unlink(missing_ok=True)  # of another content under this name
    write_text(note, f"{json.dumps(facts, indent=2)}\n", follow=False)
    write_taught_csv(table, labels)  # last: it is there only when all is done
    share, sure = 100 * (labels.confidence > 0).mean(), labels.confidence[labels.confidence > 0].mean()
    return f"{len(labels.times)} frames, {share:.0f} % with a label, confidence {sure:.2f} on average"


def _finder_facts(finder: Any) -> dict[str, Any]:
    """Return what finds the faces, as ``teacher.json`` knows it: the same name may be of another file, or version."""
    if not callable(finder):
        return {"faces": f"{finder!s:.300}", "detector_sha256": None}
    file = detector_file(finder)
    return {"faces": type(finder).__name__, "detector_sha256": None if file is None else file_digest(file)}


def find_videos(folder: Path) -> tuple[list[Path], list[Path]]:
    """Find the videos of a folder and of the folders in it, by the ends of their names.

    Args:
        folder: The folder.

    Returns:
        Videos, and what is passed over: all other files but tables and notes, and folders that are links; both sorted.

    Raises:
        MissingDataError: If there is none.
    """
    videos = find_media(folder, VIDEO_SUFFIXES, "videos")
    files = [file for file in sorted(folder.rglob("*")) if file.is_symlink() or not file.is_dir()]
    known = {*videos, folder / LOCK}
    return videos, [file for file in files if file not in known and file.suffix not in (".csv", ".json")]


def _sign(note: Path, facts: dict[str, Any]) -> None:
    """Write down who labels, or make sure that it was the same one.

    Raises:
        DataError: If it was another or nobody knows, or the file is none of ours.
    """
    known = _own_note(note, _SIGNED)
    if known is None and (table := _table_of_others(note.parent, _signature(facts))) is not None:
        raise DataError(
            f"{note}: is missing, and nothing says that {table} is of this teacher; bring it back, or name another "
            "--out."
        )
    if known is None or not any(note.parent.rglob("*.csv")):
        write_text(note, f"{json.dumps(facts, indent=2)}\n", follow=False)
        return
    for name, value in facts.items():
        if name != "checkpoint" and known.get(name) != value:
            told = f"{name} {known.get(name)!r:.80} there, {value!r:.80} now"
            raise DataError(f"{note}: all labels of a folder must be of one teacher, got {told}; name another --out.")


def _signature(facts: dict[str, Any]) -> str:
    """Return a hash of all that decides what a teacher says; the name of its file does not."""
    said = {name: value for name, value in facts.items() if name != "checkpoint"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _table_of_others(folder: Path, signature: str) -> Path | None:
    """Return a table of labels whose note does not name this teacher, None if there is none."""
    for table in sorted(folder.rglob("*.csv")):
        with contextlib.suppress(HOCPError):  # a table of somebody else
            known = _own_note(table.with_suffix(".json"), _LABELLED)
            if known is not None and known.get(_TEACHER) != signature and table.is_file():
                return table
    return None


def _own_note(note: Path, keys: set[str]) -> dict[str, Any] | None:
    """Return what a note says, None if there is none.

    Raises:
        DataError: If somebody else's file has its name: what downloads videos puts ``<video>.json`` beside them.
    """
    if not note.exists():
        return None
    known = read_json(note, "note on labels", largest=NOTE_BYTES)
    if not (isinstance(known, dict) and keys <= known.keys()):
        raise DataError(f"{note}: is there already, and no note on labels; name another --out.")
    return known


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        DataError: If it cannot be read.
    """
    check_file(path, "file")
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return digest.hexdigest()
