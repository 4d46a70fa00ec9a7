"""Modules that torch saved whole, as data: tensors and settings out of a pickle that is never run.

A pickle is a program: a list of instructions for a small machine. Python's own machine imports and
calls whatever a file names. The one here has no import and no call: a class becomes a `Name`, an
object an `Inert` that holds what the file says of it, and only tensors are rebuilt, from the bytes
beside the pickle. Instructions that whole modules do not need are refused, and so is every name of
Python's own library but the containers that modules are made of.

Read top to bottom: `read_saved` (a file of torch to what it holds), `_Machine` (the instructions).
"""

import pickletools
import reprlib
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import torch

from wsi_umedpt.errors import EncoderError

_MOST_PICKLE = 64 << 20
_MOST_STEPS = 5_000_000
_MOST_DIMS = 16
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class Name(NamedTuple):
    """A class or function that a file names; nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """An object as its file describes it."""

    of: Name
    given: tuple[Any, ...] = ()
    """Arguments that it was to be made with."""
    state: Any = None
    """State that was to be put into it; of a module, its attributes by name."""
    items: list[Any] = field(default_factory=list)
    """Items of a list or set of a class of its own."""
    pairs: dict[Any, Any] = field(default_factory=dict)
    """Items of a dict of a class of its own."""

    def __repr__(self) -> str:
        return f"<{self.of}>"


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    length: int


_DICTS = {("collections", "OrderedDict"), ("builtins", "dict")}
_OF_PYTHON = {
    "argparse": ("Namespace",), "builtins": (
        "set", "frozenset", "list", "dict", "tuple", "object", "type", "int", "float", "bool", "str", "bytes", "slice",
        "complex", "range", "NoneType", "getattr",
    ), "collections": ("OrderedDict", "defaultdict", "deque", "Counter"), "copyreg": ("_reconstructor",),
    "datetime": ("date", "datetime", "timedelta", "timezone"), "decimal": ("Decimal",), "enum": ("Enum", "IntEnum"),
    "fractions": ("Fraction",), "functools": ("partial",), "logging": ("Logger", "getLogger"),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "random": ("Random",), "types": ("SimpleNamespace", "MappingProxyType"),
    "typing": ("Any", "Union", "Optional", "List", "Dict", "Tuple", "Callable"), "uuid": ("UUID",),
}  # fmt: skip
"""Names of Python's own library that saved modules may hold; they stay names."""
_OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Names of Python 2, which torch still writes."""
_FUNCTIONS = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
}
"""Functions whose calls may stand in a file; of others none is known to be needed."""
_PLAIN_KEYS = (str, int, float, bytes, type(None), Inert)
"""Types of keys of dicts that may be looked up: the hash of a nested tuple may take for ever."""


def read_saved(file: zipfile.ZipFile, where: str) -> Any:
    """Read a file of ``torch.save``: dicts, lists, texts, numbers, tensors, `Name` and `Inert`.

    Parameters
    ----------
    file
        As torch writes it since 1.6: a pickle ``data.pkl`` and a file for each storage.
    where
        Names it in errors.

    Raises
    ------
    EncoderError
        If it is none, damaged, or asks for anything but modules, settings and tensors.
    """
    names = file.namelist()
    pickles = [name for name in names if PurePosixPath(name).name == "data.pkl"]
    if len(pickles) != 1 or len({*names}) < len(names):
        raise EncoderError(f"{where} is no file that torch saved (since version 1.6)")
    root = str(PurePosixPath(pickles[0]).parent)
    sizes = {info.filename: info.file_size for info in file.infolist()}
    if sizes[pickles[0]] > _MOST_PICKLE:
        raise EncoderError(f"{where} describes its modules in over {_MOST_PICKLE >> 20} MB")
    byteorder = f"{root}/byteorder"
    if byteorder in sizes and (sizes[byteorder] > 16 or file.read(byteorder) != b"little"):
        raise EncoderError(f"{where} was saved on a machine of another byte order")

    read: dict[str, torch.Tensor] = {}

    def numbers(storage: _Storage) -> torch.Tensor:
        entry = f"{root}/data/{storage.key}"
        wanted = storage.length * storage.dtype.itemsize
        if sizes.get(entry) != wanted:
            raise EncoderError(f"{where}: storage {storage.key!r:.40} has {sizes.get(entry)} bytes instead of {wanted}")
        if entry not in read:  # tensors that share a storage share its memory
            read[entry] = torch.frombuffer(bytearray(file.read(entry)), dtype=torch.uint8)
        return read[entry].view(storage.dtype)

    return _Machine(where, numbers).run(file.read(pickles[0]))


_MARK = object()


class _Machine:
    """The instructions of a pickle, but for those that would import or call."""

    def __init__(self, where: str, numbers: Callable[[_Storage], torch.Tensor]) -> None:
        self._where, self._numbers = where, numbers
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Return what is on the stack in the end."""
        try:
            for step, (opcode, argument, at) in enumerate(pickletools.genops(content)):
                if step > _MOST_STEPS:
                    raise self._refusal(f"has over {_MOST_STEPS:,} instructions")
                if opcode.name == "STOP":
                    if len(self._stack) != 1 or at != len(content) - 1:
                        raise self._refusal("ends before its end")
                    return self._stack[0]
                self._do(opcode.name, argument)
        except EncoderError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
            raise self._refusal(f"is damaged: {type(error).__name__}: {error!s:.200}") from None
        raise self._refusal("does not end")

    def _refusal(self, why: str) -> EncoderError:
        return EncoderError(f"{self._where} cannot be read as modules and tensors: its pickle {why}")

    def _do(self, name: str, argument: Any) -> None:
        push, stack = self._stack.append, self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE"
                | "BINUNICODE8" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8"
            ):  # fmt: skip
                push(argument)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "EMPTY_TUPLE":
                push(())
            case "EMPTY_SET":
                push(Inert(Name("builtins", "set")))
            case "MARK":
                push(_MARK)
            case "TUPLE":
                push(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                push(tuple(self._popped() for _ in range(count))[::-1])
            case "FROZENSET":
                push(Inert(Name("builtins", "frozenset"), items=self._marked()))
            case "APPEND":
                self._extend([self._popped()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._marked())
            case "SETITEM":
                value, key = self._popped(), self._popped()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._marked())
            case "POP":
                self._stack.pop()
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._memo[len(self._memo) if argument is None else argument] = self._top()
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                module, _, leaf = argument.partition(" ")
                push(self._named(module, leaf))
            case "STACK_GLOBAL":
                leaf, module = self._popped(), self._popped()
                push(self._named(module, leaf))
            case "BINPERSID":
                push(self._storage(self._popped()))
            case "NEWOBJ":
                given, of = self._popped(), self._popped()
                push(self._object(of, given))
            case "NEWOBJ_EX":
                named, given, of = self._popped(), self._popped(), self._popped()
                made = self._object(of, given)
                made.pairs.update(named)
                push(made)
            case "REDUCE":
                given, of = self._popped(), self._popped()
                push(self._called(of, given))
            case "BUILD":
                state = self._popped()
                if isinstance(stack[-1], Inert):
                    stack[-1].state = state
                elif not isinstance(stack[-1], dict | torch.Tensor):  # their attributes say nothing of their content
                    raise self._refusal(f"puts a state into {_short(stack[-1])}")
            case _:
                raise self._refusal(f"holds the instruction {name}, which modules and tensors do not need")

    def _top(self) -> Any:
        if self._stack[-1] is _MARK:
            raise self._refusal("is damaged")
        return self._stack[-1]

    def _popped(self) -> Any:
        value = self._top()
        self._stack.pop()
        return value

    def _marked(self) -> list[Any]:
        """Values above the last mark."""
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise self._refusal("is damaged")
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def _extend(self, values: list[Any]) -> None:
        into = self._top()
        if not isinstance(into, list | Inert):
            raise self._refusal(f"adds items to {_short(into)}")
        (into if isinstance(into, list) else into.items).extend(values)

    def _set(self, values: list[Any]) -> None:
        into = self._top()
        if not isinstance(into, dict | Inert) or len(values) % 2:
            raise self._refusal(f"sets items of {_short(into)}")
        if strange := [key for key in values[::2] if not isinstance(key, _PLAIN_KEYS)]:
            raise self._refusal(f"looks something up by {_short(strange[0])}")
        target = into if isinstance(into, dict) else into.pairs
        target.update(zip(values[::2], values[1::2], strict=True))

    def _named(self, module: Any, leaf: Any) -> Name:
        if not (isinstance(module, str) and isinstance(leaf, str)):
            raise self._refusal("names a class that is no text")
        module = _OLD_NAMES.get(module, module)
        top = module.partition(".")[0]
        of_python = top in sys.stdlib_module_names or top in ("__main__", "")
        if of_python and leaf not in _OF_PYTHON.get(module, ()):
            raise self._refusal(f"names {Name(module, leaf)!s:.100}: no part of modules or tensors (it was not run)")
        return Name(module, leaf)

    def _object(self, of: Any, given: Any) -> Inert:
        if not isinstance(of, Name) or not isinstance(given, tuple):
            raise self._refusal(f"makes an object of {_short(of)}")
        return Inert(of, given)

    def _called(self, of: Any, given: Any) -> Any:
        """Stand-in for the result of a call; none is made."""
        if not isinstance(of, Name) or not isinstance(given, tuple):
            raise self._refusal(f"calls {_short(of)}")
        is_class = of.name.rpartition(".")[2][:1].isupper()
        if not is_class and of not in _FUNCTIONS and of.module not in _OF_PYTHON:
            raise self._refusal(f"calls {of!s:.100}: no class, and nothing that rebuilds tensors (it was not run)")
        if of in _DICTS and not given:
            return {}
        if of.module == "torch._utils" and of in _FUNCTIONS:
            if of.name.startswith("_rebuild_parameter"):
                if not isinstance(given[0], torch.Tensor):
                    raise self._refusal("makes a parameter of what is no tensor")
                return given[0]
            return self._tensor(*given[:4])
        return Inert(of, given)

    def _storage(self, named: Any) -> _Storage:
        kind, of, key, _, count = named
        if (
            kind != "storage"
            or not isinstance(of, Name)
            or of.module not in ("torch", "torch.storage")
            or not isinstance(key, str)
            or type(count) is not int
            or count < 0
        ):
            raise self._refusal(f"names a storage in an unknown way: {_short(named)}")
        if of.name not in _STORAGES:
            raise self._refusal(f"holds a {of}; known are {', '.join(_STORAGES)}")
        return _Storage(key, _STORAGES[of.name], count)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
        whole = (offset, *size, *stride)
        if (
            not isinstance(storage, _Storage)
            or len(size) != len(stride)
            or len(size) > _MOST_DIMS
            or not all(type(n) is int and 0 <= n < 1 << 62 for n in whole)
        ):
            raise self._refusal(f"describes a tensor of shape {_short(size)} and strides {_short(stride)}")
        count = 1
        for side in size:
            count *= side
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset - 1
        # Strides of 0 make one number look like many.
        if last >= storage.length or count > storage.length:
            raise self._refusal(f"describes a tensor of shape {_short(size)} in a storage of {storage.length} numbers")
        if not count:
            return torch.empty(size, dtype=storage.dtype)
        return self._numbers(storage).as_strided(size, stride, offset)


def _short(value: Any) -> str:
    """A value in messages; whole, a nested one may be endless."""
    return str(reprlib.repr(value))[:60]
