"""Small files that would unpack to more than a machine has are refused, in little memory and little time."""

import gzip
import json
import resource
import struct
import sys
import time
import zlib

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from wsi_umedpt.errors import (
    AnnotationError,
    CheckpointError,
    EncoderError,
    InteropError,
    MaskError,
    PixelError,
    StoreError,
    UnsupportedSlideError,
    WsiError,
)
from wsi_umedpt.geometry import Box
from wsi_umedpt.models.weights import read_weights  # here: what torch takes is none of a test's memory
from wsi_umedpt.slides.slide import open_slide

MOST_BYTES = 700 << 20
"""More than any of these needs, and less than any of them claims."""


@pytest.fixture(autouse=True)
def little():
    """Each test may take no more than so much memory beyond what was there, and half a minute of work."""
    unit = 1 if sys.platform == "darwin" else 1024
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, time.process_time()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < MOST_BYTES
    assert time.process_time() - began < 30


def _png(path, width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 5)])
def test_a_flat_image_that_claims_too_much(tmp_path, width, height):
    """PNG: refused by its header; nothing is unpacked."""
    _png(tmp_path / "a.png", width, height)
    with pytest.raises(UnsupportedSlideError):
        open_slide(tmp_path / "a.png", mpp=0.5)


def test_a_mask_that_claims_too_much(tmp_path):
    """A PNG mask of a slide: refused by its header, with an error of ours."""
    from wsi_umedpt.slides.mask_file import mask_from_file

    _png(tmp_path / "mask.png", 60_000, 60_000)
    with pytest.raises(MaskError):
        mask_from_file(tmp_path / "mask.png", (8000, 8000), 0.5)


def _zeros_tiff(path, side, tile=None, compression="deflate"):
    """A TIFF of black pixels whose every tile, or strip, is the same few bytes."""
    piece = zlib.compress(bytes(min((tile or side) ** 2 * 3, 1 << 20)), 9)
    count = (side // tile) ** 2 if tile else 1
    options = {"tile": (tile, tile)} if tile else {"rowsperstrip": side}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            iter([piece] * count), shape=(side, side, 3), dtype=np.uint8, compression=compression, photometric="rgb",
            resolution=(20_000, 20_000), resolutionunit="CENTIMETER", metadata=None, **options,
        )  # fmt: skip


def test_a_flat_tiff_that_claims_too_much(tmp_path):
    """Strips: refused by its tags."""
    _zeros_tiff(tmp_path / "a.tif", 14_000)
    with pytest.raises(UnsupportedSlideError, match="flat image of 14000"):
        open_slide(tmp_path / "a.tif")


def test_a_tile_that_unpacks_to_more_than_a_tile(tmp_path):
    """Deflate: a tile of 256 px that holds half a gigabyte is damaged, not that much."""
    path = tmp_path / "a.ome.tif"
    bomb = zlib.compress(bytes(1 << 29), 1)
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter([bomb] * 4), shape=(512, 512, 3), dtype=np.uint8, compression="deflate", photometric="rgb",
            tile=(256, 256), resolution=(20_000, 20_000), resolutionunit="CENTIMETER", metadata=None,
        )  # fmt: skip
    try:
        with open_slide(path) as slide:
            assert slide.read(Box(0, 0, 512, 512)).shape == (512, 512, 3)
    except WsiError:
        pass


def test_a_jpeg_tile_that_claims_to_be_larger(tmp_path):
    """JPEG: a tile whose stream says 65,000 px is damaged."""
    from wsi_umedpt.testing import tissue_image, write_pyramid

    path = write_pyramid(tmp_path / "a.svs", tissue_image(512, 512)[0], tile=256)
    data = path.read_bytes()
    at = 0
    while (at := data.find(b"\xff\xc0\x00\x11\x08", at)) >= 0:
        data = data[: at + 5] + struct.pack(">HH", 65_000, 65_000) + data[at + 9 :]
        at += 9
    path.write_bytes(data)
    with pytest.raises(WsiError), open_slide(path) as slide:
        slide.read(Box(0, 0, 512, 512))


@pytest.mark.parametrize("tag", ["ImageWidth", "ImageLength", "TileWidth", "TileLength"])
def test_tags_that_claim_too_much(tmp_path, tag):
    """A pyramid whose tags claim billions is refused, by our reader and before OpenSlide allocates."""
    from wsi_umedpt.testing import tissue_image, write_pyramid

    path = write_pyramid(tmp_path / "a.svs", tissue_image(512, 512)[0], tile=256)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags[tag].overwrite(2**31 - 16, dtype="I")
    with pytest.raises(UnsupportedSlideError):
        open_slide(path)


def _ome_zarr(folder, **array):
    root = zarr.open_group(folder, mode="w", zarr_format=3)
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    transform = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": transform}]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    root.create_array("0", dtype="uint8", **array)


@pytest.mark.parametrize(
    ("shape", "chunks", "shards"),
    [
        pytest.param((3, 60_000, 60_000), (3, 60_000, 60_000), None, id="one-chunk-of-ten-gigabytes"),
        pytest.param((3, 1 << 40, 1 << 40), (3, 256, 256), None, id="no-slide-is-so-large"),
        pytest.param((3, 65_536, 65_536), (3, 32_768, 32_768), (3, 65_536, 65_536), id="chunks-within-shards"),
    ],
)
def test_an_ome_zarr_that_claims_too_much(tmp_path, shape, chunks, shards):
    """A chunk is unpacked whole, so that its size is what counts, whatever the slide's."""
    _ome_zarr(tmp_path / "s.zarr", shape=shape, chunks=chunks, shards=shards)
    with pytest.raises(UnsupportedSlideError):
        open_slide(tmp_path / "s.zarr")


def test_a_chunk_that_is_not_what_it_should_be(tmp_path):
    """Blosc, zstd, gzip: bytes that unpack to another length are damage."""
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    for codec in (BloscCodec(), ZstdCodec(), GzipCodec()):
        folder = tmp_path / f"{type(codec).__name__}.zarr"
        _ome_zarr(folder, shape=(3, 256, 256), chunks=(3, 256, 256), compressors=codec)
        zarr.open_array(folder / "0", mode="r+")[...] = 7
        zarr.create_array(
            folder / "other", dtype="uint8", shape=(3, 2560, 2560), chunks=(3, 2560, 2560), compressors=codec
        )[...] = 7
        (folder / "0" / "c" / "0" / "0" / "0").write_bytes((folder / "other" / "c" / "0" / "0" / "0").read_bytes())
        with open_slide(folder) as slide, pytest.raises(PixelError):
            slide.read(Box(0, 0, 256, 256))


@pytest.mark.parametrize("inside", ["spaces", "features", "one-string"])
def test_packed_geojson(tmp_path, inside, monkeypatch):
    """What unpacks to over 200 times its size is refused on the way, whatever it unpacks to.

    The size below which that is of no interest is lowered, to spare time.
    """
    from wsi_umedpt.annotations import geojson_features
    from wsi_umedpt.interop.qupath import read_geojson

    monkeypatch.setattr(geojson_features, "_SMALL", 8 << 20)

    path = tmp_path / "a.geojson.gz"
    ring = [[0, 0], [0, 9], [9, 9], [0, 0]]
    feature = json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}})
    unit = {
        "spaces": b" " * (1 << 20),
        "features": (feature + "," + " " * 20_000).encode(),
        "one-string": b"x" * (1 << 20),
    }
    begin = {"spaces": b"", "features": b"[", "one-string": b'["'}[inside]
    with gzip.open(path, "wb", 9) as file:
        file.write(begin)
        for _ in range((64 << 20) // len(unit[inside])):
            file.write(unit[inside])
    assert path.stat().st_size < 1 << 18
    with pytest.raises(InteropError, match="unpacks to over"):
        read_geojson(path)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(struct.pack("<Q", 1 << 62) + b"{}", id="header-of-exabytes"),
        pytest.param(struct.pack("<Q", 150 << 20) + b"{}", id="header-longer-than-the-file"),
        pytest.param(b"", id="empty"),
    ],
)
def test_headers_of_safetensors(tmp_path, header):
    """A header that claims more than the file holds is refused; so are tensors that do."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(header)
    with pytest.raises(EncoderError):
        read_weights(path)
    about = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(about)) + about + bytes(16))
    with pytest.raises(EncoderError):
        read_weights(path)


def test_json_that_nests_without_end(tmp_path):
    """Models, stores, GeoJSON, annotations: an error of ours, not one of Python's stack."""
    from tests.support.drawn_slides import draw_stored
    from wsi_umedpt.annotations.labels import read_drawn_labels
    from wsi_umedpt.interop.qupath import read_geojson
    from wsi_umedpt.io.checkpoint import load
    from wsi_umedpt.slides.mask_file import mask_from_file
    from wsi_umedpt.store.slide_store import SlideStore
    from wsi_umedpt.store.verify import problems_of

    deep = "[" * 200_000
    for name in ("m.json", "a.geojson"):
        (tmp_path / name).write_text(deep)
    with pytest.raises(CheckpointError):
        load(tmp_path / "m.json")
    with pytest.raises(InteropError):
        read_geojson(tmp_path / "a.geojson")
    with pytest.raises(MaskError):
        mask_from_file(tmp_path / "a.geojson", (100, 100), 0.5)
    with pytest.raises(AnnotationError):
        read_drawn_labels(tmp_path / "a.geojson", "a")
    store, grid_id = draw_stored(tmp_path / "s.zarr")
    node = store.path / "grids" / grid_id / "xy" / "zarr.json"
    node.write_text(deep)
    with pytest.raises(StoreError):
        store.grid()
    assert problems_of(store.path)
    (store.path / "zarr.json").write_text(deep)
    with pytest.raises(StoreError):
        SlideStore.open(store.path)


def test_a_store_that_claims_too_much(tmp_path):
    """An array of exabytes is damage."""
    from wsi_umedpt.store.zarr_io import read_array, write_array

    write_array(tmp_path / "xy", np.zeros((4, 2), np.int32))
    node = json.loads((tmp_path / "xy" / "zarr.json").read_text())
    node["shape"] = [1 << 50, 2]
    (tmp_path / "xy" / "zarr.json").write_text(json.dumps(node))
    with pytest.raises(StoreError):
        read_array(tmp_path / "xy")


def test_archives_and_hdf5_that_unpack_to_too_much(tmp_path, monkeypatch):
    """Of zeros, npz and h5 are refused by what they say of themselves; as above, with less."""
    import h5py

    from wsi_umedpt.interop import feature_sources
    from wsi_umedpt.interop.feature_banks import open_source

    monkeypatch.setattr(feature_sources, "_SMALL", 8 << 20)
    np.savez_compressed(tmp_path / "a.npz", features=np.zeros((1 << 13, 1024), np.float32))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("features", (1 << 13, 1024), "f4", chunks=(1 << 10, 1024), compression="gzip")
        file["features"][...] = 0
        file["coords"] = np.zeros((1 << 13, 2), np.int32)
    for name in ("a.npz", "b.h5"):
        with pytest.raises(InteropError, match="would unpack"):
            open_source(tmp_path / name).load()


def test_an_image_of_a_data_set_that_claims_too_much(tmp_path):
    """Training images are looked at before they are unpacked."""
    from wsi_umedpt.datasets.images import read_image
    from wsi_umedpt.errors import DataError

    _png(tmp_path / "a.png", 60_000, 60_000)
    with pytest.raises(DataError):
        read_image(tmp_path / "a.png")


def test_the_bombs_are_valid_otherwise(tmp_path):
    """A small one of the same make is a slide, or the tests above would mean nothing."""
    _zeros_tiff(tmp_path / "a.tif", 512)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.size == (512, 512)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "b.png")
    with open_slide(tmp_path / "b.png", mpp=0.5) as slide:
        assert slide.size == (64, 64)


def _jpeg_claim(data):
    at = 0
    while (at := data.find(b"\xff\xc0\x00", at)) >= 0:
        data = data[: at + 5] + struct.pack(">HH", 60_000, 60_000) + data[at + 9 :]
        at += 9
    return data


def _png_claim(data):
    parts = data.split(b"IHDR")
    return b"IHDR".join([parts[0], *(struct.pack(">II", 60_000, 60_000) + part[8:] for part in parts[1:])])


def _jpeg2000_claim(data):
    marker = b"\xff\x4f\xff\x51"
    parts = data.split(marker)
    return marker.join([parts[0], *(part[:4] + struct.pack(">II", 60_000, 60_000) + part[12:] for part in parts[1:])])


def _webp_claim(data):
    parts = data.split(b"VP8L")
    size = struct.pack("<I", 16_382 | 16_382 << 14)
    return b"VP8L".join([parts[0], *(part[:5] + size + part[9:] for part in parts[1:])])


@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "strips"])
@pytest.mark.parametrize(
    ("compression", "claim"),
    [("jpeg", _jpeg_claim), ("png", _png_claim), ("jpeg2000", _jpeg2000_claim), ("webp", _webp_claim)],
)
def test_a_picture_in_a_tile_that_claims_to_be_larger(tmp_path, compression, claim, tiled):
    """Codecs of whole pictures believe their own header; where they are not read at once, tile by tile."""
    from wsi_umedpt.testing import tissue_image

    image = tissue_image(512, 256)[0]
    pixels = image[..., 0].copy() if compression == "jpeg" else image  # grey, which has no way of its own
    options = {"tile": (256, 256)} if tiled else {"rowsperstrip": 64}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", pixels, ome=True, photometric="rgb" if pixels.ndim == 3 else "minisblack",
        compression=compression, compressionargs={"lossless": True} if compression == "webp" else None,
        metadata={"axes": "YXS"[: pixels.ndim]}, **options,
    )  # fmt: skip
    with open_slide(tmp_path / "a.ome.tif", mpp=0.5) as slide:
        assert slide.read(Box(0, 0, 512, 256)).shape == (256, 512, 3)
    data = (tmp_path / "a.ome.tif").read_bytes()
    (tmp_path / "a.ome.tif").write_bytes(claim(data))
    assert claim(data) != data
    with pytest.raises(WsiError, match=r"claims (60000|16383) x (60000|16383) px"):  # noqa: SIM117
        with open_slide(tmp_path / "a.ome.tif", mpp=0.5) as slide:
            slide.read(Box(0, 0, 512, 256))


@pytest.mark.parametrize("compression", ["jpegxl", "jpegxr"])
def test_a_codec_whose_claims_are_not_known_is_refused(tmp_path, compression):
    """With its name."""
    from wsi_umedpt.testing import tissue_image

    tifffile.imwrite(
        tmp_path / "a.tif", tissue_image(256, 256)[0], photometric="rgb", compression=compression, tile=(256, 256)
    )
    with pytest.raises(UnsupportedSlideError, match="is compressed as JPEG"):
        open_slide(tmp_path / "a.tif", mpp=0.5)
