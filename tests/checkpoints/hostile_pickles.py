"""Pickles written by hand, opcode by opcode: each a few bytes that ask for endless work, memory, or other weights."""

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

DOUBLED = 60  # levels: a walk that visits shared parts anew takes 2**60 steps


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def whole(value: int) -> bytes:
    data = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(data)]) + data


def call(module: str, attribute: str, arguments: bytes) -> bytes:
    """The object that a name gives, called; ``arguments`` push one tuple."""
    return name(module, attribute) + arguments + pickle.REDUCE


def items(*values: bytes) -> bytes:
    return pickle.MARK + b"".join(values) + pickle.TUPLE


def put(number: int) -> bytes:
    return pickle.LONG_BINPUT + struct.pack("<I", number)


def get(number: int) -> bytes:
    return pickle.LONG_BINGET + struct.pack("<I", number)


def tensor(
    size: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    *,
    offset: int = 0,
    count: int = 4,
    key: str = "0",
    storage: bytes | None = None,
    hooks: bytes | None = None,
    version: str = "_rebuild_tensor_v2",
    grad: bytes = pickle.NEWFALSE,
) -> bytes:
    """A tensor of float32 as torch pickles it; storage 0 of `archive` has four numbers."""
    if storage is None:
        parts = (text("storage"), name("torch", "FloatStorage"), text(key), text("cpu"), whole(count))
        storage = items(*parts) + pickle.BINPERSID
    hooks = call("collections", "OrderedDict", pickle.EMPTY_TUPLE) if hooks is None else hooks
    shape, strides = items(*map(whole, size)), items(*map(whole, stride))
    return call("torch._utils", version, items(storage, whole(offset), shape, strides, grad, hooks))


def doubled(empty: bytes, fill: Callable[[bytes], bytes], levels: int = DOUBLED) -> bytes:
    """A container that holds the one below it twice, level after level."""
    body = empty
    for level in range(levels):
        body += put(level) + pickle.POP + fill(get(level))
    return body


def archive(
    value: bytes, path: Path, records: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED
) -> Path:
    """Write ``{"state_dict": {"w": a tensor}, "x": value}`` as torch would, whatever ``value`` pushes."""
    body = pickle.EMPTY_DICT + text("state_dict") + pickle.EMPTY_DICT + text("w") + tensor() + pickle.SETITEM
    body += pickle.SETITEM + text("x") + value + pickle.SETITEM
    return raw_archive(pickle.PROTO + b"\x02" + body + pickle.STOP, path, records, method)


def raw_archive(body: bytes, path: Path, records: dict[str, bytes] | None = None, method: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a/data.pkl", body)
        file.writestr("a/byteorder", "little")
        file.writestr("a/data/0", struct.pack("<4f", 1, 2, 3, 4))
        file.writestr("a/version", "3\n")
        for record, data in (records or {}).items():
            file.writestr(f"a/{record}", data)
    return path


def _array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    """A NumPy array by the state that fills it."""
    made = call("numpy.core.multiarray", "_reconstruct", items(name("numpy", "ndarray"), items(whole(0)), text("b")))
    return made + items(whole(1), shape, dtype, pickle.NEWFALSE, data) + pickle.BUILD


def _dtype(code: str, order: bytes = b"<", flags: int = 0, size: int = -1) -> bytes:
    state = items(whole(3), text(order.decode()), pickle.NONE * 3, whole(size), whole(-1), whole(flags))
    return call("numpy", "dtype", items(text(code), pickle.NEWFALSE, pickle.NEWTRUE)) + state + pickle.BUILD


HUGE = whole(2**31 - 1)
RANGE = call("builtins", "range", items(whole(1 << 20)))  # as long as one may be
LONG_TEXT = pickle.BINUNICODE + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + put(900) + pickle.POP
SELF_LIST = pickle.EMPTY_LIST + put(0) + get(0) + pickle.APPEND
SELF_DICT = pickle.EMPTY_DICT + put(0) + text("a") + get(0) + pickle.SETITEM
DEEP_TUPLE = doubled(pickle.EMPTY_TUPLE, lambda one: one + one + pickle.TUPLE2)
TUPLES = pickle.EMPTY_DICT + pickle.MARK  # a key takes 500 steps, since equal hashes of tuples can be made
TUPLES += b"".join(whole(n) + pickle.TUPLE1 + pickle.NONE for n in range(1500)) + pickle.SETITEMS + put(901)
COPIES = 3
COLLIDING = [whole(k * (2**61 - 1)) + pickle.NONE for k in range(1, 30_000)]
ZERO, EIGHT_BYTES = b"G" + bytes(8), pickle.SHORT_BINBYTES + b"\x08" + bytes(8)
NOT_A_STORAGE = pickle.EMPTY_DICT

# What must be refused.
HOSTILE: dict[str, bytes] = {
    # Containers in containers.
    "list in itself": SELF_LIST,
    "dict in itself": SELF_DICT,
    "list in a dict in the list": pickle.EMPTY_LIST + put(0) + pickle.EMPTY_DICT + text("a") + get(0) + pickle.SETITEM
    + pickle.APPEND,
    "list in a tuple in the list": pickle.EMPTY_LIST + put(0) + get(0) + pickle.TUPLE1 + pickle.APPEND,
    "ordered dict in its attributes": call("collections", "OrderedDict", pickle.EMPTY_TUPLE) + put(0)
    + pickle.EMPTY_DICT + text("_metadata") + get(0) + pickle.SETITEM + pickle.BUILD,
    "namespace in itself": name("argparse", "Namespace") + pickle.EMPTY_TUPLE + pickle.NEWOBJ + put(0)
    + pickle.EMPTY_DICT + text("a") + get(0) + pickle.SETITEM + pickle.BUILD,
    "array of objects in a list in the array": pickle.EMPTY_LIST + put(0)
    + _array(items(whole(1)), _dtype("O8", b"|"), pickle.EMPTY_LIST + get(0) + pickle.APPEND) + pickle.APPEND,
    "list of the same list twice": doubled(pickle.EMPTY_LIST, lambda one: pickle.EMPTY_LIST + pickle.MARK + one + one
                                           + pickle.APPENDS),
    "dict of the same dict twice": doubled(pickle.EMPTY_DICT, lambda one: pickle.EMPTY_DICT + pickle.MARK + text("a")
                                           + one + text("b") + one + pickle.SETITEMS),
    "tuple of the same tuple twice": DEEP_TUPLE,
    "tuple by DUP": pickle.EMPTY_TUPLE + (pickle.DUP + pickle.TUPLE2) * DOUBLED,
    "list of a long text many times": LONG_TEXT + pickle.EMPTY_LIST + pickle.MARK + get(900) * 1000 + pickle.APPENDS,
    "deep list": pickle.EMPTY_LIST * 10_000 + pickle.APPEND * 9_999,
    "deep tuple": pickle.EMPTY_TUPLE + pickle.TUPLE1 * 100_000,
    "deep dict": (pickle.EMPTY_DICT + text("a")) * 5_000 + pickle.NONE + pickle.SETITEM * 5_000,
    # Keys.
    "key that is slow to hash": pickle.EMPTY_DICT + DEEP_TUPLE + pickle.NONE + pickle.SETITEM,
    "member that is slow to hash": pickle.EMPTY_SET + pickle.MARK + DEEP_TUPLE + pickle.ADDITEMS,
    "frozen member that is slow to hash": pickle.MARK + DEEP_TUPLE + pickle.FROZENSET,
    "set() that is slow to hash": call("builtins", "set", items(pickle.EMPTY_LIST + DEEP_TUPLE + pickle.APPEND)),
    "dict() that is slow to hash": call("builtins", "dict", items(pickle.EMPTY_LIST + DEEP_TUPLE + pickle.NONE
                                                                  + pickle.TUPLE2 + pickle.APPEND)),
    "keys of one hash": pickle.EMPTY_DICT + pickle.MARK + b"".join(COLLIDING) + pickle.SETITEMS,
    "keys of one hash in DICT": pickle.MARK + b"".join(COLLIDING) + pickle.DICT,
    "numbers of objects of one hash": pickle.NONE + b"".join(b"p%d\n" % (k * (2**61 - 1)) for k in range(1, 30_000)),
    "complex keys": pickle.EMPTY_SET + pickle.MARK + call("builtins", "complex", items(ZERO, ZERO))
    + pickle.ADDITEMS,
    "keys beyond any double": pickle.EMPTY_SET + pickle.MARK + call("numpy.core.multiarray", "scalar", items(
        _dtype("f16"), pickle.SHORT_BINBYTES + b"\x10" + struct.pack("<QH6x", 1 << 63, 18383))) + pickle.ADDITEMS,
    **{f"keys copied by {kind}": TUPLES + call(module, kind, items(*first, get(901))) * COPIES + pickle.POP * COPIES
       for module, kind, first in (("builtins", "dict", ()), ("collections", "OrderedDict", ()),
                                   ("collections", "Counter", ()), ("builtins", "set", ()),
                                   ("builtins", "frozenset", ()),
                                   ("collections", "defaultdict", (name("builtins", "list"),)))},
    # Calls.
    "range": call("builtins", "range", items(HUGE)),
    "list(range)": call("builtins", "list", items(RANGE)),
    "tuple(range)": call("builtins", "tuple", items(RANGE)),
    "set(range)": call("builtins", "set", items(RANGE)),
    "Counter(range)": call("collections", "Counter", items(RANGE)),
    "torch.Size(range)": call("torch", "Size", items(RANGE)),
    "xrange": call("__builtin__", "xrange", items(HUGE)),
    "range of 2**200": call("builtins", "range", items(whole(2**200))),
    "NEWOBJ of list(range)": name("builtins", "list") + items(RANGE) + pickle.NEWOBJ,
    "NEWOBJ of tuple(range)": name("builtins", "tuple") + items(RANGE) + pickle.NEWOBJ,
    "NEWOBJ_EX": name("builtins", "tuple") + items(RANGE) + pickle.EMPTY_DICT + pickle.NEWOBJ_EX,
    "INST": pickle.MARK + RANGE + b"ibuiltins\nlist\n",
    "OBJ": pickle.MARK + name("builtins", "list") + RANGE + pickle.OBJ,
    "bytes of a number": call("builtins", "bytes", items(HUGE)),
    "bytearray of a number": call("builtins", "bytearray", items(whole(2**40))),
    "int of digits": call("builtins", "int", items(text("9" * 4_000_000))),
    "float of digits": call("builtins", "float", items(text("9" * 1_000_000))),
    "str of a list": call("builtins", "str", items(SELF_LIST)),
    "HistoryBuffer(range, range)": call("mmengine.logging.history_buffer", "HistoryBuffer", items(RANGE, RANGE)),
    "default dict of a call": call("collections", "defaultdict", items(name("_codecs", "encode"))),
    "text encoded many times": LONG_TEXT + call("_codecs", "encode", items(get(900), text("latin1"))) * 1000
    + pickle.POP * 999,
    "text inflated": call("_codecs", "encode", items(text("x"), text("zip"))),
    "list copied many times": pickle.EMPTY_LIST + pickle.MARK + pickle.NONE * 100_000 + pickle.APPENDS + put(0)
    + pickle.POP + call("builtins", "list", items(get(0))) * 10_000 + pickle.POP * 9_999,
    "call of a call": call("builtins", "getattr", items(name("builtins", "dict"), text("fromkeys"))),
    "call of what is no function": pickle.NONE + pickle.EMPTY_TUPLE + pickle.REDUCE,
    "copyreg extension": pickle.EXT1 + b"\x01",
    "function as data": name("_codecs", "encode"),
    "class that is not listed": name("os", "system"),
    "name with a dot": name("builtins", "dict.fromkeys"),
    "name with escapes": name("os\x1b[31m", "x" * 5000),
    # Lengths.
    "bytearray longer than the file": pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 36),
    "text longer than the file": pickle.BINUNICODE8 + struct.pack("<Q", 1 << 40),
    "bytes longer than the file": pickle.BINBYTES8 + struct.pack("<Q", 1 << 62),
    "frame longer than the file": pickle.FRAME + struct.pack("<Q", 1 << 40),
    "INT of many digits": b"I" + b"9" * 60_000 + b"\n",
    "LONG of many digits": b"L" + b"9" * 3_000_000 + b"L\n",
    "LONG4 of many bits": pickle.LONG4 + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20),
    "negative length": pickle.LONG4 + struct.pack("<i", -1),
    "two million steps": pickle.NONE + (pickle.NONE + pickle.POP) * 1_100_000,
    "half a million sets": pickle.EMPTY_LIST + pickle.MARK + pickle.EMPTY_SET * 500_000 + pickle.APPENDS,
    "GET of nothing": b"g99999999\n",
    "id as text": b"Pstorage\n",
    "buffer from elsewhere": pickle.NEXT_BUFFER,
    # Tensors.
    "tensor larger than its storage": tensor((1_000_000,), (1,)),
    "tensor of 2**40 elements": tensor((2**40,), (1,)),
    "expanded tensor": tensor((2**40,), (0,)),
    "overlapping tensor": tensor((3, 2), (1, 1)),
    "tensor behind its storage": tensor((1,), (1,), offset=4),
    "tensor before its storage": tensor((1,), (1,), offset=-1),
    "negative stride": tensor((2,), (-1,), offset=3),
    "negative size": tensor((-1,), (1,)),
    "sizes without strides": tensor((2, 2), (1,)),
    "sizes that overflow": tensor((2**32, 2**32), (2**32, 1)),
    "tensor of no storage": tensor(storage=NOT_A_STORAGE),
    "tensor with hooks": tensor(hooks=call("collections", "OrderedDict", items(
        pickle.EMPTY_LIST + whole(0) + name("builtins", "dict") + pickle.TUPLE2 + pickle.APPEND))),
    "storage larger than its record": tensor((1_000,), (1,), count=1_000),
    "storage smaller than its record": tensor((3,), (1,), count=3),
    "storage without a record": tensor(key="7"),
    "storage outside": tensor(key="../byteorder"),
    "storage of a negative size": tensor(count=-4),
    "storage of 2**62": tensor(count=2**62),
    "storage of no type": items(text("storage"), pickle.NONE, text("0"), text("cpu"), whole(4)) + pickle.BINPERSID,
    "storage id of no tuple": text("storage") + pickle.BINPERSID,
    "module in the place of a storage": items(text("module"), name("builtins", "dict"), text("a"), text("b"))
    + pickle.BINPERSID,
    "meta tensor": call("torch._utils", "_rebuild_meta_tensor_no_storage",
                        items(name("torch", "float32"), items(whole(2)), items(whole(1)), pickle.NEWFALSE)),
    "parameter of no tensor": call("torch._utils", "_rebuild_parameter", items(b"N", b"\x89", b"N")),
    "parameter with another method": call("torch._utils", "_rebuild_parameter_with_state", items(
        tensor(), pickle.NEWFALSE, pickle.NONE, pickle.EMPTY_DICT + text("copy_") + pickle.NONE + pickle.SETITEM)),
    "ordered dict with another method": call("collections", "OrderedDict", pickle.EMPTY_TUPLE) + pickle.EMPTY_DICT
    + text("items") + pickle.NONE + pickle.SETITEM + pickle.BUILD,
    "item of a tensor": tensor() + whole(0) + pickle.NONE + pickle.SETITEM,
    "state of a tensor": tensor() + pickle.EMPTY_DICT + pickle.BUILD,
    # Arrays.
    "array of references from nothing": _array(items(whole(2**33)), _dtype("O8", b"|"), pickle.EMPTY_LIST),
    "array larger than its bytes": _array(items(whole(2**33)), _dtype("f8"), EIGHT_BYTES),
    "array of references from bytes": _array(items(whole(1)), _dtype("O8", b"|"), EIGHT_BYTES),
    "scalar of references, flags cleared": call("numpy.core.multiarray", "scalar", items(
        _dtype("O8", b"|", flags=0), pickle.SHORT_BINBYTES + b"\x08" + b"\x01" * 8)),
    "buffer of references, flags cleared": call("numpy.core.numeric", "_frombuffer", items(
        pickle.SHORT_BINBYTES + b"\x08" + b"\x01" * 8, _dtype("O8", b"|", flags=0), items(whole(1)), text("C"))),
    "text of a gigabyte": _dtype("U999999999"),
    **{f"endless array of {code}": _array(items(whole(2**40)), _dtype(code, b"|"), pickle.SHORT_BINBYTES + b"\x00")
       for code in ("S0", "U0", "S00", "S", "V0")},
}  # fmt: skip

# What is odd but harmless, and must be read as it is.
HARMLESS: dict[str, bytes] = {
    "flags of references on numbers": _dtype("f8", flags=63),
    "shared tuple": items(pickle.NONE)
    + put(0)
    + pickle.POP
    + pickle.EMPTY_LIST
    + pickle.MARK
    + get(0) * 100
    + pickle.APPENDS,
    "tuple as a key": pickle.EMPTY_DICT + items(whole(1), text("a")) + pickle.NONE + pickle.SETITEM,
    "empty tensor": tensor((0, 5), (5, 1)),
    "transposed tensor": tensor((2, 2), (1, 2)),
    "one element": tensor((), (), offset=3),
    "empty bytes of protocol 2": call("__builtin__", "bytes", pickle.EMPTY_TUPLE),
}


def bomb(path: Path, size: int) -> Path:
    """A record of zeros, deflated a thousandfold."""
    return archive(pickle.NONE, path, {"data/9": bytes(size)}, zipfile.ZIP_DEFLATED)
