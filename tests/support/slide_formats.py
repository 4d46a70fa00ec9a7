"""A picture as a slide of every format that there are random mutants of."""

import cv2
import numpy as np
import tifffile
import zarr
from PIL import Image

from wsi_umedpt.testing import write_pyramid


def write_ome_tiff(path, image, *, bigtiff=False, compression="jpeg"):
    with tifffile.TiffWriter(path, ome=True, bigtiff=bigtiff) as writer:
        options = {"tile": (128, 128), "compression": compression, "photometric": "rgb"}
        if compression == "jpeg":
            options["compressionargs"] = {"level": 85}
        scale = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
        writer.write(image, subifds=1, metadata={"axes": "YXS", **scale}, **options)
        small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        writer.write(small, subfiletype=1, **options)


def write_ome_zarr(path, image, version):
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for number, scale in enumerate((1, 4)):
        level = cv2.resize(image, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA) if number else image
        array = root.create_array(str(number), shape=(3, *level.shape[:2]), chunks=(3, 128, 128), dtype="uint8")
        array[...] = np.moveaxis(level, -1, 0)
        transform = {"type": "scale", "scale": [1.0, 0.5 * scale, 0.5 * scale]}
        datasets.append({"path": str(number), "coordinateTransformations": [transform]})
    space = [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    multiscales = [{"axes": [{"name": "c", "type": "channel"}, *space], "datasets": datasets, "version": version}]
    if version == "0.4":
        root.attrs["multiscales"] = multiscales
    else:
        root.attrs["ome"] = {"version": version, "multiscales": multiscales}


FORMATS = {
    "svs": ("a.svs", lambda path, image: write_pyramid(path, image, tile=128)),
    "tif": ("b.tif", lambda path, image: write_pyramid(path, image, tile=128, vendor="generic", bigtiff=True)),
    "ome-tiff": ("c.ome.tif", write_ome_tiff),
    "ome-bigtiff-deflate": (
        "d.ome.tif",
        lambda path, image: write_ome_tiff(path, image, bigtiff=True, compression="deflate"),
    ),
    "ome-zarr-0.4": ("e.zarr", lambda path, image: write_ome_zarr(path, image, "0.4")),
    "ome-zarr-0.5": ("f.zarr", lambda path, image: write_ome_zarr(path, image, "0.5")),
    "png": ("g.png", lambda path, image: Image.fromarray(image).save(path)),
}
