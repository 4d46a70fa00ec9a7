"""Whole modules that torch saved are read as data: nothing in them runs, whatever they ask for."""

import io
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.pickle_bomb import Bomb
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.import_published.files import read_blocks
from wsi_umedpt.models.inert_pickle import read_saved


def torch_file(path: Path, content: bytes, storages: dict[str, bytes] | None = None, root: str = "archive") -> Path:
    """A file as torch writes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}/data.pkl", content)
        file.writestr(f"{root}/byteorder", "little")
        for key, numbers in (storages or {}).items():
            file.writestr(f"{root}/data/{key}", numbers)
    return path


def in_a_module(value: bytes) -> bytes:
    """A module of torch's own with one attribute, whose instructions are `value`."""
    return (
        b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81}(X\x08\x00\x00\x00_modules}X\x05\x00\x00\x00extra"
        + value
        + b"ub."
    )


def short(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def call(module: str, name: str, *texts: str) -> bytes:
    """Ask for ``module.name(*texts)``."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(map(short, texts)) + b"tR"


def hostile(mark) -> dict[str, bytes]:
    """Ways in which a file asks for a program to be run; each would make `mark`."""
    touch = f"open({str(mark)!r}, 'w')"
    system = f"touch {mark}"
    return {
        "os.system": call("os", "system", system),
        "posix.system": call("posix", "system", system),
        "eval": call("builtins", "eval", touch),
        "eval-of-python-2": call("__builtin__", "eval", touch),
        "exec": call("builtins", "exec", touch),
        "open": call("io", "open", str(mark), "w"),
        "subprocess": call("subprocess", "getoutput", system),
        "class-of-subprocess": call("subprocess", "Popen", system),
        "pickle-in-a-pickle": call("pickle", "loads", "x"),
        "import": call("importlib", "import_module", "this"),
        "import-builtin": call("builtins", "__import__", "this"),
        "torch.load": call("torch", "load", str(mark)),
        "torch.hub": call("torch.hub", "load", "a/b", "c"),
        "numpy-exec": call("numpy.testing._private.utils", "runstring", touch, "x"),
        "timeit": call("timeit", "timeit", touch),
        "code-of-a-function": call("types", "CodeType", "x"),
        "function": call("types", "FunctionType", "x"),
        "runpy": call("runpy", "run_path", str(mark)),
        "main": call("__main__", "Anything", "x"),
        "stack-global": short("os") + short("system") + b"\x93" + b"(" + short(system) + b"tR",
        "inst": b"(" + short(system) + b"ios\nsystem\n",
        "obj": b"(cos\nsystem\n" + short(system) + b"o",
        "extension": b"\x82\x01",
        "persistent-id-as-text": b"Pstorage\n",
        "call-of-a-call": call("builtins", "getattr", "a", "b") + b"(tR",
        "call-of-a-text": short("os.system") + b"(" + short(system) + b"tR",
        "object-of-a-text": short("os") + b")\x81",
        "set-an-attribute-of-a-class": b"ccollections\nOrderedDict\n}" + short("a") + short("b") + b"sb",
        "state-into-a-number": b"K\x01}b",
    }


def names_of_hostile():
    return [*hostile(Path("x"))]


@pytest.mark.parametrize("name", names_of_hostile())
@pytest.mark.parametrize("place", ["in-a-module", "alone"])
def test_what_asks_to_be_run_is_refused_unrun(tmp_path, mark, name, place):
    """In a module's attribute, where nobody looks, or in a module's place."""
    value = hostile(mark)[name]
    path = torch_file(tmp_path / "a.pt", in_a_module(value) if place == "in-a-module" else b"\x80\x02" + value + b".")
    with pytest.raises(EncoderError, match="cannot be read as modules and tensors"):
        read_blocks(path)


def test_the_hostile_files_are_hostile(tmp_path):
    """Python's own machine runs them, or the test above would mean nothing."""
    names = ("os.system", "eval", "exec", "open", "stack-global", "inst", "subprocess")
    contents = {name: b"\x80\x02" + hostile(tmp_path / name)[name] + b"." for name in names}
    code = (
        "import pickle, contextlib\n"
        f"for content in {[*contents.values()]!r}:\n"
        "    with contextlib.suppress(Exception):\n"
        "        pickle.loads(content)\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*names}


def test_a_module_with_a_bomb_is_refused(tmp_path, mark):
    """As torch itself saves one, in each of the forms that are read."""
    module = nn.Linear(2, 2)
    module.extra = Bomb(mark)
    torch.save(module, tmp_path / "module.pt")
    torch.save({"state_dict": OrderedDict(a=torch.ones(2)), "extra": Bomb(mark)}, tmp_path / "state.pt")
    torch.save({"a": Bomb(mark)}, tmp_path / "dict.pt")
    torch.save(module, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Bomb(mark)))
    for name in ("module", "bare"):
        with zipfile.ZipFile(tmp_path / f"{name}.pt.zip", "w") as file:
            file.write(tmp_path / f"{name}.pt", "encoder.pt")
    for path in sorted(tmp_path.glob("*.pt*")):
        with pytest.raises(EncoderError):
            read_blocks(path)


def test_no_class_of_a_file_is_imported(tmp_path, monkeypatch):
    """A module that could be imported is not, and one that could not is read."""
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    value = b"ctrap\nThing\n)\x81}" + short("n") + b"K\x05sb"
    (block,) = read_blocks(torch_file(tmp_path / "a.pt", in_a_module(value)))
    assert block.settings == {"extra.n": 5}
    assert "trap" not in sys.modules
    assert block.kind == "torch.nn.modules.linear.Linear"


def storage(key: str = "0", length: int = 4, kind: str = "FloatStorage", module: str = "torch") -> bytes:
    """A persistent id, as torch writes it."""
    number = b"J" + length.to_bytes(4, "little", signed=True)
    return b"(" + short("storage") + f"c{module}\n{kind}\n".encode() + short(key) + short("cpu") + number + b"tQ"


def tensor(size, stride, offset: int = 0, **options) -> bytes:
    def numbers(values):
        return b"(" + b"".join(b"J" + v.to_bytes(4, "little", signed=True) for v in values) + b"t"

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(**options) + b"J" + offset.to_bytes(4, "little", signed=True)
        + numbers(size) + numbers(stride) + b"\x89}tR"
    )  # fmt: skip


def read(path: Path):
    with zipfile.ZipFile(path) as file:
        return read_saved(file, path.name)


def test_a_tensor_is_rebuilt_as_torch_does(tmp_path):
    """Shapes, strides, offsets and shared storages of tensors that torch saved."""
    base = torch.arange(24.0).reshape(4, 6)
    values = {
        "whole": base, "part": base[1:3, 2:5], "turned": base.T, "steps": base[:, ::2], "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 3), "half": base.half(), "brain": base.bfloat16(), "double": base.double(),
        "long": torch.arange(3), "bytes": torch.arange(3, dtype=torch.uint8), "bool": torch.tensor([True, False]),
        "parameter": nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    for protocol in (2, 3, 4, 5):
        torch.save(values, tmp_path / "a.pt", pickle_protocol=protocol)
        found = read(tmp_path / "a.pt")
        assert {*found} == {*values}
        for name, value in values.items():
            assert torch.equal(found[name], value.detach()), name
            assert found[name].dtype == value.dtype


WRONG = {
    "beyond-its-storage": tensor((5,), (1,)),
    "an-offset-beyond": tensor((2,), (1,), offset=3),
    "a-negative-offset": tensor((2,), (1,), offset=-1),
    "a-negative-side": tensor((-2,), (1,)),
    "a-negative-stride": tensor((2,), (-1,), offset=3),
    "one-number-that-looks-like-many": tensor((1 << 30,), (0,)),
    "a-side-without-stride": tensor((2, 2), (1,)),
    "a-storage-that-is-not-there": tensor((4,), (1,), key="1"),
    "a-storage-elsewhere": tensor((4,), (1,), key="../data.pkl"),
    "a-storage-of-another-length": tensor((4,), (1,), length=8),
    "a-storage-of-less-than-none": tensor((4,), (1,), length=-4),
    "a-storage-of-objects": tensor((4,), (1,), kind="ObjectStorage"),
    "a-storage-of-complex-numbers": tensor((2,), (1,), length=2, kind="ComplexFloatStorage"),
    "a-storage-of-another-module": tensor((4,), (1,), module="evil"),
    "no-storage": b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR",
    "too-few-arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "a-parameter-of-no-tensor": b"ctorch._utils\n_rebuild_parameter\n(K\x01\x89}tR",
    "another-rebuilder": b"ctorch._utils\n_rebuild_sparse_tensor\n(K\x01tR",
    "a-tensor-of-20-sides": tensor((1,) * 20, (1,) * 20),
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_a_tensor_is_within_its_storage_or_refused(tmp_path, value):
    """What a file says of a tensor is not believed: no memory beyond its numbers is read, or taken."""
    path = torch_file(tmp_path / "a.pt", b"\x80\x02}" + short("a") + value + b"s.", {"0": bytes(16)})
    with pytest.raises(EncoderError):
        read_blocks(path)


def test_the_tensor_beside_them_is_read(tmp_path):
    """What the test above refuses is refused for what is wrong with it."""
    content = b"\x80\x02}" + short("a") + tensor((2, 2), (2, 1)) + b"s."
    (block,) = read_blocks(torch_file(tmp_path / "a.pt", content, {"0": bytes(16)}))
    assert torch.equal(block.tensors["a"], torch.zeros(2, 2))


def laughs(levels: int, make: bytes) -> bytes:
    """A value that holds the one before twice, many times over."""
    out = make
    for n in range(levels):
        out += b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86"
    return out


ENDLESS = {
    "twice-and-twice-again": in_a_module(laughs(100, b"K\x01")),
    "as-a-key": in_a_module(b"}" + laughs(100, b"K\x01") + b"K\x01s"),
    "in-a-message": b"\x80\x02" + laughs(100, b"K\x01") + b"}b.",
    "as-a-shape": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"K\0" + laughs(99, b"K\1") + b")tR.",
    "a-dict-in-itself": in_a_module(b"}q\x01" + short("a") + b"h\x01s"),
    "a-module-in-itself": (
        b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81q\x01}" + short("_modules") + b"}" + short("a") + b"h\x01ssb."
    ),
    "dicts-of-dicts": in_a_module(b"}" + b"".join(
        b"q" + bytes([n]) + b"}(" + b"".join(short(f"k{k}") + b"h" + bytes([n]) for k in range(40)) + b"u"
        for n in range(20)
    )),
    "only-marks": b"\x80\x02" + b"(" * 1_000_000 + b".",
    "only-numbers": b"\x80\x02" + b"K\x01" * 6_000_000 + b".",
    "a-long-number": in_a_module(b"\x8b" + (1 << 20).to_bytes(4, "little") + bytes([1]) * (1 << 20)),
    "a-text-that-is-not-there": b"\x80\x02X\xff\xff\xff\x7fab",
    "nothing": b"",
    "no-end": b"\x80\x02}",
    "more-after-the-end": b"\x80\x02}.}.",
    "empty-stack": b"\x80\x02s.",
    "no-such-memo": b"\x80\x02h\x07.",
    "unknown-instruction": b"\x80\x02\xff.",
}  # fmt: skip


@pytest.mark.parametrize("content", ENDLESS.values(), ids=ENDLESS)
def test_what_has_no_end_is_not_followed(tmp_path, content):
    """A few hundred bytes that describe more than there is memory or time: an error or a block, at once."""
    path = torch_file(tmp_path / "a.pt", content)
    refused = ""
    try:
        read_blocks(path)
    except EncoderError as error:
        refused = str(error)
    assert len(refused) < 1000


def test_zips_that_are_not_what_they_say_are_refused(tmp_path):
    """Bombs, entries twice, other byte orders, text, encrypted and nested zips."""
    good = io.BytesIO()
    torch.save(nn.Linear(2, 2), good)
    with zipfile.ZipFile(tmp_path / "bomb.pt.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("encoder.pt", bytes(300 << 20))
    with pytest.raises(EncoderError, match="unpacks to"):
        read_blocks(tmp_path / "bomb.pt.zip")
    with zipfile.ZipFile(tmp_path / "text.pt.zip", "w") as file:
        file.writestr("readme.md", "hello")
    with pytest.raises(EncoderError, match="holds no weights"):
        read_blocks(tmp_path / "text.pt.zip")
    with zipfile.ZipFile(tmp_path / "other.pt.zip", "w") as file:
        file.writestr("encoder.pt", b"what is this")
    with pytest.raises(EncoderError, match="no file that torch saved"):
        read_blocks(tmp_path / "other.pt.zip")
    torch_file(tmp_path / "big.pt", b"\x80\x02}.")
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.writestr("archive/byteorder", "big")
    with pytest.raises(EncoderError, match="another byte order"):
        read_blocks(tmp_path / "big.pt")
    with zipfile.ZipFile(tmp_path / "two.pt", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.writestr("b/data.pkl", b"\x80\x02}.")
    with pytest.raises(EncoderError, match="no file that torch saved"):
        read_blocks(tmp_path / "two.pt")
    whole = bytearray(good.getvalue())
    for at in range(30, len(whole), 97):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        (tmp_path / "damaged.pt").write_bytes(damaged)
        try:
            blocks = read_blocks(tmp_path / "damaged.pt")
        except EncoderError:
            continue
        assert blocks[0].name == "damaged"


def test_hidden_files_beside_parts_are_nothing(tmp_path):
    """What a Mac puts into zips, and texts."""
    good = io.BytesIO()
    torch.save(nn.Linear(2, 2), good)
    with zipfile.ZipFile(tmp_path / "a.pt.zip", "w") as file:
        file.writestr("model/encoder.pt", good.getvalue())
        file.writestr("__MACOSX/model/._encoder.pt", b"junk")
        file.writestr("model/.DS_Store", b"junk")
        file.writestr("model/LICENSE.txt", "theirs")
    (block,) = read_blocks(tmp_path / "a.pt.zip")
    assert block.name == "encoder"
    assert {*block.tensors} == {"weight", "bias"}


def test_the_machine_knows_no_way_out():
    """Its module imports nothing that runs a pickle, and looks nothing up by a name that it was given."""
    import wsi_umedpt.models.inert_pickle as machine

    text = Path(machine.__file__).read_text()
    for word in ("import pickle\n", "import_module", "__import__", " getattr(", "setattr(", "eval(", "exec("):
        assert word not in text
