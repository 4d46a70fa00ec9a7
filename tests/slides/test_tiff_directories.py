"""TIFFs that are damaged, cut short or never finished: refused soon and in words, whichever reader would take them."""

import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsi_umedpt.errors import HeatmapError, SlideError, UnsupportedSlideError
from wsi_umedpt.interop.heatmap_ometiff import read_heatmaps
from wsi_umedpt.slides.readers.base import ContentRefused
from wsi_umedpt.slides.readers.tiff import open_tifffile
from wsi_umedpt.slides.readers.tiff_directories import MOST_DIRECTORIES, read_directories
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.testing import tissue_image, write_pyramid

IMAGE, _ = tissue_image(768, 512)
PLAIN = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None, "photometric": "rgb"}


def write_strips(path, image=IMAGE):
    tifffile.imwrite(path, image, compression="deflate", rowsperstrip=64, **PLAIN)


def write_tiles(path, image=IMAGE):
    tifffile.imwrite(path, image, compression="deflate", tile=(128, 128), **PLAIN)


def write_ome(path, image=IMAGE):
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as writer:
        options = {"tile": (128, 128), "compression": "deflate", "photometric": "rgb"}
        writer.write(image, subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **options)
        writer.write(image[::2, ::2].copy(), subfiletype=1, **options)


def write_aperio(path, image=IMAGE):
    write_pyramid(path, image, tile=128)


def write_generic(path, image=IMAGE):
    write_pyramid(path, image, tile=128, vendor="generic", bigtiff=True)


KINDS = {
    "strips": ("a.tif", write_strips),
    "tiles": ("a.tif", write_tiles),
    "ome": ("a.tif", write_ome),
    "aperio": ("a.svs", write_aperio),
    "generic": ("a.tif", write_generic),
}


@pytest.fixture(params=KINDS)
def written(request, tmp_path):
    """A sound slide of each kind."""
    name, write = KINDS[request.param]
    write(tmp_path / name)
    with open_slide(tmp_path / name) as slide:
        assert slide.size == (768, 512)
    return tmp_path / name


def next_pointers(path) -> list[tuple[int, int, str]]:
    """Of each page: where it begins, where its pointer to the next lies, and how that is packed."""
    found = read_directories(path)
    data, places = path.read_bytes(), []
    big = data[2:4] in (b"+\0", b"\0+")
    for page in found.pages:
        (count,) = struct.unpack_from(found.order + ("Q" if big else "H"), data, page.offset)
        at = page.offset + (8 + 20 * count if big else 2 + 12 * count)
        places.append((page.offset, at, found.order + ("Q" if big else "I")))
    return places


def put(path, at: int, form: str, value: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack(form, value))


@pytest.mark.parametrize("back", ["first", "itself"])
def test_directories_that_loop_are_refused_at_once(written, back):
    """A last directory that points back would be followed for ever, in OpenSlide and in tifffile."""
    pages = next_pointers(written)
    _, at, form = pages[-1]
    put(written, at, form, pages[0][0] if back == "first" else pages[-1][0])
    with pytest.raises(UnsupportedSlideError, match="loop"):
        open_slide(written)


def test_subifds_that_loop_are_refused(tmp_path):
    """A SubIFD that is the page itself."""
    write_ome(tmp_path / "a.ome.tif")
    found = read_directories(tmp_path / "a.ome.tif")
    tag = found.pages[0].tags[330]
    put(tmp_path / "a.ome.tif", tag.at, "<Q", found.pages[0].offset)
    with pytest.raises(UnsupportedSlideError, match="loop"):
        open_slide(tmp_path / "a.ome.tif")


def test_every_way_to_tifffile_is_guarded(tmp_path):
    """Heatmaps that are read back, and what the plugin looks at, too."""
    write_tiles(tmp_path / "a.ome.tif")
    _, at, form = next_pointers(tmp_path / "a.ome.tif")[-1]
    put(tmp_path / "a.ome.tif", at, form, next_pointers(tmp_path / "a.ome.tif")[0][0])
    with pytest.raises(HeatmapError, match="loop"):
        read_heatmaps(tmp_path / "a.ome.tif")
    with pytest.raises(ContentRefused, match="loop"):
        open_tifffile(tmp_path / "a.ome.tif")


def test_directories_without_end_are_refused(tmp_path):
    """A hundred thousand directories, each another one, of 6 bytes each."""
    path = tmp_path / "a.tif"
    count, each = 10 * MOST_DIRECTORIES, 2 + 12 + 4
    data = bytearray(b"II*\0" + struct.pack("<I", 8))
    for n in range(count):
        data += struct.pack("<HHHIII", 1, 256, 3, 1, 9, 8 + each * (n + 1))
    path.write_bytes(data)
    with pytest.raises(UnsupportedSlideError, match="over 10,000 directories"):
        open_slide(path)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_is_cut_short_says_so(written, share):
    """Partial downloads: how much there is of how much, or that directories are not there."""
    data = written.read_bytes()
    written.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnsupportedSlideError) as caught:
        open_slide(written)
    if share > 0.01:
        assert "cut short" in str(caught.value)
        assert "copy it again" in str(caught.value)


def test_of_a_file_that_is_cut_in_its_tiles_the_bytes_are_counted(tmp_path):
    """Directories that come first are whole."""
    write_tiles(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-1000])
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        whole = sum(tif.pages[0].databytecounts)
    with pytest.raises(UnsupportedSlideError, match=rf"cut short \({whole - 1000:,} of {whole:,} bytes of tile data\)"):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_flat_picture_that_is_cut_short_says_so(tmp_path, suffix, share):
    """Whatever its decoder calls that."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(IMAGE).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnsupportedSlideError, match=r"cut short.*copy it again"):
        open_slide(path, mpp=0.5)


def overwrite(path, code: int, values, page: int = 0) -> None:
    """Overwrite all values of a tag of a page."""
    found = read_directories(path)
    tag = found.pages[page].tags[code]
    form = {3: "H", 4: "I", 16: "Q"}[tag.kind]
    with path.open("r+b") as file:
        file.seek(tag.at)
        file.write(struct.pack(f"{found.order}{tag.count}{form}", *np.broadcast_to(values, tag.count).tolist()))


def counts_of(path) -> np.ndarray:
    """How long the tiles, or strips, of the first page are."""
    page = read_directories(path).pages[0]
    return page.numbers(325 if page.is_tiled else 279)


@pytest.mark.parametrize("left", [0, 1, 5])
def test_a_slide_that_was_never_finished_is_refused(written, left):
    """All tiles missing, or all from one on: it would be white, and without tissue."""
    tiles = counts_of(written)
    code = 325 if read_directories(written).pages[0].is_tiled else 279
    tiles[left:] = 0
    overwrite(written, code, tiles)
    with pytest.raises(UnsupportedSlideError, match="are missing"):
        open_slide(written)


@pytest.mark.parametrize("level", [0, 1])
def test_no_level_may_be_missing(tmp_path, level):
    """Of tissue that is found on an empty level there is none."""
    path = write_pyramid(tmp_path / "a.svs", IMAGE, tile=64, scales=(1, 4))
    pages = [n for n, page in enumerate(read_directories(path).pages) if page.is_tiled]
    overwrite(path, 325, 0, pages[level])
    with pytest.raises(UnsupportedSlideError, match="are missing"):
        open_slide(path)


def test_a_slide_that_leaves_out_glass_is_read(tmp_path):
    """Here and there, as scanners do: no tile of ours is missing."""
    out = frozenset((col, row) for col in range(6) for row in range(4) if (col + row) % 4)
    path = write_pyramid(tmp_path / "a.svs", IMAGE, tile=128, scales=(1,), sparse=out)
    with open_slide(path) as slide:
        assert slide.size == (768, 512)


@pytest.mark.parametrize("code", [324, 325], ids=["TileOffsets", "TileByteCounts"])
@pytest.mark.parametrize("kind", ["tiles", "ome", "aperio", "generic"])
def test_tiles_without_a_list_are_refused_by_all_readers(tmp_path, kind, code):
    """The flat reader would read them as black."""
    name, write = KINDS[kind]
    path = tmp_path / name
    write(path)
    found = read_directories(path)
    data = bytearray(path.read_bytes())
    at, step, first = found.pages[0].offset, 20 if data[2] == 43 else 12, 8 if data[2] == 43 else 2
    entries = range(at + first, at + first + step * len(found.pages[0].tags), step)
    [entry] = [e for e in entries if struct.unpack_from("<H", data, e)[0] == code]
    struct.pack_into("<H", data, entry, 65_000 + code)
    path.write_bytes(data)
    with pytest.raises(UnsupportedSlideError, match="has tiles, but no"):
        open_slide(path)


@pytest.mark.parametrize("code", [322, 323], ids=["TileWidth", "TileLength"])
@pytest.mark.parametrize("kind", ["tiles", "ome", "aperio", "generic"])
def test_limits_hold_in_all_readers(tmp_path, kind, code):
    """A tile of 65,520 px is refused before any of them allocates it, with the first reason."""
    name, write = KINDS[kind]
    write(tmp_path / name)
    overwrite(tmp_path / name, code, 65_520)
    with pytest.raises(UnsupportedSlideError, match="its tags claim") as caught:
        open_slide(tmp_path / name)
    assert "image:" not in str(caught.value)


@pytest.mark.parametrize("kind", ["strips", "tiles", "ome", "aperio", "generic"])
def test_a_slide_that_is_black_throughout_is_not_one_without_tissue(tmp_path, kind):
    """Zeros are pixels that were never written."""
    name, write = KINDS[kind]
    write(tmp_path / name, np.zeros_like(IMAGE))
    with open_slide(tmp_path / name) as slide, pytest.raises(SlideError, match="black throughout"):
        find_tissue(slide)


def test_a_sound_file_of_ndpi_is_walked_by_its_own_rules(tmp_path):
    """Its pointers have 64 bits in a classic TIFF, known by a tag where the name does not say so."""
    path = tmp_path / "a.tif"
    tags = [(256, 3, 1, 9), (257, 3, 1, 9), (65_420, 4, 1, 1)]
    data = b"II*\0" + struct.pack("<I", 12) + bytes(4)
    pages = []
    for n in range(2):
        start = 12 + n * 46
        following = start + 46 if n == 0 else 0
        pages.append(
            struct.pack("<H", 3) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<Q", following)
        )
    path.write_bytes(data + b"".join(pages) + bytes(16))
    found = read_directories(path)
    assert found.is_ndpi
    assert [page.size for page in found.pages] == [(9, 9), (9, 9)]
