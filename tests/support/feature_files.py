"""A store with features, and files of features laid out as other tools write them."""

from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileGrid, TileSpec
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.readable_store import OK, UNREADABLE
from wsi_umedpt.store.slide_store import SlideStore

SPEC = TileSpec(size_px=224, mpp=0.5)


def make_store(
    folder: Path,
    name: str = "slide",
    *,
    xy=((0, 0), (461, 0), (0, 461), (461, 461), (922, 461)),
    features=None,
    slide_mpp: float = 0.2431,
    spec: TileSpec = SPEC,
    unreadable: tuple[int, ...] = (2,),
    encoder: str = "enc.v1",
) -> SlideStore:
    """A whole store of a blank slide: real but for its tiles and numbers, which are as asked."""
    xy = np.asarray(xy, np.int32).reshape(-1, 2)
    features = np.random.default_rng(0).normal(size=(len(xy), 6)) if features is None else np.asarray(features)
    picture = folder / f"{name}.png"
    if not picture.exists():
        Image.new("RGB", (320, 256), "white").save(picture)
    grid = TileGrid(spec, spec.size_px * spec.mpp / slide_mpp, xy, np.ones(len(xy), np.float32))
    ok = ~np.isin(np.arange(len(xy)), unreadable)
    made_by = {
        "card": {"name": encoder.removesuffix(".bf16"), "dim": features.shape[1]},
        "weights_sha256": "ab" * 32,
        "precision": "bf16" if encoder.endswith(".bf16") else "fp32",
        "batch_size": 64,
    }
    with open_slide(picture, mpp=slide_mpp) as slide:
        tissue = TissueMask(np.ones((4, 5), bool), 64)
        with SlideStore.create(folder / f"{name}.zarr", slide, tissue, grid) as store:
            writer = store.writer(encoder, spec.grid_id, features.shape[1], made_by)
            writer.append(features.astype(np.float32), ok)
            store.set_status(spec.grid_id, np.where(ok, OK, UNREADABLE).astype(np.uint8))
            writer.finish()
            store.commit()
    return SlideStore.open(folder / f"{name}.zarr")


def write_clam_file(path: Path, features, coords, *, batches: int = 2) -> Path:
    """As CLAM's extraction does: batch by batch, appended, chunks of 32 rows, no attributes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in (("features", features), ("coords", coords)):
            for part in np.array_split(values, batches):
                if name not in file:
                    shape = part.shape
                    file.create_dataset(
                        name, shape, part.dtype, chunks=(32, *shape[1:]), maxshape=(None, *shape[1:]), data=part
                    )
                else:
                    file[name].resize(len(file[name]) + len(part), axis=0)
                    file[name][-len(part) :] = part
    return path


def write_trident_file(path: Path, features, coords, *, of_coords=None, of_features=None) -> Path:
    """As TRIDENT's extraction does: chunks of a row, and attributes on both arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stated = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": path.stem,
        "savetodir": "/data/job",
        "level0_width": 90_000,
        "level0_height": 60_000,
    }
    attrs = {
        "features": {"name": path.stem, "savetodir": "/data/job", "encoder": "uni_v1"} | (of_features or {}),
        "coords": stated | (of_coords or {}),
    }
    with h5py.File(path, "w") as file:
        for name, values in (("features", features), ("coords", coords)):
            shape = values.shape
            array = file.create_dataset(
                name, shape, values.dtype, chunks=(1, *shape[1:]), maxshape=(None, *shape[1:]), data=values
            )
            for key, value in attrs[name].items():
                if value is not ...:
                    array.attrs[key] = "None" if value is None else value
    return path


def write_stamp_file(path: Path, feats, coords, **attrs) -> Path:
    """As STAMP's preprocessing does; an attribute that is given as None is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stated = {
        "stamp_version": "2.5.0",
        "extractor": "mahmood-uni",
        "unit": "um",
        "tile_size_um": 256.0,
        "tile_size_px": 224,
        "code_hash": "0f3c9f9b",
        "feat_type": "tile",
    }
    with h5py.File(path, "w") as file:
        file["coords"], file["feats"] = coords, feats
        for key, value in {**stated, **attrs}.items():
            if value is not None:
                file.attrs[key] = value
    return path
