"""What ours is compared with: libjpeg-turbo alone, OpenSlide's reads, CLAM's feature extraction.

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
import simplejpeg
import tifffile
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from wsi_umedpt.slides.tiling import TileGrid

Pixels = npt.NDArray[np.uint8]
Model = Callable[[torch.Tensor], torch.Tensor]

CLAM_BATCH = 256
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def jpeg_streams(path: Path, top: int, bottom: int) -> list[bytes]:
    """The level-0 tiles of an Aperio-like slide between two rows of px, as whole JPEGs."""
    with tifffile.TiffFile(path) as tif, path.open("rb") as file:
        page = tif.pages[0].aspage()
        columns = page.imagewidth // page.tilewidth
        streams = []
        for index in range(top // page.tilelength * columns, bottom // page.tilelength * columns):
            file.seek(page.dataoffsets[index])
            # A JPEG of its own: the page's tables without their end marker, then the tile without its start.
            streams.append(page.jpegtables[:-2] + file.read(page.databytecounts[index])[2:])
    return streams


def decode_all(streams: list[bytes], side_px: int) -> float:
    """Decode JPEGs that are whole and in memory, always into the same buffer; MPix."""
    count = side_px * side_px * 3
    spare = np.empty(count + 64, np.uint8)
    # Rows that begin at multiples of 32 bytes are written past the processor's cache: 15 % slower.
    start = (16 - spare.ctypes.data) % 64
    buffer = spare[start : start + count]
    for stream in streams:
        simplejpeg.decode_jpeg(stream, buffer=buffer)
    return len(streams) * side_px**2 / 1e6


def openslide_tile(slide: openslide.OpenSlide, x: int, y: int, side: int) -> Any:
    """One tile of level 0 as everybody reads it: a PIL image in RGB."""
    return slide.read_region((x, y), 0, (side, side)).convert("RGB")


def openslide_all(slide: openslide.OpenSlide, grid: TileGrid) -> float:
    """Read the tiles of a grid with OpenSlide, shrunk by PIL where they are larger; level-0 MPix."""
    side, size = round(grid.side), grid.spec.size_px
    for x, y in grid.xy.tolist():
        image = openslide_tile(slide, x, y, side)
        if side != size:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        np.asarray(image)
    return len(grid) * side**2 / 1e6


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
