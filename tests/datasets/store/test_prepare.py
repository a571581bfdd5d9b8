"""Preparing a store: what it holds, what is made again, and who may write into its folder."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hocp_mm.datasets import SEWADataset
from hocp_mm.datasets.splits import read_split_file
from hocp_mm.datasets.store import CropSettings, read_header, read_index, read_pack
from hocp_mm.datasets.store.prepare import prepare_store
from hocp_mm.datasets.store.task import read_facts
from hocp_mm.errors import DataError, OutputError
from hocp_mm.system.files import LOCK, locked
from tests.material.raw_sets import (
    CROPS,
    FRAMES,
    KEYS,
    prepare_sewa,
    tree,
)
from tests.material.sewa_files import read_number, square_landmarks, write_landmarks_zip, write_numbered_avi


@pytest.fixture
def own_talks(talks, tmp_path) -> Path:
    return Path(shutil.copytree(talks, tmp_path / "SEWAv02"))


@pytest.fixture
def own_store(prepared, tmp_path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "crops"))


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond some kilobytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_frame_shows_its_number(prepared):
    index = read_index(prepared / "index.npz")
    assert index.keys == list(KEYS)
    for number in range(len(KEYS)):
        record = index[number].results()
        crops = read_pack(record["filename"], record["pack"], range(FRAMES))
        # The crop is 1.5 times the square that shows the number.
        edge = round(CROPS.size / 6)
        seen = [read_number(np.kron(crop[edge:-edge, edge:-edge], np.ones((8, 8, 1)))) for crop in crops]
        assert seen == list(range(40 * number, 40 * number + FRAMES))
        np.testing.assert_allclose(record["affect"][:, 0], [round(n / 1000 - 0.5, 3) for n in seen], atol=1e-6)


def test_header_and_splits_say_where_the_store_comes_from(prepared, talks):
    header = read_header(prepared)
    assert (header.dataset, header.crop, header.splits) == ("SEWADataset", CROPS, ["splits"])
    assert header.record_options == {"label_range": [-1.0, 1.0], "labels": "V"}
    sizes = [file.stat().st_size for file in (prepared / "packs").glob("*.avi")]
    assert header.counts == {"records": 4, "frames": 48, "pictures": 48, "bytes": sum(sizes)}
    for part in ("train", "val"):
        copied, original = (folder / f"splits/{part}.txt" for folder in (prepared, talks))
        assert copied.read_bytes() == original.read_bytes()
    assert (prepared / "report.csv").read_text() == "kind,file,text\n"


def test_several_processes_write_the_same_bytes(talks, prepared, tmp_path):
    seen: list[tuple[int, int]] = []
    summary = prepare_sewa(talks, tmp_path / "crops", workers=2, progress=lambda *state: seen.append(state))
    assert tree(tmp_path / "crops") == tree(prepared)
    assert seen == [(done, 4) for done in (1, 2, 3, 4)]
    assert (summary.records, summary.packs_made, summary.packs_kept) == (4, 4, 0)


def test_a_finished_store_is_left_as_it_is(talks, own_store):
    before, times = tree(own_store), {file: file.stat().st_mtime_ns for file in own_store.glob("packs/*")}
    summary = prepare_sewa(talks, own_store)
    assert (summary.packs_made, summary.packs_kept) == (0, 4)
    assert tree(own_store) == before
    assert {file: file.stat().st_mtime_ns for file in own_store.glob("packs/*")} == times


@pytest.mark.parametrize("change", ["video", "landmarks", "pack", "picture", "facts"])
def test_only_the_pack_whose_files_changed_is_made_again(own_talks, own_store, change):
    key = KEYS[1]
    prepare_sewa(own_talks, own_store)
    before = tree(own_store)
    if change == "video":
        write_numbered_avi(own_talks / key / f"{key}.avi", range(400, 400 + FRAMES))
    elif change == "landmarks":
        box = square_landmarks((80, 40, 200, 160))
        write_landmarks_zip(own_talks / key / f"{key}_Landmarks.zip", FRAMES, dict.fromkeys(range(FRAMES), box))
    elif change == "pack":
        pack = own_store / "packs" / f"{key}.avi"
        pack.write_bytes(pack.read_bytes()[:-1])
    elif change == "picture":  # a bit that went bad on the disk: neither size nor settings tell
        pack = own_store / "packs" / f"{key}.avi"
        raw = bytearray(pack.read_bytes())
        raw[int(read_facts(pack.with_suffix(".npz"))["offsets"][5]) + 40] ^= 1
        pack.write_bytes(raw)
    else:
        (own_store / "packs" / f"{key}.npz").write_bytes(b"PK damaged")
    summary = prepare_sewa(own_talks, own_store)
    assert (summary.packs_made, summary.packs_kept) == (1, 3)
    after = tree(own_store)
    different = {file for file in before if before[file] != after[file]}
    packs = {f"packs/{key}.avi", f"packs/{key}.npz", "index.npz", "store.json"}
    assert different == ({f"packs/{key}.npz"} | packs if change in ("video", "landmarks") else set())


def test_new_labels_need_no_new_pictures(own_talks, own_store):
    prepare_sewa(own_talks, own_store)
    file = own_talks / KEYS[0] / f"{KEYS[0]}_Valence_V_Aligned.csv"
    file.write_text("frame,valence\n" + "".join(f"{frame},0.25\n" for frame in range(FRAMES)))
    assert prepare_sewa(own_talks, own_store).packs_made == 0
    assert (read_index(own_store / "index.npz")[0].results()["affect"][:, 0] == 0.25).all()


def test_a_moved_raw_folder_is_the_same(own_talks, own_store, tmp_path):
    prepare_sewa(own_talks, own_store)
    own_talks.rename(tmp_path / "elsewhere")
    assert prepare_sewa(tmp_path / "elsewhere", own_store).packs_made == 0


def test_facts_with_a_damaged_byte_are_unreadable_or_the_same(prepared, tmp_path):
    file, damaged = prepared / "packs" / f"{KEYS[0]}.npz", tmp_path / "damaged.npz"
    raw, sound = file.read_bytes(), read_facts(file)
    refused = 0
    for place in [*range(0, 600, 7), *range(len(raw) - 600, len(raw), 3)]:  # the first array; the directory at the end
        damaged.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        try:
            facts = read_facts(damaged)
        except DataError:
            refused += 1
            continue
        np.testing.assert_array_equal(facts["offsets"], sound["offsets"])
        np.testing.assert_array_equal(facts["boxes"], sound["boxes"])
        assert facts["fingerprint"] == sound["fingerprint"]
    assert refused > 50


def test_a_part_that_is_gone_takes_its_split_file_with_it(own_talks, own_store):
    (own_talks / "splits/val.txt").unlink()
    prepare_sewa(own_talks, own_store)
    assert [file.name for file in (own_store / "splits").iterdir()] == ["train.txt"]


def test_a_record_that_is_gone_takes_its_pack_with_it(own_talks, own_store):
    files = own_talks / "splits/train.txt"
    files.write_text(f"{KEYS[0]}\n")
    summary = prepare_sewa(own_talks, own_store)
    assert (summary.records, summary.packs_kept) == (2, 2)
    assert sorted(file.stem for file in own_store.glob("packs/*.avi")) == sorted([KEYS[0], KEYS[3]])
    assert read_split_file(own_store / "splits/train.txt") == [KEYS[0]]


def test_other_settings_are_refused_and_named(own_talks, own_store):
    before = tree(own_store)
    other = CropSettings(size=40, codec="png")
    with pytest.raises(DataError, match=r"crops: holds a store .* other settings \(size 32, now 40\); .*--overwrite"):
        prepare_sewa(own_talks, own_store, other)
    audio = {"train": SEWADataset(str(own_talks), "train", labels="A", lazy_init=True)}
    with pytest.raises(DataError, match="labels 'V', now 'A'"):
        prepare_store(own_store, audio, CROPS, split_folders={"splits": own_talks / "splits"}, workers=1)
    assert tree(own_store) == before
    summary = prepare_sewa(own_talks, own_store, other, overwrite=True)
    assert (summary.packs_made, read_header(own_store).crop.size) == (4, 40)


def test_a_folder_with_other_files_is_refused(talks, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="new or empty folder"):
        prepare_sewa(talks, tmp_path)
    with pytest.raises(DataError, match="a store goes to a folder, got a file"):
        prepare_sewa(talks, tmp_path / "thesis.tex")
    assert tree(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_second_preparation_is_refused_while_the_first_runs(talks, own_store):
    before = tree(own_store)
    with locked(own_store), pytest.raises(DataError, match="another process is writing to this folder"):
        prepare_sewa(talks, own_store)
    assert tree(own_store) == before
    assert prepare_sewa(talks, own_store).packs_kept == 4
    assert (own_store / LOCK).read_bytes() == b""


def test_a_full_disk_ends_in_one_sentence_and_the_store_can_be_completed(talks, tmp_path, prepared):
    out = tmp_path / "crops"
    with full_disk(), pytest.raises(OutputError, match=r"packs/.*: cannot be written \(.*File too large") as error:
        prepare_sewa(talks, out)
    assert "\n" not in str(error.value)
    assert not (out / "index.npz").exists()
    prepare_sewa(talks, out)
    assert tree(out) == tree(prepared)


def test_a_place_that_cannot_be_written_is_named(talks, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*: cannot be written"):
        prepare_sewa(talks, tmp_path / "file" / "crops")
    out = tmp_path / "crops"
    out.mkdir()
    (out / "packs").write_text("")
    with pytest.raises(OutputError, match="packs: cannot be written"):
        prepare_sewa(talks, out)


def test_settings_that_do_not_describe_the_records_are_a_mistake(talks, tmp_path):
    options = {"split_folders": {"splits": talks / "splits"}, "workers": 1}
    whole = {"val": SEWADataset(str(talks), "val", faces="frame", lazy_init=True)}
    with pytest.raises(ValueError, match=r"has no boxes, got margin=1.5"):
        prepare_store(tmp_path / "crops", whole, CROPS, **options)
    with pytest.raises(ValueError, match=r"has pixel_aspect 1.0, got 2.0"):
        prepare_sewa(talks, tmp_path / "crops", CropSettings(pixel_aspect=2.0))
