"""Damaged, truncated and lying slide files: pixels, or an error of ours; never a crash, a hang or half a store."""

import re

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from wsi_umedpt.testing import tissue_image, write_pyramid

BATCH = 120
"""Mutants that one child process uses one after the other."""
SEED = 20261122


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_mutant_gives_pixels_or_an_error_of_ours(lab, kind, tmp_path):
    """Opening, finding tissue, laying tiles, reading them all and embedding, for 120 mutants of each format.

    An exception that is no `WsiError`, a signal (native crash), 20 seconds for one mutant, a
    file left open and a store that is not whole all fail.
    """
    name, write = FORMATS[kind]
    write(tmp_path / name, tissue_image(768, 768)[0])
    scratch, log = tmp_path / "scratch", tmp_path / "log"
    scratch.mkdir()
    request = {"task": "use_mutants", "original": str(tmp_path / name), "seed": SEED}
    request |= {"scratch": str(scratch), "log": str(log)}
    results, wrong, todo = [], [], list(range(BATCH))
    while todo:
        lab.start({**request, "numbers": todo})
        [answer] = lab.wait()
        if answer.code == 0:
            results += answer.value
            break
        died = int(log.read_text())
        wrong.append(f"mutant {died}: its process ended with {answer.code}")
        todo = todo[todo.index(died) + 1 :]
    for r in results:
        which = f"mutant {r['number']} ({r['what']}): "
        wrong += [which + r["how"]] if re.match("ESCAPED|wrong", r["how"]) else []
        wrong += [which + r["store"]] if r["store"] else []
        wrong += [which + f"{r['leak']} files left open"] if r.get("leak", 0) > 0 else []
        wrong += [which + f"took {r['seconds']:.0f} s"] if r["seconds"] > 10 else []
    assert not wrong, "\n".join(wrong)
    # Both happen, or the mutations are too weak or too strong to mean anything.
    hows = {r["how"].split(",")[0] for r in results}
    assert "pixels" in hows
    assert hows & {"UnsupportedSlideError", "SlideError", "PixelError"}
