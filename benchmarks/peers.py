"""How others do it: CLAM's feature extraction, written out plainly, and OpenSlide's reads.

`clam` follows CLAM's extract_features_fp.py and dataset_h5.py (github.com/mahmoodlab/CLAM):
coordinates from an h5 file, one `read_region` per tile, PIL and torchvision transforms, a
torch DataLoader, and features appended to an h5 file that is opened anew for every batch.
Its tissue search is left out, to its favour; so is the second copy (``.pt``) that it saves.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import openslide
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

Pixels = npt.NDArray[np.uint8]
Model = Callable[[torch.Tensor], torch.Tensor]

CLAM_BATCH = 256
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_coordinates(path: Path, xy: npt.NDArray[np.int32], patch_size: int) -> Path:
    """Save tile corners (tile, 2), level-0 px, as CLAM's tiling step does."""
    with h5py.File(path, "w") as file:
        coords = file.create_dataset("coords", data=xy)
        coords.attrs["patch_level"] = 0
        coords.attrs["patch_size"] = patch_size
    return path


class ClamTiles(Dataset):
    """CLAM's Whole_Slide_Bag_FP."""

    def __init__(self, coordinates: Path, slide: openslide.OpenSlide, transform: Callable[[Any], torch.Tensor]) -> None:
        self._slide, self._transform = slide, transform
        self._file = h5py.File(coordinates, "r")
        self._level = self._file["coords"].attrs["patch_level"]
        self._size = self._file["coords"].attrs["patch_size"]
        self._length = len(self._file["coords"])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        coord = self._file["coords"][index]
        image = self._slide.read_region(coord, self._level, (self._size, self._size)).convert("RGB")
        return {"img": self._transform(image), "coord": coord}

    def close(self) -> None:
        """Free the coordinates' file."""
        self._file.close()


def clam(slide_path: Path, coordinates: Path, model: Model, output: Path, size_px: int = 224) -> int:
    """Embed the tiles of a slide as CLAM does.

    Parameters
    ----------
    coordinates
        As `write_coordinates` left them.
    model
        float32 (batch, 3, size_px, size_px), normalised -> (batch, dim).
    output
        The h5 file of features, made anew.

    Returns
    -------
    int
        Tiles embedded.
    """
    steps = [transforms.Resize(size_px), transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    with openslide.OpenSlide(slide_path) as slide:
        tiles = ClamTiles(coordinates, slide, transforms.Compose(steps))
        mode = "w"
        for batch in DataLoader(tiles, batch_size=CLAM_BATCH, num_workers=0):
            with torch.inference_mode():
                features = model(batch["img"]).cpu().numpy().astype(np.float32)
            coords = batch["coord"].numpy().astype(np.int32)
            _save_hdf5(output, {"features": features, "coords": coords}, mode)
            mode = "a"
        tiles.close()
        return len(tiles)


def _save_hdf5(output: Path, arrays: dict[str, npt.NDArray[Any]], mode: str) -> None:
    """CLAM's save_hdf5: chunks of one row, grown by every batch."""
    with h5py.File(output, mode) as file:
        for key, values in arrays.items():
            if key not in file:
                chunks, limit = (1, *values.shape[1:]), (None, *values.shape[1:])
                file.create_dataset(key, data=values, chunks=chunks, maxshape=limit)
            else:
                dataset = file[key]
                dataset.resize(len(dataset) + len(values), axis=0)
                dataset[-len(values) :] = values


def openslide_tile(slide: openslide.OpenSlide, x: int, y: int, side: int) -> Any:
    """One tile of level 0 as everybody reads it: a PIL image in RGB."""
    return slide.read_region((x, y), 0, (side, side)).convert("RGB")
