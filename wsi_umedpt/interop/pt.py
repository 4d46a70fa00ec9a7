"""Tensors as CLAM, TRIDENT and slide2vec save them: ``SLIDE.pt``, features (tile, dim) and mostly nothing else.

Others save a dict of tensors: features, and positions (level-0 px) if it has them, by the names in
`wsi_umedpt.interop.feature_sources`. What made them is not there. A .pt file is a pickle, which can run programs when
it is read. It is therefore read only where the user insists, and by a reader of torch that knows tensors and
refuses all else (``weights_only``; torch is at least 2.6, where that holds).
"""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.feature_sources import (
    FEATURES,
    POSITIONS,
    FileSource,
    Numbers,
    check_rows,
    check_same_positions,
    named,
    tiles_and_dim,
)
from wsi_umedpt.store.features import FeatureKind
from wsi_umedpt.store.zarr_io import whole_file

if TYPE_CHECKING:
    import torch

NAME = "pt"
SUFFIX = ".pt"


def open_pt(path: Path) -> FileSource:
    """Say what a file of tensors holds. Files of torch before 1.6 are read whole for that.

    Raises
    ------
    InteropError
        If it is no tensor (tile, dim) of floats, nor a dict of such.
    """
    tensor, positions = _tensors(path)
    tiles, dim = _shape(tensor, path)
    if positions is not None:
        check_rows(tiles, positions.shape, f"{path}: positions")
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=FeatureKind(dim=dim, format=NAME),
        tiles=tiles,
        side=None,
        unit="" if positions is None else "px",
        read=_read,
    )


def shape_of_pt(path: Path) -> tuple[int, int]:
    """Tiles and dim of a tensor, or the reason why it is not read as such."""
    return _shape(_tensors(path)[0], path)


def read_pt(path: Path) -> Numbers:
    """Features; bfloat16 becomes float32."""
    return _numbers(_tensors(path)[0])


def write_pt(path: Path, features: Numbers) -> None:
    """Write features as a bare tensor, whole or absent."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        torch.save(torch.from_numpy(features), file)


def _read(path: Path) -> tuple[Numbers, Numbers | None]:
    features, positions = _tensors(path)
    return _numbers(features), None if positions is None else _numbers(positions)


def _shape(tensor: "torch.Tensor", path: Path) -> tuple[int, int]:
    kind = str(tensor.dtype).removeprefix("torch.")
    return tiles_and_dim(tensor.shape, np.dtype(np.float32 if kind == "bfloat16" else kind), f"{path}: the tensor")


def _numbers(tensor: "torch.Tensor") -> Numbers:
    import torch

    values: Numbers = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return values.copy()  # what is mapped from the file must not outlive it


def _tensors(path: Path) -> "tuple[torch.Tensor, torch.Tensor | None]":
    """Features and, if they are there, positions."""
    import torch

    loaded = _loaded(path)
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if not isinstance(loaded, dict):
        return _dense(loaded, path, "the tensor", floats), None
    held = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    texts = [name for name in held if isinstance(name, str)]
    name = named(texts, FEATURES, "features of tiles", str(path))
    if name is None:
        there = ", ".join(f"{key!r:.40}" for key in list(loaded)[:20]) or "nothing"
        raise InteropError(
            f"{path} holds a dict of {there}, and no tensor called {', '.join(FEATURES)}: save the features of the "
            "tiles under one of these names, or alone"
        )
    at = named(texts, POSITIONS, "level-0 px of top left corners", str(path))
    features = _dense(held[name], path, name, floats)
    if at is None:
        return features, None
    whole = (torch.int32, torch.int64, torch.int16, torch.uint8)
    positions = _dense(held[at], path, at, (*floats, *whole))
    if at == "coords" and "coords_patching" in texts:
        other = _dense(held["coords_patching"], path, "coords_patching", (*floats, *whole))
        check_same_positions(_numbers(positions), _numbers(other), str(path))
    return features, positions


def _dense(found: Any, path: Path, name: str, dtypes: "tuple[torch.dtype, ...]") -> "torch.Tensor":
    """A tensor of plain numbers that the file holds all of."""
    import torch

    if type(found) not in (torch.Tensor, torch.nn.Parameter) or found.layout != torch.strided or found.is_quantized:
        raise InteropError(
            f"{path} holds a {type(found).__name__}; only dense tensors (tile, dim), alone or in a dict, are read"
        )
    tensor: torch.Tensor = found.detach()
    if tensor.dtype not in dtypes:
        raise InteropError(f"{path}: {name} is {tensor.dtype}; features are floats, positions numbers")
    # Strides of 0 make one number look like many.
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise InteropError(f"{path}: {name} claims more numbers than the file holds; make it again")
    return tensor


def _loaded(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign pickle torch asks to be told; what it cannot read, we refuse
            # Mapped: numbers are read when they are used.
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (
        pickle.UnpicklingError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ImportError,
        AssertionError,
        MemoryError,
        OverflowError,
        zipfile.BadZipFile,
    ) as error:
        why = str(error).strip().partition("\n")[0]
        raise InteropError(
            f"{path} cannot be read as a tensor alone: {type(error).__name__}: {why:.300}. Files that hold more than "
            "tensors are never read, as they may run programs."
        ) from None
    return loaded
