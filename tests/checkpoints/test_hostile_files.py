"""Files that are damaged, or made to harm: refused in one line, soon, in little memory; never read as others."""

import io
import json
import random
import resource
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from hocp_mm.checkpoints.reading import read_checkpoint
from hocp_mm.errors import CheckpointError
from tests.checkpoints import hostile_pickles
from tests.checkpoints.hostile_files import outcome, same, training_checkpoint, whole_files
from tests.checkpoints.hostile_pickles import HARMLESS, HOSTILE, archive, bomb
from tests.material.processes import ROOT
from tests.reliability.fuzz_checkpoints import fuzz

SLOWEST, MOST_MEGABYTES = 240, 1000  # seconds for all of them on a busy machine; a quiet one takes 10


def read_all(folder: Path) -> None:
    """Read every hostile pickle and print what came of it, a line for each; called in a process of its own."""
    for case, body in HOSTILE.items():
        path = archive(body, folder / "odd.pth")
        sys.stdout.write(json.dumps([case, *_told(path)]) + "\n")
        old = old_file(folder / "odd.pth", b"}" + hostile_pickles.text("x") + body + b"s")
        sys.stdout.write(json.dumps([f"{case}, old", *_told(old)]) + "\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps(["bomb", *_told(bomb(folder / "odd.pth", 1 << 27))]) + "\n")


def _told(path: Path) -> tuple[str, float, int]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    try:
        read_checkpoint(path)
        told = "read"
    except CheckpointError as error:
        told = str(error)
    except BaseException as error:
        told = f"raised {type(error).__name__}"
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return told, time.perf_counter() - began, (after - before) // 1024


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, tuple[str, float, int]]:
    """What comes of each hostile pickle; of those behind one that never ends, nothing."""
    code = "import sys; from pathlib import Path; from tests.checkpoints.test_hostile_files import read_all"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        f"{code}; read_all(Path(sys.argv[1]))",
        str(tmp_path_factory.mktemp("h")),
    ]
    try:
        lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SLOWEST, check=False).stdout
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").decode()
    return {case: tuple(rest) for case, *rest in map(json.loads, lines.splitlines())}


@pytest.mark.parametrize("case", [*HOSTILE, *(f"{case}, old" for case in HOSTILE), "bomb"])
def test_a_pickle_that_asks_for_too_much_is_refused(told, case):
    assert case in told, "it, or one before it, did not end"
    text, _, megabytes = told[case]
    assert "odd.pth: holds " in text or "odd.pth: damaged" in text
    assert text.isprintable()
    assert len(text) < 900
    assert megabytes < MOST_MEGABYTES


@pytest.mark.parametrize("case", list(HARMLESS))
def test_a_pickle_that_is_merely_odd_is_read(tmp_path, case):
    content = read_checkpoint(archive(HARMLESS[case], tmp_path / "odd.pth"))
    torch.testing.assert_close(content["state_dict"]["w"], torch.arange(1.0, 5.0), rtol=0, atol=0)


def test_flags_in_a_file_do_not_make_numbers_addresses(tmp_path):
    """NumPy believes them, and would free what the numbers point to."""
    content = read_checkpoint(archive(HARMLESS["flags of references on numbers"], tmp_path / "odd.pth"))
    assert not content["x"].hasobject


# ----- every byte


def assert_same_or_refused(whole: bytes, mutants, path: Path) -> int:
    """Return how many are refused."""
    path.write_bytes(whole)
    expected, refused = read_checkpoint(path), 0
    for mutant in mutants:
        path.write_bytes(mutant)
        content = outcome(path)
        refused += content is None
        assert content is None or same(content, expected)
    return refused


def flips(whole: bytes, step: int, seed: int):
    rng = random.Random(seed)
    for place in range(seed, len(whole), step):
        yield whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :]
        if place % 3 == 0:
            yield whole[:place]


@pytest.mark.parametrize("name", ["zip.pth", "packed.pth"])
@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_in_a_zip_is_told_or_changes_nothing(tmp_path, name, step):
    whole = whole_files()[name]
    refused = assert_same_or_refused(whole, flips(whole, step, seed=0), tmp_path / "flip.pth")
    assert refused > len(whole) // step // 2


@pytest.mark.parametrize("name", ["zip.pth", "packed.pth"])
def test_every_byte_of_the_directory_and_its_end_counts(tmp_path, name):
    """Headers, too: two values for bytes from the first entry of the directory on, and of the first header."""
    whole = whole_files()[name]
    start = struct.unpack_from("<I", whole, len(whole) - 6)[0]
    places = [*range(0, 60, 2), *range(start, len(whole), 7)]
    mutants = [whole[:p] + bytes([v]) + whole[p + 1 :] for p in places for v in (0xFF, whole[p] ^ 1)]
    assert assert_same_or_refused(whole, mutants, tmp_path / "odd.pth") > len(places) // 2


def test_a_record_that_is_called_a_folder_is_refused(tmp_path):
    """torch.load finds no content in it, and leaves the weights as memory was: one bit of the attributes suffices."""
    path = tmp_path / "odd.pth"
    torch.save({"w": torch.ones(1000)}, path)
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"odd/data/0"))
    whole[entry + 38] |= 16
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="a folder in it has content"):
        read_checkpoint(path)


def test_a_flipped_bit_in_a_weight_is_told(tmp_path):
    """torch.load reads it silently."""
    path, weights = tmp_path / "flip.pth", torch.full((1000,), 1.5)
    torch.save({"w": weights}, path)
    whole = path.read_bytes()
    place = whole.index(weights.numpy().tobytes()) + 1234
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
    assert not torch.equal(torch.load(path)["w"], weights)
    with pytest.raises(CheckpointError, match=r"flip\.pth: damaged \(the checksum of flip/data/0 is wrong"):
        read_checkpoint(path)


@pytest.fixture
def without_checksums():
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always writes checksums")
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


def test_a_file_without_checksums_is_read(tmp_path, without_checksums):
    torch.save({"w": torch.ones(3)}, tmp_path / "quick.pth")
    assert read_checkpoint(tmp_path / "quick.pth")["w"].sum() == 3


# ----- directories


def _two(path: Path, first: str, second: str) -> bytes:
    """An archive with two records of the same size under names of equal length."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.writestr("a/one", b"1234")
        file.writestr("a/two", b"5678")
    return path.read_bytes().replace(b"a/one", first.encode()).replace(b"a/two", second.encode())


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [
        ("a/one", "a/one", "two records are called a/one"),
        ("a/one", "A/ONE", "two records are called A/ONE"),
        ("a/..x", "../xx", "no plain path: ../xx"),
        ("/aone", "a/two", "no plain path: /aone"),
        ("a//ne", "a/two", "no plain path: a//ne"),
        ("a\\one", "a/two", r"no plain path: a\\\\one"),
        ("a/o\x1be", "a/two", r"no plain path: a/o\\x1be"),
        ("c:/ne", "a/two", "no plain path: c:/ne"),
    ],
)
def test_names_that_lead_elsewhere_or_occur_twice_are_refused(tmp_path, first, second, rule):
    path = tmp_path / "odd.pth"
    path.write_bytes(_two(path, first, second))
    with pytest.raises(CheckpointError, match=rf"odd\.pth: damaged \(.*({rule})"):
        read_checkpoint(path)


def test_records_that_overlap_are_refused(tmp_path):
    """Two entries that share a record: a few bytes could stand for as much as one likes."""
    path = tmp_path / "odd.pth"
    whole = bytearray(_two(path, "a/one", "a/two"))
    first = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 4)
    second = whole.index(b"PK\x01\x02", first + 4)
    whole[second + 42 : second + 46] = whole[first + 42 : first + 46]
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"a/(one|two) is not what the directory says"):
        read_checkpoint(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_refused(tmp_path, method):
    with pytest.raises(CheckpointError, match=r"odd\.pth: damaged \(a/data\.pkl is encrypted, or packed by method"):
        read_checkpoint(archive(b"N", tmp_path / "odd.pth", method=method))


def test_a_record_that_inflates_beyond_what_it_says_is_refused(tmp_path):
    path = bomb(tmp_path / "odd.pth", 1 << 20)
    whole = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = whole.rindex(b"a/data/9", 0, len(whole) if magic == b"PK\x01\x02" else whole.index(b"PK\x01\x02"))
        at = whole.rindex(magic, 0, at) + place
        assert whole[at : at + 4] == struct.pack("<I", 1 << 20)
        whole[at : at + 4] = struct.pack("<I", 1000)
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="a/data/9 does not inflate to its 1000 bytes"):
        read_checkpoint(path)


def test_a_directory_of_too_many_records_is_refused(tmp_path):
    whole = bytearray(whole_files()["zip.pth"])
    wide, end = len(whole) - 98, len(whole) - 22
    whole[wide + 24 : wide + 40] = struct.pack("<2Q", 70_000, 70_000)
    whole[end + 8 : end + 12] = b"\xff" * 4
    (tmp_path / "odd.pth").write_bytes(whole)
    with pytest.raises(CheckpointError, match="it has 70000 records, the most is 65536"):
        read_checkpoint(tmp_path / "odd.pth")


def test_a_packed_archive_is_read(tmp_path):
    (tmp_path / "packed.pth").write_bytes(whole_files()["packed.pth"])
    assert same(read_checkpoint(tmp_path / "packed.pth")["state_dict"], _saved(tmp_path, "zip.pth")["state_dict"])


def _saved(folder: Path, name: str) -> dict:
    (folder / name).write_bytes(whole_files()[name])
    return read_checkpoint(folder / name)


def test_an_archive_of_large_files_is_read(tmp_path):
    """Where sizes may exceed 4 GiB, headers hold them in another place."""
    whole = whole_files()["zip.pth"]
    (tmp_path / "zip.pth").write_bytes(whole)
    with zipfile.ZipFile(tmp_path / "zip.pth") as source, zipfile.ZipFile(tmp_path / "wide.pth", "w") as target:
        for name in source.namelist():
            with target.open(name, "w", force_zip64=True) as record:
                record.write(source.read(name))
    assert same(read_checkpoint(tmp_path / "wide.pth"), read_checkpoint(tmp_path / "zip.pth"))


# ----- the older format


def old_file(path: Path, content: bytes, keys: bytes = b"]", data: bytes = b"") -> Path:
    """The format before torch 1.6: magic number, version, machine, content, keys, storages."""
    header = hostile_pickles.whole(0x1950A86A20F9469CFC6C) + b".", hostile_pickles.whole(1001) + b".", b"}."
    path.write_bytes(b"".join(b"\x80\x02" + part for part in (*header, content + b".", keys + b".")) + data)
    return path


def view(offset: int, size: int) -> bytes:
    return hostile_pickles.items(hostile_pickles.text("v"), *map(hostile_pickles.whole, (offset, size)))


def old_tensor(count: int, size: int, view: bytes = b"N") -> bytes:
    parts = hostile_pickles.text("storage"), hostile_pickles.name("torch", "FloatStorage"), hostile_pickles.text("0")
    storage = hostile_pickles.items(*parts, hostile_pickles.text("cpu"), hostile_pickles.whole(count), view) + b"Q"
    return b"}" + hostile_pickles.text("w") + hostile_pickles.tensor((size,), (1,), storage=storage) + b"s"


KEYS = b"]" + hostile_pickles.text("0") + b"a"
FOUR = struct.pack("<q4f", 4, 1, 2, 3, 4)


def test_the_older_format_by_hand_is_read(tmp_path):
    content = read_checkpoint(old_file(tmp_path / "old.pth", old_tensor(4, 4), KEYS, FOUR))
    assert content["w"].tolist() == [1, 2, 3, 4]


ODD_OLD_FILES = {
    "storage that is never filled": (old_tensor(4, 4), b"]", b""),
    "storage that is not asked for": (old_tensor(4, 4), KEYS + hostile_pickles.text("1") + b"a", FOUR),
    "keys that are no list": (old_tensor(4, 4), b"}" + hostile_pickles.text("0") + b"Ns", FOUR),
    "storage larger than the file": (old_tensor(1 << 30, 4), KEYS, FOUR),
    "storage larger than its data": (old_tensor(5, 5), KEYS, FOUR),
    "tensor larger than its storage": (old_tensor(4, 5), KEYS, FOUR),
    "view outside": (old_tensor(4, 4, view(2, 4)), KEYS, FOUR),
    "view before": (old_tensor(4, 4, view(-4, 4)), KEYS, FOUR),
    "dict in itself": (hostile_pickles.SELF_DICT, b"]", b""),
}  # fmt: skip


@pytest.mark.parametrize("case", list(ODD_OLD_FILES))
def test_an_odd_file_of_the_older_format_is_refused(tmp_path, case):
    """A storage that nobody fills holds what was in memory before."""
    with pytest.raises(CheckpointError, match=r"old\.pth: (holds|damaged)"):
        read_checkpoint(old_file(tmp_path / "old.pth", *ODD_OLD_FILES[case]))


def test_a_tar_without_the_mark_of_tar_is_named(tmp_path):
    """Torch takes it for one, and would unpack it."""
    import tarfile

    head = bytearray(tarfile.TarInfo("storages").tobuf())
    head[257:265] = bytes(8)
    head[148:156] = b"%06o\0 " % (sum(head) - sum(head[148:156]) + 8 * 32)
    (tmp_path / "old.pth").write_bytes(bytes(head) + bytes(1024))
    with pytest.raises(CheckpointError, match=r"old\.pth: the tar format"):
        read_checkpoint(tmp_path / "old.pth")


def test_packed_zeros_are_not_unpacked_to_look_for_a_tar(tmp_path):
    """Tarfile would inflate all of it: ten seconds for a gibibyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    (tmp_path / "old.pth").write_bytes(packer.compress(bytes(1 << 26)) + packer.flush())
    with pytest.raises(CheckpointError, match=r"old\.pth: damaged or no torch checkpoint"):
        read_checkpoint(tmp_path / "old.pth")


# ----- safetensors


def safe_file(path: Path, header: str | bytes, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else header.encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(shape: str = "[2]", start: int = 0, end: int = 8, dtype: str = "F32") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}'


ODD_SAFETENSORS = {
    "nothing": (b"", b"", 0),
    "header longer than the file": ("{}", b"", 1 << 62),
    "header of a gigabyte": ("{}", b"", 1 << 30),
    "no header": (b"\xff" * 8, b"", None),
    "overlap": (f'{{"a":{entry()},"b":{entry(start=4, end=12)}}}', bytes(12), None),
    "same data twice": (f'{{"a":{entry()},"b":{entry()}}}', bytes(8), None),
    "hole": (f'{{"a":{entry()},"b":{entry(start=12, end=20)}}}', bytes(20), None),
    "data behind": (f'{{"a":{entry()}}}', bytes(12), None),
    "no data": (f'{{"a":{entry()}}}', b"", None),
    "shape larger than data": (f'{{"a":{entry("[1099511627776]")}}}', bytes(8), None),
    "shape that overflows": (f'{{"a":{entry("[4294967296,4294967296]", 0, 0)}}}', b"", None),
    "negative": (f'{{"a":{entry("[-2]")}}}', bytes(8), None),
    "unknown dtype": (f'{{"a":{entry(dtype="F31")}}}', bytes(8), None),
    "deep": ('{"a":' + "[" * 100_000, b"", None),
    "list": ("[1]", b"", None),
}


@pytest.mark.parametrize("case", list(ODD_SAFETENSORS))
def test_an_odd_safetensors_file_is_refused(tmp_path, case):
    header, data, length = ODD_SAFETENSORS[case]
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: ") as caught:
        read_checkpoint(safe_file(tmp_path / "odd.safetensors", header, data, length))
    assert str(caught.value).isprintable()


def test_cuts_and_flips_of_a_safetensors_header_are_refused_or_read(tmp_path):
    whole = save({"a": torch.ones(2), "b": torch.zeros(3)})
    for mutant in flips(whole, 1, seed=0):
        (tmp_path / "flip.safetensors").write_bytes(mutant)
        outcome(tmp_path / "flip.safetensors")


# ----- real files


def _can_save(dtype: str) -> bool:
    try:
        torch.save(torch.empty(0, dtype=getattr(torch, dtype)), io.BytesIO())
    except KeyError:  # "dtype torch.uint16 is not recognized" by torch 2.4
        return False
    return True


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "float8_e4m3fn", "bfloat16", "complex64", "bool"])
def test_every_dtype_is_read(tmp_path, dtype):
    if dtype.startswith("uint") and not _can_save(dtype):
        pytest.skip(f"this torch cannot save {dtype}")
    tensor = torch.arange(4).to(getattr(torch, dtype))
    torch.save({"w": tensor, "v": tensor[1:3], "none": torch.empty(0, 3).to(tensor.dtype)}, tmp_path / "x.pth")
    read = read_checkpoint(tmp_path / "x.pth")
    assert read["w"].dtype == tensor.dtype
    assert read["w"].view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist()
    assert read["v"].untyped_storage().data_ptr() == read["w"].untyped_storage().data_ptr()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_is_read_whatever_wrote_it(tmp_path, protocol, zipped):
    torch.manual_seed(0)
    saved = training_checkpoint() | {
        "empty": [b"", bytearray(b"a"), ""],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(saved, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / "x.pth"), saved)


@pytest.mark.parametrize(
    "wrap", [torch.nn.Parameter, lambda tensor: tensor.to_sparse(), lambda tensor: tensor.to("meta")]
)
def test_tensors_without_plain_values_are_refused_by_name(tmp_path, wrap):
    """But for parameters, which are plain."""
    torch.save({"w": wrap(torch.eye(2))}, tmp_path / "x.pth")
    if wrap is torch.nn.Parameter:
        assert torch.equal(read_checkpoint(tmp_path / "x.pth")["w"], torch.eye(2))
        return
    with pytest.raises(CheckpointError, match=r"x\.pth: holds torch\._utils\._rebuild_(sparse|meta)_tensor"):
        read_checkpoint(tmp_path / "x.pth")


def test_a_parameter_keeps_its_own_attributes(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter._no_weight_decay = True
    torch.save({"w": parameter}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth")["w"]._no_weight_decay is True


def test_a_large_model_is_within_the_bounds(tmp_path):
    """5000 parameters with Adam's three tensors each; views of one storage, which is quicker to write."""
    whole = torch.zeros(2)
    state = {f"layer{n}.weight": whole[:] for n in range(5000)}
    adam = {n: {"step": whole[:1], "exp_avg": whole[:], "exp_avg_sq": whole[:]} for n in range(5000)}
    torch.save({"state_dict": state, "optimizer": {"state": adam}}, tmp_path / "x.pth")
    assert len(read_checkpoint(tmp_path / "x.pth")["optimizer"]["state"]) == 5000


def test_many_names_in_a_safetensors_file_are_read(tmp_path):
    save_file({f"layer{n}.weight": torch.zeros(1) for n in range(2000)}, tmp_path / "x.safetensors")
    assert len(read_checkpoint(tmp_path / "x.safetensors")) == 2000


# ----- at random


@pytest.mark.parametrize("inputs", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_damage_is_read_or_refused(tmp_path, inputs):
    account = fuzz(inputs, seed=inputs, folder=tmp_path)
    assert not account.others, account.others[0]
    assert account.refused
    assert account.read
    assert account.peak < MOST_MEGABYTES
