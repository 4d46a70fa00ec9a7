"""Bare tensors as CLAM, TRIDENT and slide2vec save them: ``SLIDE.pt``, features (tile, dim) and nothing else.

Where tiles lie and what made them is not there. A .pt file is a pickle, which can run programs when it is
read. It is therefore read only where the user insists, and by a reader of torch that knows tensors and
refuses all else (``weights_only``; torch is at least 2.6, where that holds).
"""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_umedpt.arrays import whole_file
from wsi_umedpt.bag import FeatureKind
from wsi_umedpt.errors import InteropError
from wsi_umedpt.interop.sources import FileSource, Numbers, tiles_and_dim

if TYPE_CHECKING:
    import torch

NAME = "pt"
SUFFIX = ".pt"
FLAG = "--allow-pt"


def open_pt(path: Path) -> FileSource:
    """Say what a tensor holds. Files of torch before 1.6 are read whole for that.

    Raises
    ------
    InteropError
        If it is no tensor (tile, dim) of floats.
    """
    tiles, dim = shape_of_pt(path)
    return FileSource(
        path=path,
        slide_id=path.stem,
        kind=FeatureKind(dim=dim, format=NAME),
        tiles=tiles,
        side=None,
        unit="",
        read=_read,
    )


def shape_of_pt(path: Path) -> tuple[int, int]:
    """Tiles and dim of a tensor, or the reason why it is not read as such."""
    tensor = _tensor(path)
    kind = str(tensor.dtype).removeprefix("torch.")
    return tiles_and_dim(tensor.shape, np.dtype(np.float32 if kind == "bfloat16" else kind), f"{path}: the tensor")


def read_pt(path: Path) -> Numbers:
    """Features; bfloat16 becomes float32."""
    import torch

    tensor = _tensor(path)
    values: Numbers = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return values.copy()  # what is mapped from the file must not outlive it


def write_pt(path: Path, features: Numbers) -> None:
    """Write features as a bare tensor, whole or absent."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        torch.save(torch.from_numpy(features), file)


def _read(path: Path) -> tuple[Numbers, None]:
    return read_pt(path), None


def _tensor(path: Path) -> "torch.Tensor":
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
    if type(loaded) is not torch.Tensor or loaded.layout != torch.strided or loaded.is_quantized:
        raise InteropError(f"{path} holds a {type(loaded).__name__}; only a dense tensor (tile, dim) is read")
    tensor: torch.Tensor = loaded.detach()
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise InteropError(f"{path}: the tensor is {tensor.dtype}; features are floats")
    # Strides of 0 make one number look like many.
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise InteropError(f"{path}: the tensor claims more numbers than the file holds; make it anew")
    return tensor
