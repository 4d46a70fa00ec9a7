"""Every format opens, a store finds its slide or does without, and what fails says why."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from wsi_umedpt.errors import SlideError, StoreError, UnsupportedSlideError
from wsi_umedpt.slides.sample_data import sample_slide
from wsi_umedpt.slides.slide_fingerprint import fingerprint
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import tissue_image, write_dicom, write_pyramid

from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.opening.load import further, open_path, open_pixels
from napari_wsi_umedpt.opening.slide_locator import Known, find_slide
from napari_wsi_umedpt.reader import get_reader, sample_demo
from napari_wsi_umedpt.window.notifications import Reports
from napari_wsi_umedpt.window.viewer import add_layers
from tests.support.planted import MPP

IMAGE, _ = tissue_image(1024, 768)


def ome_tiff(path: Path) -> Path:
    with tifffile.TiffWriter(path, ome=True) as out:
        options = {"tile": (256, 256), "photometric": "rgb"}
        meta = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5,
                "PhysicalSizeYUnit": "µm"}  # fmt: skip
        out.write(IMAGE, subifds=1, metadata=meta, **options)
        out.write(IMAGE[::4, ::4], subfiletype=1, **options)
    return path


def ome_zarr(path: Path) -> Path:
    group = zarr.create_group(path)
    pixels = np.moveaxis(IMAGE, -1, 0)
    for level, step in enumerate((1, 4)):
        array = group.create_array(str(level), shape=pixels[:, ::step, ::step].shape, chunks=(3, 256, 256), dtype="u1")
        array[...] = pixels[:, ::step, ::step]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    datasets = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5 * s, 0.5 * s]}]}
        for level, s in enumerate((1, 4))
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets, "name": "x"}]}
    return path


FORMATS = {
    "svs": lambda folder: write_pyramid(folder / "a.svs", IMAGE),
    "tif": lambda folder: write_pyramid(folder / "a.tif", IMAGE, vendor="generic"),
    "rgb-bigtiff": lambda folder: write_pyramid(folder / "a.svs", IMAGE, bigtiff=True, colour="rgb"),
    "sparse": lambda folder: write_pyramid(folder / "a.svs", IMAGE, sparse=frozenset([(1, 1)])),
    "dicom": lambda folder: write_dicom(folder / "a", IMAGE)[0],
    "ome-tiff": lambda folder: ome_tiff(folder / "a.ome.tif"),
    "ome-zarr": lambda folder: ome_zarr(folder / "a.zarr"),
}


@pytest.mark.filterwarnings("ignore::wsi_umedpt.slides.readers.direct.SlowPathWarning")
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_opens_by_dropping_it(model, tmp_path, name):
    """As an RGB pyramid in um, whose pixels are the picture's."""
    path = FORMATS[name](tmp_path)
    read = get_reader(str(path))
    assert read is not None
    (layer,) = add_layers(model, read(str(path)))
    assert (layer.rgb, layer.multiscale, tuple(layer.scale)) == (True, True, (0.5, 0.5))
    assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
    assert not any(layer.data[0].shape[n] - (768, 1024)[n] >= layer.data[-1].scale for n in (0, 1))
    seen = np.asarray(layer.data[0])[:768, :1024].astype(int)
    known = np.ones((768, 1024), bool)
    if name == "sparse":
        known[256:512, 256:512] = False
    assert np.abs(seen - IMAGE)[known].mean() < 8  # JPEG
    assert model.scene.camera is not None


def test_what_is_not_ours_is_left_to_others(tmp_path):
    """Plain zarr, text, flat pictures without a scale, lists."""
    zarr.create_array(tmp_path / "plain.zarr", shape=(4, 4), dtype="u1")
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "flat.tif", IMAGE)
    (tmp_path / "text.tif").write_text("no TIFF")
    for name in ("plain.zarr", "a.png", "flat.tif", "text.tif", "absent.tif", "notes.txt"):
        assert get_reader(str(tmp_path / name)) is None, name
    assert get_reader([str(tmp_path / "a.svs")]) is None


def test_an_ome_tiff_of_three_planes_is_a_slide(tmp_path):
    """As libvips writes RGB; planes of float32, as those of heatmaps, are left to others."""
    planes = np.ascontiguousarray(np.moveaxis(IMAGE, -1, 0))
    options = {"metadata": {"axes": "CYX"}, "photometric": "minisblack", "tile": (128, 128)}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, **options)
    tifffile.imwrite(tmp_path / "b.ome.tif", planes.astype(np.float32), **options)
    assert get_reader(str(tmp_path / "a.ome.tif")) is not None
    assert get_reader(str(tmp_path / "b.ome.tif")) is None


def test_a_flat_picture_opens_with_a_scale(model, tmp_path):
    """And is refused without one, in words that say what to do."""
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    (layer,) = add_layers(model, open_path(tmp_path / "a.png", pytest.fail, mpp=0.25))
    assert tuple(layer.scale) == (0.25, 0.25)
    with pytest.raises(SlideError, match="states no physical pixel size"):
        open_path(tmp_path / "a.png", pytest.fail)


def test_a_slide_that_fails_to_read_says_why(tmp_path):
    """In the words of our own error, each reader's reason among them."""
    (tmp_path / "broken.svs").write_bytes(b"II*\0" + bytes(300))
    read = get_reader(str(tmp_path / "broken.svs"))
    assert read is not None
    with pytest.raises(UnsupportedSlideError, match=r"no reader opens broken\.svs"):
        read(str(tmp_path / "broken.svs"))


# ---- stores and their slides ----


def kinds(layers) -> list[str]:
    return [meta["metadata"][KEY].kind for _, meta, _ in layers]


def test_a_store_finds_its_slide_nearby(planted):
    """In the folder above it, by its name and its content."""
    assert find_slide(SlideStore.open(planted.store)) == planted.slide
    assert kinds(open_path(planted.store, pytest.fail))[0] == "slide"


def test_a_store_without_its_slide_opens_over_its_thumbnail(planted, tmp_path):
    """And somebody is asked where it is."""
    alone = tmp_path / "far" / "away" / "planted.zarr"
    shutil.copytree(planted.store, alone)
    asked = []
    layers = open_path(alone, pytest.fail, missing=asked.append)
    assert kinds(layers) == ["thumbnail", "heatmap", "objects", "tiles", "tissue"]
    assert [store.path for store in asked] == [alone]
    assert layers[0][1]["scale"] == (32 * MPP, 32 * MPP)


def test_a_renamed_slide_is_found_by_its_content(planted, tmp_path):
    """A name may change; another slide of the right name is not taken for it."""
    folder = tmp_path / "moved"
    shutil.copytree(planted.store, folder / "planted.zarr")
    write_pyramid(folder / "planted.svs", IMAGE)
    assert find_slide(SlideStore.open(folder / "planted.zarr")) is None
    shutil.copy(planted.slide, folder / "another name.svs")
    assert find_slide(SlideStore.open(folder / "planted.zarr")) == folder / "another name.svs"


def test_a_slide_that_was_opened_is_found_wherever_it_lies(planted, tmp_path, own_folder):
    """What the user opened is written down, in the user's own folder and nowhere else; a stale note is no harm."""
    far = tmp_path / "somewhere" / "x.svs"
    far.parent.mkdir()
    shutil.copy(planted.slide, far)
    alone = tmp_path / "deep" / "er" / "planted.zarr"
    shutil.copytree(planted.store, alone)
    before = sorted(alone.parent.rglob("*"))
    assert find_slide(SlideStore.open(alone)) is None
    assert not own_folder.exists()
    open_pixels(far, pytest.fail)
    assert find_slide(SlideStore.open(alone)) == far
    assert sorted(alone.parent.rglob("*")) == before
    assert json.loads((own_folder / "slides.json").read_text())["slides"] == [[fingerprint(far), os.fspath(far)]]
    moved = far.with_name("y.svs")
    far.rename(moved)
    assert find_slide(SlideStore.open(alone)) == moved  # in the folder that was opened from
    (own_folder / "slides.json").write_text("{broken")
    assert find_slide(SlideStore.open(alone)) is None


def test_another_slide_is_refused(planted, tmp_path):
    """A store's results over another slide would be lies."""
    other = write_pyramid(tmp_path / "planted.svs", IMAGE)
    with pytest.raises(StoreError, match=r"not the slide of planted\.zarr.*Choose the file"):
        open_pixels(other, pytest.fail, store=SlideStore.open(planted.store))
    told = []
    layers = open_path(planted.store, told.append, slide=other)
    assert kinds(layers)[0] == "thumbnail"
    assert "not the slide" in str(told[0])


def test_what_is_damaged_is_told_and_the_rest_is_shown(planted, tmp_path):
    """One broken array does not hide the others."""
    broken = tmp_path / "planted.zarr"
    shutil.copytree(planted.store, broken)
    (broken / "detections" / "nuclei" / "outline" / "c" / "0" / "0").unlink()
    told = []
    assert kinds(open_path(broken, told.append, slide=planted.slide)) == ["slide", "heatmap", "tiles", "tissue"]
    assert "chunk 0 cannot be read" in str(told[0])


def test_everything_in_a_store_can_be_shown(planted, model):
    """Each column of the scores, features as colours, label images."""
    choices = further(SlideStore.open(planted.store))
    assert list(choices) == ["probe: tumour", "probe: other", "enc as colours", "nuclei (label image)"]
    layers = add_layers(model, [make() for make in choices.values()])
    assert all(layer.visible for layer in layers)
    tile_value = float(np.nanmax(layers[0].data))
    assert tile_value == pytest.approx(1 - 1 / np.isfinite(layers[0].data).sum(), abs=0.05)


def test_errors_are_told_once(monkeypatch):
    """A damaged place is met with every look; the user reads of it once."""
    told = []
    monkeypatch.setattr("napari_wsi_umedpt.window.notifications.tell", lambda text, **_: told.append(text))
    reports = Reports()
    for error in (SlideError("a.svs: bad"), SlideError("a.svs: bad too"), StoreError("b"), SlideError("c.svs: bad")):
        reports(error)
    assert told == ["a.svs: bad", "b", "c.svs: bad"]


def test_known_slides_are_bounded(tmp_path, planted, monkeypatch):
    """The list of slides does not grow for ever, and keeps those opened last."""
    monkeypatch.setattr("napari_wsi_umedpt.opening.slide_locator._MOST_KNOWN", 3)
    known = Known(tmp_path)
    for n in range(5):
        known.remember(planted.slide.with_name(f"{n}.svs"), str(n))
    assert list(known.read()) == ["2", "3", "4"]


def test_the_sample_opens(tmp_path, monkeypatch):
    """With its results, where the slide is to be had; they lie beside it, whole."""
    try:
        shutil.copy(sample_slide(), tmp_path)
        monkeypatch.setenv("WSI_UMEDPT_CACHE", str(tmp_path))
        layers = sample_demo()
    except (SlideError, OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"the sample slide is not to be had: {error}")
    assert kinds(layers)[0] == "slide"
    assert {"objects", "heatmap", "tiles", "tissue"} <= set(kinds(layers))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "user-data") == [
        "CMU-1-Small-Region.svs", "CMU-1-Small-Region.zarr",
    ]  # fmt: skip


# ---- what the plugin costs ----


def test_importing_the_plugin_loads_nothing():
    """Neither napari nor anything of ours before somebody asks; no torch even then."""
    script = (
        "import sys, napari_wsi_umedpt, napari_wsi_umedpt.reader\n"
        "heavy = {'napari', 'torch', 'qtpy', 'dask', 'openslide', 'wsi_umedpt', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import napari_wsi_umedpt.opening.load, napari_wsi_umedpt.logic.annotations, napari_wsi_umedpt.layers.values\n"
        "heavy = {'torch', 'qtpy', 'torchvision', 'timm', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_manifest_holds_what_it_says():
    """Every command is there to be imported; nothing in it makes napari go to the network."""
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("napari-wsi-umedpt")
    manifest.validate_imports()
    assert not any(command.icon for command in manifest.contributions.commands)
    assert not manifest.contributions.keybindings
