"""A picture as a slide of every format that there are random mutants of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
import zarr
from PIL import Image

from tests.support import jpeg2000_slides
from tests.support.channel_slides import write_qptiff
from wsi_umedpt.testing import write_dicom, write_pyramid


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


def write_czi(path, image):
    """One channel of 16 bits and a pyramid of three layers, in subblocks of 256 px."""
    from pylibCZIrw import czi

    grey = (255 - image[..., 1]).astype(np.uint16) * 12
    with czi.create_czi(str(path), exist_ok=True) as document:
        for y in range(0, grey.shape[0], 256):
            for x in range(0, grey.shape[1], 256):
                part = np.ascontiguousarray(grey[y : y + 256, x : x + 256, np.newaxis])
                document.write(part, plane={"C": 0}, location=(x, y))
        document.write_metadata("slide", channel_names={0: "DAPI"}, scale_x=5e-7, scale_y=5e-7)


def write_czi_colours(path, image):
    """RGB, in two subblocks, compressed by zstd."""
    from pylibCZIrw import czi

    half = image.shape[1] // 2
    with czi.create_czi(str(path), exist_ok=True, compression_options="zstd1:ExplicitLevel=1") as document:
        for x in (0, half):
            part = np.ascontiguousarray(image[:, x : x + half, ::-1])  # BGR
            document.write(part, plane={"C": 0}, location=(x, 0))
        document.write_metadata("slide", scale_x=5e-7, scale_y=5e-7)


def write_dicom_jpegls(path, image):
    """A DICOM slide of one level whose frames are JPEG-LS, which wsidicom reads and OpenSlide does not."""
    import pydicom
    from imagecodecs import jpegls_encode
    from pydicom.encaps import encapsulate

    [written] = write_dicom(path.parent / "dicom", image, scales=(1,))
    slide = pydicom.dcmread(written)
    side = slide.Rows
    whole = np.pad(image, ((0, -image.shape[0] % side), (0, -image.shape[1] % side), (0, 0)), mode="edge")
    frames = [
        jpegls_encode(np.ascontiguousarray(whole[y : y + side, x : x + side]))
        for y in range(0, whole.shape[0], side)
        for x in range(0, whole.shape[1], side)
    ]
    slide.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    slide.PhotometricInterpretation = "RGB"
    slide.ImagedVolumeWidth, slide.ImagedVolumeHeight = (
        n * 5e-4 for n in image.shape[1::-1]
    )  # mm, which wsidicom asks
    slide.PixelData = encapsulate(frames)
    slide["PixelData"].VR = "OB"
    slide["PixelData"].is_undefined_length = True
    slide.save_as(path)
    written.unlink()


FEW = 18


class Format(NamedTuple):
    """A format, and how a test has it written and opened."""

    file: str
    write: Callable[[Path, Any], Any]
    channels: str = ""
    """Channels that are looked at, of a slide that is not in colour."""
    needs: str = ""
    """Module of the extra that opens it."""
    mutants: int = 66
    """Random mutants that the tests use: a third of them tags, so that every size tells every great lie."""


FORMATS = {
    "svs": Format("a.svs", lambda path, image: write_pyramid(path, image, tile=128)),
    "tif": Format("b.tif", lambda path, image: write_pyramid(path, image, tile=128, vendor="generic", bigtiff=True)),
    "ome-tiff": Format("c.ome.tif", write_ome_tiff),
    "ome-bigtiff-deflate": Format(
        "d.ome.tif", lambda path, image: write_ome_tiff(path, image, bigtiff=True, compression="deflate")
    ),
    "ome-zarr-0.4": Format("e.zarr", lambda path, image: write_ome_zarr(path, image, "0.4")),
    "ome-zarr-0.5": Format("f.zarr", lambda path, image: write_ome_zarr(path, image, "0.5")),
    "png": Format("g.png", lambda path, image: Image.fromarray(image).save(path)),
    "jpeg2000": Format("l.svs", jpeg2000_slides.write_ycbcr, mutants=FEW),
    "qptiff": Format(
        "m.qptiff",
        lambda path, image: write_qptiff(path, np.moveaxis(255 - image, -1, 0), ("R", "G", "B")),
        "0",
        "",
        FEW,
    ),
    "czi": Format("n.czi", write_czi, "DAPI", "pylibCZIrw", FEW),
    "czi-colours": Format("o.czi", write_czi_colours, "", "pylibCZIrw", FEW),
    "dicom-jpegls": Format("p.dcm", write_dicom_jpegls, "", "wsidicom", FEW),
}
