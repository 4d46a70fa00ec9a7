"""`segment` and `embed --heads`: the shipped model over a slide, end to end."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from wsi_umedpt.interop.geoparquet import read_geoparquet
from wsi_umedpt.interop.qupath import read_geojson
from wsi_umedpt.store.label_pyramid import read_labels
from wsi_umedpt.store.objects_io import found_names, read_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.verify import problems_of
from wsi_umedpt.testing import tissue_image, write_pyramid

ON_CPU = ["--device", "cpu", "--readers", "1"]


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    """A slide of 900 x 700 px with dark disks on its tissue, which the shipped model takes for nuclei."""
    image, tissue = tissue_image(900, 700)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:700, :900]
    for cx, cy in rng.uniform((150, 100), (750, 600), (200, 2)):
        image[(np.hypot(x - cx, y - cy) < 7) & tissue] = (80, 50, 140)
    return write_pyramid(tmp_path_factory.mktemp("slide") / "small.svs", image, scales=(1,), quality=95)


def test_segment_writes_objects_and_a_label_image(say, slide):
    """Without a flag; the second run finds all there, and the store is whole."""
    code, out, err = say("segment", slide, "-o", "out", *ON_CPU)
    assert code == 0, err
    [store] = Path("out").glob("*.zarr")
    assert problems_of(store) == []
    [name] = found_names(SlideStore.open(store))
    objects, made_by = read_objects(SlideStore.open(store))
    assert f"1 segmented, 0 already there: {len(objects)} {name}" in out
    assert len(objects) > 20
    assert made_by["head"] == name
    assert made_by["precision"] == "fp32"
    assert read_labels(store / "labels" / name).levels[0].array.shape == (700, 900)
    code, out, _ = say("segment", slide, "-o", "out", *ON_CPU)
    assert code == 0
    assert f"0 segmented, 1 already there: {len(objects)} {name}" in out
    code, out, _ = say("verify", "out")
    assert (code, "1 of 1 store is whole" in out) == (0, True)


def test_embed_with_heads_embeds_in_the_same_pass(say, slide):
    """The features that `embed` alone writes for the same tiles, and the objects beside them."""
    tiles = ["--size", "224", "--stride", "160", "--min-tissue", "0", *ON_CPU]
    code, out, err = say("embed", slide, "-o", "both", "--heads", "nuclei", *tiles)
    assert code == 0, err
    assert "nuclei and embeddings" in out
    code, _, err = say("embed", slide, "-o", "alone", *tiles)
    assert code == 0, err
    both, alone = (SlideStore.open(Path(name) / "small.zarr") for name in ("both", "alone"))
    assert problems_of(both.path) == []
    assert found_names(both) == ["nuclei"]
    assert len(both.features().features) > 0
    np.testing.assert_allclose(both.features().features, alone.features().features, atol=2e-2)
    code, out, _ = say("info", both.path)
    assert code == 0


def test_an_unknown_head_is_refused_with_those_known(say, slide):
    """Before any slide is opened."""
    code, _, err = say("segment", slide, "-o", "out", "--heads", "nuclie", *ON_CPU)
    assert code == 1
    assert re.search(r"head 'nuclie' is not there\. Heads that show objects: \w+", err)
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["segment", "embed"])
def test_heads_of_a_model_without_heads_are_refused(say, slide, command):
    """A timm model embeds, and finds nothing."""
    code, _, err = say(command, slide, "-o", "out", "-m", "timm:resnet10t@random", "--heads", "nuclei_tnbc", *ON_CPU)
    assert code == 1
    assert "Traceback" not in err
    assert "timm:resnet10t@random" in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(["--size", "100"], "multiple of 32 px", id="side"),
        pytest.param(["--engine", "openvino"], "leave --engine and --compile out", id="engine"),
        pytest.param(["--batch-size", "100"], "must divide 1024", id="batch-size"),
    ],
)
def test_settings_that_heads_cannot_use_are_refused(say, slide, flags, said):
    """In a line, with the flag to change."""
    code, out, err = say("segment", slide, "-o", "out", *ON_CPU, *flags)
    assert code == 1
    assert said in out + err
    assert "Traceback" not in err


def test_a_bad_slide_leaves_the_others_alone(say, slide):
    """All others are done, the bad one is listed with its reason, and the exit code says so."""
    Path("slides").mkdir()
    shutil.copy(slide, "slides/good.svs")
    Path("slides/bad.svs").write_bytes(slide.read_bytes()[:4000])
    code, out, err = say("segment", "slides", "-o", "out", *ON_CPU)
    assert code == 1
    assert "1 segmented" in out
    assert re.search(r"bad\.svs: .+", out + err)
    assert [p.name for p in Path("out").glob("*.zarr")] == ["good.zarr"]
    assert "Traceback" not in err


def test_windows_lie_as_the_tiles_of_a_store_do(say, slide):
    """A store embedded at 224 px: with its stride, windows are 224 px apart and overlap; its grid stays as it is."""
    assert say("embed", slide, "-o", "out", *ON_CPU)[0] == 0
    code, out, err = say("segment", slide, "-o", "out", "--stride", "224", "--size", "224", *ON_CPU)
    assert code == 0, err
    assert "windows of 288 px, 224 px apart" in out
    [store] = Path("out").glob("*.zarr")
    assert problems_of(store) == []
    assert [grid.spec.size_px for grid in map(SlideStore.open(store).grid, SlideStore.open(store).grid_ids)] == [224]
    assert say("export", store, "-o", "tiles.csv", "--table", "tiles")[0] == 0
    rows = Path("tiles.csv").read_text().splitlines()
    assert len(rows) == len(SlideStore.open(store).grid()) + 1
    assert rows[0] == "slide_id,tile,x,y,side,tissue,nucleus_count,nucleus_per_mm2"


def test_exports(say, slide):
    """Outlines and counts of what was found, by the suffix of the file; what is no table is refused."""
    assert say("segment", slide, "-o", "out", *ON_CPU)[0] == 0
    [store] = Path("out").glob("*.zarr")
    objects, _ = read_objects(SlideStore.open(store))
    for name in ("a.geojson.gz", "a.parquet"):
        code, out, err = say("export", store, "-o", name)
        assert code == 0, err
        assert f"{len(objects)} nuclei" in out
    assert len(read_geojson(Path("a.geojson.gz"))) == len(read_geoparquet(Path("a.parquet"))) == len(objects)
    assert say("export", "out", "-o", "slides.csv", "--table", "slides")[0] == 0
    head, row = (line.split(",") for line in Path("slides.csv").read_text().splitlines())
    assert row[head.index("nucleus_count")] == str(len(objects))
    code, _, err = say("export", store, "-o", "slides.xls", "--table", "slides")
    assert code == 1
    assert "tables are .csv or .parquet" in err
    code, _, err = say("export", "nowhere", "-o", "a.csv")
    assert code == 1
    assert "no stores in nowhere" in err
    code, _, err = say("picture", store, "--objects", "nuclei", "--slide", slide, "-o", "a.png")
    assert code == 0, err
    assert Path("a.png").stat().st_size > 10_000


def test_heads_are_listed(say):
    """Those that `--heads` takes, with what each finds, below their model."""
    code, out, _ = say("encoders")
    assert code == 0
    model, _, others = out.partition("efficientnet_lite0.imagenet")
    assert "--heads nuclei: nuclei in H&E" in model
    assert "chest_age" not in out
    assert "--heads" not in others
