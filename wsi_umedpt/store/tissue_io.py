"""Tissue on disk: the mask and the thumbnail of a store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsi_umedpt.errors import StoreError
from wsi_umedpt.slides.slide import Slide
from wsi_umedpt.slides.tissue import TissueMask
from wsi_umedpt.store.contents import Nodes
from wsi_umedpt.store.partial import work_folder
from wsi_umedpt.store.zarr_io import read_attrs, write_array


def read_tissue(nodes: Nodes) -> TissueMask:
    """Read mask and thumbnail of a store.

    Raises
    ------
    StoreError
        If they are damaged.
    """
    folder = nodes.root / "tissue"
    attrs = nodes.attrs("tissue")
    thumbnail = nodes.array("thumbnail") if "thumbnail" in nodes else None
    mask = nodes.array("tissue").astype(bool)
    try:
        return TissueMask(mask, attrs["step"], thumbnail, attrs["method"], attrs["parameters"])
    except KeyError as lacking:
        raise StoreError(f"{folder} does not say its {lacking}: it is damaged, or another program's") from None


def stored_tissue(path: Path, slide: Slide, method: str, parameters: Mapping[str, Any]) -> TissueMask | None:
    """The mask that a store, or a run that was stopped, already made of this slide in this way."""
    for root in (path, work_folder(path) / "store"):
        if (root / "zarr.json").exists():
            try:
                of = read_attrs(root)["slide"]
                known = read_tissue(Nodes(root))
                channels = [one.to_dict() for one in slide.channels]
                same = (of["fingerprint"], of["mpp"], of.get("channels", [])) == (
                    slide.fingerprint,
                    slide.mpp,
                    channels,
                )
            except (StoreError, KeyError, TypeError):
                return None  # damaged, foreign, or renamed by another process just now; `create` tells which
            return known if same and (known.method, known.parameters) == (method, parameters) else None
    return None


def write_tissue(root: Path, tissue: TissueMask) -> None:
    """Write mask and thumbnail below a store's root."""
    attrs = {"step": tissue.step, "method": tissue.method, "parameters": tissue.parameters}
    write_array(root / "tissue", tissue.mask.astype(np.uint8), attrs, dims=("tissue_y", "tissue_x"))
    if tissue.thumbnail is not None:
        fine = -(-tissue.thumbnail.shape[1] // tissue.mask.shape[1])
        dims = ("thumbnail_y", "thumbnail_x", "channel")
        write_array(root / "thumbnail", tissue.thumbnail, {"step": tissue.step // fine}, dims=dims)
