"""Progress: whole lines in a log, a bar on a terminal; how a command starts and ends."""

import io
import sys
import threading

import pytest

from hocp_mm.system.cli import ProgressLine
from tests.material.processes import run_python


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_the_last_line_of_each_stage_and_not_one_per_frame(capsys):
    progress = ProgressLine("", "frames").stage
    for stage in ("one", "two"):
        for done in range(1, 501):
            progress(stage, done, 500)
    assert capsys.readouterr() == ("", "one: 500/500 frames, 0 s\ntwo: 500/500 frames, 0 s\n")


def test_a_log_gets_a_line_every_few_seconds_however_fast_things_were_before(capsys, monkeypatch):
    clock = [100.0]
    progress = ProgressLine("check", "records", seconds=3.0)
    for done in range(1, 12):
        progress(done, 10**6)
        monkeypatch.setattr(progress._bar, "_time", lambda: clock[0])
        clock[0] = progress._bar.start_t + done
    assert capsys.readouterr().err.splitlines() == [f"check: {n}/1000000 records, {n - 1} s" for n in (4, 7, 10)]


def test_a_line_that_is_not_to_stay_is_shown_while_it_lasts(capsys):
    for seconds, lines in ((60.0, []), (0.0, ["measured: 1/2 layers, 0 s"])):
        progress = ProgressLine("measured", "layers", seconds, leave=False)
        progress(1, 2)
        progress(2, 2)
        assert [line for line in capsys.readouterr().err.splitlines() if "2/2" not in line] == lines


@pytest.mark.parametrize("leave", [True, False])
def test_a_terminal_gets_a_bar_in_one_line_which_stays_or_goes(leave, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    progress = ProgressLine("face crops", "packs", leave=leave)
    for done in range(1, 4):
        progress(done, 3)
    shown = terminal.getvalue()
    assert shown.count("\n") == leave
    if leave:
        assert shown.endswith("\n")
        assert shown.rstrip().rpartition("\r")[2].startswith("face crops: 100%|")
        assert "3/3 packs [" in shown
    else:
        assert shown.rpartition("\r")[2].strip() == ""


def test_progress_starts_no_thread(capsys):
    before = threading.active_count()
    ProgressLine("check", "records")(1, 2)
    assert threading.active_count() == before


def test_while_importing_the_collector_rests_and_afterwards_leaves_alone_what_is_there():
    printed = run_python("""
        import gc
        from hocp_mm.system.cli import importing
        runs = []
        gc.callbacks.append(lambda phase, info: runs.append(phase))
        with importing():
            kept = [[] for _ in range(100_000)]
            print(len(runs), gc.isenabled())
        print(gc.isenabled(), gc.get_freeze_count() > 100_000)
        first = gc.get_freeze_count()
        with importing():
            more = [[] for _ in range(1000)]
        print(gc.get_freeze_count() <= first)
        gc.disable()
        with importing():
            pass
        print(gc.isenabled())
    """)
    assert printed.splitlines() == ["0 False", "True True", "True", "False"]


def test_an_end_at_once_does_all_that_was_promised_for_the_end(tmp_path):
    """What is freed last, such as a module's globals, is the one thing that does not happen."""
    printed = run_python(f"""
        import atexit, sys, tempfile, threading, time, weakref
        from concurrent.futures import ThreadPoolExecutor
        from hocp_mm.system.cli import run

        class Global:
            def __del__(self):
                print("freed")

        kept = Global()
        folder = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})
        pool = ThreadPoolExecutor(1)

        def late(text):
            time.sleep(0.1)
            sys.stdout.write(text + "\\n")  # in one piece: two threads write at once

        def main():
            atexit.register(print, "registered")
            threading.Thread(target=late, args=("thread",)).start()
            pool.submit(late, "pool")
            sys.stdout.write("main\\n")

        run(main, at_once=True)
    """)
    first, *middle, last = printed.splitlines()
    assert (first, sorted(middle), last) == ("main", ["pool", "thread"], "registered")
    assert list(tmp_path.iterdir()) == []
