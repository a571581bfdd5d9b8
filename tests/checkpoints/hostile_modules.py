"""Whole modules written by hand, opcode by opcode, with something in them that runs, never ends or is no weight."""

import marshal
import pickle
import struct
from pathlib import Path

from tests.checkpoints.hostile_pickles import (
    COPIES,
    TUPLES,
    call,
    get,
    items,
    name,
    put,
    raw_archive,
    tensor,
    text,
    whole,
)

SCRIPT = "script_that_writes.py"
PLACES = ("attribute", "parameter", "buffer", "child", "top", "beside", "key", "class")


def entries(**values: bytes) -> bytes:
    """A dict."""
    return pickle.EMPTY_DICT + b"".join(text(key) + value + pickle.SETITEM for key, value in values.items())


def listed(*values: bytes) -> bytes:
    """A list."""
    return pickle.EMPTY_LIST + pickle.MARK + b"".join(values) + pickle.APPENDS


def made(kind: bytes, state: bytes) -> bytes:
    """An object of a class, by ``NEWOBJ`` and ``BUILD``."""
    return kind + pickle.EMPTY_TUPLE + pickle.NEWOBJ + state + pickle.BUILD


def module(
    parameters: bytes | None = None,
    buffers: bytes = pickle.EMPTY_DICT,
    modules: bytes = pickle.EMPTY_DICT,
    kind: bytes | None = None,
    **attributes: bytes,
) -> bytes:
    """A module with one parameter, of a class that nobody has."""
    parameters = entries(w=tensor()) if parameters is None else parameters
    state = entries(_parameters=parameters, _buffers=buffers, _modules=modules, **attributes)
    return made(name("somewhere.nets", "Net") if kind is None else kind, state)


def placed(payload: bytes, place: str) -> bytes:
    """What holds a payload in one of `PLACES` of a module that is otherwise right."""
    return {
        "attribute": lambda: module(extra=payload),
        "parameter": lambda: module(entries(w=tensor(), evil=payload)),
        "buffer": lambda: module(buffers=entries(evil=payload)),
        "child": lambda: module(modules=entries(evil=payload)),
        "top": lambda: payload,
        "beside": lambda: entries(model=module(), evil=payload),
        "key": lambda: module(extra=pickle.EMPTY_DICT + payload + pickle.NONE + pickle.SETITEM),
        "class": lambda: module(kind=payload),
    }[place]()


def module_file(path: Path, body: bytes) -> Path:
    return raw_archive(pickle.PROTO + b"\x02" + body + pickle.STOP, path)


def write_script(mark: Path) -> None:
    mark.with_name(SCRIPT).write_text(f"open({str(mark)!r}, 'w').close()")


def running(mark: Path) -> dict[str, bytes]:
    """Payloads that write a file when a plain unpickler meets them; `write_script` comes first."""
    path, write, touch = text(str(mark)), text("w"), text(f"touch '{mark}'")
    source = text(f"open({str(mark)!r}, 'w').close()")
    script = str(mark.with_name(SCRIPT))
    code = marshal.dumps(compile(f"open({str(mark)!r}, 'w').close()", "x", "exec"))
    coded = call("marshal", "loads", items(pickle.BINBYTES + struct.pack("<I", len(code)) + code))
    scope = call("builtins", "globals", pickle.EMPTY_TUPLE)
    inner = pickle.dumps(_Runs(mark), protocol=2)
    blob = pickle.BINBYTES + struct.pack("<I", len(inner)) + inner
    system = call("builtins", "getattr", items(call("builtins", "__import__", items(text("os"))), text("system")))
    at_path = call("pathlib", "Path", items(path))
    partial = call("functools", "partial", items(name("builtins", "open"), path, write))
    sets_state = made(name(__name__, "SetsState"), entries(mark=path))
    return {
        "os.system": call("os", "system", items(touch)),
        "posix.system": call("posix", "system", items(touch)),
        "system through getattr": system + items(touch) + pickle.REDUCE,
        "subprocess.call": call("subprocess", "call", items(listed(text("touch"), path))),
        "subprocess.getoutput": call("subprocess", "getoutput", items(touch)),
        "eval": call("builtins", "eval", items(source)),
        "exec": call("builtins", "exec", items(source)),
        "eval of Python 2": call("__builtin__", "eval", items(source)),
        "open": call("builtins", "open", items(path, write)),
        "io.open": call("io", "open", items(path, write)),
        "codecs.open": call("codecs", "open", items(path, write)),
        "partial": partial + pickle.EMPTY_TUPLE + pickle.REDUCE,
        "attrgetter": call("operator", "attrgetter", items(text("touch"))) + items(at_path) + pickle.REDUCE
        + pickle.EMPTY_TUPLE + pickle.REDUCE,
        "methodcaller": call("operator", "methodcaller", items(text("touch"))) + items(at_path) + pickle.REDUCE,
        "reduce": call("functools", "reduce", items(name("builtins", "open"), listed(path, write))),
        "runpy": call("runpy", "run_path", items(text(script))),
        "code": call("types", "FunctionType", items(coded, scope)) + pickle.EMPTY_TUPLE + pickle.REDUCE,
        "logging": call("logging", "FileHandler", items(path)),
        "mkdir": call("os", "mkdir", items(path)),
        "zip": call("zipfile", "ZipFile", items(path, write)),
        "copy": call("shutil", "copy", items(text(script), path)),
        "numpy.memmap": call("numpy", "memmap", items(path, text("uint8"), text("w+"), whole(0), whole(8))),
        "numpy.save": call("numpy", "savetxt", items(path, pickle.EMPTY_LIST)),
        "torch.save": call("torch", "save", items(pickle.EMPTY_DICT, path)),
        "torch.load inside": call("torch.storage", "_load_from_bytes", items(blob)),
        "pickle.loads inside": call("_pickle", "loads", items(blob)),
        "NEWOBJ with arguments": name(__name__, "MakesItself") + items(path) + pickle.NEWOBJ,
        "NEWOBJ_EX": name(__name__, "MakesItself") + pickle.EMPTY_TUPLE
        + entries(mark=path) + pickle.NEWOBJ_EX,
        "__newobj__": call("copyreg", "__newobj__", items(name(__name__, "MakesItself"), path)),
        "__setstate__": sets_state,
        "__setattr__ of slots": made(name(__name__, "SetsSlots"),
                                     items(pickle.NONE, entries(mark=path))),
        "_reconstructor": call("copyreg", "_reconstructor", items(
            name(__name__, "SetsState"), name("builtins", "object"), pickle.NONE))
        + entries(mark=path) + pickle.BUILD,
        "__reduce_ex__": call(__name__, "MakesItself.__reduce_ex__", items(path)),
        "__setitem__": name(__name__, "TakesItems") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
        + path + pickle.NONE + pickle.SETITEM,
        "append": name(__name__, "TakesItems") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
        + path + pickle.APPEND,
        "INST": pickle.MARK + touch + b"ios\nsystem\n",
        "OBJ": pickle.MARK + name(__name__, "MakesItself") + path + pickle.OBJ,
        "STACK_GLOBAL": text("os") + text("system") + pickle.STACK_GLOBAL + items(touch) + pickle.REDUCE,
    }  # fmt: skip


def shared() -> bytes:
    """A dict of one module three times, which holds a child twice, thirteen levels deep: 32 000 visits for each."""
    body = module(parameters=pickle.EMPTY_DICT) + put(500)
    for _ in range(13):
        body += pickle.POP + module(pickle.EMPTY_DICT, modules=entries(a=get(500), b=get(500))) + put(500)
    return body + pickle.POP + entries(a=get(500), b=get(500), c=get(500))


# What is no attack by a name, but asks for endless work, other weights or a confused reader. All must be refused but
# those that `HARMLESS` names.
def odd() -> dict[str, bytes]:
    doubled = pickle.EMPTY_DICT
    for level in range(60):
        doubled = module(modules=doubled) + put(level) + pickle.POP + entries(a=get(level), b=get(level))
    deep = module()
    for _ in range(500):
        deep = module(modules=entries(a=deep))
    ring = name("a", "B") + pickle.EMPTY_TUPLE + pickle.NEWOBJ + put(0)
    ring += entries(_parameters=b"}", _buffers=b"}", _modules=entries(a=get(0))) + pickle.BUILD
    storage = items(text("storage"), name("somewhere", "Kind"), text("0"), text("cpu"), whole(4)) + pickle.BINPERSID
    class_id = items(text("module"), name("os", "system"), text("a"), text("b")) + pickle.BINPERSID
    attribute = name("a", "B") + put(1) + pickle.EMPTY_TUPLE + pickle.NEWOBJ + put(0) + pickle.POP
    level = get(1) + pickle.EMPTY_TUPLE + pickle.NEWOBJ + entries(a=get(0)) + pickle.BUILD + put(0) + pickle.POP
    attribute += level * 20_000
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    subclass = items(rebuild, name("somewhere", "Tensor"), pickle.EMPTY_TUPLE, pickle.NONE)
    subclass = call("torch._tensor", "_rebuild_from_type_v2", subclass)
    array = call("numpy.core.multiarray", "_reconstruct", items(name("somewhere", "Array"), items(whole(0)), text("b")))
    return {
        "module in itself": ring,
        "module in its child": module(modules=entries(a=ring)),
        "children doubled": module(modules=doubled),
        "one under many keys": shared(),
        "deep": deep,
        "parameters of a foreign dict": module(parameters=made(name("a", "Dict"), entries(w=tensor()))),
        "children of a foreign dict": module(modules=made(name("a", "Dict"), entries(w=module()))),
        "child that is no module": module(modules=entries(a=entries(w=tensor()))),
        "parameter that is text": module(parameters=entries(w=text("weights"))),
        "parameter that is a class": module(parameters=entries(w=name("torch", "FloatTensor"))),
        "parameter of a subclass": module(parameters=entries(w=subclass)),
        "parameter that is expanded": module(parameters=entries(w=tensor((2**40,), (0,)))),
        "parameter that is larger": module(parameters=entries(w=tensor((5,), (1,)))),
        "parameter by a number": module(parameters=pickle.EMPTY_DICT + whole(0) + tensor() + pickle.SETITEM),
        "two of a name": module(parameters=pickle.EMPTY_DICT + text("a.w") + tensor() + pickle.SETITEM,
                                modules=entries(a=module())),
        "long name": module(parameters=pickle.EMPTY_DICT + text("x" * 5000) + tensor() + pickle.SETITEM),
        "fleeting buffers of a foreign set": module(_non_persistent_buffers_set=call("a", "b", pickle.EMPTY_TUPLE)),
        "storage of a foreign kind": module(parameters=entries(w=tensor(storage=storage))),
        "storage that is foreign": module(parameters=entries(w=tensor(storage=name("a", "Storage")))),
        "class by a persistent id": module(kind=class_id),
        "persistent id in a persistent id": module(extra=items(text("storage"), storage) + pickle.BINPERSID),
        "rebuild of foreign arguments": module(extra=call("torch._utils", "_rebuild_tensor_v2", items(name("a", "b")))),
        "rebuild without arguments": module(extra=call("torch._utils", "_rebuild_parameter", pickle.EMPTY_TUPLE)),
        "array of a foreign class": module(extra=array),
        "state of a class": module(extra=name("a", "B") + entries(x=pickle.NONE) + pickle.BUILD),
        "state of a tensor": module(parameters=entries(w=tensor() + entries(x=pickle.NONE) + pickle.BUILD)),
        "copyreg extension": module(kind=pickle.EXT1 + b"\xf0"),
        "getattr of a list": module(extra=call("builtins", "getattr", items(name("builtins", "list"), text("sort")))),
        "default dict of a foreign factory": module(extra=call("collections", "defaultdict", items(name("a", "b")))),
        "object that is no module": made(name("a", "B"), pickle.EMPTY_DICT),
        "two million steps": module(extra=pickle.NONE + (name("a", "b") + pickle.POP) * 1_100_000),
        "state many times": module(extra=pickle.EMPTY_DICT + pickle.MARK + b"".join(
            whole(n) + pickle.NONE for n in range(20_000)) + pickle.SETITEMS + put(1) + pickle.POP
            + name("a", "b") + pickle.EMPTY_TUPLE + pickle.NEWOBJ + (get(1) + pickle.BUILD) * 1000),
        "state of tuple keys": module(extra=TUPLES + pickle.POP + name("a", "b") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
                                      + (get(901) + pickle.BUILD) * COPIES),
        # Harmless.
        "names of Python": module(parameters=entries(__class__=tensor(), __dict__=tensor()),
                                  __class__=name("os", "system"), __setstate__=pickle.NONE),
        "name of a function of torch": module(kind=name("torch", "load")),
        "name with escapes": module(kind=name("os\x1b[31m", "x" * 300)),
        "attribute in itself": module(extra=name("a", "B") + pickle.EMPTY_TUPLE + pickle.NEWOBJ + put(0)
                                      + entries(a=get(0)) + pickle.BUILD),
        "deep attribute": attribute + module(extra=get(0)),
        "slots": module(extra=made(name("a", "B"), items(pickle.NONE, entries(a=tensor())))),
        "foreign key": module(extra=pickle.EMPTY_DICT + name("a", "B") + pickle.NONE + pickle.SETITEM),
        "method of a foreign object": module(extra=call("builtins", "getattr", items(name("a", "B"), text("c")))),
    }  # fmt: skip


HARMLESS = {
    "names of Python", "name of a function of torch", "name with escapes", "attribute in itself", "deep attribute",
    "slots", "foreign key", "method of a foreign object",
}  # fmt: skip


class _Runs:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


class MakesItself:
    """Writes a file when it is made."""

    def __new__(cls, mark=None):
        if mark is not None:
            Path(mark).touch()
        return super().__new__(cls)

    def __reduce_ex__(self, _=None):
        Path(self).touch()  # called with a path in the place of the object


class SetsState:
    """Writes a file when it gets its state."""

    def __setstate__(self, state):
        Path(state["mark"]).touch()


class SetsSlots:
    """Writes a file when an attribute is set, as BUILD does with those in slots."""

    __slots__ = ("_mark",)

    def __setattr__(self, _, value):
        Path(value).touch()


class TakesItems:
    """Writes files when items are put in."""

    def __setitem__(self, key, _):
        Path(key).touch()

    def append(self, value):
        Path(value).touch()
