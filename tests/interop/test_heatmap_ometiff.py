"""Heatmaps as OME-TIFF: what is read is what was written, and other programs see where it lies."""

import defusedxml.ElementTree
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wsi_umedpt.errors import HeatmapError
from wsi_umedpt.heatmaps.raster import Heatmap
from wsi_umedpt.interop.heatmap_ometiff import HeatmapStack, read_heatmaps, write_heatmaps

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
NOTHING = np.zeros((2, 2), np.float32)
PLANES = SHAPES.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(width=32)))


def stack_of(planes, origin=(5.5, -3.25), step=227.0688, names=None) -> HeatmapStack:
    names = names or [f"column {k}" for k in range(len(planes))]
    heats = {name: Heatmap(plane, origin, step) for name, plane in zip(names, planes, strict=True)}
    return HeatmapStack(heats, "slide 1", 0.4991, {"model": "tumour", "columns": names})


@given(
    planes=PLANES,
    origin=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
    step=st.floats(0.1, 1e5),
    seed=st.integers(0, 9),
)
def test_a_raster_comes_back_as_it_was_written(tmp_path_factory, planes, origin, step, seed):
    """To the last bit: values, nan, infinities, origin, step, and names that XML would not hold."""
    names = [f"ä µ <{k}> & '\"\n\x01{seed}" for k in range(len(planes))]
    written = stack_of(planes, origin, step, names)
    path = tmp_path_factory.mktemp("stack") / "r.ome.tif"
    write_heatmaps(path, written)
    found = read_heatmaps(path)
    assert [*found.heats] == names
    for name, heat in found.heats.items():
        np.testing.assert_array_equal(heat.values, written.heats[name].values)
        assert (heat.origin_xy, heat.step) == (origin, step)
    assert (found.slide_id, found.mpp, found.made_by) == (written.slide_id, written.mpp, written.made_by)


@pytest.mark.parametrize("count", [1, 3])
def test_other_programs_see_its_scale_and_place(tmp_path, rng, count):
    """As OME-XML says them: float, channels with names, size of a px and position in um."""
    planes = rng.normal(size=(count, 20, 30)).astype(np.float32)
    write_heatmaps(tmp_path / "r.ome.tiff", stack_of(planes))
    with tifffile.TiffFile(tmp_path / "r.ome.tiff") as tif:
        assert tif.is_ome
        np.testing.assert_array_equal(tif.asarray(), planes.squeeze())
        root = defusedxml.ElementTree.fromstring(tif.ome_metadata)
    of = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
    (pixels,) = root.iter(f"{of}Pixels")
    assert (pixels.get("Type"), pixels.get("SizeC"), pixels.get("PhysicalSizeXUnit")) == ("float", str(count), "µm")
    assert float(pixels.get("PhysicalSizeX")) == float(pixels.get("PhysicalSizeY")) == 227.0688 * 0.4991
    assert [one.get("Name") for one in root.iter(f"{of}Channel")] == [f"column {k}" for k in range(count)]
    places = [(float(one.get("PositionX")), float(one.get("PositionY"))) for one in root.iter(f"{of}Plane")]
    assert places == [(5.5 * 0.4991, -3.25 * 0.4991)] * count


def test_equal_heatmaps_give_equal_bytes(tmp_path, rng):
    """Nothing of the machine or the time is in a file; other values give another id."""
    planes = rng.normal(size=(2, 20, 30)).astype(np.float32)
    for name, values in (("a", planes), ("b", planes), ("c", planes + 1)):
        write_heatmaps(tmp_path / f"{name}.ome.tif", stack_of(values))
    a, b, c = ((tmp_path / f"{name}.ome.tif").read_bytes() for name in "abc")
    assert a == b
    ids = {text.split(b"urn:uuid:")[1][:36] for text in (a, c)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("name", "stack", "says"),
    [
        pytest.param("r.tif", stack_of(np.zeros((1, 2, 2), np.float32)), "must end in .ome.tif", id="suffix"),
        pytest.param("r.ome.tif", stack_of([]), "slide 1 has no tiles", id="no-columns"),
        pytest.param("r.ome.tif", stack_of(np.zeros((1, 0, 0), np.float32)), "slide 1 has no tiles", id="no-tiles"),
        pytest.param(
            "r.ome.tif",
            HeatmapStack({"a": Heatmap(NOTHING, (0, 0), 1), "b": Heatmap(NOTHING, (0, 1), 1)}, "s", 0.5, {}),
            "'b' has other cells than 'a'",
            id="other-cells",
        ),
        pytest.param(
            "r.ome.tif",
            HeatmapStack({"a": Heatmap(NOTHING, (0, 0), 1)}, "s", 0.5, {"auc": np.nan}),
            "cannot be written as JSON",
            id="no-json",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, stack, says):
    """And no file is left."""
    with pytest.raises(HeatmapError, match=says):
        write_heatmaps(tmp_path / name, stack)
    assert not [*tmp_path.iterdir()]


def test_what_is_no_raster_is_refused(tmp_path):
    """With the file's name: another TIFF, another OME-TIFF, one cut off, no TIFF at all."""
    for name, options in (("plain", {}), ("ome", {"ome": True})):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((5, 5), np.float32), **options)
    write_heatmaps(tmp_path / "whole.ome.tif", stack_of(np.random.default_rng(0).normal(size=(2, 90, 90)).astype("f4")))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "whole.ome.tif").read_bytes()[:9000])
    (tmp_path / "text.tif").write_text("slide,x,y")
    for name in ("plain", "ome", "cut", "text"):
        with pytest.raises(HeatmapError, match=rf"{name}\.tif cannot be read as a heatmap"):
            read_heatmaps(tmp_path / f"{name}.tif")
    with pytest.raises(FileNotFoundError):
        read_heatmaps(tmp_path / "absent.tif")
