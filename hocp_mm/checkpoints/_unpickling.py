"""A pickle module for ``torch.load`` that makes plain data only, and little of it.

Pickle reaches code in three ways: by a name, which ``find_class`` looks up; by a call, for which ``REDUCE`` and
``NEWOBJ`` stand; and by the state of an object, which ``BUILD`` hands to ``__setstate__``. All three go through the
closed lists of :mod:`hocp_mm.checkpoints._plain_data`; of what is not on them, inert objects are made
(:mod:`hocp_mm.checkpoints._modules`), which are let pass as parts of a module alone.

A small pickle can also ask for endless work or memory, so steps are counted, and sizes are compared with what is in the
file: tensors with their storages, storages with their records.
"""

import argparse
import io
import pickle
import types
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from hocp_mm.checkpoints._modules import instance, result
from hocp_mm.checkpoints._plain_data import (
    CALL_STEPS,
    MAPPINGS,
    SET_STEPS,
    Allowance,
    Foreign,
    ForeignName,
    RefusedError,
    allowed_names,
    check_keys,
    container,
    echo,
    expect,
    history_buffer,
    is_count,
    set_state,
    stand_ins,
)

__all__ = ["pickle_module"]

LONGEST_LINE = 1 << 16
LONGEST_NUMBER = 256  # characters


class _Source:
    """A file that is not asked for more than it has: some readers make room before they read."""

    def __init__(self, file: Any):
        self._file = file
        here = file.tell()
        self._left = file.seek(0, io.SEEK_END) - here
        file.seek(here)

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self._left:
            raise EOFError("cut off")
        self._left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(LONGEST_LINE)
        expect(len(line) < LONGEST_LINE, "a line that is too long")
        self._left -= len(line)
        return line


class _Metered(dict[int, Callable[..., None]]):
    """Table of opcodes that counts how often it is asked."""

    def __init__(self, table: Mapping[int, Callable[..., None]], allowance: Allowance):
        super().__init__(table)
        self._allowance = allowance

    def __getitem__(self, code: int) -> Callable[..., None]:
        self._allowance.steps -= 1
        if self._allowance.steps < 0:
            self._allowance.spend(0)
        return super().__getitem__(code)


# The Python implementation, because the one in C cannot be told what BUILD and REDUCE may do.
_PythonUnpickler: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


def _refuse_opcode(self: Any) -> None:
    raise pickle.UnpicklingError("an instruction that no checkpoint has")


class Unpickler(_PythonUnpickler):
    """``pickle.Unpickler`` over the closed lists; ``torch.load`` derives its own from it."""

    storages: "Storages"  # these three are set by `pickle_module`
    allowance: Allowance
    calls: set[str]  # foreign ones, which are not made
    foreign: bool = True  # whether names that are not on the list may occur
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(_PythonUnpickler.dispatch)
    for _code in (
        pickle.INST, pickle.OBJ, pickle.PERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
    ):  # fmt: skip
        dispatch[_code[0]] = _refuse_opcode

    def __init__(self, file: Any, **options: Any):
        # Bytes in memory give what they have.
        super().__init__(file if isinstance(file, io.BytesIO) else _Source(file), **options)
        self.__dict__["dispatch"] = _Metered(type(self).dispatch, self.allowance)
        self._file = file

    def load(self) -> Any:
        """Read the pickle; one that is a record of its own must end with it."""
        made = super().load()
        if isinstance(self._file, io.BytesIO) and self._file.read(1):
            raise RefusedError("data behind the end of the pickle")
        return made

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Resolve a name from the list; any other stays a name."""
        found = allowed_names().get((module_name, global_name))
        if found is not None:
            return found
        name = ForeignName(module_name, global_name)
        self.allowance.spend(CALL_STEPS)
        expect(self.foreign, name.title)
        return name

    def get_extension(self, code: int) -> None:
        """Refuse the numbered names of ``copyreg``, which skip ``find_class`` once they are cached."""
        raise RefusedError(f"copyreg extension {code}")

    def load_reduce(self) -> None:
        """Call what lies below the arguments."""
        arguments, called = self.stack.pop(), self.stack[-1]
        expect(type(arguments) is tuple, "a call without arguments")
        self.allowance.spend(CALL_STEPS)
        if isinstance(called, ForeignName | Foreign):
            self.stack[-1] = result(called, arguments, self.calls)
            return
        function = stand_ins().get(called) if callable(called) else None
        if function is None:
            raise RefusedError(f"a call of {echo(getattr(called, '__name__', called))}")
        self.stack[-1] = function(self.allowance, *arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        """Make an empty object; none on the list takes arguments here."""
        arguments, kind = self.stack.pop(), self.stack[-1]
        if isinstance(kind, ForeignName | Foreign):
            self.allowance.spend(CALL_STEPS)
            self.stack[-1] = instance(kind)
            return
        made = isinstance(kind, type) and kind in (argparse.Namespace, history_buffer(), *MAPPINGS)
        made = made and type(arguments) is tuple and not arguments
        expect(made, f"an object of {echo(getattr(kind, '__name__', kind))}")
        self.allowance.spend(CALL_STEPS)
        self.stack[-1] = object.__new__(kind) if kind not in MAPPINGS else kind()

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        """Make an object of a foreign class; none on the list is made with keywords."""
        self.stack.pop()
        expect(isinstance(self.stack[-2], ForeignName | Foreign), "an instruction that no checkpoint has")
        self.load_newobj()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def load_build(self) -> None:
        """Give the object below the top of the stack its state."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Foreign):
            self.stack[-1].build(state, self.allowance)
            return
        set_state(self.stack[-1], state, self.allowance)

    dispatch[pickle.BUILD[0]] = load_build

    def load_binpersid(self) -> None:
        """Ask torch for a storage, once it is known to be in the file.

        The older format writes classes of modules so, too, together with their source, which torch would compare.
        """
        self.allowance.spend(CALL_STEPS)
        if (kind := self.storages.module_class(self.stack[-1])) is not None:
            self.stack[-1] = kind
            return
        self.storages.check(self.stack[-1])
        super().load_binpersid()

    dispatch[pickle.BINPERSID[0]] = load_binpersid

    def _target(self, kind: type) -> Any:
        """Return the container that items are for; those of a foreign one go nowhere."""
        target = self.stack[-1]
        if isinstance(target, Foreign):
            return kind()
        expect(type(target) in (MAPPINGS if kind is dict else (kind,)), f"items for {echo(target)}")
        return target

    def load_setitem(self) -> None:
        """Put one item into a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        check_keys((key,), self.allowance)
        self._target(dict)[key] = value

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        """Put items into a dict."""
        items = self.pop_mark()
        check_keys(items[::2], self.allowance)
        self._target(dict).update(zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        """Make a dict of items."""
        items = self.pop_mark()
        check_keys(items[::2], self.allowance)
        self.append(dict(zip(items[::2], items[1::2], strict=True)))

    dispatch[pickle.DICT[0]] = load_dict

    def load_append(self) -> None:
        """Append one item to a list."""
        value = self.stack.pop()
        self._target(list).append(value)

    dispatch[pickle.APPEND[0]] = load_append

    def load_appends(self) -> None:
        """Append items to a list."""
        items = self.pop_mark()
        self._target(list).extend(items)

    dispatch[pickle.APPENDS[0]] = load_appends

    def load_additems(self) -> None:
        """Add items to a set."""
        items = self.pop_mark()
        check_keys(items, self.allowance)
        self._target(set).update(items)

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        """Make a frozen set of items."""
        items = self.pop_mark()
        self.append(container(frozenset, self.allowance, items))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_empty_set(self) -> None:
        """Make a set, which takes more room than anything else of one byte."""
        self.allowance.spend(SET_STEPS)
        super().load_empty_set()

    dispatch[pickle.EMPTY_SET[0]] = load_empty_set

    def load_bytearray8(self) -> None:
        """Read bytes before there is room for them, not after."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def _short_line(self) -> bytes:
        line = self.readline()[:-1]
        expect(len(line) < LONGEST_NUMBER, "a number that is too long")
        return line

    def load_int(self) -> None:
        """Read a number or a truth value as protocol 0 writes it."""
        line = self._short_line()
        self.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line, 0))

    dispatch[pickle.INT[0]] = load_int

    def load_long(self) -> None:
        """Read a number as protocol 0 writes long ones."""
        self.append(int(self._short_line().rstrip(b"L"), 0))

    dispatch[pickle.LONG[0]] = load_long

    def load_get(self) -> None:
        """Fetch a remembered object."""
        self.append(self.memo[int(self._short_line())])

    dispatch[pickle.GET[0]] = load_get

    def load_put(self) -> None:
        """Remember an object."""
        number = int(self._short_line())
        expect(0 <= number < 1 << 32, "an odd number of an object")
        self.memo[number] = self.stack[-1]

    dispatch[pickle.PUT[0]] = load_put


class Storages:
    """The storages that a file has.

    Args:
        records: Bytes by name of the records of a zip archive; None for the older format, whose storages lie behind
            the pickle.
        size: Bytes of all storages at most.
    """

    def __init__(self, records: Mapping[str, int] | None, size: int):
        self._records = records
        self._left = size
        self._prefix = next(iter(records), "").partition("/")[0] if records else ""
        self.asked: set[str] = set()

    def check(self, identifier: Any) -> None:
        """Refuse a storage that is not in the file, or of another size.

        Args:
            identifier: As torch writes it: ``"storage"``, type, key, device, number of elements, and in the older
                format a view on another storage.

        Raises:
            RefusedError: If it is anything else.
        """
        parts = len(identifier) if type(identifier) is tuple else 0
        expect(parts == (6 if self._records is None else 5) and identifier[0] == "storage", "an odd storage")
        kind, key, device, count = identifier[1:5]
        expect(type(key) is str and type(device) is str and is_count(count), "an odd storage")
        dtype = torch.uint8 if kind is torch.UntypedStorage else getattr(kind, "dtype", None)
        if not isinstance(dtype, torch.dtype):
            raise RefusedError("a storage of an odd type")
        size = count * dtype.itemsize
        if self._records is not None:
            held = self._records.get(f"{self._prefix}/data/{key}")
            expect(held == size, f"storage {echo(key, 50)} of {size} bytes where the file has {held}")
            return
        view = identifier[5]
        if view is not None:
            right = type(view) is tuple and len(view) == 3 and type(view[0]) is str and all(map(is_count, view[1:]))
            expect(right and view[1] + view[2] <= count, "an odd view on a storage")
        if key not in self.asked:
            self.asked.add(key)
            self._left -= size
            expect(self._left >= 0, "storages that are larger than the file")

    def module_class(self, identifier: Any) -> ForeignName | None:
        """Return the class of a module that the older format writes like a storage, with its source."""
        module = type(identifier) is tuple and len(identifier) == 4 and identifier[0] == "module"
        if self._records is None and module and isinstance(identifier[1], ForeignName):
            return identifier[1]
        return None

    def check_keys(self, keys: Any) -> None:
        """Make sure that every storage of the older format is filled from the file, since it is random until then.

        Args:
            keys: The list of keys that stands before the content of the storages.

        Raises:
            RefusedError: If it is not the list of all that the pickle asked for.
        """
        right = type(keys) is list and all(type(key) is str for key in keys)
        expect(right and len(keys) == len(self.asked) and set(keys) == self.asked, "storages without content")


def pickle_module(records: Mapping[str, int] | None, size: int) -> Any:
    """Make the module that ``torch.load`` reads one file with.

    Args:
        records: Bytes by name of the records of a zip archive, as `hocp_mm.checkpoints._archive.check_archive` returns
            them; None for the format before torch 1.6.
        size: Bytes of the file, after inflation.

    Returns:
        Object with ``Unpickler``, ``load``, and ``calls``: what the file would have had called.
    """
    storages, loads, calls = Storages(records, size), 0, set[str]()
    kind = type("Unpickler", (Unpickler,), {"storages": storages, "allowance": Allowance(size), "calls": calls})
    header = type("Unpickler", (kind,), {"foreign": False})

    def load(file: Any, **options: Any) -> Any:
        # The older format has four pickles besides the content: a magic number, a version, the machine, the keys.
        nonlocal loads
        loads += 1
        made = header(file, **options).load()
        if loads == 4:
            storages.check_keys(made)
        elif loads < 4 and not isinstance(made, int | dict):
            raise RefusedError("no number where the header should be")
        return made

    return types.SimpleNamespace(__name__=__name__, Unpickler=kind, load=load, calls=calls)
