"""Slides of fluorescence, written as scanners and converters write them."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

NAMES = ("DAPI", "CD3", "CD8", "PanCK")
MPP = 0.5
_SCALE = {"PhysicalSizeX": MPP, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": MPP, "PhysicalSizeYUnit": "µm"}


def odd_slide(name: str) -> Path:
    """A real file of an odd kind; skips where neither `WSI_UMEDPT_ODD_SLIDES` nor the shared data have it."""
    repository = Path(__file__).parents[2]
    folder = Path(os.environ.get("WSI_UMEDPT_ODD_SLIDES") or repository.parent / "shared" / "data" / "odd_slides")
    if not (folder / name).is_file():
        pytest.skip(f"needs {name}, a real odd slide, in {folder} or in the folder that WSI_UMEDPT_ODD_SLIDES names")
    return folder / name


def planes(count: int = 4, dtype: str = "uint16", size: tuple[int, int] = (700, 600)) -> np.ndarray:
    """(channel, rows, cols): nuclei in a disc of tissue on black, each channel brighter than the one before."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[: size[1], : size[0]]
    tissue = (x - size[0] / 2) ** 2 + (y - size[1] / 2) ** 2 < (0.35 * min(size)) ** 2
    most = {"uint8": 160, "uint16": 4000}[dtype]
    made = []
    for n in range(count):
        image = rng.integers(0, most // 40, tissue.shape) + tissue * most * (n + 1) // 8
        image += tissue * (np.hypot(x % 24 - 12, y % 24 - 12) < 5) * most * (n + 1) // 4
        made.append(np.minimum(image, np.iinfo(dtype).max))
    return np.stack(made).astype(dtype)


def write_ome_channels(path: Path, stored: np.ndarray, names: tuple[str, ...] = NAMES, *, tiled: bool = True) -> Path:
    """An OME-TIFF with a page a channel; with a level in SubIFDs, where it is tiled."""
    options = {"photometric": "minisblack", "compression": "lzw"} | ({"tile": (128, 128)} if tiled else {})
    metadata = {"axes": "CYX", **_SCALE, **({"Channel": {"Name": [*names]}} if names else {})}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(stored, subifds=1 if tiled else 0, metadata=metadata, **options)
        if tiled:
            writer.write(stored[:, ::2, ::2].copy(), subfiletype=1, **options)
    return path


def write_qptiff(path: Path, stored: np.ndarray, names: tuple[str, ...] = NAMES) -> Path:
    """A QPTIFF: all channels, a thumbnail in colour, all channels of a level, the label."""

    def about(kind: str, name: str = "") -> str:
        named = f"<Name>Opal</Name><Biomarker>{name}</Biomarker>" if name else ""
        return (
            '<?xml version="1.0" encoding="utf-16"?>\n<PerkinElmer-QPI-ImageDescription>'
            f"<ImageType>{kind}</ImageType>{named}</PerkinElmer-QPI-ImageDescription>"
        )

    tiles = {"tile": (128, 128), "compression": "lzw", "photometric": "minisblack", "metadata": None}
    colour = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        for step, kind in ((1, "FullResolution"), (2, "ReducedResolution")):
            per_cm = 1e4 / MPP / step
            for plane, name in zip(stored, names, strict=True):
                level = plane[::step, ::step].copy()
                scale = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
                writer.write(level, description=about(kind, name), **scale, **tiles)
            if step == 1:
                writer.write(np.full((60, 70, 3), 90, np.uint8), description=about("Thumbnail"), **colour)
        writer.write(np.full((40, 40, 3), 200, np.uint8), description=about("Label"), **colour)
    return path


def write_zarr_channels(path: Path, stored: np.ndarray, names: tuple[str, ...] = NAMES) -> Path:
    """An OME-Zarr 0.4 of two levels."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for number, step in enumerate((1, 2)):
        level = stored[:, ::step, ::step]
        array = group.create_array(str(number), shape=level.shape, chunks=(1, 128, 128), dtype=level.dtype)
        array[:] = level
        scale = {"type": "scale", "scale": [1.0, MPP * step, MPP * step]}
        datasets.append({"path": str(number), "coordinateTransformations": [scale]})
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    axes = [{"name": "c", "type": "channel"}, *space]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    group.attrs["omero"] = {"channels": [{"label": name} for name in names]}
    return path
