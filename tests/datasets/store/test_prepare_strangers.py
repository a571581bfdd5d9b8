"""A store that was copied or comes from a stranger is completed, and nothing outside of it is touched."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hocp_mm.datasets.splits import write_split_files
from hocp_mm.errors import HOCPError
from tests.material.raw_sets import KEYS, prepare_sewa, tree

PACK, FACTS = f"packs/{KEYS[0]}.avi", f"packs/{KEYS[0]}.npz"


@pytest.fixture
def store(prepared, tmp_path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "crops"))


@pytest.fixture
def precious(tmp_path) -> Path:
    folder = tmp_path / "precious"
    folder.mkdir()
    for name in ("a.txt", "train.txt", "holiday.avi", "thesis.npz"):
        (folder / name).write_text("precious")
    return folder


def _replace(place: Path) -> Path:
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    return place


def _refusal(talks: Path, store: Path) -> str:
    """Complete a store; return what the user is told if that is refused."""
    try:
        prepare_sewa(talks, store)
    except HOCPError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "name", ["report.csv", "store.json", "index.npz", ".lock", PACK, FACTS, "splits/train.txt", "splits/test.txt"]
)
@pytest.mark.parametrize("target", ["a.txt", "new.txt"])
def test_a_link_in_a_store_is_not_written_through(name, target, talks, store, precious):
    before = tree(precious)
    _replace(store / name).symlink_to(precious / target)
    refused = _refusal(talks, store)
    assert name in refused or not (store / name).is_symlink()
    assert tree(precious) == before


@pytest.mark.parametrize("name", ["packs", "splits", "folds", "folds/fold_0"])
def test_a_folder_of_a_store_that_is_a_link_is_refused(name, talks, store, precious):
    before = tree(precious)
    (store / "folds").mkdir()
    _replace(store / name).symlink_to(precious)
    with pytest.raises(HOCPError, match=rf"{name}: must be a folder, got a link"):
        prepare_sewa(talks, store)
    assert tree(precious) == before


@pytest.mark.parametrize("suffixes", [(".avi",), (".npz",), (".avi", ".npz"), (".avi", ".npz", ".txt")])
@pytest.mark.parametrize("facts", [b"precious", None], ids=["any", "of another file"])
def test_videos_of_somebody_in_a_folder_called_packs_stay(suffixes, facts, talks, store, tmp_path):
    """Be it the whole folder, or beside the packs of a store."""
    for suffix in suffixes:
        raw = (store / FACTS).read_bytes() if suffix == ".npz" and facts is None else b"precious"
        for folder in (tmp_path / "mine", store):
            (folder / "packs").mkdir(parents=True, exist_ok=True)
            (folder / f"packs/holiday{suffix}").write_bytes(raw)
    before = tree(tmp_path / "mine")
    with pytest.raises(HOCPError, match="new or empty folder"):
        prepare_sewa(talks, tmp_path / "mine")
    assert tree(tmp_path / "mine") == before
    before = tree(store)
    prepare_sewa(talks, store)
    assert tree(store) == before


@pytest.mark.parametrize(
    "name", ["splits/mine.txt", "splits/notes.md", "folds/fold_0/mine.txt", "folds/fold_7/a/b.txt"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_the_user_beside_the_split_files_stay(name, overwrite, talks, store):
    (store / name).parent.mkdir(parents=True, exist_ok=True)
    (store / name).write_text(f"{KEYS[0]}\n")
    before = tree(store)
    prepare_sewa(talks, store, overwrite=overwrite)
    assert tree(store) == before


BY_HAND = {
    "a key less": lambda text: text.replace(f"{KEYS[1]}\n", ""),
    "no checksum": lambda text: text.partition("\n")[2],
    "a note": lambda text: f"{text}# leave out the next time\n",
    "another order": lambda text: "\n".join([*text.splitlines()[:1], *reversed(text.splitlines()[1:]), ""]),
    "no text": lambda text: "\0",
    "empty": lambda text: "",
}


@pytest.mark.parametrize("change", BY_HAND.values(), ids=BY_HAND.keys())
@pytest.mark.parametrize("name", ["splits/train.txt", "splits/test.txt", "folds/fold_0/train.txt"])
def test_a_split_file_that_was_changed_by_hand_is_replaced_on_request_alone(change, name, talks, store):
    """Be it one that comes back otherwise, or one that this preparation does not have."""
    own = change((store / "splits/train.txt").read_text())
    (store / name).parent.mkdir(parents=True, exist_ok=True)
    (store / name).write_text(own)
    before = tree(store)
    for options in ({}, {"split_folders": None}):
        with pytest.raises(HOCPError, match=rf"{name}: would be replaced, .* changed by hand; .*--overwrite"):
            prepare_sewa(talks, store, **options)
    assert tree(store) == before
    prepare_sewa(talks, store, overwrite=True)
    assert not (store / name).exists() or (store / name).read_text() != own


def test_a_split_file_that_was_written_by_hand_before_it_was_copied_is_no_hindrance(talks, tmp_path):
    own_talks = Path(shutil.copytree(talks, tmp_path / "raw"))
    (own_talks / "splits/train.txt").write_text(f"# mine\n{KEYS[0]}\n")
    for _ in range(2):
        assert prepare_sewa(own_talks, tmp_path / "crops").records == 2
    assert (tmp_path / "crops/splits/train.txt").read_text() == f"# mine\n{KEYS[0]}\n"


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "no JSON", '{"format_version": 1}', '{"store": "of a shop"}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_somebody_elses_header_stays_as_it_is(text, overwrite, talks, tmp_path):
    (tmp_path / "mine/packs").mkdir(parents=True)
    for name in ("index.npz", "report.csv", "packs/holiday.avi", "packs/holiday.npz"):
        (tmp_path / "mine" / name).write_text("precious")
    (tmp_path / "mine/store.json").write_text(text)
    before = tree(tmp_path / "mine")
    with pytest.raises(HOCPError, match=r"store\.json: "):
        prepare_sewa(talks, tmp_path / "mine", overwrite=overwrite)
    assert tree(tmp_path / "mine") == before  # not even a lock


@pytest.mark.parametrize("name", [".lock", "report.csv", "store.json", "index.npz", PACK, FACTS, "splits/train.txt"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_replaced_or_refused_and_never_waited_for(name, make, talks, store, prepared):
    make(_replace(store / name))
    refused = _refusal(talks, store)
    assert name in refused or tree(store) == tree(prepared)


def _column(name, change):
    return lambda facts: facts.update({name: change(facts[name])})


FORGED = {
    "huge sizes": _column("sizes", lambda sizes: np.full(len(sizes), 2**62)),
    "negative sizes": _column("sizes", lambda sizes: -sizes),
    "huge offsets": _column("offsets", lambda offsets: np.full(len(offsets), 2**64 - 1, np.uint64)),
    "offsets beyond the file": _column("offsets", lambda offsets: np.full_like(offsets, 2**63 - 1)),
    "fractions": _column("offsets", lambda offsets: offsets + 0.5),
    "words": _column("offsets", lambda offsets: offsets.astype(str)),
    "dates": _column("sizes", lambda sizes: sizes.astype("M8[s]")),
    "one number": _column("checksums", lambda checksums: checksums[0]),
    "flat boxes": _column("boxes", lambda boxes: boxes[:, 0]),
    "few boxes": _column("boxes", lambda boxes: boxes[:1]),
    "words for boxes": _column("boxes", lambda boxes: boxes.astype(str)),
    "numbers for faces": _column("face_found", lambda found: found * 7.0),
    "few faces": _column("face_found", lambda found: found[:1]),
    "two lengths": _column("length", lambda length: np.array([length, length])),
    "two answers": _column("complete", lambda complete: np.array([complete, complete])),
    "a missing column": lambda facts: facts.pop("boxes"),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED.keys())
def test_a_pack_with_forged_facts_is_made_again(change, talks, store, prepared):
    with np.load(store / FACTS) as file:
        facts = dict(file)
    change(facts)
    np.savez(store / FACTS, **facts)
    assert prepare_sewa(talks, store).packs_made == 1
    assert tree(store) == tree(prepared)


def test_split_files_are_not_written_through_links(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").symlink_to(tmp_path / ".profile")
    write_split_files(tmp_path / "splits", {"train": ["a"]}, seed=0)
    assert not (tmp_path / ".profile").exists()
