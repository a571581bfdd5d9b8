"""Files are there whole or not at all, and what the disk refuses is one sentence, asked before the work if possible."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from hocp_mm.errors import DataError, OutputError
from hocp_mm.structures import AffectTimeline
from hocp_mm.system import files
from hocp_mm.system.files import (
    LOCK,
    bring_to_disk,
    is_draft,
    locked,
    remove_drafts,
    replacing,
    require_writable,
    require_writable_file,
    write_rows,
    write_text,
    writing,
)
from hocp_mm.visualization import ContactSheet, plot_affect_plane, plot_timeline, write_overlay

NOISE = np.random.default_rng(0)


@contextlib.contextmanager
def small_files(limit: int = 500) -> Iterator[None]:
    """Let no file grow beyond some bytes: what a full disk does, and a kernel does for everybody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def timeline(frames: int = 30) -> AffectTimeline:
    return AffectTimeline("video", 25.0, np.arange(frames), NOISE.uniform(-1, 1, (frames, 2)))


def pictures(count: int = 30) -> Iterator[np.ndarray]:
    return (NOISE.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(count))


def save_arrays(path: Path) -> None:
    with replacing(path) as draft:
        np.savez(draft, numbers=NOISE.random(1000))


def save_video(path: Path) -> None:
    with replacing(path) as draft, av.open(str(draft), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for picture in pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "text": ("a.json", lambda path: write_text(path, "x" * 9999)),
    "rows": ("a.csv", lambda path: write_rows(path, [["x" * 99]] * 99)),
    "a timeline": ("a.csv", lambda path: timeline().to_csv(path)),
    "a plot": ("a.png", lambda path: plot_timeline(timeline(), path)),
    "a plane": ("a.png", lambda path: plot_affect_plane(NOISE.random((9, 2)), NOISE.random((9, 2)), path, "t")),
    "a sheet": ("a.png", lambda path: ContactSheet(next(pictures()), (), 1).save(path)),
    "a sheet as JPEG": ("a.jpg", lambda path: ContactSheet(next(pictures()), (), 1).save(path)),
    "arrays": ("a.npz", save_arrays),
    "a video": ("a.avi", save_video),
    "an overlay": ("a.mp4", lambda path: write_overlay(pictures(), timeline(), None, path)),
}


@pytest.mark.parametrize("case", WRITERS)
@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "replaced"])
def test_a_full_disk_names_the_file_and_leaves_what_was_there(case: str, old: bytes | None, tmp_path: Path) -> None:
    name, write = WRITERS[case]
    path = tmp_path / name
    if old is not None:
        path.write_bytes(old)
    with small_files(), pytest.raises(OutputError) as error:
        write(path)
    assert str(error.value) == f"{path}: cannot be written (File too large)."
    assert [file.name for file in tmp_path.iterdir()] == ([] if old is None else [name])
    if old is not None:
        assert path.read_bytes() == old
    write(path)
    assert path.stat().st_size > 500
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Real file systems: one without a free byte, and one for reading alone."""
    folder = tmp_path_factory.mktemp("disks")
    found = {name: folder / name for name in ("full", "read-only")}
    mounted = []
    try:
        for name, place in found.items():
            place.mkdir()
            options = "size=64k" if name == "full" else "ro"
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
            if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
                pytest.skip("mounting a file system needs rights that these tests do not have")
            mounted.append(place)
        with contextlib.suppress(OSError), (found["full"] / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield found
    finally:
        for place in mounted:
            subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("disk", "reason"), [("full", "No space left on device"), ("read-only", "Read-only file system")]
)
def test_real_disks_refuse_in_one_sentence(disk: str, reason: str, disks: dict[str, Path]) -> None:
    place = disks[disk]
    before = sorted(file.name for file in place.iterdir())
    with pytest.raises(OutputError) as error:
        write_text(place / "a.txt", "x" * 9999)
    assert str(error.value) == f"{place / 'a.txt'}: cannot be written ({reason})."
    for require, path in ((require_writable, place / "new/folder"), (require_writable_file, place / "new/a.csv")):
        with pytest.raises(OutputError, match=rf"^--out: must be a f\w+ that can be written.*, got {path} \({reason}"):
            require(path, "--out")
    assert sorted(file.name for file in place.iterdir()) == before


REFUSED: dict[str, tuple[str, str]] = {
    "a file": ("file", "File exists"),
    "a folder below a file": ("file/folder", "Not a directory"),
    "a folder far below a file": ("file/a/b/c", "Not a directory"),
    "a name that is too long": ("n" * 300, "File name too long"),
    "a path that is too long": ("/".join(["n" * 200] * 30), "File name too long"),
    "a name with a zero byte": ("a\0b", "null byte"),
    "a broken link": ("broken", "File exists"),
    "a folder below a broken link": ("broken/folder", "File exists|No such file"),
    "a loop of links": ("loop/folder", "Too many levels|File exists"),
    "a folder of the kernel": ("/proc/hocp", "No such file"),
    "a home that no shell replaced": ("~/runs", "a shell replaces ~"),
    "a variable that no shell replaced": ("$HOME/runs", "a shell replaces ~"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_written_is_refused_and_nothing_made(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    name, reason = REFUSED[case]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=f"^--work-dir: must be a folder that can be written to, got .*{reason}"):
        require_writable(name, "--work-dir")
    with pytest.raises(OutputError, match=r"^--csv: must be a file that can be written"):
        require_writable_file(Path(name) / "a.csv", "--csv")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "reason"), [(".", "a folder"), ("/dev/null", "no regular file"), ("n" * 300 + ".csv", "name too long")]
)
def test_a_file_that_cannot_be_written_is_refused(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=rf"^--csv: must be a file that can be written, got .* \(.*{reason}"):
        require_writable_file(name, "--csv")
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(name, "text")
    assert list(tmp_path.iterdir()) == []
    assert not Path("/dev/null").is_file()


def test_what_is_asked_for_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/old.csv").write_text("old")
    require_writable(tmp_path / "there", "--out")
    require_writable(tmp_path / "new/er", "--out")
    require_writable_file(tmp_path / "new/er/a.csv", "--csv")
    require_writable_file(tmp_path / "there/a.csv", "--csv")
    require_writable_file(tmp_path / "there/old.csv", "--csv")
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == ["there", "there/old.csv"]
    assert (tmp_path / "there/old.csv").read_text() == "old"


@pytest.mark.parametrize("there", [False, True])
def test_a_process_killed_while_it_asks_leaves_nothing_under_the_name(there: bool, tmp_path: Path) -> None:
    """What it left would be taken for the user's own file by whoever asks next."""
    path = tmp_path / "a.csv"
    if there:
        path.write_text("old")
    pid = os.fork()
    if pid == 0:
        files.bring_to_disk = lambda place: os._exit(9)
        require_writable_file(path, "--csv")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert path.exists() == there
    assert not there or path.read_text() == "old"
    assert all(is_draft(file) for file in tmp_path.iterdir() if file != path)


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/a.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to("far/a.txt")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "far/a.txt").read_text() == "new"


def test_faults_of_the_program_and_of_other_files_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file") as error, replacing(tmp_path / "a.txt"):
        pass  # nothing was written
    assert not isinstance(error.value, OutputError)
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "a.txt") as draft:
        draft.write_bytes((tmp_path / "elsewhere/input.txt").read_bytes())
    assert not isinstance(error.value, OutputError)
    with pytest.raises(DataError, match="broken"), writing(tmp_path):
        raise DataError("broken")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanishes_while_a_file_is_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "out/a.txt"
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(No such file"), replacing(path) as draft:
        shutil.rmtree(draft.parent)


def test_a_disk_that_fails_to_sync_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hocp_mm.system.files.os.fsync", fail)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(Input/output error\)"):
        write_text(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_killed_processes_are_known_by_their_names(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as draft:
        draft.write_text("x")
        bring_to_disk(draft)
        assert is_draft(draft)
        kept = draft.read_bytes()
    draft.write_bytes(kept)
    remove_drafts(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    remove_drafts(tmp_path / "nowhere")


HOLDER = "import sys, time; from pathlib import Path; from hocp_mm.system.files import locked\n" \
         "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"  # fmt: skip


def test_a_lock_is_held_against_other_processes_until_they_end_however_they_end(tmp_path):
    """Its file stays, empty."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(DataError, match=f"^{tmp_path}: another process is writing to this folder; wait"),
            locked(tmp_path),
        ):
            pytest.fail("held twice")
        process.kill()
    with locked(tmp_path), pytest.raises(DataError, match="another process"), locked(tmp_path):
        pytest.fail("held twice")
    with locked(tmp_path):
        pass
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(LOCK, b"")]


@pytest.mark.parametrize(
    "put",
    [
        lambda place: place.symlink_to(place.with_name("thesis.tex")),
        lambda place: place.symlink_to("nowhere"),
        lambda place: place.mkdir(),
        os.mkfifo,
    ],
    ids=["a link", "a link to nothing", "a folder", "a pipe"],
)
def test_what_is_no_file_in_the_place_of_a_lock_is_refused(put, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    put(tmp_path / LOCK)
    with pytest.raises(OutputError, match=r"\.lock: must be a file, got a link or something else"), locked(tmp_path):
        pytest.fail("held")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(code, tmp_path, monkeypatch):
    def refuse(handle: int, blocking: bool) -> bool:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "lock_descriptor", refuse)
    with pytest.warns(UserWarning, match=rf"\.lock: no lock \({os.strerror(code)}\); see to it"), locked(tmp_path):
        assert (tmp_path / LOCK).is_file()
