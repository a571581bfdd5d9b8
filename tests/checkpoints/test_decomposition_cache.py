"""Fits kept on disk: the same as fresh ones, found by all they depend on, and never in the way."""

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hocp_mm.checkpoints import DecompositionCache, decomposition_cache
from hocp_mm.functional import Decomposition, decompose
from tests.material.processes import run_python

FITTING = sys.modules[Decomposition.__module__]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
KERNELS = {
    "an image kernel": ((8, 6, 3, 3), 7, 1),
    "a grouped kernel": ((8, 3, 3, 3), 6, 2),
    "a matrix": ((8, 6, 1, 1), 4, 1),
    "a kernel of one mode": ((8, 6, 3), 4, 1),
    "a clip kernel": ((6, 5, 3, 3, 3), 6, 1),
    "a kernel of four modes": ((4, 3, 2, 2, 3, 3), 5, 1),
}


def kernel(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*(shape or (8, 6, 3, 3)), generator=torch.Generator().manual_seed(1)).to(dtype)


def assert_same(actual: Decomposition, expected: Decomposition) -> None:
    """Fail unless two decompositions are equal bit for bit."""
    __tracebackhide__ = True
    assert list(actual.kernel.factors) == list(expected.kernel.factors)
    assert actual.kernel.groups == expected.kernel.groups
    for name, factor in {"lambda": expected.kernel.weights, **expected.kernel.factors}.items():
        own = actual.kernel.weights if name == "lambda" else actual.kernel.factors[name]
        assert own.dtype == factor.dtype
        assert torch.equal(own, factor), name
    errors = ("relative_error", "degeneracy", "weighted_error")
    assert [getattr(actual, e) for e in errors] == [getattr(expected, e) for e in errors]


@pytest.fixture
def no_fit(monkeypatch):
    """Make every fit an error."""

    def refuse(*args, **kwargs):
        raise AssertionError("fitted although the result is known")

    def switch_on() -> None:
        monkeypatch.setattr(decomposition_cache, "decompose", refuse)

    return switch_on


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", KERNELS)
def test_a_kept_fit_equals_a_fresh_one_bit_for_bit(tmp_path, no_fit, case, dtype):
    shape, rank, groups = KERNELS[case]
    dense = kernel(*shape, dtype=dtype).requires_grad_()
    fresh = decompose(dense, rank, groups=groups, seed=3)
    assert_same(DecompositionCache(tmp_path).decompose(dense, rank, groups=groups, seed=3), fresh)
    no_fit()
    again = DecompositionCache(tmp_path)
    assert_same(again.decompose(dense, rank, groups=groups, seed=3), fresh)
    assert (again.hits, again.misses) == (1, 0)


def test_another_process_finds_the_fit(tmp_path):
    fit = DecompositionCache(tmp_path).decompose(kernel(), 7)
    torch.save((fit.kernel.weights, dict(fit.kernel.factors), fit.relative_error, fit.degeneracy), tmp_path / "fit.pth")
    answer = run_python(
        f"""
        import torch
        from pathlib import Path
        from hocp_mm.checkpoints import DecompositionCache, decomposition_cache
        folder = Path({str(tmp_path)!r})
        decomposition_cache.decompose = None  # cannot be called
        weights, factors, error, degeneracy = torch.load(folder / "fit.pth")
        dense = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(1))
        cache = DecompositionCache(folder)
        fit = cache.decompose(dense, 7)
        print(torch.equal(fit.kernel.weights, weights), fit.relative_error == error, fit.degeneracy == degeneracy,
              all(torch.equal(fit.kernel.factors[n], f) for n, f in factors.items()), cache.hits, cache.misses)
        """
    )
    assert answer == "True True True True 1 0"


def _changed_value() -> torch.Tensor:
    dense = kernel()
    dense[0, 0, 0, 0] = torch.nextafter(dense[0, 0, 0, 0], torch.tensor(9.0))
    return dense


OTHERS = {
    "one bit of one value": {"dense": _changed_value()},
    "the sign of a zero": {"dense": torch.cat([kernel()[:7], -torch.zeros(1, 6, 3, 3)])},
    "the dtype": {"dense": kernel(dtype=torch.float64)},
    "the shape": {"dense": kernel().reshape(8, 6, 1, 9)},
    "the rank": {"rank": 8},
    "the groups": {"groups": 2},
    "the seed": {"seed": 1},
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_fit_depends_on(tmp_path, case):
    first = {"dense": torch.cat([kernel()[:7], torch.zeros(1, 6, 3, 3)]) if "zero" in case else kernel()}
    base = {"rank": 6, "groups": 1, "seed": 0, **first}
    other = {**base, **OTHERS[case]}
    cache = DecompositionCache(tmp_path)
    cache.decompose(**base)
    assert_same(cache.decompose(**other), decompose(**other))
    assert (cache.hits, cache.misses) == (0, 2)


@pytest.fixture
def _forget_code():
    decomposition_cache._code_of.cache_clear()
    yield
    decomposition_cache._code_of.cache_clear()


@pytest.mark.usefixtures("_forget_code")
def test_a_change_of_the_fitting_code_finds_no_old_fit(tmp_path, monkeypatch):
    DecompositionCache(tmp_path).decompose(kernel(), 6)
    decomposition_cache._code_of.cache_clear()
    sources = decomposition_cache._sources(FITTING)
    name = "hocp_mm.functional.compression"
    changed = {**sources, name: sources[name] + "\n# changed\n"}
    monkeypatch.setattr(decomposition_cache, "_sources", lambda module: changed)
    cache = DecompositionCache(tmp_path)
    cache.decompose(kernel(), 6)
    assert (cache.hits, cache.misses) == (0, 1)


def test_the_fitting_code_is_all_code_of_the_package_that_a_fit_runs():
    run: set[str] = set()

    def note(frame, event, argument):
        run.add(frame.f_globals.get("__name__", ""))

    sys.setprofile(note)
    try:
        for shape, rank, groups in KERNELS.values():
            decompose(kernel(*shape), rank, groups=groups)
    finally:
        sys.setprofile(None)
    run = {name for name in run if name.startswith("hocp_mm.")}
    assert {f"hocp_mm.functional.{m}" for m in ("decompose", "group_fit", "als", "compression", "cp")} <= run
    assert run <= set(decomposition_cache._sources(FITTING))


def _flip(position: int):
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[position] ^= 1
        file.write_bytes(content)

    return damage


def _swap(file: Path) -> None:
    cache = DecompositionCache(file.parent / "other")
    cache.decompose(kernel(), 5)
    (other,) = (file.parent / "other").iterdir()
    file.write_bytes(other.read_bytes())


DAMAGES = {
    "an empty file": lambda file: file.write_bytes(b""),
    "a file cut off": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "a bit of a value": _flip(-1),
    "a bit of the header": _flip(20),
    "a bit of its length": _flip(0),
    "some text": lambda file: file.write_text("not a fit"),
    "other weights": lambda file: save_file({"fc.weight": torch.ones(2)}, file),
    "weights with a checksum of their own": lambda file: save_file({"checksum": torch.ones(32)}, file),
    "an empty set of weights": lambda file: save_file({"checksum": torch.ones(0)}, file),
    "the fit of another kernel": _swap,
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_file_is_fitted_anew_and_rewritten(tmp_path, no_fit, case):
    fresh = DecompositionCache(tmp_path).decompose(kernel(), 6)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    DAMAGES[case](file)
    cache = DecompositionCache(tmp_path)
    assert_same(cache.decompose(kernel(), 6), fresh)
    assert (cache.hits, cache.misses) == (0, 1)
    assert file.read_bytes() == whole
    no_fit()
    assert_same(cache.decompose(kernel(), 6), fresh)


def _forge(change: Callable[[dict[str, torch.Tensor]], object], checksum: bool = True) -> Callable[[Path], None]:
    """Change what a file holds, and take the checksum of it anew."""

    def forge(file: Path) -> None:
        content = load_file(file)
        change(content)
        content = {name: tensor.contiguous() for name, tensor in content.items()}
        if checksum:
            content.pop("checksum", None)
            value = decomposition_cache._checksum(content, file.stem)
            content["checksum"] = torch.tensor(value, dtype=torch.uint8)
        _write(content, file)

    return forge


_CODES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.uint8: "U8", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip


def _write(content: dict[str, torch.Tensor], file: Path) -> None:
    """Write as save_file does, with dtypes, too, that an older one does not know."""
    header, data = {}, b""
    for name, tensor in content.items():
        values = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        place = [len(data), len(data) + len(values)]
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        data += values
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _set(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return _forge(lambda content: content.update({name: change(content[name])}))


def _set_all(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return _forge(
        lambda content: content.update({n: change(t) for n, t in content.items() if n not in ("errors", "checksum")})
    )


def _put(name: str, index: int | tuple[int, ...], value: float) -> Callable[[Path], None]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[index] = value
        return tensor

    return _set(name, change)


def _replace(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def forge(file: Path) -> None:
        file.unlink()
        make(file)

    return forge


def _fit_of_rank(rank: int, groups: int = 1, dense: torch.Tensor | None = None) -> Callable[[Path], None]:
    """Put the fit of another call there, under the name and the checksum of this one."""

    def forge(file: Path) -> None:
        cache = DecompositionCache(file.parent / "other")
        cache.decompose(kernel() if dense is None else dense, rank, groups=groups)
        (other,) = cache.folder.iterdir()
        file.write_bytes(other.read_bytes())
        _forge(lambda content: None)(file)

    return forge


FORGERIES: dict[str, Callable[[Path], None]] = {
    "an infinite value": _put("factors.h", (0, 0), math.inf),
    "a value that is none": _put("factors.out", (0, 0), math.nan),
    "weights that are none": _set("weights", lambda t: t * math.nan),
    "other weights": _set("weights", torch.neg),
    "larger weights": _set("weights", lambda t: t * 1.001),
    "no weights": _forge(lambda content: content.pop("weights")),
    "one value that is other": _put("factors.w", (0, 0), 0.5),
    "a kernel of zeros": _set_all(torch.zeros_like),
    "noise": _set_all(torch.randn_like),
    "huge values": _set_all(lambda t: t * 1e30),
    "a factor less": _forge(lambda content: content.pop("factors.w")),
    "a factor more": _forge(lambda content: content.update({"factors.t": torch.ones(3, 6)})),
    "a tensor more": _forge(lambda content: content.update({"fc.bias": torch.ones(3)})),
    "a factor of another name": _forge(lambda content: content.update({"factors.x": content.pop("factors.h")})),
    "factors that changed places": _forge(
        lambda content: content.update({"factors.h": content["factors.w"], "factors.w": content["factors.h"]})
    ),
    "more rows": _set("factors.out", lambda t: t.repeat(2, 1)),
    "fewer rows": _set("factors.in", lambda t: t[:-1]),
    "fewer components": _set_all(lambda t: t[..., :5]),
    "more components": _set_all(lambda t: torch.cat([t, t], -1)),
    "no components": _set_all(lambda t: t[..., :0]),
    "components in one factor less": _set("factors.h", lambda t: t[:, :5]),
    "a factor of one mode": _set("factors.h", torch.flatten),
    "a single weight": _set("weights", lambda t: t[0]),
    "double values": _set_all(torch.Tensor.double),
    "half values": _set_all(torch.Tensor.half),
    "whole values": _set_all(torch.Tensor.int),
    "complex values": _set_all(lambda t: t.to(torch.complex64)),
    "values of a byte": _set_all(lambda t: t.to(torch.float8_e5m2)),
    "one error less": _set("errors", lambda t: t[:2]),
    "one error more": _set("errors", lambda t: torch.cat([t, t])),
    "errors as a table": _set("errors", lambda t: t[None]),
    "errors in single precision": _set("errors", torch.Tensor.float),
    "a better error": _put("errors", 0, 0.0),
    "a worse error": _put("errors", 0, 0.99),
    "an error that is none": _put("errors", 0, math.nan),
    "another degeneracy": _put("errors", 1, 1.0),
    "another weighted error": _put("errors", 2, 0.0),
    "no errors": _forge(lambda content: content.pop("errors")),
    "no checksum": _forge(lambda content: content.pop("checksum"), checksum=False),
    "a checksum of other numbers": _forge(
        lambda content: content.update({"checksum": content["checksum"].double()}), checksum=False
    ),
    "nothing": _forge(dict.clear),
    "a fit of another rank": _fit_of_rank(5),
    "a fit of another grouping": _fit_of_rank(6, 2, kernel()[:, :3]),
    "a fit of another kernel": _fit_of_rank(6, dense=kernel().flip(0)),
    "a fit of another order": _fit_of_rank(6, dense=kernel(8, 6, 9)),
    "a header without an end": lambda file: file.write_bytes((2**40).to_bytes(8, "little") + file.read_bytes()[8:]),
    "a header that is nested": lambda file: file.write_bytes((60000).to_bytes(8, "little") + b"[" * 60000),
    "very many bytes": lambda file: os.truncate(file, 2**40),
    "a named pipe": _replace(os.mkfifo),
    "a link": _replace(lambda file: file.symlink_to("/etc/passwd")),
    "a link to a device": _replace(lambda file: file.symlink_to("/dev/zero")),
    "a file open to others": lambda file: file.chmod(0o666),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_forged_fit_counts_as_missing_is_said_and_is_rewritten(tmp_path, no_fit, caplog, case):
    caplog.set_level(logging.INFO)
    fresh = DecompositionCache(tmp_path).decompose(kernel(), 6)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    FORGERIES[case](file)
    caplog.clear()
    cache = DecompositionCache(tmp_path)
    assert_same(cache.decompose(kernel(), 6), fresh)
    assert (cache.hits, cache.misses) == (0, 1)
    assert [f"{file} is not what was kept" in message for message in caplog.messages] == [True]
    assert file.read_bytes() == whole
    no_fit()
    assert_same(cache.decompose(kernel(), 6), fresh)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("case", ["file", "folder"])
def test_what_another_user_owns_is_not_used(tmp_path, case, caplog):
    folder = tmp_path / "kept"
    fresh = DecompositionCache(folder).decompose(kernel(), 6)
    (file,) = folder.iterdir()
    os.chown(file if case == "file" else folder, 65534, 65534)
    cache = DecompositionCache(folder)
    assert_same(cache.decompose(kernel(), 6), fresh)
    assert (cache.hits, cache.misses) == (0, 1)
    assert ("decompositions are not kept" in caplog.text) == (case == "folder")


def test_a_fit_that_does_not_reach_the_error_asked_for_counts_as_missing(tmp_path):
    fresh = DecompositionCache(tmp_path).decompose_to_error(kernel(), 0.4)
    (file,) = tmp_path.iterdir()
    _fit_of_rank(2)(file)  # true to its own errors
    cache = DecompositionCache(tmp_path)
    assert_same(cache.decompose_to_error(kernel(), 0.4), fresh)
    assert (cache.hits, cache.misses) == (0, 1)
    assert_same(cache.decompose_to_error(kernel(), 0.4), fresh)
    assert (cache.hits, cache.misses) == (1, 1)


@pytest.mark.parametrize("bits", [0o777, 0o1777, 0o775])
@pytest.mark.parametrize("where", ["the folder", "a folder above"])
def test_a_folder_that_others_write_to_is_not_used_and_that_is_said(tmp_path, caplog, bits, where):
    folder = tmp_path / "shared/kept"
    fresh = DecompositionCache(folder).decompose(kernel(), 6)
    (folder if where == "the folder" else folder.parent).chmod(bits)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    cache = DecompositionCache(folder)
    for _ in range(2):
        assert_same(cache.decompose(kernel(), 6), fresh)
    cache.decompose(kernel(), 5)
    if where == "a folder above" and bits == 0o1777:  # there the folder itself cannot be exchanged
        assert cache.hits == 2
        return
    assert (cache.hits, cache.misses) == (0, 3)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    (message,) = caplog.messages
    assert re.search(r"decompositions are not kept \(.*/(kept|shared): group and others must not", message)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022])
def test_what_is_kept_is_open_to_this_user_alone(tmp_path, umask):
    before = os.umask(umask)
    try:
        DecompositionCache(tmp_path / "a/b").decompose(kernel(), 6)
    finally:
        os.umask(before)
    (file,) = (tmp_path / "a/b").iterdir()
    assert [path.stat().st_mode & 0o7777 for path in (file, *file.parents[:2])] == [0o600, 0o700, 0o700]
    assert DecompositionCache(tmp_path / "a/b").decompose(kernel(), 6).kernel.rank == 6


ZEROS = {
    "a kernel of zeros": torch.zeros(8, 6, 3, 3),
    "a kernel that is met exactly": torch.einsum("a,b,c,d->abcd", *(torch.arange(1.0, 1 + n) for n in (8, 6, 3, 3))),
    "tiny values": kernel() * 1e-30,
    "large values": kernel() * 1e15,
}


@pytest.mark.parametrize("case", ZEROS)
def test_an_odd_kernel_is_found_again(tmp_path, case):
    cache = DecompositionCache(tmp_path)
    first = cache.decompose(ZEROS[case], 3)
    assert_same(cache.decompose(ZEROS[case], 3), first)
    assert (cache.hits, cache.misses) == (1, 1)


def test_a_folder_that_cannot_be_written_is_said_once_and_nothing_is_lost(tmp_path, caplog):
    (tmp_path / "file").write_text("a file where a folder should be")
    cache = DecompositionCache(tmp_path / "file" / "cache")
    assert_same(cache.decompose(kernel(), 6), decompose(kernel(), 6))
    assert_same(cache.decompose(kernel(), 5), decompose(kernel(), 5))
    assert (cache.hits, cache.misses) == (0, 2)
    assert [r.message for r in caplog.records if "decompositions are not kept" in r.message] == [caplog.messages[-1]]


def test_a_user_without_a_home_goes_without(monkeypatch, caplog):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOCP_MM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    cache = DecompositionCache()
    assert_same(cache.decompose(kernel(), 6), decompose(kernel(), 6))
    assert cache.folder is None
    assert "decompositions are not kept (Could not determine home directory.)" in caplog.text


def test_a_full_disk_leaves_no_rest_behind(tmp_path):
    answer = run_python(
        f"""
        import resource, torch
        from pathlib import Path
        from hocp_mm.checkpoints import DecompositionCache
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # every file ends there, in the middle of a write
        cache = DecompositionCache(Path({str(tmp_path)!r}))
        print(cache.decompose(torch.randn(8, 6, 3, 3), 6).kernel.rank, list(cache.folder.iterdir()))
        """
    )
    assert answer == "6 []"


def test_the_folder_of_the_package_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("HOCP_MM_CACHE", str(tmp_path))
    cache = DecompositionCache()
    assert not list(tmp_path.iterdir())
    cache.decompose(kernel(), 6)
    assert [file.parent for file in tmp_path.rglob("*.safetensors")] == [tmp_path / "decompositions"]


def test_what_was_used_longest_ago_goes_first(tmp_path, no_fit):
    cache = DecompositionCache(tmp_path)
    (tmp_path / "notes.safetensors").write_bytes(b"of the user" * 1000)
    files: dict[int, Path] = {}
    for age, rank in enumerate((6, 5, 4, 3)):
        cache.decompose(kernel(), rank)
        (files[rank],) = {*tmp_path.iterdir()} - {*files.values(), tmp_path / "notes.safetensors"}
        os.utime(files[rank], (time.time() - 1000 + age,) * 2)
    rest = tmp_path / f".{'0' * 64}.{'1' * 32}.part.safetensors"  # of a process that was killed
    rest.write_bytes(b"rest")
    os.utime(rest, (0, 0))
    cache.decompose(kernel(), 6)  # a hit: used just now
    size = {rank: file.stat().st_size for rank, file in files.items()}
    small = DecompositionCache(tmp_path, limit_bytes=size[6] + size[4] + 2 * size[3])
    small.decompose(kernel(), 2)  # a little smaller than the one of rank 3
    left = {*tmp_path.iterdir()}
    assert left > {files[6], files[4], files[3], tmp_path / "notes.safetensors"}
    assert not left & {rest, files[5]}
    assert len(left) == 5
    no_fit()
    assert small.decompose(kernel(), 2).kernel.rank == 2


def test_no_room_at_all_means_nothing_is_kept(tmp_path):
    cache = DecompositionCache(tmp_path, limit_bytes=0)
    assert_same(cache.decompose(kernel(), 6), decompose(kernel(), 6))
    assert not list(tmp_path.iterdir())


def test_many_at_once_share_a_folder(tmp_path):
    caches = [DecompositionCache(tmp_path, limit_bytes=4000) for _ in range(8)]
    fresh = {rank: decompose(kernel(), rank) for rank in (4, 5, 6)}

    def work(cache: DecompositionCache) -> list[tuple[int, Decomposition]]:
        return [(rank, cache.decompose(kernel(), rank)) for _ in range(5) for rank in fresh]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, caches):
            for rank, result in results:
                assert_same(result, fresh[rank])
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".tmp"]
    assert all(cache._usable and cache.hits + cache.misses == 15 for cache in caches)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"rank": 0}, "rank must be a positive"), ({"rank": 5, "groups": 2}, "positive multiple of groups=2, got 5")],
)
def test_bad_arguments_are_those_of_decompose(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        DecompositionCache(tmp_path).decompose(kernel(), **arguments)
    assert not list(tmp_path.iterdir())


def test_a_negative_limit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit_bytes must not be negative, got -1"):
        DecompositionCache(tmp_path, limit_bytes=-1)
