"""Averaging of windows; exact CSV round trip."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hocp_mm.errors import DataError, MissingDataError
from hocp_mm.structures.timeline import AffectTimeline, WindowAverager

RATES = [25, 29.97, 30000 / 1001, 24000 / 1001, 12.5, 1 / 3, 26.4137]


def timeline(frames: int = 40, fps: float = 25, **fields) -> AffectTimeline:
    rng = np.random.default_rng(frames)
    fields.setdefault("pred", rng.uniform(-1, 1, (frames, 2)))
    return AffectTimeline("clip", fps, np.arange(frames), **fields)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=8), st.randoms())
@settings(max_examples=50, deadline=None)
def test_overlapping_windows_give_the_mean_of_each_frame_in_any_order(spans, random):
    rng = np.random.default_rng(0)
    windows = [(np.arange(start, start + length), rng.normal(size=(length, 2))) for start, length in spans]
    random.shuffle(windows)
    averager = WindowAverager()
    for inds, values in windows:
        averager.add(inds, values)
    frames, means = averager.result()
    expected = {i: np.mean([v[list(f).index(i)] for f, v in windows if i in f], axis=0) for f, _ in windows for i in f}
    assert frames.tolist() == sorted(expected)
    np.testing.assert_allclose(means, [expected[i] for i in sorted(expected)], atol=1e-6)


def test_one_window_is_returned_exactly_and_padding_is_ignored():
    values = torch.tensor([[0.1, -0.37], [0.2, 0.3], [99.0, 99.0]])
    averager = WindowAverager()
    averager.add([5, 6, -1], values)
    frames, means = averager.result()
    assert frames.tolist() == [5, 6]
    assert np.array_equal(means, values[:2].numpy())


def test_a_frame_that_occurs_twice_in_one_window_counts_twice():
    averager = WindowAverager()
    averager.add([3, 3], [[0.0], [1.0]])
    assert averager.result()[1].tolist() == [[0.5]]


def test_averager_takes_half_precision_tensors_with_gradient():
    averager = WindowAverager()
    averager.add(torch.tensor([0]), torch.tensor([[0.5, -0.25]], dtype=torch.bfloat16, requires_grad=True))
    assert averager.result()[1].tolist() == [[0.5, -0.25]]


@pytest.mark.parametrize(
    ("inds", "values", "message"),
    [([0, 1], [[0.0, 0.0]], r"\(2,\) and \(1, 2\)"), ([0], [0.0], "values"), ([-2], [[0.0, 0.0]], "got -2")],
)
def test_averager_refuses(inds, values, message):
    with pytest.raises(ValueError, match=message):
        WindowAverager().add(inds, values)


def test_averager_refuses_another_number_of_columns_and_an_empty_result():
    averager = WindowAverager()
    averager.add([-1], [[1.0, 1.0]])
    with pytest.raises(ValueError, match="no frame was added"):
        averager.result()
    averager.add([0], [[1.0, 1.0]])
    with pytest.raises(ValueError, match="2 columns, got 3"):
        averager.add([0], [[1.0, 1.0, 1.0]])


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("extra", ["nothing", "target", "target and mask", "face", "all"])
def test_csv_round_trip_is_exact(tmp_path: Path, fps: float, extra: str):
    rng = np.random.default_rng(1)
    fields = {}
    if extra in ("target", "target and mask", "all"):
        fields["target"] = rng.uniform(-1, 1, (40, 2)).astype(np.float32)
    if extra in ("target and mask", "all"):
        fields["valid"] = rng.random(40) < 0.5
        fields["target"][~fields["valid"]] = np.nan
    if extra in ("face", "all"):
        fields["face_found"] = rng.random(40) < 0.5
    before = timeline(fps=fps, **fields)
    after = AffectTimeline.from_csv(before.to_csv(tmp_path / "deep" / "clip.csv"))
    assert (after.video, after.fps) == (before.video, before.fps)
    for name in ("frames", "time_s", "pred", "target", "valid", "face_found"):
        a, b = getattr(after, name), getattr(before, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_uneven_times_gaps_and_people_survive_the_csv(tmp_path: Path):
    pred = np.array([[0.37, -0.82], [np.nan, np.nan], [0.1, 1.0]], dtype=np.float32)
    before = AffectTimeline(
        "a", 18.2, np.arange(3), pred, times=np.array([0.0, 0.1, 0.133]), person=np.array([1, 0, 2])
    )
    path = before.to_csv(tmp_path / "a.csv")
    assert path.read_text().splitlines()[2] == "1,0.1,,,0"
    after = AffectTimeline.from_csv(path)
    for name in ("frames", "time_s", "pred", "times", "person"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.fps == pytest.approx(2 / 0.133)
    assert before.seen.tolist() == [True, False, True]


def test_csv_reads_as_documented(tmp_path: Path):
    table = timeline(2, pred=[[0.37, -0.82], [0.1, 1.0]], target=[[0.5, 0.25], [0.0, 0.0]], face_found=[True, False])
    assert table.to_csv(tmp_path / "a.csv").read_text().splitlines() == [
        "frame,time_s,valence,arousal,valence_true,arousal_true,valid,face_found",
        "0,0.0,0.37,-0.82,0.5,0.25,1,1",
        "1,0.04,0.1,1.0,0.0,0.0,1,0",
    ]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = timeline(3).to_csv(tmp_path / "a.csv")
    before = path.read_bytes()

    def rows(self):
        yield ["frame"]
        raise OSError("disk full")

    monkeypatch.setattr(AffectTimeline, "_rows", rows)
    with pytest.raises(OSError, match="disk full"):
        timeline(9).to_csv(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "fps must be positive, got 0"),
        ({"frames": np.array([0.0, 1.0])}, "integers"),
        ({"frames": np.array([1, 1])}, "increase strictly"),
        ({"frames": np.array([-1, 0])}, "start at 0"),
        ({"frames": np.zeros(0, int)}, "F > 0"),
        ({"pred": np.zeros((3, 2))}, r"pred must have shape \(2, 2\)"),
        ({"pred": np.array([[0, 0], [np.nan, 0]])}, "frame 1"),
        ({"valid": np.ones(2, bool)}, "no target"),
        ({"target": np.full((2, 2), np.nan)}, "target must be finite where valid"),
        ({"face_found": np.ones(3, bool)}, "face_found must have shape"),
        ({"times": np.zeros(2)}, "times must be finite and increase"),
        ({"times": np.array([0.0, np.nan])}, "times must be finite and increase"),
        ({"person": np.array([1, -1])}, "person must be 0"),
    ],
)
def test_timeline_refuses(change: dict, message: str):
    fields = {"video": "clip", "fps": 25, "frames": np.arange(2), "pred": np.zeros((2, 2)), **change}
    with pytest.raises(ValueError, match=message):
        AffectTimeline(**fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the columns|holds no row"),
        ("frame,time_s,valence,arousal\n", "holds no row"),
        ("frame,valence,arousal\n0,0,0\n", "lacks the columns time_s"),
        ("frame,time_s,valence,arousal,frame\n0,0,0,0,1\n", "each column must be there once, got frame twice"),
        ("frame,time_s,valence,arousal,valence_true\n0,0,0,0,0\n", "arousal_true, valid"),
        ("frame,time_s,valence,arousal\n0,0,x,0\n", "every cell must be a number"),
        ("frame,time_s,valence,arousal\n0,0,0\n", "line 2: expected 4 cells, got 3"),
        ("frame,time_s,valence,arousal\n0,0,0,0\n", "pass fps"),
        ("frame,time_s,valence,arousal\n0,0,0,0\n1,9,0,0\n2,1,0,0\n", "times must be finite and increase"),
        ("frame,time_s,valence,arousal\n0,0,0,0\n1,nan,0,0\n2,9,0,0\n", "times must be finite and increase"),
        ("frame,time_s,valence,arousal\n0,3,0,0\n1,4,0,0\n2,inf,0,0\n", "time_s must be finite and increase"),
        ("frame,time_s,valence,arousal,person\n0,0,0,0,1\n1,1,0,0,0.5\n", "person must hold integers"),
        ("frame,time_s,valence,arousal,person\n0,0,0,0,1\n1,1,0,0,-1\n", "person must be 0"),
        ("frame,time_s,valence,arousal\n0,0,0,0\n1,1,0,\n", "one NaN or inf at frame 1"),
        ("frame,time_s,valence,arousal,face_found\n1,1,0,0,2\n", "face_found must hold 0 or 1"),
        ("frame,time_s,valence,arousal\n1,1,nan,0\n", "pred must be finite"),
    ],
)
def test_from_csv_names_the_file_and_the_rule(tmp_path: Path, text: str, message: str):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        AffectTimeline.from_csv(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"frame,time_s\n\xcd", b'"' + b"x" * 200_000, b"x" * 200_000, b"\0" * 200_000]
)
def test_from_csv_refuses_what_is_no_table(tmp_path: Path, content: bytes):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.csv: must be a CSV file in UTF-8 \("):
        AffectTimeline.from_csv(path)


def test_from_csv_does_not_wait_for_a_file_of_the_kernel(tmp_path: Path):
    """Such as /proc/kmsg, behind a link in results that somebody else made."""
    path = tmp_path / "a.csv"
    path.symlink_to("/proc/version")
    with pytest.raises(DataError, match=r"a\.csv: the timeline cannot be read \(Is a file of the kernel\)"):
        AffectTimeline.from_csv(path)


def test_from_csv_does_not_read_a_terabyte(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(DataError, match=r"a\.csv: the file must have at most 268435456 bytes, got 1099511627776"):
        AffectTimeline.from_csv(path)


def test_from_csv_names_a_missing_file_and_takes_a_given_rate(tmp_path: Path):
    with pytest.raises(MissingDataError, match=r"nothing\.csv"):
        AffectTimeline.from_csv(tmp_path / "nothing.csv")
    single = AffectTimeline("b", 25, np.array([0]), np.zeros((1, 2))).to_csv(tmp_path / "b.csv")
    assert AffectTimeline.from_csv(single, video="c", fps=25).video == "c"


def test_uneven_times_of_a_long_video_are_not_taken_for_rounded_ones(tmp_path: Path):
    """A tenth of a second is much, however late in the video."""
    even = np.arange(18000) / 30
    times = even + 0.135 * np.sin(np.pi * even / even[-1]) ** 2
    before = AffectTimeline("a", 30.0, np.arange(18000), np.zeros((18000, 2)), times=times)
    after = AffectTimeline.from_csv(before.to_csv(tmp_path / "a.csv"))
    np.testing.assert_array_equal(after.time_s, times)
    rows = [f"{frame},{frame / 29.97:.3f},0,0" for frame in range(18000)]
    (tmp_path / "b.csv").write_text("\n".join(["frame,time_s,valence,arousal", *rows]))
    rounded = AffectTimeline.from_csv(tmp_path / "b.csv")
    assert rounded.times is None
    assert rounded.fps == pytest.approx(29.97, abs=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e300", "0.5", "1e18"])
@pytest.mark.parametrize("name", ["frame", "person"])
def test_what_is_no_whole_number_is_refused_without_a_word_of_numpy(tmp_path: Path, name: str, number: str):
    cells = {"frame": "1", "time_s": "0.04", "valence": "0", "arousal": "0", "person": "1"} | {name: number}
    (tmp_path / "a.csv").write_text(f"{','.join(cells)}\n0,0,0,0,1\n{','.join(cells.values())}\n")
    with pytest.raises(DataError, match=f"the column {name} must hold integers"):
        AffectTimeline.from_csv(tmp_path / "a.csv")


def whole_timeline() -> AffectTimeline:
    """Return three frames with all columns; nobody is in the second."""
    nobody = (np.nan, np.nan)
    return AffectTimeline(
        "clip", 25, np.arange(3), [(0.1, -0.2), nobody, (0.3, 1)], face_found=[True, False, True], person=[1, 0, 2],
        face_confidence=[0.9, np.nan, 0.1], boxes=[(1.5, 2, 3, 4), (np.nan,) * 4, (5, 6, 7, 8.1)],
        smoothed=[(0.15, -0.1), nobody, (0.25, 0.9)], expression=["happy", "", "sad"],
    )  # fmt: skip


COLUMNS = [
    *("frame", "time_s", "valence", "arousal", "face_found", "person", "face_confidence", "x1", "y1", "x2", "y2"),
    *("valence_smoothed", "arousal_smoothed", "expression"),
]


def test_all_columns_survive_the_csv(tmp_path: Path):
    before = whole_timeline()
    path = before.to_csv(tmp_path / "clip.csv")
    header, _, nobody, last = path.read_text().splitlines()
    assert header.split(",") == COLUMNS
    assert nobody == "1,0.04,,,0,0,,,,,,,,"
    assert last == "2,0.08,0.3,1.0,1,2,0.1,5.0,6.0,7.0,8.1,0.25,0.9,sad"
    after = AffectTimeline.from_csv(path)
    for name, column in before.columns().items():
        np.testing.assert_array_equal(after.columns()[name], column, err_msg=name)
        assert after.columns()[name].dtype == column.dtype


def test_json_has_the_numbers_of_the_csv_and_null_for_nobody(tmp_path: Path):
    read = json.loads(whole_timeline().to_json(tmp_path / "deep" / "clip.json").read_text())
    assert (read["video"], read["fps"]) == ("clip", 25)
    first, nobody, _ = read["frames"]
    assert list(first) == COLUMNS
    assert (first["valence"], first["x1"], first["face_found"], first["person"]) == (0.1, 1.5, True, 1)
    assert {name for name, value in nobody.items() if value is None} == set(COLUMNS[2:4] + COLUMNS[6:])


def test_pandas_and_parquet_have_the_same_table(tmp_path: Path):
    pandas = pytest.importorskip("pandas", reason="for users of the extra `tables`; not in requirements/lock.txt")
    parquet = pytest.importorskip("pyarrow.parquet", reason="for users of the extra `tables`; not in the lock file")
    frame = whole_timeline().to_pandas()
    assert list(frame.columns) == COLUMNS
    assert frame.attrs == {"video": "clip", "fps": 25}
    assert frame.person.tolist() == [1, 0, 2]
    assert frame.isna().sum().to_dict() == {name: int(name in COLUMNS[2:4] + COLUMNS[6:]) for name in COLUMNS}
    read = parquet.read_table(whole_timeline().to_parquet(tmp_path / "clip.parquet"))
    assert json.loads(read.schema.metadata[b"fps"]) == 25
    assert [read[name].null_count for name in COLUMNS] == frame.isna().sum().tolist()
    pandas.testing.assert_frame_equal(read.to_pandas(), frame, check_dtype=False)


@pytest.mark.parametrize(("package", "act"), [("pandas", "to_pandas"), ("pyarrow", "to_parquet")])
def test_without_what_writes_a_table_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, act: str
):
    monkeypatch.setitem(sys.modules, package, None)
    arguments = (tmp_path / "clip.parquet",) if act == "to_parquet" else ()
    with pytest.raises(MissingDataError, match=rf"needs {package}, which is not installed: pip install 'hocp-mm\[tabl"):
        getattr(whole_timeline(), act)(*arguments)
    assert list(tmp_path.iterdir()) == []
