"""Files of weights, read lazily, and put into a network a part at a time: never two copies in memory.

A file is safetensors, or ``.pth``/``.pt``/``.bin`` read with ``weights_only=True``; nothing else of a pickle is ever
run. Names are made ours by a card's own rules, and what is then left over or missing is refused by name.

Read top to bottom: `WeightFile` (what a file holds), `Rules` (their names to ours), `fill` (into a network).
"""

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from torch import nn

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.io.checkpoint import describe_tensors
from wsi_umedpt.io.tensors import Described, Outline, flaw, misfit, unstorable
from wsi_umedpt.models.cards import EncoderCard

State = dict[str, torch.Tensor]
_PART_BYTES = 256 << 20
"""Read at a time; what is read stays in memory until its file is closed."""
_WRAPPED = ("state_dict", "model", "model_state_dict")
_CLASSIFIERS = re.compile(r"(head|fc|classif)")


class WeightFile(Protocol):
    """A state dict in a file."""

    @property
    def name(self) -> str:
        """Name of the file."""

    @property
    def outline(self) -> Outline:
        """Names, kinds and shapes of all tensors."""

    def read(self, names: Iterable[str]) -> State:
        """Some of its tensors, mapped to the file where that can be."""


@dataclass(frozen=True)
class _Safetensors:
    path: Path
    name: str
    outline: Outline

    def read(self, names: Iterable[str]) -> State:
        with safetensors.safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}


@dataclass(frozen=True)
class _Torch:
    path: Path
    name: str
    outline: Outline
    unwrap: tuple[str, ...]
    held: State = field(default_factory=dict)
    """All of it, of a file in torch's old format, which cannot be mapped."""

    def read(self, names: Iterable[str]) -> State:
        state = self.held or _state_of(_load(self.path, mapped=True), self.path, self.unwrap)
        return {name: state[name] for name in names}


class _Outlined:
    """Shape and type of a tensor that was let go."""

    def __init__(self, value: torch.Tensor) -> None:
        self.dtype, self.shape = value.dtype, tuple(value.shape)


def open_weights(path: Path, unwrap: tuple[str, ...] = ()) -> WeightFile:
    """Look into a file without running anything that is in it.

    Parameters
    ----------
    path
        safetensors, or a state dict that torch saved.
    unwrap
        Keys under which the state dict may lie, beside the usual ones.

    Raises
    ------
    EncoderError
        If it is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise EncoderError(f"there is no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            if not (described := describe_tensors(path)):
                raise EncoderError(f"{path} holds no state dict of tensors")
            return _Safetensors(path, path.name, described)
        held: State = {}
        try:
            state = _state_of(_load(path, mapped=True), path, unwrap)
        except (RuntimeError, ValueError):  # torch's old format
            state = held = _state_of(_load(path, mapped=False), path, unwrap)
    except EncoderError:
        raise
    except Exception as error:  # noqa: BLE001 - a foreign file can be wrong in any way
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise EncoderError(
            f"{path} cannot be read as weights: {type(error).__name__}: {reason}\n"
            "Expected safetensors, or a state dict that torch.load(weights_only=True) accepts."
        ) from None
    if why := unstorable(state):
        raise EncoderError(f"{path}: {why}")
    return _Torch(path, path.name, {k: _Outlined(v) for k, v in state.items()}, unwrap, held)


def read_weights(path: Path) -> State:
    """Read a whole state dict; see `open_weights`."""
    file = open_weights(path)
    return file.read(file.outline)


def _load(path: Path, *, mapped: bool) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _state_of(found: Any, path: Path, unwrap: tuple[str, ...]) -> State:
    for key in (*unwrap, *_WRAPPED):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not (isinstance(found, dict) and found and all(isinstance(v, torch.Tensor) for v in found.values())):
        raise EncoderError(f"{path} holds no state dict of tensors")
    return dict(found)


@dataclass(frozen=True)
class Rules:
    """Rules by which names in a file become those of a network."""

    strip: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    classifier: bool = True
    """True if weights of a classifier, which the network does not have, are left out too."""

    @classmethod
    def of(cls, card: EncoderCard) -> "Rules":
        """Those that a card states, which then are all."""
        return cls(card.strip, card.drop, card.rename, classifier=not (card.strip or card.drop))

    def named(self, theirs: Iterable[str], expected: Outline, where: str) -> dict[str, str]:
        """Our names to theirs; names that no rule drops are kept, known or not.

        Raises
        ------
        EncoderError
            If two of theirs become one of ours.
        """
        made: dict[str, str] = {}
        for name in theirs:
            ours = self._ours(name)
            if ours is None or (self.classifier and ours not in expected and _CLASSIFIERS.match(ours)):
                continue
            if ours in made:
                raise EncoderError(f"{where}: {made[ours]} and {name} are both {ours} of the network")
            made[ours] = name
        return made

    def _ours(self, name: str) -> str | None:
        for prefix in self.strip:
            name = name.removeprefix(prefix)
        if any(re.match(pattern, name) for pattern in self.drop):
            return None
        for pattern, made in self.rename.items():
            name = re.sub(pattern, made, name)
        return name


def fill(network: nn.Module, file: WeightFile, rules: Rules, dtype: torch.dtype | None = None) -> str:
    """Put a file's weights into a network, strictly; nothing is cast but kinds of fractions, nothing filled up.

    Parameters
    ----------
    network
        Network whose weights are replaced; it may be on the meta device.
    file
        File of the weights.
    rules
        Rules of names.
    dtype
        Type of fractions in memory; None leaves them as the file has them.

    Returns
    -------
    str
        sha256 over all weights, as `weights_sha256` gives it.

    Raises
    ------
    EncoderError
        If the file is of another network, or holds NaN or infinite numbers.
    """
    expected = network.state_dict()
    named = rules.named(file.outline, expected, file.name)
    # Counters of training batches came late to torch, and say nothing of the network.
    counters = [key for key in expected if key.endswith("num_batches_tracked") and key not in named]
    found: dict[str, Described] = {ours: file.outline[theirs] for ours, theirs in named.items()}
    if why := misfit(expected, {**found, **{key: expected[key] for key in counters}}):
        raise EncoderError(f"the weights from {file.name} are of another network: {why}")
    digest = Digest()
    for part in _parts(sorted(expected), {**found, **{key: expected[key] for key in counters}}):
        read = file.read([named[key] for key in part if key in named])
        state = {key: read[named[key]] if key in named else torch.zeros((), dtype=torch.int64) for key in part}
        if why := flaw(state):
            raise EncoderError(f"the weights from {file.name} cannot be used: {why}")
        for key in part:
            digest.add(key, state[key])
            # A copy of its own: what is mapped to a file changes with it.
            kind = dtype if dtype is not None and state[key].is_floating_point() else state[key].dtype
            state[key] = state[key].to(kind, copy=True)
        network.load_state_dict(state, strict=False, assign=True)
    return digest.value()


def _parts(names: Iterable[str], sizes: Outline) -> Iterator[list[str]]:
    """Names in their order, so many that their tensors are `_PART_BYTES` together."""

    def part(pair: tuple[int, str]) -> int:
        return pair[0] // _PART_BYTES

    ends = itertools.accumulate(math.prod(sizes[name].shape) * sizes[name].dtype.itemsize for name in names)
    for _, group in itertools.groupby(zip(ends, names, strict=True), part):
        yield [name for _, name in group]


class Digest:
    """sha256 over names, shapes and values of weights added in the order of their names.

    Fractions count as float32, so that it does not hang on the kind of numbers that a file has.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add one."""
        value = tensor.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).contiguous()
        self._hash.update(f"{name} {value.dtype} {[*value.shape]}\0".encode())
        self._hash.update(value.reshape(-1).view(torch.uint8).numpy().data)

    def value(self) -> str:
        """The sum, in hexadecimal."""
        return self._hash.hexdigest()


def weights_sha256(network: nn.Module) -> str:
    """sha256 over names, shapes and values of all weights and buffers; see `Digest`."""
    digest = Digest()
    for key, tensor in sorted(network.state_dict().items()):
        digest.add(key, tensor)
    return digest.value()
