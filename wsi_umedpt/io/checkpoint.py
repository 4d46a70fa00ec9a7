"""Tensors and what is known of them: a safetensors file and a JSON file side by side.

``NAME.json`` is written last and holds the sha256 of the tensors file that it belongs to and
of what it says itself, so that a pair is whole or refused. No pickle is read or written.
"""

import glob
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from wsi_umedpt.errors import CheckpointError
from wsi_umedpt.io.files import check_regular, read_regular
from wsi_umedpt.io.tensors import Described, Outline

State = dict[str, torch.Tensor]
Fits = Callable[[Outline], str]
_KINDS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Names of number types in safetensors that are read."""


class _Tensor(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]


def save(path: Path, tensors: Mapping[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write ``path`` (.json) and the tensors beside it; afterwards the pair is the old one or the new one.

    Parameters
    ----------
    path
        The JSON file; the tensors go to a file beside it that carries part of their sha256
        in its name, and that of the pair replaced is removed.
    tensors
        Tensors of any device; written as they are in dtype.
    about
        Description that JSON can hold.

    Raises
    ------
    OSError
        If the disk is full or does not take it; the old pair is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    file = path.with_name(f"{path.stem}.{digest[:12]}.safetensors")
    _write(file, content, path)
    said = {**about, "tensors": file.name, "tensors_sha256": digest}
    said["sha256"] = _digest(json.loads(json.dumps(said)))
    _write(path, json.dumps(said, indent=1).encode(), path)
    for old in path.parent.glob(f"{glob.escape(path.stem)}.{'[0-9a-f]' * 12}.safetensors"):
        if old != file:
            old.unlink()


def load(path: Path, fits: Fits | None = None) -> tuple[State, dict[str, Any]]:
    """Read what `save` wrote.

    Parameters
    ----------
    path
        The JSON file.
    fits
        Function that says why the tensors, by names, kinds and shapes, are not what is expected; empty if they are.
        Asked of the file's header before any tensor is read.

    Raises
    ------
    CheckpointError
        If either file is missing or damaged, or they do not belong together.
    """
    about = read_about(path)
    name = str(about.get("tensors", ""))
    if not name or Path(name).name != name:
        raise CheckpointError(f"{path} names no tensors file beside it")
    beside = path.with_name(name)
    try:
        described = describe_tensors(beside)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{beside} holds no tensors that can be read: {error}") from None
    if why := fits(described) if fits else "":
        raise CheckpointError(f"the weights of {path} are not of its model: {why}")
    try:
        content = beside.read_bytes()
    except OSError as error:
        raise CheckpointError(f"the tensors of {path} cannot be read: {error}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != about.get("tensors_sha256"):
        raise CheckpointError(
            f"{beside} has sha256 {found[:12]}, expected {str(about.get('tensors_sha256'))[:12]}: damaged"
        )
    try:
        return safetensors.torch.load(content), about
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{beside} holds no tensors: {error}") from None


def read_about(path: Path) -> dict[str, Any]:
    """Read the JSON file alone; see `load`. One without a sha256 of its own is of an earlier version."""
    try:
        about = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(about, dict):
        raise CheckpointError(f"{path} is no checkpoint")
    if "sha256" in about and about["sha256"] != _digest(about):
        raise CheckpointError(f"{path} does not say what was written to it: damaged or edited")
    return about


def describe_tensors(path: Path) -> dict[str, Described]:
    """Description of each tensor from the header of a safetensors file; none is read."""
    check_regular(path)
    with safetensors.safe_open(path, "pt") as file:
        found = {}
        for name in file.keys():  # noqa: SIM118 - it is no dict
            part = file.get_slice(name)
            kind = part.get_dtype()
            if kind not in _KINDS:
                raise ValueError(f"{name} holds numbers of the kind {kind}; known are {', '.join(_KINDS)}")
            found[name] = _Tensor(_KINDS[kind], tuple(part.get_shape()))
        return {**found}


def _digest(about: dict[str, Any]) -> str:
    said = {key: value for key, value in about.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _write(path: Path, content: bytes, pair: Path) -> None:
    # One name for all that is half written: what a kill leaves, the next save overwrites.
    fresh = pair.with_name(f".{pair.name}.fresh")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def tensors_under(state: Mapping[str, torch.Tensor], prefix: str) -> State:
    """The tensors whose names begin with ``prefix.``, without it."""
    return {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}
