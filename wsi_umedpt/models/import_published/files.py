"""Files of published weights as `Block` s: what each part of a model holds, whoever wrote the file and how.

Three forms are read: state dicts (safetensors, or torch's), whole modules that torch saved, and zips
of such files, one a part. Modules are read as data (`inertpickle`): their tensors under the names that
``state_dict()`` would give them, the layers that they are made of, and their settings.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models.inert_pickle import Inert, Name, read_saved
from wsi_umedpt.models.weight_files import State, read_weights

Scalar = str | int | float | bool
_MOST_LAYERS = 20_000
_MOST_DEPTH = 40
_MOST_TENSORS = 20_000
_MOST_ATTRIBUTES = 1000
_MOST_BLOCKS = 100
_MOST_SETTINGS = 50_000
_MOST_KEYS = 200
_NESTED = 6
_LETTERS = 200
_MOST_BYTES = 8 << 30
_FREE_BYTES = 256 << 20
_RATIO = 200
_TEXTS = (".json", ".txt", ".md", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".csv", ".png", ".pdf", "")
_WRAPPED = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True, eq=False)
class Layer:
    """One module of a block."""

    kind: str
    """Its class, with its module: torch.nn.modules.conv.Conv2d."""
    settings: dict[str, Any]
    """Its attributes that are numbers, texts, or lists of them."""


@dataclass(frozen=True, eq=False)
class Block:
    """One part of a model, as a file holds it."""

    name: str
    """Name of the file, or of its place in one: encoder."""
    file: str
    tensors: State
    layers: dict[str, Layer] = field(default_factory=dict)
    """Layers by path; the block itself is ''. Empty for a state dict, which has none."""
    settings: dict[str, Scalar] = field(default_factory=dict)
    """Attributes of its modules, and of what these hold, by path."""

    @property
    def whole(self) -> bool:
        """Return whether it is a module, and not a state dict alone."""
        return bool(self.layers)

    @property
    def kind(self) -> str:
        """Its class; empty for a state dict."""
        return self.layers[""].kind if self.layers else ""


def read_blocks(path: Path) -> list[Block]:
    """Read one file.

    Raises
    ------
    EncoderError
        If it is missing, damaged, too large for what it is, or holds anything but weights.
    """
    if not path.is_file():
        raise EncoderError(f"there is no weights file at {path}")
    if not zipfile.is_zipfile(path):
        return [Block(path.stem, path.name, read_weights(path))]
    try:
        with zipfile.ZipFile(path) as file:
            return [*_of_zip(file, path.name.split(".pt")[0], path.name)]
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        if isinstance(error, EncoderError):
            raise
        raise EncoderError(f"{path} cannot be read: {type(error).__name__}: {error!s:.200}") from None


def _of_zip(file: zipfile.ZipFile, name: str, where: str) -> Iterator[Block]:
    infos = [info for info in file.infolist() if not info.is_dir()]
    _check_size(infos, where)
    if any(PurePosixPath(info.filename).name == "data.pkl" for info in infos):
        yield from _of_saved(read_saved(file, where), name, where)
        return
    read = 0
    for info in infos:
        inside = PurePosixPath(info.filename)
        if any(part.startswith((".", "__MACOSX")) for part in inside.parts) or inside.suffix.lower() in _TEXTS:
            continue
        place = f"{where}: {info.filename!r:.100}"
        content = io.BytesIO(file.read(info))
        if not zipfile.is_zipfile(content):
            raise EncoderError(f"{place} is no file that torch saved (since version 1.6)")
        with zipfile.ZipFile(content) as inner:
            parts = [part for part in inner.infolist() if not part.is_dir()]
            _check_size(parts, place)
            yield from _of_saved(read_saved(inner, place), inside.name.split(".")[0], place)
        read += 1
    if not read:
        raise EncoderError(f"{where} holds no weights: {', '.join(info.filename for info in infos)[:200] or 'nothing'}")


def _check_size(infos: list[zipfile.ZipInfo], where: str) -> None:
    """Refuse what unpacks to far more than it is; weights hardly shrink."""
    size, packed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    if size > _MOST_BYTES or (size > _FREE_BYTES and size > _RATIO * packed):
        raise EncoderError(f"{where} has {packed:,} bytes and unpacks to {size:,}; weights do not")


def _of_saved(found: Any, name: str, where: str) -> Iterator[Block]:
    """Blocks of what torch saved: a module, a state dict, or a dict of either."""
    for key in _WRAPPED:
        if isinstance(found, dict) and isinstance(found.get(key), dict | Inert):
            found = found[key]
    if isinstance(found, Inert) and _is_module(found):
        yield _block(found, name, where)
    elif isinstance(found, dict) and found and all(isinstance(v, torch.Tensor) for v in found.values()):
        if not all(isinstance(key, str) for key in found):
            raise EncoderError(f"{where} holds tensors without names")
        yield Block(name, where, dict(found))
    elif isinstance(found, dict) and found and all(isinstance(v, dict | Inert) for v in found.values()):
        if len(found) > _MOST_BLOCKS:
            raise EncoderError(f"{where} holds {len(found):,} parts; a model has a few")
        for key, value in found.items():
            if isinstance(value, dict) and not all(isinstance(v, torch.Tensor) for v in value.values()):
                raise EncoderError(f"{where}: {key!s:.60} is neither a module nor a state dict")
            yield from _of_saved(value, str(key), where)
    else:
        what = found.of if isinstance(found, Inert) else type(found).__name__
        raise EncoderError(f"{where} holds a {what!s:.100}, neither a module nor a state dict")


def _is_module(value: Any) -> bool:
    return isinstance(value, Inert) and isinstance(value.state, dict) and "_modules" in value.state


def _block(root: Inert, name: str, where: str) -> Block:
    block = Block(name, where, {})
    todo: list[tuple[str, Inert]] = [("", root)]
    visits = iter(range(_MOST_SETTINGS))
    while todo:
        path, module = todo.pop()
        state = module.state
        children = _table(state["_modules"])
        # What holds itself, or the same many times, would never end.
        if (
            len(block.layers) + len(todo) + len(children) >= _MOST_LAYERS
            or len(block.tensors) >= _MOST_TENSORS
            or len(state) > _MOST_ATTRIBUTES
            or path.count(".") > _MOST_DEPTH
        ):
            raise EncoderError(f"{where} describes more, or deeper, modules than a network has")
        settings = {key: value for key, value in state.items() if _is_plain(value)}
        block.layers[path.rstrip(".")] = Layer(str(module.of), settings)
        kept_out = {*_items(state.get("_non_persistent_buffers_set"))}
        for table in ("_parameters", "_buffers"):
            for key, value in islice(_table(state.get(table)).items(), _MOST_TENSORS):
                if isinstance(value, torch.Tensor) and key not in kept_out:
                    block.tensors[f"{path}{key}"] = value
        for key, child in children.items():
            if child is None:
                continue
            if not _is_module(child):
                raise EncoderError(f"{where}: {path}{key!s:.60} is no module")
            todo.append((f"{path}{key}.", child))
        for key, value in state.items():
            if isinstance(key, str) and not key.startswith("_") and not _is_module(value):
                _collect(block.settings, f"{path}{key}", value, visits)
    return block


def _table(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else value.pairs if isinstance(value, Inert) else {}


def _items(value: Any) -> list[Any]:
    """Items of a set that was filled or made of a list."""
    if not isinstance(value, Inert):
        return []
    made_of = value.given[0] if value.given and isinstance(value.given[0], list) else []
    return [item for item in (*value.items, *made_of) if isinstance(item, str)]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= 8 and all(isinstance(v, str | int | float) for v in value)
    return isinstance(value, str | int | float)


def _collect(into: dict[str, Scalar], path: str, value: Any, visits: Iterator[int]) -> None:
    """Numbers and texts in nested settings, by path, as long as there are visits left."""
    todo = [(path, value, 0)]
    while todo and next(visits, None) is not None:
        path, value, depth = todo.pop()
        inside: dict[Any, Any] = {}
        if isinstance(value, str | int | float):
            into[path] = value
        elif isinstance(value, Name):
            into[path] = str(value)
        elif isinstance(value, dict):
            inside = value
        elif isinstance(value, Inert) and not _is_module(value):
            if len(value.given) == 1 and isinstance(value.given[0], str | int | float):  # a member of an Enum
                into[path] = value.given[0]
            inside = value.state if isinstance(value.state, dict) else value.pairs
        if depth < _NESTED:
            todo += [
                (path if key == "__dict__" else f"{path}.{key}"[:_LETTERS], item, depth + 1)
                for key, item in islice(inside.items(), _MOST_KEYS)
                if isinstance(key, str)
            ]
